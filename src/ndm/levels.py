r"""A predictor for quantised data: for each element, a distribution over the levels times the likelihood of z_t.

.. math::
    \hat x_i = \sum_k v_k\, w_{ik}, \qquad
    w_{ik} \propto \exp(\ell_{ik})\, \mathcal{N}(z_{t,i};\, \alpha_t v_k, \sigma_t^2)

where :math:`v_k` are the decoder's levels. The network gives only the logits :math:`\ell_i`: what the other elements
say about element i. With little noise the second factor alone determines the level. A network that predicts x, eps or v
has to learn this rounding, and images with flat regions lose most of their bits there. The second factor is exact for
the identity. For any F it is nearly exact near t = 0, where F(x, t) is close to x and where the factor matters; at
other times the logits can outweigh it.

References:
    Gulrajani, Hashimoto. Likelihood-Based Diffusion Language Models. NeurIPS 2023 (there the "output prior").
    Dieleman et al. Continuous Diffusion for Categorical Data. 2022 (x_hat as a mean over categories).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .decoder import level_values, log_likelihoods
from .errors import InputError
from .predictor import PREDICTORS, BasePredictor, Prediction
from .process import ForwardProcess
from .support.blueprint import Blueprint
from .support.checks import require_count
from .support.tensors import expand

RANK = 16
"""A rank that suffices for 256 levels."""


class LogitsPredictor(BasePredictor):
    r"""Base class of predictors whose network says which of K values each element has, by logits of low rank.

    With :math:`\ell_{ik} = \sum_r a_{ir} B_{rk}` the network gives the ``rank`` numbers :math:`a_{ir}` of each element,
    and B, ``(rank, levels)``, is a parameter.

    Args:
        net, num_basis, variance, target, value: those of :class:`~ndm.predictor.BasePredictor`.
        levels: the number K of values that an element can take; it must equal the decoder's.
        rank: the rank of the logits; with ``rank >= levels`` the network must give the ``levels`` logits themselves.

    Raises:
        InputError: if levels or rank are too small.
    """

    levels: int

    def __init__(
        self, net: nn.Module, levels: int, rank: int, num_basis: int = 0, variance: bool = False, target: bool = False,
        value: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(net, num_basis, variance, target, value)
        require_count(2, levels=levels)
        require_count(rank=rank)
        self.levels = levels
        self.rank = min(rank, levels)
        self.basis = nn.Parameter(smooth_basis(rank, levels)) if rank < levels else None

    def logits(self, a: Tensor) -> Tensor:
        """The logits of every element, ``(B, rank * C, *)`` to ``(B, C, *, levels)``."""
        a = a.unflatten(1, (self.rank, -1)).movedim(1, -1)
        return a if self.basis is None else a @ self.basis.to(a)


@PREDICTORS.register("levels")
class LevelsPredictor(LogitsPredictor):
    """Reads ``net(z_t, t)`` as logits over the levels of each element.

    Args:
        net: module with ``net(z_t, t) -> (B, C * (rank + num_basis + target + value), *)``, ``z_t`` of shape
            ``(B, C, *)`` and ``t`` of shape ``(B,)``.
        levels, rank: those of :class:`LogitsPredictor`.
        num_basis: the number of predicted curve coefficients, equal to the transform's; 0 evaluates F(x_hat) instead.
        variance: whether the variance of the distribution, ``sum_k w_k (v_k - x_hat)^2``, widens the reverse process
            (not used in continuous time).
        target, value: those of :class:`~ndm.predictor.BasePredictor`. Both are x_hat plus sigma_t times an output of
            the network: F(x, t) is no level, but close to x where there is little noise.

    Raises:
        InputError: if levels or rank are too small, or a target is predicted together with a curve.
    """

    def __init__(
        self, net: nn.Module, levels: int, rank: int = RANK, num_basis: int = 0, variance: bool = False,
        target: bool = False, value: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(net, levels, rank, num_basis, variance, target, value)

    @classmethod
    def build(cls, blueprint: Blueprint) -> LevelsPredictor:
        m, levels = blueprint.settings, blueprint.levels
        if levels is None:
            raise InputError("model.parameterization levels needs quantised data, but the data are real numbers; use v")
        curve, rank = m.num_basis if m.predict_curve else 0, min(RANK, levels)
        target, value = m.predict_target, m.predict_target and blueprint.any_eta
        net = blueprint.predictor_network(rank + curve + target + value)
        return cls(net, levels, rank, curve, m.variance, target, value)

    def forward(self, z_t: Tensor, t: Tensor, process: ForwardProcess) -> Prediction:
        heads = (int(self.target), int(self.value))
        a, coefficients, target, value = self.outputs(z_t, t, process, self.rank, self.num_basis, *heads)
        with torch.autocast(z_t.device.type, enabled=False):
            noise = process.schedule(t)
            likelihoods = log_likelihoods(z_t, noise, self.levels)
            weights = (self.logits(a) + likelihoods).softmax(-1)
            values = level_values(self.levels, z_t)
            x_hat = (weights * values).sum(-1)  # a matrix product might run in TF32
            variance = (weights * (values - x_hat[..., None]) ** 2).sum(-1) if self.variance else None
            sigma = expand(noise.sigma, z_t)
            second = x_hat + sigma * value if self.value else None
            first = x_hat + sigma * target if self.target else x_hat
        return Prediction(first, coefficients if self.num_basis else None, variance, second)


def smooth_basis(rank: int, levels: int) -> Tensor:
    """Cosines over the levels, and spikes at the outermost levels, where data concentrate; ``(rank, levels)``."""
    spikes = rank // 4
    waves = torch.arange(1, rank - 2 * spikes + 1)[:, None]
    basis = torch.zeros(rank, levels)
    basis[: len(waves)] = math.sqrt(2) * torch.cos(math.pi * waves * (torch.arange(levels) + 0.5) / levels)
    for k in range(spikes):
        basis[len(waves) + 2 * k, k] = basis[len(waves) + 2 * k + 1, levels - 1 - k] = 5.0
    return basis
