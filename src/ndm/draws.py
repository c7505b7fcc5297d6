"""The random parts of a likelihood: the latent z_0 of a row of data, and the probes of a divergence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .model import NDM
from .support.tensors import expand, rand, randn_like

Divergence = Literal["exact", "hutchinson", "hutchinson-gaussian"]
Dequantization = Literal["decoder", "uniform"]


def draw_latent(
    model: NDM, x: Tensor, dequantization: Dequantization = "decoder", generator: torch.Generator | None = None,
    common: bool = False, places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """z_0 and log w of the table in :mod:`ndm.likelihood`, ``(B, *)`` and ``(B,)``.

    Args:
        common: whether every row gets the same draws.
        places: the uniform numbers of a common draw: those of the rounded numbers and then of the latents.

    Raises:
        InputError: if x does not fit the decoder, the dtype cannot resolve the schedule, or uniform dequantisation is
            asked for continuous data.
    """
    decoder = model.decoder
    rows = 1 if common else len(x)
    u = rand((rows, decoder.rounded), model.reference, generator) if places is None else places[None, : decoder.rounded]
    x = decoder.jitter(x, u.to(model.reference))
    x_model = model.encode(x)
    model.process.schedule.check_precision(x_model.dtype)
    if dequantization == "decoder":
        eps = model.process.transform.latents(x_model)
        if decoder.drawn:
            row = eps[:rows]
            if places is None:
                noise = randn_like(row, generator)
            else:
                noise = torch.special.ndtri(places[decoder.rounded :]).to(row).view_as(row)
            eps = noise.expand_as(eps)
        return decoder.latent(x, x_model, model.process, eps)
    alpha = model.process.schedule.start(x_model).alpha
    u, log_volume = decoder.dequantize(x_model, generator)
    return expand(alpha, u) * u, u[0].numel() * alpha.log() + log_volume


def draw_probes(
    z: Tensor, divergence: Divergence, generator: torch.Generator | None = None, common: bool = False, count: int = 1
) -> Tensor | None:
    """Noise of unit covariance for Hutchinson's estimator, ``(B, count, *)``, or None for the exact divergence.

    Args:
        z: the states, ``(B, *)``.
        common: whether every row gets the same probes.
    """
    if divergence == "exact":
        return None
    rows = z.detach()[: 1 if common else len(z), None].expand(-1, count, *z.shape[1:])
    if divergence == "hutchinson-gaussian":
        return randn_like(rows, generator).expand(len(z), *rows.shape[1:])
    signs = 2 * (rand(tuple(rows.shape), rows, generator) < 0.5).to(z) - 1
    return signs.expand(len(z), *rows.shape[1:])
