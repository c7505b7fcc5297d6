r"""The model: a forward process, a predictor that reverses it, and a decoder.

.. math:: p_\theta(z_s \mid z_t) = q_\phi(z_s \mid z_t, \hat x_\theta(z_t, t))
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from .decoder import Decoder
from .errors import InputError
from .predictor import BasePredictor
from .process import ConditionalProcess, ForwardProcess
from .transform import BasisCurve


class NDM(nn.Module):
    """A neural diffusion model; with the identity transform, a conventional diffusion model.

    Args:
        process: the forward process.
        predictor: predicts x from z_t.
        decoder: converts between data units and model units, and defines p(x | z_0).

    Raises:
        InputError: if the predictor predicts a curve that the transform does not have, or its levels are not the
            decoder's.

    Example:
        >>> f = ndm.nn.MLP((64,), multiplier=2, embedding=0)
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.TimeBasis(f, num_basis=2))
        >>> model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((64,)), "v"), ndm.CategoricalDecoder(levels=17))
        >>> x = torch.randint(17, (5, 64))
        >>> ndm.bound(model, x).total.mean().backward()
    """

    def __init__(self, process: ForwardProcess, predictor: BasePredictor, decoder: Decoder) -> None:
        super().__init__()
        if predictor.num_basis and process.transform.predictable != predictor.num_basis:
            raise InputError(
                f"a predicted curve (Predictor(num_basis={predictor.num_basis})) needs a TimeBasis transform with the "
                "same num_basis; use num_basis=0 to evaluate F(x_hat)"
            )
        if predictor.levels is not None and predictor.levels != decoder.levels:
            raise InputError(
                f"LevelsPredictor(levels={predictor.levels}) needs CategoricalDecoder(levels={predictor.levels}): "
                "both must use the same values"
            )
        self.process = process
        self.predictor = predictor
        self.decoder = decoder

    def forward(self, z_t: Tensor, t: Tensor, eta: float | Tensor | None = None) -> ConditionalProcess:
        """The reverse process at ``z_t``: the forward process given the prediction from ``z_t``.

        Args:
            z_t: latents, ``(B, *)``.
            t: their times, ``(B,)``.
            eta: replaces the eta of the process, see :class:`ForwardProcess`.
        """
        x_hat, coefficients, variance = self.predictor(z_t, t, self.process.schedule(t))
        if coefficients is None:
            return self.process(x_hat, variance, eta)
        return self.process.along(BasisCurve(x_hat, coefficients), variance, eta)

    @property
    def reference(self) -> Tensor:
        """An empty tensor with the model's dtype and device."""
        for tensor in chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return torch.empty(0)

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())

    def encode(self, x: Tensor) -> Tensor:
        """Convert data units to model units; integers get the model's dtype, real numbers keep theirs."""
        return self.decoder.encode(x if x.is_floating_point() else x.to(self.reference.dtype))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, each atomically.

        Raises:
            InputError: if the class of the schedule, process or decoder is not registered (networks and transforms may
                be of any class).
        """
        from .saving import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        predictor: nn.Module | None = None,
        transform: nn.Module | None = None,
    ) -> NDM:
        """Rebuild a saved model, in evaluation mode.

        Args:
            folder: the folder that ``save_pretrained`` wrote, or the folder of a run.
            predictor, transform: your own network for the predictor or the transform, if it is not one of ``ndm.nn``;
                its weights are loaded too. Nothing in the folder can name code to import.

        Raises:
            InputError: if a file is missing, damaged or not from ndm, or a network must be passed.
        """
        from .saving import load

        supplied = {"predictor": predictor, "transform": transform}
        return load(Path(folder), {k: v for k, v in supplied.items() if v is not None})
