"""FID and KID: distances between the Inception features of samples and those of test images.

References:
    Heusel et al. GANs Trained by a Two Time-Scale Update Rule. NeurIPS 2017 (FID).
    Binkowski et al. Demystifying MMD GANs. ICLR 2018 (KID).
"""

from __future__ import annotations

import importlib
import pickle
import warnings
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ..errors import InputError
from .quality import Score, matched_rows


def inception_metrics() -> tuple[ModuleType, ModuleType]:
    """The modules of torchmetrics that compute FID and KID.

    Raises:
        InputError: if they are not installed; the message says what to install.
    """
    try:
        importlib.import_module("torch_fidelity")
        return importlib.import_module("torchmetrics.image.fid"), importlib.import_module("torchmetrics.image.kid")
    except ImportError:
        raise InputError(
            "FID and KID need torchmetrics and torch-fidelity: pip install 'torchmetrics[image]'"
        ) from None


def inception_distances(
    samples: Tensor, train: Tensor, test: Tensor, weights: str | Path, seed: int = 0, max_rows: int = 10_000
) -> list[Score]:
    """FID and KID by torchmetrics, with Inception weights from a file.

    The numbers of rows are made equal as in :func:`quality`. FID is biased upwards, and the bias grows as the number of
    rows falls. The baseline has the same bias: compare FID with it, or with FIDs of the same number of rows.

    Args:
        samples, train, test: images, uint8 from 0 to 255, of shape ``(N, C, H, W)``, where C is 1 or 3.
        weights: path of torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``.
        seed: seed of the choice of rows and of KID's subsets.
        max_rows: largest number of rows that are taken of each set.

    Raises:
        InputError: if a library is missing, if the file cannot be used, or if the rows are not such images.
    """
    if any(x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3) for x in (samples, train, test)):
        raise InputError("FID and KID need images: uint8 from 0 to 255, shapes (N, 1 or 3, H, W)")
    inception_metrics()
    samples, train, test, held = matched_rows(samples, train, test, seed, max_rows)
    network = load_inception(weights).to(samples.device)
    x, y, base = (inception_features(network, rows) for rows in (samples, test, train[held]))
    pairs = zip(("FID", "KID"), feature_distances(x, y, seed), feature_distances(base, y, seed), strict=True)
    return [Score(name, value, None, baseline, "lower is better") for name, value, baseline in pairs]


def load_inception(weights: str | Path) -> nn.Module:
    """The Inception network with weights from a file. No code from the file is run.

    Raises:
        InputError: if a library is missing, or the file cannot be used.
    """
    fid, _ = inception_metrics()
    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # torchmetrics alone would run code from the file
        network: nn.Module = fid.NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
    except (OSError, EOFError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(f"cannot read Inception weights from {weights}: {str(error).partition(chr(10))[0]}") from None
    return network


@torch.no_grad()
def inception_features(network: nn.Module, images: Tensor) -> Tensor:
    """The network's features of images ``(N, 1 or 3, H, W)``, in float64: ``(N, F)``."""
    return torch.cat([network(part.expand(-1, 3, -1, -1)).double() for part in images.split(64)])


class GivenFeatures(nn.Module):
    """Takes the place of the network in the metrics, which then get features. So each image passes the network once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def feature_distances(x: Tensor, y: Tensor, seed: int = 0) -> list[float]:
    """FID and KID of two sets of features, each ``(N, F)``."""
    fid, kid = inception_metrics()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns that it keeps the features in memory
        torch.manual_seed(seed)
        metrics = (
            fid.FrechetInceptionDistance(GivenFeatures(x.shape[1])),
            kid.KernelInceptionDistance(GivenFeatures(x.shape[1]), subset_size=min(1000, len(x))),
        )
        for metric in metrics:
            metric.to(x.device)
            metric.update(y, real=True)
            metric.update(x, real=False)
        return [metrics[0].compute().item(), metrics[1].compute()[0].item()]
