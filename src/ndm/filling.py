r"""Samples of the rows that have known symbols at some places: what is missing is filled in.

Write k for the known places and u for the others. The latents of the known places follow the forward process given
their symbols, :math:`y_t \sim q(z_t^k \mid x^k)`, and each sample has one such path. The other places follow the
reverse process :math:`p(z_s \mid z_t) = \mathcal{N}(\mu, v)` at :math:`z_t = (y_t, z_t^u)`. That alone is not the
conditional distribution: while noise hides the known symbols, the other places move as if these were not known. So

* their mean is moved to where the predictor gives the known symbols more probability,

  .. math:: q(z_s^u \mid z_t) = \mathcal{N}\Big(\mu^u + v\, \nabla_{z_t^u} \sum_{i \in k} \log w_{i x_i}(z_t),\, v\Big)

* and each sample has several particles with weights, which make up for this move and say how probable the path of the
  known places is:

  .. math:: \log w \leftarrow \log w + \log p(y_s \mid z_t) + \log p(z_s^u \mid z_t) - \log q(z_s^u \mid z_t)

The particles are drawn again in proportion to their weights where the effective number of them,
:math:`1 / \sum_j w_j^2` of normalised weights, falls below a half. The sample is one of those in the end. A single
particle has no weight, and is guided alone.

These steps are about the mean of the symbols, while :func:`ndm.sample` draws a symbol in each (:mod:`ndm.mixture`);
with many steps the two agree.

As the particles grow in number, the distribution of what is filled in tends to the conditional one of the model, if
its reverse process is that of its forward process. This asks for exact probabilities, for many steps, and for points
that move little: of points that move, :math:`z_s` says something about x that :math:`z_t` does not. It also asks for
eta = 1, with which all steps are taken here, whatever eta the model has: its predictions do not depend on eta.

References:
    Gordon, Salmond, Smith. Novel Approach to Nonlinear/Non-Gaussian Bayesian State Estimation. 1993.
    Trippe et al. Diffusion Probabilistic Modeling of Protein Backbones in 3D for the Motif-Scaffolding Problem. ICLR
    2023 (particles for one path of the known places).
    Wu et al. Practical and Asymptotically Exact Conditional Sampling in Diffusion Models. NeurIPS 2023 (the gradient).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .embedding import embedding_of
from .errors import InputError
from .gaussian import Gaussian
from .model import NDM, check_gradients
from .process import ForwardProcess
from .sampling import BATCH, check_finite, check_sampler
from .solvers import Solver
from .support.checks import require, require_count, require_flag, require_kind
from .support.tensors import full_times, is_dense, rand, randn_like, require_generator, rows_at_once
from .symbols import SymbolDecoder

PARTICLES = 8


@torch.no_grad()
def infill(
    model: NDM,
    codes: Tensor,
    known: Tensor,
    num: int,
    steps: int | None = None,
    particles: int = PARTICLES,
    mode: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw rows that have the known codes at their places, by ancestral steps.

    Args:
        model: a model of symbols, in evaluation mode if it has dropout or batch norm.
        codes: a row of codes, ``(N,)`` for text or ``(C, *)`` for an image; those that are not known are not looked at.
        known: which places are known, bool, shaped like ``codes``.
        num: the number of samples.
        steps: the number of steps, 50 by default.
        particles: the number of particles of each sample. The work grows in proportion, and the more the known codes
            say about the others, the more particles are worth it.
        mode: take the most probable codes in the end instead of a draw.
        generator: seeds all draws.

    Returns:
        Codes, ``(num, N)`` or ``(num, C, *)``.

    Raises:
        InputError: if the model is not of symbols, the shapes are not those of a row, a known code is no symbol, or as
            :func:`ndm.sample` does.

    Example:
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Embedding((3,), dim=2))
        >>> predictor = ndm.SymbolPredictor(ndm.nn.Conv1d((2, 8), outputs=3, width=8, depth=1), 3)
        >>> model = ndm.NDM(process, predictor, ndm.SymbolDecoder(3, "abc"), shape=(8,)).eval()
        >>> known = torch.tensor([True, True] + 6 * [False])
        >>> x = ndm.infill(model, model.decoder.codes("abaaaaaa"), known, 2, steps=5)
        >>> [text[:2] for text in model.decoder.texts(x)]
        ['ab', 'ab']
    """
    check_filling(model)
    codes, known = check_known(model, codes, known)
    require_count(num=num, particles=particles)
    require_flag(mode=mode)
    require_generator(generator)
    steps = Solver.of("ancestral", steps).steps
    check_sampler(model, "ancestral", steps)
    try:
        model.reference.new_empty((num * particles, *model.latent_shape(tuple(codes.shape))))
    except (RuntimeError, MemoryError, TypeError):  # the last is a count beyond 2^63
        raise InputError(f"{num:,} samples of {particles:,} particles do not fit into the memory") from None
    with torch.inference_mode(False), torch.no_grad():  # only a gradient in z is computed, below
        symbols = model.encode(codes.expand(num, *codes.shape))
        z_0 = filled(model, symbols, known, steps, particles, generator)
        check_finite(model, z_0)
        drawn = model.decoder.decode(z_0, model.process, mode, generator)
        return torch.where(known, codes.to(drawn), drawn)


