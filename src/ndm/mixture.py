r"""The reverse process of symbols in finite steps: which symbol it is is drawn, and not averaged.

The forward process of a symbol x has the posterior :math:`q(z_s \mid z_t, x)`, a Gaussian about a mean that depends on
the points of x. A predictor gives every symbol k a probability :math:`w_k`. At every place

.. math:: p(z_s \mid z_t) = \sum_k w_k\, q(z_s \mid z_t, k)

is a mixture: a draw first draws a symbol, and then the latent given this symbol. In a large step the next latent has
little noise and lies near one of the points. The Gaussian about their mean, which serves where x is a number, would lie
near none of them. With many steps the two agree, and in continuous time there is only the mean.

Each place draws its symbol by itself. So the mixture is exact where places do not depend on each other, and in a few
large steps it is far better than the Gaussian. Where places depend on each other, a step settles what the next one
cannot take back, and with some tens of steps the samples of a model of continuous time may be a little worse than about
the mean. The bound in T steps is that of the mixture, and so :func:`ndm.sample` draws from it.

The divergence from a mixture has no closed form. All components have the noise :math:`s_q` of the posterior q of the
symbol x, and means :math:`\mu_k`. With :math:`\Delta_k = \mu_k - \mu_x`

.. math::
    \mathrm{KL}(q \,\|\, p) = -\mathrm{E}_\epsilon \log \sum_k w_k
        \exp\!\big(\Delta_k \cdot \epsilon / s_q - \tfrac12 \|\Delta_k\|^2 / s_q^2\big)

is estimated by one :math:`\epsilon` and its opposite. Together they cancel what is linear in :math:`\epsilon`, which
with T steps would have a standard deviation of :math:`\sqrt{2 T\, \mathrm{KL}}`.

References:
    Austin et al. Structured Denoising Diffusion Models in Discrete State-Spaces. NeurIPS 2021 (the sum over symbols).
    Graves, Srivastava, Atkinson, Gomez. Bayesian Flow Networks. 2023 (the same mixture of Gaussians).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .embedding import Embedding, embedding_of
from .gaussian import Gaussian
from .process import ConditionalProcess, ForwardProcess
from .support.tensors import sum_rows
from .transform import BasisCurve


class SymbolProcess(ConditionalProcess):
    """The reverse process given probabilities of symbols. Its posterior is a :class:`Mixture`, and all else is that of
    the expected curve.

    Args:
        process: the forward process, of an :class:`ndm.Embedding`.
        weights: numbers, and the probabilities of the symbols, ``(B, numbers + sum(levels), *)``.
        eta: that of :class:`ndm.process.ConditionalProcess`.
    """

    def __init__(self, process: ForwardProcess, weights: Tensor, eta: float | Tensor = 1.0) -> None:
        super().__init__(process, process.transform(weights), eta=eta)
        self.weights = weights

    def posterior(self, z_t: Tensor, s: Tensor, t: Tensor) -> Mixture:  # type: ignore[override]
        return Mixture(self, super().posterior(z_t, s, t), z_t, s, t)


@dataclass(frozen=True)
class Mixture:
    """p(z_s | z_t) of rows of numbers, which have Gaussians, and symbols, which have mixtures of them."""

    of: SymbolProcess
    average: Gaussian
    """The Gaussian of the expected curve: that of the numbers, with the mean of the mixture."""
    z_t: Tensor
    s: Tensor
    t: Tensor

    @property
    def embedding(self) -> Embedding:
        """The points of the symbols."""
        return embedding_of(self.of.process)

    @property
    def mean(self) -> Tensor:
        """The mean of z_s, ``(B, *)``."""
        return self.average.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw of z_s, ``(B, *)``: of symbols, and of the latent given these."""
        drawn = self.embedding.draw(self.of.weights, generator)
        return self.of.process(drawn, eta=self.of.eta).posterior(self.z_t, self.s, self.t).sample(generator)

    def centres(self) -> tuple[Tensor, Tensor]:
        """What z_t adds to the mean of every component, ``(B, alphabets * dim, *)``, and what each symbol adds to it,
        ``(B, sum(levels), dim)``: the means of a process whose curve is 0, and of the points from latents that are."""
        embedding, still = self.embedding, torch.zeros_like(self.z_t)
        process, eta = self.of.process, self.of.eta
        stays = process.along(BasisCurve(still), eta=eta).posterior(self.z_t, self.s, self.t).mean
        rows, count = len(self.z_t), sum(embedding.levels)
        start, moves = embedding.points().repeat(rows, 1), embedding.moves.movedim(0, 1).flatten(1).repeat(rows, 1)
        curve = BasisCurve(start, moves if embedding.num_basis else None)
        s, t = (time.repeat_interleave(count) for time in (self.s, self.t))
        each = eta.repeat_interleave(count) if isinstance(eta, Tensor) and eta.ndim else eta
        points = process.along(curve, eta=each).posterior(torch.zeros_like(start), s, t).mean
        return stays[:, embedding.numbers :], points.view(rows, count, embedding.dim)

    def divergence_from(self, q: Gaussian, eps: Tensor) -> Tensor:
        """An unbiased estimate of KL(q || self) in nats, ``(B,)``, by ``eps`` and its opposite.

        Args:
            q: the posterior of the forward process, whose noise is that of every component.
            eps: standard normal noise, ``(B, *)``.
        """
        embedding, numbers = self.embedding, self.embedding.numbers
        found, own = (Gaussian(g.mean[:, :numbers], g.std.expand_as(g.mean)[:, :numbers]) for g in (q, self.average))
        stays, centres = self.centres()
        std = self.average.std.reshape(len(eps))
        near, along = embedding.differences(q.mean[:, numbers:] - stays, centres, std, eps[:, numbers:])
        weights = self.of.weights[:, numbers:]
        log_w = embedding.log_softmax(weights.clamp(min=torch.finfo(weights.dtype).tiny).log())
        log_p = near + log_w
        pair = embedding.log_sum_exp(log_p + along) + embedding.log_sum_exp(log_p - along)
        return found.kl(own) - sum_rows(pair).to(eps.dtype) / 2


def divergence(q: Gaussian, p: Gaussian | Mixture, eps: Tensor) -> Tensor:
    """KL(q || p) in nats, ``(B,)``: exactly, or of a mixture its estimate by the noise ``eps``, ``(B, *)``."""
    return p.divergence_from(q, eps) if isinstance(p, Mixture) else q.kl(p)
