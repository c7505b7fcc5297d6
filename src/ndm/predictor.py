r"""The predictor: a network's output read as a prediction of x.

.. math::
    \hat x = \text{out}, \qquad
    \hat x = (z_t - \sigma_t\, \text{out}) / \alpha_t, \qquad
    \hat x = (\alpha_t z_t - \sigma_t\, \text{out}) / (\alpha_t^2 + \sigma_t^2)

for the parameterisations ``x``, ``eps`` and ``v``. They are reparameterisations of :math:`\hat x`: with a transform
other than the identity, ``eps`` and ``v`` do not predict the noise itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError
from .schedule import NoiseLevel
from .support.blueprint import Blueprint
from .support.registry import Registry
from .support.tensors import expand

Parameterization = Literal["x", "eps", "v"]


class Prediction(NamedTuple):
    """What is predicted from ``z_t``: x, optionally the curve through it, optionally its elementwise variance."""

    x_hat: Tensor
    coefficients: Tensor | None
    variance: Tensor | None


class BasePredictor(nn.Module):
    """Base of all predictors: ``predictor(z_t, t, noise)`` is a :class:`Prediction`, read from ``net(z_t, t)``.

    Args:
        net: the network; its outputs lie side by side along dimension 1.
        num_basis: number of predicted curve coefficients, equal to the transform's; 0 evaluates F(x_hat) instead.
        variance: whether the prediction has a variance.
    """

    levels: int | None = None
    """The number of values that an element can take, for a predictor that serves data of that many values only."""

    def __init__(self, net: nn.Module, num_basis: int = 0, variance: bool = False) -> None:
        super().__init__()
        self.net = net
        self.num_basis = num_basis
        self.variance = variance

    @classmethod
    def build(cls, blueprint: Blueprint) -> BasePredictor:
        """The predictor of a recipe's settings."""
        raise NotImplementedError

    def forward(self, z_t: Tensor, t: Tensor, noise: NoiseLevel) -> Prediction:
        """The prediction at ``z_t``, ``(B, C, *)``.

        Args:
            noise: the schedule at ``t``.

        Raises:
            InputError: if the network's output is not of the shape promised.
        """
        raise NotImplementedError

    def outputs(self, z_t: Tensor, t: Tensor, *counts: int) -> tuple[Tensor, ...]:
        """The network's output in parts of ``counts`` channels for each channel of ``z_t``, in the precision of z_t.

        Raises:
            InputError: if the output has another shape.
        """
        # The bound multiplies errors by e^{-gamma}: no reduced precision from here on.
        out = self.net(z_t, t).to(z_t.dtype)
        batch, channels, *rest = z_t.shape
        expected = (batch, channels * sum(counts), *rest)
        if out.shape != expected:
            raise InputError(
                f"the predictor's network must return shape {expected} for z_t of shape {tuple(z_t.shape)} "
                f"({' + '.join(map(str, counts))} per channel); got {tuple(out.shape)}"
            )
        return out.split([channels * count for count in counts], dim=1)


PREDICTORS = Registry[type[BasePredictor]]("parameterization")


@PREDICTORS.register("x")
@PREDICTORS.register("eps")
@PREDICTORS.register("v")
class Predictor(BasePredictor):
    """Reads ``net(z_t, t)`` as a prediction of x in one of three parameterisations.

    Args:
        net: module with ``net(z_t, t) -> (B, C * (1 + num_basis + variance), *)``, ``z_t`` of shape ``(B, C, *)`` and
            ``t`` of shape ``(B,)``.
        parameterization: ``"x"``, ``"eps"`` or ``"v"``.
        num_basis: number of predicted curve coefficients, equal to the transform's; 0 evaluates F(x_hat) instead.
        variance: whether the variance of the prediction is learned, so that the reverse process has its own variance
            at any number of steps (continuous time has no use for it).
    """

    def __init__(
        self,
        net: nn.Module,
        parameterization: Parameterization = "v",
        num_basis: int = 0,
        variance: bool = False,
    ) -> None:
        super().__init__(net, num_basis, variance)
        if parameterization not in ("x", "eps", "v"):
            raise InputError(f"parameterization must be 'x', 'eps' or 'v', got {parameterization!r}")
        self.parameterization = parameterization

    @classmethod
    def build(cls, blueprint: Blueprint) -> Predictor:
        m = blueprint.settings
        curve = m.num_basis if m.predict_curve else 0
        return cls(blueprint.predictor_network(1 + curve + m.variance), m.parameterization, curve, m.variance)

    def forward(self, z_t: Tensor, t: Tensor, noise: NoiseLevel) -> Prediction:
        target, coefficients, raw_variance = self.outputs(z_t, t, 1, self.num_basis, int(self.variance))
        alpha, sigma = expand(noise.alpha, z_t), expand(noise.sigma, z_t)
        if self.parameterization == "x":
            x_hat = target
        elif self.parameterization == "eps":
            x_hat = (z_t - sigma * target) / alpha
        else:
            x_hat = (alpha * z_t - sigma * target) / (alpha**2 + sigma**2)
        # sigma^2 is Var[x | z_t] for standard normal data, so the network learns a factor of order one.
        variance = sigma**2 * functional.softplus(raw_variance) if self.variance else None
        return Prediction(x_hat, coefficients if self.num_basis else None, variance)
