r"""A forward process of symbols: every symbol is a point that moves in time.

.. math:: F(x, t) = e_x(t), \qquad e_k(t) = e_k + \sum_{j \ge 1} t^j e^{(j)}_k

for symbols k = 1..V, where the points :math:`e_k(0) = e_k` have mean zero and a root mean square of one. So
:math:`\gamma_0` keeps its meaning, and with more noise the forward process can move symbols apart or together.

A symbol x is a one-hot vector. On these F is linear, :math:`F(x, t) = \sum_k x_k e_k(t)`, and so it is defined for
probabilities w too: :math:`F(w, t)` is the expected curve. A predictor therefore predicts the probabilities of the
symbols, ``process(w)`` is the reverse process, and the target of each symbol is exact.

References:
    Dieleman et al. Continuous Diffusion for Categorical Data. 2022 (learned embeddings that do not move).
    Gulrajani, Hashimoto. Likelihood-Based Diffusion Language Models. NeurIPS 2023 (the same).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError
from .process import ForwardProcess
from .support.blueprint import Blueprint
from .support.checks import listed, require, require_count
from .support.tensors import expand, rand, require_shape
from .transform import TRANSFORMS, BasisCurve, Transform


@TRANSFORMS.register("embedding")
class Embedding(Transform):
    r"""Numbers that stay where they are, and symbols that move.

    The input is ``(B, numbers + sum(levels), *)``: first the numbers, then a one-hot vector, or a vector of
    probabilities, for each alphabet. The curve has the shape ``(B, numbers + len(levels) * dim, *)``.

    Args:
        levels: the number of symbols of each alphabet.
        dim: the dimension d of the points.
        num_basis: the number of powers of time in the curve of a symbol; 0 is an embedding that does not move.
        numbers: the number of channels that F leaves as they are.

    Raises:
        InputError: if a count is too small; in ``forward``, if the input has another number of channels.
    """

    linear = True
    alphabet: Tensor
    """The number of each symbol's alphabet, ``(sum(levels),)``."""

    def __init__(self, levels: Sequence[int], dim: int = 4, num_basis: int = 2, numbers: int = 0) -> None:
        super().__init__()
        levels = listed("levels", levels)
        require(len(levels) > 0, "levels must name at least one alphabet", levels)
        require_count(2, **{f"levels[{i}]": count for i, count in enumerate(levels)})
        require_count(dim=dim)
        require_count(0, num_basis=num_basis, numbers=numbers)
        self.levels = levels
        self.dim = dim
        self.num_basis = num_basis
        self.numbers = numbers
        self.start = nn.Parameter(torch.randn(sum(levels), dim))
        self.moves = nn.Parameter(torch.zeros(num_basis, sum(levels), dim))
        alphabet = [number for number, count in enumerate(levels) for _ in range(count)]
        self.register_buffer("alphabet", torch.tensor(alphabet), persistent=False)

    @classmethod
    def build(cls, blueprint: Blueprint) -> Embedding:
        if blueprint.levels is None:
            raise InputError("model.transform embedding needs symbols, but the data are real numbers")
        dim = blueprint.settings.dim
        embedding = cls((blueprint.levels,) * (blueprint.shape[0] // dim), dim, blueprint.settings.num_basis)
        if not blueprint.sequence:
            embedding.start_in_order()
        return embedding

    @torch.no_grad()
    def start_in_order(self) -> None:
        """Put the symbols of each alphabet on a line, equally spaced: the levels of images."""
        self.start.zero_()
        self.start[:, 0] = torch.cat([torch.arange(count) for count in self.levels])

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.numbers + len(self.levels) * self.dim, *shape[1:])

    def points(self) -> Tensor:
        """The points of all symbols at time 0, ``(sum(levels), dim)``: mean zero and RMS one in each alphabet."""
        e = self.start - self._means(self.start)[self.alphabet]
        return e / self._means(e.square()).mean(1, keepdim=True).sqrt()[self.alphabet]

    def _means(self, e: Tensor) -> Tensor:
        """The mean over the symbols of each alphabet, ``(sum(levels), dim)`` to ``(len(levels), dim)``."""
        if len(self.levels) == 1:
            return e.mean(0, keepdim=True)
        counts = torch.tensor(self.levels, dtype=e.dtype, device=e.device)[:, None]
        return e.new_zeros(len(self.levels), e.shape[1]).index_add(0, self.alphabet, e) / counts

    def points_at(self, time: Tensor) -> Tensor:
        """The points of all symbols at each time, ``(B,)`` to ``(B, sum(levels), dim)``."""
        powers = torch.stack([time**j for j in range(1, self.num_basis + 1)], 1) if self.num_basis else None
        with torch.autocast(time.device.type, enabled=False):  # the process itself is never rounded
            start = self.points().to(time.dtype).expand(len(time), -1, -1)
            return start if powers is None else start + torch.einsum("bj,jvd->bvd", powers, self.moves.to(time.dtype))

    def forward(self, x: Tensor) -> BasisCurve:
        channels = (self.numbers + sum(self.levels), *x.shape[2:])
        require_shape("the input of Embedding", x, x.new_empty((len(x), *channels), device="meta"), "its symbols")
        number, symbols = x.split([self.numbers, sum(self.levels)], dim=1)
        start, *moves = self.embed(symbols, torch.stack([self.points(), *self.moves]))
        if self.numbers:
            still = torch.zeros_like(number)
            start, moves = torch.cat([number, start], 1), [part for h in moves for part in (still, h)]
        return BasisCurve(start, torch.cat(moves, dim=1) if moves else None)

    def embed(self, weights: Tensor, points: Tensor) -> tuple[Tensor, ...]:
        """The expected point in each alphabet, for several sets of points.

        Args:
            weights: probabilities, ``(B, sum(levels), *)``.
            points: N sets of points, ``(N, sum(levels), dim)``.

        Returns:
            N tensors ``(B, len(levels) * dim, *)``.
        """
        count, symbols, alphabets = len(points), points.shape[1], len(self.levels)
        blocks = weights.new_zeros(symbols, alphabets, count, self.dim)
        places = (torch.arange(symbols, device=points.device), self.alphabet)
        blocks = blocks.index_put(places, points.movedim(0, 1).to(weights)).transpose(1, 2).flatten(1)
        with torch.autocast(weights.device.type, enabled=False):
            return (weights.movedim(1, -1) @ blocks).movedim(-1, 1).chunk(count, dim=1)

    def log_likelihoods(self, z: Tensor, t: Tensor, process: ForwardProcess) -> Tensor:
        r""":math:`\log \mathcal{N}(z; \alpha_t e_k(t), \sigma_t^2 I)` of every symbol, less a constant of its alphabet.

        Args:
            z: latents, ``(B, numbers + len(levels) * dim, *)``.
            t: their times, ``(B,)``.
            process: the forward process of this transform.

        Returns:
            ``(B, sum(levels), *)``.
        """
        noise = process.schedule(t)
        points = self.points_at(process.curve_time(t, noise)[0])
        log_p = self.exponents(z[:, self.numbers :], expand(noise.alpha, points) * points, noise.sigma)
        if log_p.dtype == z.dtype:
            return log_p
        return (log_p - log_p.detach().amax(1, keepdim=True)).to(z.dtype)  # rounding then keeps their differences

    def exponents(self, z: Tensor, centres: Tensor, std: Tensor) -> Tensor:
        r""":math:`-\tfrac12 \|z - c_k\|^2 / s^2` of every symbol, ``(B, sum(levels), *)``, perhaps in float64.

        Args:
            z: latents of the symbols, ``(B, len(levels) * dim, *)``.
            centres: the points of all symbols, ``(B, sum(levels), dim)``.
            std: the noise, ``(B,)``.
        """
        return (self.by_products if self.uses_products(z) else self.by_differences)(z, centres, std)

    def uses_products(self, z: Tensor) -> bool:
        """Whether squares of distances are expanded: for one alphabet, where float64 can be had."""
        return len(self.levels) == 1 and self.dim > 1 and z.device.type != "mps"

    def by_differences(self, z: Tensor, centres: Tensor, std: Tensor) -> Tensor:
        """:meth:`exponents` by the differences of latents and points, for any number of alphabets.

        The square is not expanded: with little noise its terms are many thousand times their difference.
        """
        own = z.unflatten(1, (len(self.levels), self.dim))[:, self.alphabet]
        centres = centres.view(*centres.shape, *[1] * (z.ndim - 2))
        return -0.5 * ((own - centres) / expand(std, own)).square().sum(2)

    def by_products(self, z: Tensor, centres: Tensor, std: Tensor) -> Tensor:
        """:meth:`exponents` of one alphabet, in float64.

        The square is expanded, so that no tensor has V times d elements for every place. Its terms cancel, so they are
        in float64, which MPS lacks.
        """
        flat, c = z.reshape(len(z), self.dim, -1).double(), centres.double()
        squares = (flat.square().sum(1, keepdim=True) + c.square().sum(2, keepdim=True)) / 2
        return ((c @ flat - squares) / std.double()[:, None, None] ** 2).view(len(z), -1, *z.shape[2:])

    def differences(self, mean: Tensor, centres: Tensor, std: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        r""":meth:`exponents` at ``mean``, and :math:`c_k \cdot \epsilon / s` less a constant of the place.

        Both are of every symbol, ``(B, sum(levels), *)``, perhaps in float64.

        Args:
            mean: latents of the symbols, ``(B, len(levels) * dim, *)``.
            centres, std: those of :meth:`exponents`.
            eps: noise, shaped like ``mean``.
        """
        if self.uses_products(mean):
            along = centres.double() @ eps.reshape(len(eps), self.dim, -1).double() / std.double()[:, None, None]
            return self.by_products(mean, centres, std), along.view(len(mean), -1, *mean.shape[2:])
        own, noise = (a.unflatten(1, (len(self.levels), self.dim))[:, self.alphabet] for a in (mean, eps))
        off = (centres.view(*centres.shape, *[1] * (mean.ndim - 2)) - own) / expand(std, own)
        return -0.5 * off.square().sum(2), (off * noise).sum(2)

    def softmax(self, logits: Tensor) -> Tensor:
        """Probabilities in proportion to ``exp(logits)`` in each alphabet, ``(B, sum(levels), *)``."""
        return self.log_softmax(logits).exp()

    def log_sum_exp(self, logits: Tensor) -> Tensor:
        """The logarithm of the sum of ``exp(logits)`` over the symbols of each alphabet, ``(B, len(levels), *)``."""
        return torch.stack([part.logsumexp(1) for part in logits.split(self.levels, dim=1)], dim=1)

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Rows of numbers and probabilities with a one-hot vector of a drawn symbol in the place of the latter.

        Places whose probabilities are no numbers stay so.

        Args:
            x: the numbers, and the probabilities of each alphabet, ``(B, numbers + sum(levels), *)``.
            generator: seeds the draws.
        """
        numbers, weights = x.split([self.numbers, sum(self.levels)], dim=1)
        drawn = [numbers]
        u = rand((len(x), len(self.levels), *x.shape[2:]), x, generator)
        for part, own in zip(weights.split(self.levels, dim=1), u.split(1, dim=1), strict=True):
            cumulative = part.cumsum(1)
            total = cumulative[:, -1:]
            code = (cumulative <= own * total).sum(1).clamp(max=part.shape[1] - 1)
            hot = functional.one_hot(code, part.shape[1]).movedim(-1, 1).to(x)
            drawn.append(hot * (total / total))  # NaN where the sum is, as in all that follows from it
        return torch.cat(drawn, dim=1)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """The logarithms of probabilities in each alphabet, ``(B, sum(levels), *)``."""
        if len(self.levels) == 1:
            return logits.log_softmax(1)
        return torch.cat([part.log_softmax(1) for part in logits.split(self.levels, dim=1)], dim=1)


def embedding_of(process: ForwardProcess) -> Embedding:
    """The transform of a process of symbols.

    Raises:
        InputError: if the process has another transform.
    """
    if not isinstance(process.transform, Embedding):
        raise InputError(f"symbols need the transform ndm.Embedding, got {type(process.transform).__name__}")
    return process.transform
