r"""Training of symbols in which the predictor learns by the cross-entropy, and the forward process by the bound.

The diffusion term of the bound is a squared error of points, :math:`\| \hat F - F(x, t) \|^2` with the mean
:math:`\hat F = \sum_k w_k F(k, t)` of predicted probabilities w. Both it and the cross-entropy :math:`-\log w_x` are
least, at every time, where w are the true probabilities of the symbols given :math:`z_t`. But the squared error says
little to a predictor that is certain and wrong: its gradient in the logits has the factor w_x. So the predictor learns
faster by the cross-entropy, at the times that the bound draws. The forward process cannot learn by it, because symbols
that are far apart from the start have the least; it learns by the bound, given the predictor.

Each group of parameters has the gradient of its own loss, from one evaluation of the network.

References:
    Austin et al. Structured Denoising Diffusion Models in Discrete State-Spaces. NeurIPS 2021 (a cross-entropy beside
    the bound).
    Dieleman et al. Continuous Diffusion for Categorical Data. 2022 (the cross-entropy alone, with learned points).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..mixed import MixedPredictor
from ..model import NDM
from ..predictor import Prediction
from ..support.checks import require
from ..support.tensors import sum_rows
from ..symbols import SymbolPredictor


def check_symbols(model: NDM) -> None:
    """Refuse a model that does not predict symbols alone.

    Raises:
        InputError: saying what is wrong.
    """
    predictor = model.predictor
    alone = isinstance(predictor, SymbolPredictor) or (isinstance(predictor, MixedPredictor) and not predictor.numbers)
    require(
        alone, "training.weighting cross_entropy is for models of symbols alone (model.parameterization symbols, or a "
        "table of categories)", "cross_entropy with another predictor",
    )  # fmt: skip


def cross_entropy(prediction: Prediction, x_model: Tensor) -> Tensor:
    """-log of the predicted probability of each symbol, summed over the places of a row, nats, ``(B,)``.

    Args:
        prediction: probabilities of symbols, ``(B, *)``.
        x_model: one-hot vectors of the symbols, ``(B, *)``.
    """
    least = torch.finfo(prediction.x_hat.dtype).tiny
    return -sum_rows(prediction.x_hat.clamp(min=least).log() * x_model)


def with_own_gradients(losses: Iterable[tuple[Tensor, Iterable[nn.Parameter]]]) -> Tensor:
    """0 with the gradient of each loss in its own parameters, and of no loss in the parameters of others.

    Args:
        losses: scalars, and the parameters that learn by each; those that do not train are left out.
    """
    total = torch.zeros(())
    for loss, parameters in losses:
        learning = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss, learning, retain_graph=True, allow_unused=True, materialize_grads=True)
        for p, gradient in zip(learning, gradients, strict=True):
            total = total.to(p) + ((p - p.detach()) * gradient).sum()
    return total
