r"""Arrays of symbols of one alphabet: the decoder and the predictor of a model of text, or of the levels of images.

A row in data units is an array of codes 0..V-1. In model units it is a one-hot vector at every place, which the
transform :class:`ndm.Embedding` turns into points that move in time. All places share the alphabet and the points; in
images, those of a channel do.

.. math:: p(x \mid z_0) = \prod_i \frac{q(z_{0,i} \mid x_i)}{\sum_k q(z_{0,i} \mid k)}

The predictor gives probabilities of the symbols at every place,

.. math:: w_{ik} \propto \exp(\ell_{ik} + b_k)\, q(z_{t,i} \mid k), \qquad \ell = \mathrm{net}(z_t, t)

so that the network has to learn only what the other places say. A network with beliefs also reads the probabilities of
every place without it, those for :math:`\ell = 0`, and need not learn where the points are. Bayesian flow networks read
such probabilities in the place of :math:`z_t`.

The bias b starts at the logarithm of the symbols' frequencies. If the points lie on a line, :math:`e_k \propto v_k`, do
not move and are not learned, this is :class:`ndm.LevelsPredictor` with a bias, but for the steps of the reverse process
(:mod:`ndm.mixture`).

References:
    Dieleman et al. Continuous Diffusion for Categorical Data. 2022.
    Graves, Srivastava, Atkinson, Gomez. Bayesian Flow Networks. 2023.
    Gulrajani, Hashimoto. Likelihood-Based Diffusion Language Models. NeurIPS 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .decoder import Decoder, check_data
from .embedding import embedding_of
from .errors import InputError
from .levels import RANK, LogitsPredictor
from .predictor import PREDICTORS, Prediction
from .process import ForwardProcess
from .support.blueprint import Blueprint
from .support.checks import require, require_count, require_kind, shown
from .support.registry import savable
from .support.tensors import full_times, sum_rows


@savable
class SymbolDecoder(Decoder):
    """Codes 0..levels-1 of one alphabet: ``(B, *)`` in data units, one-hot vectors ``(B, levels, *)`` in model units.

    Args:
        levels: the number V of symbols.
        alphabet: the characters that the codes stand for; empty if they stand for something else.
        channels: the number C of channels of an image, ``(B, C, *)`` in data units and ``(B, C * levels, *)`` in model
            units; 0 for data without channels.

    Raises:
        InputError: if there are fewer than two symbols, or another number of characters, or one of them twice; in
            ``encode``, if a code is not a whole number in its range.
    """

    levels: int

    def __init__(self, levels: int, alphabet: str = "", channels: int = 0) -> None:
        super().__init__()
        require_count(2, levels=levels)
        require_count(0, channels=channels)
        text = isinstance(alphabet, str) and len(set(alphabet)) == len(alphabet) and len(alphabet) in (0, levels)
        require(text, f"alphabet must be a text of {levels} different characters, or empty", shown(alphabet))
        self.levels = levels
        self.alphabet = alphabet
        self.channels = channels

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.channels * self.levels, *shape[1:]) if self.channels else (self.levels, *shape)

    def encode(self, x: Tensor) -> Tensor:
        check_data(x)
        lowest, highest = x.min().item(), x.max().item()
        if lowest < 0 or highest >= self.levels or (x.is_floating_point() and (x != x.round()).any()):
            raise InputError(
                f"data must be codes 0..{self.levels - 1} of {self.levels} symbols, got values in "
                f"[{lowest:g}, {highest:g}]"
            )
        require(self.channels in (0, x.shape[1]), f"data must have {self.channels} channels", x.shape[1])
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        symbols = functional.one_hot(x.long(), self.levels).to(dtype)
        return symbols.movedim(-1, 2).flatten(1, 2) if self.channels else symbols.movedim(-1, 1)

    def log_probs(self, z_0: Tensor, process: ForwardProcess) -> Tensor:
        """log p(x_i = k | z_0) of every symbol, ``(B, *, levels)`` with the shape ``(B, *)`` of data."""
        embedding = embedding_of(process)
        log_probs = embedding.log_softmax(embedding.log_likelihoods(z_0, full_times(0.0, z_0), process))
        if self.channels:
            return log_probs.unflatten(1, (self.channels, self.levels)).movedim(2, -1)
        return log_probs.movedim(1, -1)

    def nll(self, x: Tensor, z_0: Tensor, process: ForwardProcess) -> Tensor:
        return -sum_rows(self.log_probs(z_0, process).gather(-1, x.long()[..., None]))

    def decode(
        self, z_0: Tensor, process: ForwardProcess, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        log_probs = self.log_probs(z_0, process)
        if mode:
            return log_probs.argmax(-1)
        flat = log_probs.exp().reshape(-1, self.levels)
        device = flat.device if generator is None else generator.device
        return torch.multinomial(flat.to(device), 1, generator=generator).to(z_0.device).reshape(log_probs.shape[:-1])

    def dequantize(self, x_model: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
        raise InputError("uniform dequantisation is for levels of numbers; symbols have no cells")

    def codes(self, text: str) -> Tensor:
        """The codes of a text, ``(len(text),)``.

        Raises:
            InputError: if the model is not of text, or a character is not in its alphabet.
        """
        require_kind(text=(text, str))
        number = {character: code for code, character in enumerate(self.alphabet)}
        unknown = sorted(set(text) - number.keys())
        if not number or unknown:
            what = f"the character {unknown[0]!r} is not among the {self.levels} of this model"
            raise InputError(what if number else "this model is of symbols that have no characters")
        return torch.tensor([number[character] for character in text])

    def texts(self, x: Tensor) -> list[str]:
        """The text of each row of codes ``(B, N)``.

        Raises:
            InputError: if the model is not of text, or ``x`` is no tensor of rows of its codes.
        """
        if not self.alphabet:
            raise InputError("this model is of symbols that have no characters")
        require_kind(x=(x, Tensor))
        require(x.ndim == 2, "x must have shape (B, N)", tuple(x.shape))
        if x.numel():
            self.encode(x)
        x = x.long()
        return ["".join(self.alphabet[code] for code in row) for row in x.tolist()]


@PREDICTORS.register("symbols")
class SymbolPredictor(LogitsPredictor):
    """Reads ``net(z_t, t)`` as logits of the symbols at every place.

    Args:
        net: module with ``net(z_t, t) -> (B, levels, *)``, or ``(B, C * rank, *)`` with ranks or channels. If it has
            an attribute ``beliefs`` above 0, it is called as ``net(z_t, t, beliefs=p)`` with probabilities of all
            symbols at every place, ``(B, max(1, C) * levels, *)``.
        levels: the number V of symbols, equal to the decoder's.
        channels: the number C of channels of an image; 0 for data without channels.
        rank: the rank of the logits, see :class:`~ndm.levels.LogitsPredictor`; None is ``levels``.
    """

    symbols = True

    def __init__(self, net: nn.Module, levels: int, channels: int = 0, rank: int | None = None) -> None:
        super().__init__(net, levels, levels if rank is None else rank)
        require_count(0, channels=channels)
        self.channels = channels
        self.bias = nn.Parameter(torch.zeros(max(1, channels) * levels))

    @classmethod
    def build(cls, blueprint: Blueprint) -> SymbolPredictor:
        levels, dim, shape = blueprint.levels, blueprint.settings.dim, blueprint.shape
        if levels is None:
            raise InputError("model.parameterization symbols needs symbols, but the data are real numbers; use v")
        if blueprint.sequence:
            return cls(blueprint.symbol_network(levels), levels)
        rank = min(RANK, levels)
        require(rank % dim == 0, f"model.dim must divide the rank {rank} of the logits", dim)
        return cls(blueprint.predictor_network(rank // dim), levels, shape[0] // dim, rank)

    @torch.no_grad()
    def start_at(self, codes: Tensor) -> None:
        """Set the bias to the logarithms of the smoothed frequencies of training codes: ``(N, C, *)``, or any shape."""
        parts = codes.unbind(1) if self.channels else [codes]
        counts = torch.cat([torch.bincount(part.flatten().long(), minlength=self.levels) for part in parts])
        self.bias.copy_(((counts + 1) / (codes.numel() / len(parts) + self.levels)).log())

    def forward(self, z_t: Tensor, t: Tensor, process: ForwardProcess) -> Prediction:
        embedding = embedding_of(process)
        with torch.autocast(z_t.device.type, enabled=False):
            bias = self.bias.to(z_t).view(-1, *[1] * (z_t.ndim - 2))
            alone = bias + embedding.log_likelihoods(z_t, t, process)
        count = max(1, self.channels) * self.rank
        out = self.read(z_t, t, process, count, beliefs=lambda: embedding.softmax(alone))
        with torch.autocast(z_t.device.type, enabled=False):
            logits = self.logits(out).movedim(-1, 2).flatten(1, 2)
            return Prediction(embedding.softmax(logits + alone), None, None)
