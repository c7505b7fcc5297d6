r"""Data transformations :math:`F_\phi(x, t)`, which neural diffusion models add to conventional diffusion.

A transform, given x, returns the curve :math:`t \mapsto F_\phi(x, t)`, with :math:`F_\phi(x, 0) = x`. A curve can be
evaluated at any time, with its exact time derivative:

    value = curve(t)
    value, derivative = curve.with_derivative(t)

====================  =======================================================  =============================
transform             curve                                                    cost per x
====================  =======================================================  =============================
:class:`Identity`     x                                                        none
:class:`Linear`       :math:`R\,\mathrm{diag}(1 + \sum_k t^k w_k) R^\top x`    2K matrix products, once
:class:`TimeBasis`    :math:`x + \sum_k t^k h_k(x)`                            one network evaluation, once
:class:`LinearBasis`  that of Linear, and the sum of TimeBasis on top          both
:class:`Network`      :math:`(1 - t)\, x + t f(x, t)`                          one network evaluation per time
====================  =======================================================  =============================

References:
    Bartosh, Vetrov, Naesseth. Neural Diffusion Models. ICML 2024 (``Network`` is the form used there).
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .errors import InputError
from .support.blueprint import Blueprint
from .support.checks import require, require_choice, require_count, require_kind, require_network
from .support.registry import Registry
from .support.tensors import expand, require_shape


class Curve:
    """The curve t -> F(x, t) of one batch ``x``; ``t`` has shape ``(B,)``, values have the shape of ``x``."""

    x: Tensor
    """The data, at which the curve starts."""

    def __getattr__(self, name: str) -> Any:
        if name == "x":
            raise InputError(f"the curve {type(self).__name__} needs an attribute x, the tensor at which it starts")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __call__(self, t: Tensor) -> Tensor:
        raise InputError(f"the curve {type(self).__name__} needs a method __call__(t), its value")

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``t`` and the exact derivative with respect to time, both ``(B, *)``."""
        raise InputError(
            f"the curve {type(self).__name__} needs a method with_derivative(t), its value and its time derivative: "
            "continuous time, the ODE and the SDE use it"
        )

    def scaled(self, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The value at ``t``, and log S(x, t) where the noise has a scale S of its own; both ``(B, *)``."""
        return self(t), None

    def scaled_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The value and its derivative, and log S(x, t) and its derivative, or None for both; each ``(B, *)``."""
        return *self.with_derivative(t), None, None


class BasisCurve(Curve):
    """x + sum_k t^k h_k, for k = 1..K.

    Args:
        x: the start of the curve, ``(B, C, *)``.
        coefficients: the ``h_k``, concatenated along dimension 1, ``(B, K * C, *)``; None is the constant curve.

    Raises:
        InputError: if the coefficients have another shape.
    """

    def __init__(self, x: Tensor, coefficients: Tensor | None = None) -> None:
        require_kind(x=(x, Tensor), coefficients=(x if coefficients is None else coefficients, Tensor))
        self.x = x
        self.h: tuple[Tensor, ...] = ()
        if coefficients is not None:
            batch, channels, *rest = x.shape
            count = coefficients.shape[1] if coefficients.ndim > 1 else 0
            if count % channels or coefficients.shape != (batch, count, *rest):
                raise InputError(
                    f"coefficients of a curve from x of shape {tuple(x.shape)} must have shape "
                    f"({', '.join(map(str, (batch, f'K * {channels}', *rest)))}), got {tuple(coefficients.shape)}"
                )
            self.h = coefficients.split(x.shape[1], dim=1)

    def __call__(self, t: Tensor) -> Tensor:
        value, tau = self.x, expand(t, self.x)
        for k, h in enumerate(self.h, start=1):
            value = value + tau**k * h
        return value

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        derivative, tau = torch.zeros_like(self.x), expand(t, self.x)
        for k, h in enumerate(self.h, start=1):
            derivative = derivative + k * tau ** (k - 1) * h
        return self(t), derivative


FORWARD_MODE = threading.RLock()
"""PyTorch has one forward-mode level for all threads, and refuses a second one while it is open."""


@cache
def prepare_forward_mode() -> None:
    """Use PyTorch's forward mode once: what it loads then warns of PyTorch itself, which no user can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        zero = torch.zeros(1, device="cpu")
        torch.func.jvp(torch.sin, (zero,), (zero,))


def with_time_derivative(function: Callable[[Tensor], Any], t: Tensor) -> tuple[Any, Any]:
    """The result of ``function(t)`` and its exact derivative, by one forward-mode pass.

    Args:
        function: takes times ``(B,)`` and gives a tensor, or a tuple of them; row i depends on time i alone.
        t: times, ``(B,)``.
    """
    # Forward-mode AD refuses tensors whose elements share memory, such as expanded times.
    t = t.contiguous()
    compiled = torch.compiler.is_compiling()  # which can trace neither a lock nor a cache
    with nullcontext() if compiled else FORWARD_MODE:
        if not compiled:
            prepare_forward_mode()
        value, derivative = torch.func.jvp(function, (t,), (torch.ones_like(t),))  # type: ignore[misc]
    return value, derivative


class NetworkCurve(Curve):
    """(1 - t) x + t f(x, t); the derivative is one forward-mode pass through the network."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net = net
        self.x = x

    def __call__(self, t: Tensor) -> Tensor:
        tau, out = expand(t, self.x), self.net(self.x, t)
        require_shape("net(x, t) of a Network transform", out, self.x, "x")
        return (1 - tau) * self.x + tau * out.to(self.x.dtype)

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return with_time_derivative(self.__call__, t)


class Transform(nn.Module):
    """Base class of all transforms: ``transform(x)`` returns a :class:`Curve`."""

    linear: ClassVar[bool] = False
    """Whether F is affine in x. Then the mean of F(x, t) is F of the mean, and the ODE and the SDE have the same
    marginals if the predictor is exact."""
    scales: ClassVar[bool] = False
    """Whether the noise has a scale S(x, t) of its own: q(z_t | x) = N(alpha_t F(x, t), sigma_t^2 S(x, t)^2)."""

    @property
    def predictable(self) -> int:
        """The number of curve coefficients that a predictor may predict in place of evaluating F(x_hat); 0 for none."""
        return 0

    @classmethod
    def build(cls, blueprint: Blueprint) -> Transform:
        """Build the transform from a recipe's settings."""
        return cls()

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of F(x, t), and so of a latent, for x of ``shape`` in model units, both without the batch."""
        return shape

    def latents(self, x: Tensor) -> Tensor:
        """A tensor with the shape, dtype and device of F(x, t), whose values mean nothing."""
        shape = self.latent_shape(tuple(x.shape[1:]))
        return x if shape == x.shape[1:] else x.new_empty((len(x), *shape))

    def forward(self, x: Tensor) -> Curve:
        raise NotImplementedError


TRANSFORMS = Registry[type[Transform]]("transform")


@TRANSFORMS.register("identity")
class Identity(Transform):
    """F(x, t) = x: conventional diffusion (DDPM, VDM)."""

    linear = True

    def forward(self, x: Tensor) -> BasisCurve:
        return BasisCurve(x)


@TRANSFORMS.register("linear")
class Linear(Transform):
    r"""Gains along orthonormal directions: :math:`F(x, t) = R\,\mathrm{diag}(1 + \sum_k t^k w_k) R^\top x`.

    With ``rotation="none"`` each dimension has its own gain, and so its own noise schedule. The transform starts as the
    identity.

    Args:
        dim: the number D of elements of one sample.
        num_basis: the number K of powers of time.
        rotation: ``"none"`` (R = I), ``"fixed"`` (R is the buffer ``fixed_rotation``, which the caller fills, e.g. with
            principal directions) or ``"learned"`` (R = exp(A - A^T)).
    """

    linear = True

    def __init__(self, dim: int, num_basis: int = 2, rotation: Literal["none", "fixed", "learned"] = "none") -> None:
        super().__init__()
        require_choice(("none", "fixed", "learned"), rotation=rotation)
        require_count(dim=dim, num_basis=num_basis)
        self.dim = dim
        self.num_basis = num_basis
        self.rotation = rotation
        self.gains = nn.Parameter(torch.zeros(num_basis, dim))
        if rotation == "fixed":
            self.register_buffer("fixed_rotation", torch.eye(dim))
        if rotation == "learned":
            self.generator = nn.Parameter(torch.zeros(dim, dim))

    @classmethod
    def build(cls, blueprint: Blueprint) -> Linear:
        return cls(math.prod(blueprint.shape), blueprint.settings.num_basis, blueprint.settings.rotation)

    def rotation_matrix(self) -> Tensor | None:
        """R of shape ``(D, D)``, or None for the identity."""
        if self.rotation == "none":
            return None
        if self.rotation == "fixed":
            return self.get_buffer("fixed_rotation")
        return torch.linalg.matrix_exp(self.generator - self.generator.T)

    def forward(self, x: Tensor) -> BasisCurve:
        flat = x.flatten(1)
        if flat.shape[1] != self.dim:
            raise InputError(f"Linear was made for {self.dim} elements per sample, got {flat.shape[1]}")
        gains = self.gains.to(x.dtype)
        # No reduced precision here: the bound multiplies errors by e^{-gamma}.
        with torch.autocast(x.device.type, enabled=False):
            rotation = self.rotation_matrix()
            if rotation is None:
                h = [gain * flat for gain in gains]
            else:
                rotation = rotation.to(x.dtype)
                h = [(flat @ rotation * gain) @ rotation.T for gain in gains]
        return BasisCurve(x, torch.cat([h_k.view_as(x) for h_k in h], dim=1))


@TRANSFORMS.register("time_basis")
class TimeBasis(Transform):
    r"""One network evaluation gives the whole curve: :math:`F(x, t) = x + \sum_k t^k h_k(x)`.

    Args:
        net: module with ``net(x) -> (B, K * C, *)`` for ``x`` of shape ``(B, C, *)``.
        num_basis: the number K of powers of time.

    Example:
        >>> net = torch.nn.Linear(2, 6)
        >>> curve = ndm.TimeBasis(net, num_basis=3)(torch.randn(5, 2))
        >>> value, derivative = curve.with_derivative(torch.rand(5))
    """

    def __init__(self, net: nn.Module, num_basis: int) -> None:
        super().__init__()
        require_network(net)
        require_count(num_basis=num_basis)
        self.net = net
        self.num_basis = num_basis

    @property
    def predictable(self) -> int:
        return self.num_basis

    @classmethod
    def build(cls, blueprint: Blueprint) -> TimeBasis:
        num_basis = blueprint.settings.num_basis
        return cls(blueprint.transform_network(num_basis, timed=False), num_basis)

    def forward(self, x: Tensor) -> BasisCurve:
        coefficients = self.net(x)
        require_kind(**{"the output of TimeBasis' network": (coefficients, Tensor)})
        coefficients = coefficients.to(x.dtype)
        expected = (x.shape[0], self.num_basis * x.shape[1], *x.shape[2:])
        if coefficients.shape != expected:
            raise InputError(
                f"TimeBasis needs net(x) of shape {expected} (num_basis * channels), got {tuple(coefficients.shape)}"
            )
        return BasisCurve(x, coefficients)


@TRANSFORMS.register("linear_basis")
class LinearBasis(Transform):
    r"""A linear transform and what it cannot do: :math:`F(x, t) = L(x, t) + \sum_k t^k h_k(x)`.

    Args:
        linear_part: L, whose curve starts at x.
        residual: the transform that gives :math:`\sum_k t^k h_k(x)` besides x.

    Raises:
        InputError: if the two have different numbers of powers of time.
    """

    def __init__(self, linear_part: Linear, residual: TimeBasis) -> None:
        super().__init__()
        require_kind(linear_part=(linear_part, Linear), residual=(residual, TimeBasis))
        require(
            linear_part.num_basis == residual.num_basis, "both parts must have the same num_basis",
            (linear_part.num_basis, residual.num_basis),
        )  # fmt: skip
        self.linear_part = linear_part
        self.residual = residual

    @property
    def predictable(self) -> int:
        return self.residual.num_basis

    @classmethod
    def build(cls, blueprint: Blueprint) -> LinearBasis:
        return cls(Linear.build(blueprint), TimeBasis.build(blueprint))

    def forward(self, x: Tensor) -> BasisCurve:
        straight, bent = self.linear_part(x), self.residual(x)
        return BasisCurve(x, torch.cat([a + b for a, b in zip(straight.h, bent.h, strict=True)], dim=1))


@TRANSFORMS.register("network")
class Network(Transform):
    """F(x, t) = (1 - t) x + t f(x, t) with any network f; its time derivative comes from forward-mode AD.

    Args:
        net: module whose output ``net(x, t)`` has the shape of ``x``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        require_network(net)
        self.net = net

    @classmethod
    def build(cls, blueprint: Blueprint) -> Network:
        return cls(blueprint.transform_network(1, timed=True))

    def forward(self, x: Tensor) -> NetworkCurve:
        return NetworkCurve(self.net, x)
