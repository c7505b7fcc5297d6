r"""A transform that scales the noise, too: neural flow diffusion models with normal forward processes.

.. math::
    F_\phi(x, t) = x + t f_\phi(x, t), \qquad \log S_\phi(x, t) = t (1 - t)\, h_\phi(x, t)

With :class:`ndm.GeometricSchedule` this is the form of the paper, whose :math:`\delta` is :math:`e^{\gamma_{\min}/2}`:

.. math:: m = (1 - t)\, x + t (1 - t) f_\phi(x, t), \qquad \log s = (1 - t) \log \delta + t (1 - t)\, h_\phi(x, t)

except that a little of the signal is left at t = 1. With any other schedule it is a neural diffusion model whose noise
depends on x. Its diffusion term is finite at each number of steps, but grows with this number: the variances of q and
p differ at every step. Continuous time is another model, in which both have the same diffusion coefficient g.

References:
    Bartosh, Vetrov, Naesseth. Neural Flow Diffusion Models. NeurIPS 2024.
"""

from __future__ import annotations

from torch import Tensor, nn

from .errors import InputError
from .support.blueprint import Blueprint
from .support.checks import require_kind, require_network
from .support.tensors import expand
from .transform import TRANSFORMS, Curve, Transform, with_time_derivative


class FlowCurve(Curve):
    """x + t f(x, t), with noise that is scaled by exp(t (1 - t) h(x, t)); one network gives f and h."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net = net
        self.x = x

    def __call__(self, t: Tensor) -> Tensor:
        return self.scaled(t)[0]

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.scaled_with_derivative(t)[:2]

    def scaled(self, t: Tensor) -> tuple[Tensor, Tensor]:
        tau, out = expand(t, self.x), self.net(self.x, t)
        require_kind(**{"the output of GaussianFlow's network": (out, Tensor)})
        expected = (len(self.x), 2 * self.x.shape[1], *self.x.shape[2:])
        if out.shape != expected:
            raise InputError(f"GaussianFlow needs net(x, t) of shape {expected} (f and h), got {tuple(out.shape)}")
        f, h = out.to(self.x.dtype).chunk(2, dim=1)
        return self.x + tau * f, tau * (1 - tau) * h

    def scaled_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (value, log_scale), (slope, d_log_scale) = with_time_derivative(self.scaled, t)
        return value, slope, log_scale, d_log_scale


@TRANSFORMS.register("gaussian_flow")
class GaussianFlow(Transform):
    """F(x, t) = x + t f(x, t), with noise that is scaled by S(x, t) = exp(t (1 - t) h(x, t)).

    Args:
        net: module with ``net(x, t) -> (B, 2 * C, *)`` for ``x`` of shape ``(B, C, *)``: first f, then h.
    """

    scales = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        require_network(net)
        self.net = net

    @classmethod
    def build(cls, blueprint: Blueprint) -> GaussianFlow:
        return cls(blueprint.transform_network(2, timed=True))

    def forward(self, x: Tensor) -> FlowCurve:
        return FlowCurve(self.net, x)
