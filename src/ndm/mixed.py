r"""Rows of numbers and symbols: the decoder and the predictor of a model of tables.

A row in data units is n numbers and then the codes 0..V-1 of its symbols. In model units it is the normal scores of the
numbers (:class:`ndm.Marginals`) and a one-hot vector for each symbol, which the transform :class:`ndm.Embedding` reads.

.. math::
    p(x \mid z_0) = \prod_{j \le n} \mathcal{N}(S_j(x_j);\, z_{0,j} / \alpha_0, e^{\gamma_0})\, S_j'(x_j)
    \prod_{j > n} \frac{q(z_{0,j} \mid x_j)}{\sum_k q(z_{0,j} \mid k)}

Numbers that are rounded to a grid or missing have places that are drawn (:mod:`ndm.dequantize`).

The predictor gives ``v`` for the numbers, and for the symbols probabilities

.. math:: w_k \propto \exp(\ell_k + b_k)\, q(z_t \mid k), \qquad \ell = \mathrm{net}(z_t, t)

with a learned bias b that starts at the logarithm of the frequencies: a network that gives zeros gives the frequencies,
updated by what :math:`z_t` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .batch import as_float
from .decoder import COARSEST, Decoder, check_data
from .dequantize import Dequantizer
from .embedding import embedding_of
from .errors import InputError
from .gaussian import Gaussian
from .marginal import Marginals
from .predictor import PREDICTORS, BasePredictor, Prediction
from .process import ForwardProcess
from .support.checks import listed, require, require_count, require_kind
from .support.registry import savable
from .support.tensors import expand, full_times, randn_like, require_table, sum_rows


@savable
class MixedDecoder(Decoder):
    """Rows of numbers, possibly rounded, and of the codes of symbols: ``(B, numbers + symbols)``.

    Args:
        marginals: the maps of the numbers to normal scores.
        alphabets: how many symbols each of the other columns has.
        cells, spikes, missing: which numbers are not known exactly; see :class:`ndm.dequantize.Dequantizer`.

    Raises:
        InputError: if ``cells``, ``spikes`` or ``missing`` do not fit, or an alphabet has fewer than two symbols; in
            ``encode``, if a row has another length, a value is not finite, a code is not a whole number in its range,
            or the dtype of the data is too coarse for a column.
    """

    def __init__(
        self, marginals: Marginals, alphabets: Sequence[int] = (), cells: Sequence[float] | None = None,
        spikes: Sequence[Sequence[float]] | None = None, missing: Sequence[Sequence[int]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_kind(marginals=(marginals, Marginals))
        alphabets = listed("alphabets", alphabets)
        require_count(2, **{f"alphabets[{i}]": count for i, count in enumerate(alphabets)})
        self.marginals = marginals
        self.alphabets = alphabets
        self.numbers = marginals.columns
        self.places = Dequantizer(self.numbers, alphabets, cells, spikes, missing)
        self.cells, self.spikes, self.missing = self.places.cells, self.places.spikes, self.places.missing
        self.rounded = len(self.places.drawn)

    @property
    def drawn(self) -> bool:
        return bool(self.alphabets) or self.rounded > 0

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.numbers + sum(self.alphabets),)

    def check_resolution(self, dtype: torch.dtype) -> None:
        """Refuse a dtype of data in which neighbouring numbers of a column are wider apart than the column allows.

        That is the width of a cell of a rounded number, and else ``COARSEST`` of a unit of its normal scores.

        Raises:
            InputError: with the column and what to do.
        """
        if self.numbers == 0:
            return
        dtype = dtype if dtype.is_floating_point else torch.float64
        (far, scale), facts, cells = self.marginals.reach(), torch.finfo(dtype), np.array(self.cells)
        apart = 2 ** np.floor(np.log2(far.numpy().clip(min=facts.tiny))) * facts.eps
        bad = np.flatnonzero(apart > np.where(cells > 0, cells, COARSEST * scale.numpy()))
        if len(bad):
            name = str(dtype).removeprefix("torch.")
            advice = "subtract an offset in whole numbers first" if dtype == torch.float64 else "pass data in float64"
            raise InputError(
                f"near the values of column {bad[0]}, neighbouring numbers in {name} are {apart[bad[0]]:.2g} "
                f"apart, so that different values of the column become one; {advice}"
            )

    def jitter(self, x: Tensor, u: Tensor) -> Tensor:
        """Data with a place for each number that is not known exactly; in float64 if there are such numbers."""
        if not self.rounded:
            return x
        self.check_resolution(x.dtype)
        return self.places.place(x.double(), u, self.marginals)

    def encode(self, x: Tensor) -> Tensor:
        check_data(x)
        require(x.shape[1:] == (self.numbers + len(self.alphabets),), self._rule(), f"rows of {tuple(x.shape[1:])}")
        self.check_resolution(x.dtype)
        x = x if x.is_floating_point() else as_float(x, torch.get_default_dtype())
        scores = self.marginals(x[:, : self.numbers])[0].to(x.dtype)
        return torch.cat([scores, *self._one_hot(x)], dim=1)

    def _rule(self) -> str:
        return f"data must have {self.numbers} numbers and {len(self.alphabets)} codes of symbols in a row"

    def _one_hot(self, x: Tensor) -> list[Tensor]:
        """The symbols of each alphabet as one-hot vectors, ``(B, V)`` each."""
        vectors = []
        for codes, count in zip(x[:, self.numbers :].T, self.alphabets, strict=True):
            bad = ((codes != codes.round()) | (codes < 0) | (codes >= count)).nonzero().flatten()
            if len(bad):
                found = f"{codes[bad[0]].item():g} in row {int(bad[0])}"
                raise InputError(f"the codes of a column with {count} symbols must be 0..{count - 1}, got {found}")
            vectors.append(functional.one_hot(codes.long(), count).to(x.dtype))
        return vectors

    def log_scale(self, x: Tensor) -> Tensor:
        """``log |d(data units) / d(model units)|`` of the numbers, with the volumes of their places; ``(B,)``."""
        return -self.places.log_volume(x, *self.marginals(x[:, : self.numbers]))

    def nll(self, x: Tensor, z_0: Tensor, process: ForwardProcess) -> Tensor:
        per_number = (math.log(2 * math.pi) + process.schedule.start(z_0).gamma + 1) / 2
        numbers = self.numbers * per_number + self.log_scale(x).to(z_0.dtype)
        return numbers - self.log_symbols(x, z_0, process)

    def closed(self, z: Tensor) -> Tensor:
        return z[:, : self.numbers]

    def log_symbols(self, x: Tensor, z_0: Tensor, process: ForwardProcess) -> Tensor:
        """log p(symbols | z_0), ``(B,)``."""
        if not self.alphabets:
            return z_0.new_zeros(len(z_0))
        log_p = self.log_probs(z_0, process)
        one_hot = torch.cat(self._one_hot(x), dim=1).to(log_p.dtype)
        return sum_rows(log_p * one_hot)

    def log_probs(self, z_0: Tensor, process: ForwardProcess) -> Tensor:
        """log p(x_j = k | z_0) of every symbol, ``(B, sum(alphabets))``."""
        embedding = embedding_of(process)
        return embedding.log_softmax(embedding.log_likelihoods(z_0, full_times(0.0, z_0), process))

    def latent(self, x: Tensor, x_model: Tensor, process: ForwardProcess, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z_0 = alpha_0 y for the numbers, and a draw from q(z_0 | x) for the symbols."""
        q_0 = process(x_model).start()
        mean, z_0 = q_0.mean, q_0.at(eps)
        z_0 = torch.cat([mean[:, : self.numbers], z_0[:, self.numbers :]], dim=1)
        drawn = Gaussian(mean[:, self.numbers :], q_0.std.expand_as(mean)[:, self.numbers :])
        log_alpha = process.schedule.start(z_0).alpha.log()
        log_weight = self.numbers * log_alpha - self.log_scale(x).to(z_0.dtype)
        if self.alphabets:
            log_weight = log_weight + self.log_symbols(x, z_0, process) - drawn.log_prob(z_0[:, self.numbers :])
        return z_0, log_weight

    def decode(
        self, z_0: Tensor, process: ForwardProcess, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Numbers and codes in float64. Rounded numbers are not rounded: a cell is the caller's to choose."""
        noise = process.schedule.start(z_0)
        scores = z_0[:, : self.numbers] / expand(noise.alpha, z_0)
        if not mode:
            scores = scores + expand((noise.gamma / 2).exp(), scores) * randn_like(scores, generator)
        columns = [self.marginals.inverse(scores)]
        if self.alphabets:
            for log_p in self.log_probs(z_0, process).split(self.alphabets, dim=1):
                columns.append(draw_codes(log_p, mode, generator)[:, None].to(columns[0]))
        return torch.cat(columns, dim=1)


def draw_codes(log_p: Tensor, mode: bool, generator: torch.Generator | None) -> Tensor:
    """The most probable code, or a draw, of each row of log-probabilities ``(B, V)``."""
    if mode:
        return log_p.argmax(1)
    device = log_p.device if generator is None else generator.device
    return torch.multinomial(log_p.exp().to(device), 1, generator=generator)[:, 0].to(log_p.device)


@PREDICTORS.register("mixed")
class MixedPredictor(BasePredictor):
    """Reads ``net(z_t, t)`` as ``v`` of the numbers and as logits of the symbols.

    Args:
        net: module with ``net(z_t, t) -> (B, numbers + sum(alphabets))``. If it has an attribute ``beliefs`` above 0,
            it is called as ``net(z_t, t, beliefs=p)`` with what each latent alone gives, ``(B, sum(alphabets))``.
        alphabets: how many symbols each symbol column has.
        numbers: how many numbers a row has.
    """

    symbols = True

    def __init__(self, net: nn.Module, alphabets: Sequence[int], numbers: int = 0) -> None:
        super().__init__(net)
        alphabets = listed("alphabets", alphabets)
        require_count(2, **{f"alphabets[{i}]": count for i, count in enumerate(alphabets)})
        require_count(0, numbers=numbers)
        self.alphabets = alphabets
        self.numbers = numbers
        self.bias = nn.Parameter(torch.zeros(sum(alphabets)))

    @torch.no_grad()
    def start_at(self, codes: Tensor) -> None:
        """Set the bias to the logarithms of the smoothed frequencies of training codes, ``(N, symbols)``.

        Raises:
            InputError: if the codes have another shape or are not 0..V-1.
        """
        require_table("codes", codes, len(self.alphabets))
        for j, (column, count) in enumerate(zip(codes.T, self.alphabets, strict=True)):
            bad = column[(column != column.round()) | (column < 0) | (column >= count)]
            require(not len(bad), f"the codes of column {j} must be whole numbers in 0..{count - 1}", bad[:1].tolist())
        counts = [torch.bincount(c.long(), minlength=v) for c, v in zip(codes.T, self.alphabets, strict=True)]
        self.bias.copy_(torch.cat([((n + 1) / (n.sum() + len(n))).log() for n in counts]))

    def forward(self, z_t: Tensor, t: Tensor, process: ForwardProcess) -> Prediction:
        embedding = embedding_of(process)
        with torch.autocast(z_t.device.type, enabled=False):
            alone = self.bias.to(z_t) + embedding.log_likelihoods(z_t, t, process)
        count = self.numbers + sum(self.alphabets)
        out = self.read(z_t, t, process, count, beliefs=lambda: embedding.softmax(alone))
        v, logits = out.split([self.numbers, sum(self.alphabets)], dim=1)
        with torch.autocast(z_t.device.type, enabled=False):
            noise = process.schedule(t)
            alpha, sigma = expand(noise.alpha, v), expand(noise.sigma, v)
            numbers = (alpha * z_t[:, : self.numbers] - sigma * v) / (alpha**2 + sigma**2)
            weights = embedding.softmax(logits + alone)
        return Prediction(torch.cat([numbers, weights], dim=1), None, None)
