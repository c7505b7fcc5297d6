r"""Samples of the rows that have known symbols at some places: what is missing is filled in.

The prediction of a known place is certain. So the reverse process moves its latents as the forward process does, given
its symbol, and the predictor decides the other places with these latents in sight.

This is an approximation. While noise hides the known symbols, the other places are drawn as if these were not known,
and part of what they become is decided then. More steps do not mend it. So samples follow what is known less than the
model does.

References:
    Trippe et al. Diffusion Probabilistic Modeling of Protein Backbones in 3D for the Motif-Scaffolding Problem. ICLR
    2023 (the error of replacing what is known).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError
from .model import NDM
from .predictor import BasePredictor, Prediction
from .process import ForwardProcess
from .support.checks import require_kind
from .symbols import SymbolDecoder


class GivenSymbols(BasePredictor):
    """A predictor that is certain of some symbols, so that samples fill in the others.

    The reverse process then moves the latents of the known places as the forward process does, given their symbols.

    Args:
        net: the predictor of all symbols.
        symbols: the known symbols in model units, as one-hot vectors at their places; other values are not looked at.
        known: which of these values are known, bool; its shape broadcasts to that of ``symbols``.
    """

    def __init__(self, net: BasePredictor, symbols: Tensor, known: Tensor) -> None:
        super().__init__(net)
        self.symbols, self.known = symbols, known

    def forward(self, z_t: Tensor, t: Tensor, process: ForwardProcess) -> Prediction:
        weights = self.net(z_t, t, process).x_hat
        return Prediction(torch.where(self.known.to(z_t.device), self.symbols.to(weights), weights), None, None)


class GivenDecoder(SymbolDecoder):
    """A decoder that gives the known codes at their places.

    Args:
        decoder: the decoder of all symbols.
        codes: a row of codes, of which the known ones count.
        known: which places are known, bool, shaped like ``codes``.
    """

    def __init__(self, decoder: SymbolDecoder, codes: Tensor, known: Tensor) -> None:
        super().__init__(decoder.levels, decoder.alphabet, decoder.channels)
        self.given, self.known = codes, known

    def decode(
        self, z_0: Tensor, process: ForwardProcess, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        drawn = super().decode(z_0, process, mode, generator)
        return torch.where(self.known.to(drawn.device), self.given.to(drawn), drawn)


def infilled(model: NDM, codes: Tensor, known: Tensor) -> NDM:
    """About the model of the rows that have the known codes at their places: see the approximation in this module.

    Args:
        model: a model of symbols.
        codes: a row of codes, ``(N,)`` for text or ``(C, *)`` for an image; those that are not known are not looked at.
        known: which places are known, bool, shaped like ``codes``.

    Raises:
        InputError: if the model is not of symbols, the shapes are not those of a row, or a known code is no symbol.

    Example:
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Embedding((3,), dim=2))
        >>> predictor = ndm.SymbolPredictor(ndm.nn.Conv1d((2, 8), outputs=3, width=8, depth=1), 3)
        >>> model = ndm.NDM(process, predictor, ndm.SymbolDecoder(3, "abc"), shape=(8,)).eval()
        >>> known = torch.tensor([True, True] + 6 * [False])
        >>> given = ndm.infilled(model, model.decoder.codes("abaaaaaa"), known)
        >>> [text[:2] for text in model.decoder.texts(ndm.sample(given, 2, steps=5))]
        ['ab', 'ab']
    """
    require_kind(model=(model, NDM))
    if not isinstance(model.decoder, SymbolDecoder):
        raise InputError(f"only a model of symbols can fill in, and this one has a {type(model.decoder).__name__}")
    shape = model.shape
    require_kind(codes=(codes, Tensor), known=(known, Tensor))
    if tuple(codes.shape) != shape or tuple(known.shape) != shape or known.dtype != torch.bool:
        raise InputError(f"codes and known must have the shape {shape} of a row, and known must be bool")
    if codes.is_meta or known.is_meta:
        raise InputError("codes and known must hold values, and a tensor on the meta device has none")
    known = known.to(model.reference.device, copy=True)  # the caller may use the mask again
    codes = torch.where(known, codes.to(known.device), 0)
    decoder = model.decoder
    symbols = model.encode(codes[None])[0]
    each = known.repeat_interleave(decoder.levels, 0) if decoder.channels else known[None]
    given = GivenSymbols(model.predictor, symbols, each)
    return NDM(model.process, given, GivenDecoder(decoder, codes, known), shape).train(model.training)