def filled(
    model: NDM, symbols: Tensor, known: Tensor, steps: int, particles: int, generator: torch.Generator | None
) -> Tensor:
    """z_0 of rows whose known places have the given symbols, ``(num, *)``.

    Args:
        symbols: in model units, a row for each sample.
        known: which places are known, of the shape of a row of codes.
    """
    num, own = len(symbols), model.process
    process = ForwardProcess(own.schedule, own.transform, tied_to=own.tied_to)
    latents, each = in_channels(model, known, embedding_of(model.process).dim), in_channels(model, known)
    given, told = process(symbols), (symbols * each).repeat_interleave(particles, 0)
    y = given.marginal(full_times(1.0, symbols)).sample(generator)
    z = y.repeat_interleave(particles, 0)  # the particles of a sample stand together
    z = torch.where(latents, z, randn_like(z, generator))
    log_w = z.new_zeros(num, particles)
    for i in reversed(range(steps)):
        s, t = i / steps, (i + 1) / steps
        weights, slope = guided(model, z, full_times(t, z), told)
        p = process(weights).posterior(z, full_times(s, z), full_times(t, z))
        q = Gaussian(p.mean + p.std**2 * slope, p.std)
        y = given.posterior(y, full_times(s, y), full_times(t, y)).sample(generator)
        z = torch.where(latents, y.repeat_interleave(particles, 0), q.sample(generator))
        change = p.log_prob(z) - q.log_prob(torch.where(latents, q.mean, z))  # the same constant at all known places
        z, log_w = drawn_again(z, log_w + change.view(num, particles), generator)
    return picked(z, particles, chosen(log_w.softmax(1), 1, generator))


def guided(model: NDM, z: Tensor, t: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted probabilities of all symbols, and the gradient in z of the log-probability of the known ones.

    Args:
        told: one-hot vectors of the known symbols in model units, and 0 at the other places.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        weights = model.predict(z, t).x_hat
        least = torch.finfo(weights.dtype).tiny
        log_p = (weights.clamp(min=least).log() * told).sum()
        if not log_p.requires_grad:  # the predictions do not depend on z
            return weights, torch.zeros_like(z)
        (slope,) = torch.autograd.grad(log_p, z, allow_unused=True, materialize_grads=True)
    return weights.detach(), slope


def drawn_again(z: Tensor, log_w: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The particles and their log-weights, drawn again for each sample that has fewer than half of them in effect."""
    particles = log_w.shape[1]
    w = log_w.softmax(1)
    poor = w.square().sum(1, keepdim=True) * particles > 2
    if not poor.any():
        return z, log_w
    index = torch.where(poor, chosen(w, particles, generator), torch.arange(particles, device=w.device))
    return picked(z, particles, index), log_w.masked_fill(poor, 0.0)


def picked(z: Tensor, particles: int, index: Tensor) -> Tensor:
    """The particles of each sample that ``index``, ``(num, count)``, names: ``(num * count, *)``."""
    first = particles * torch.arange(len(index), device=z.device)[:, None]
    return z[(first + index).flatten()]


def chosen(w: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Systematic draws: indices ``(num, count)`` by the probabilities ``w``, ``(num, particles)``."""
    u = (torch.arange(count, device=w.device) + rand((len(w), 1), w, generator)) / count
    return torch.searchsorted(w.cumsum(1), u.contiguous(), right=True).clamp(max=w.shape[1] - 1)


def infill_in_batches(
    model: NDM, codes: Tensor, known: Tensor, num: int, steps: int, mode: bool, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Yield ``num`` samples in batches of limited size, on the CPU; the rest is as in :func:`infill`."""
    most = max(1, rows_at_once(codes.shape, BATCH) // PARTICLES)
    for start in range(0, num, most):
        yield infill(model, codes, known, min(most, num - start), steps, mode=mode, generator=generator).cpu()


def check_filling(model: NDM) -> None:
    """Refuse a model that cannot fill in.

    Raises:
        InputError: if it is not of symbols, does not predict their probabilities, or has no shape or no gradients.
    """
    require_kind(model=(model, NDM))
    predictor = model.predictor
    if not isinstance(model.decoder, SymbolDecoder):
        raise InputError(f"only a model of symbols can fill in, and this one has a {type(model.decoder).__name__}")
    if predictor.levels != model.decoder.levels or predictor.target or predictor.num_basis or predictor.variance:
        raise InputError("only a model that predicts probabilities of symbols can fill in: use ndm.SymbolPredictor")
    require(model.shape is not None, "the model must know the shape of a row: make it with NDM(..., shape=shape)", None)
    check_gradients(model)


def check_known(model: NDM, codes: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The codes with 0 at the places that are not known, and the mask of the others, on the device of the model.

    Raises:
        InputError: if these are not a row of codes of its shape and its mask.
    """
    shape = model.shape
    require_kind(codes=(codes, Tensor), known=(known, Tensor))
    if tuple(codes.shape) != shape or tuple(known.shape) != shape or known.dtype != torch.bool:
        raise InputError(f"codes and known must have the shape {shape} of a row, and known must be bool")
    if codes.is_meta or known.is_meta or not (is_dense(codes) and is_dense(known)):
        raise InputError("codes and known must be dense tensors that hold values")
    known = known.to(model.reference.device)
    codes = codes.to(known.device) if codes.is_floating_point() else codes.to(known.device).long()
    return torch.where(known, codes, 0), known


def in_channels(model: NDM, known: Tensor, size: int | None = None) -> Tensor:
    """The mask of known places for a row in model units, or for one whose places have ``size`` channels each."""
    decoder = model.decoder
    assert isinstance(decoder, SymbolDecoder)
    return (known if decoder.channels else known[None]).repeat_interleave(size or decoder.levels, 0)
