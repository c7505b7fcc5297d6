"""What a solver is given, checked: states and ends once, the shapes of fields wherever they are evaluated.

A field of shape (B, 1) would broadcast against states of shape (B, D) and give finite, wrong numbers.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import InputError
from ..support.checks import require, require_number, shown
from ..support.tensors import check_times, require_shape
from .solution import NoiseRate, Quadrature, VectorField


def check_problem(z: Any, start: float, end: float) -> None:
    """Refuse states that are not floats of shape ``(B, *)``, and ends of the interval that are not finite numbers.

    Raises:
        InputError: naming what does not fit.
    """
    require_number(start=start, end=end)
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim < 2:
        kind = f"{str(z.dtype).removeprefix('torch.')} {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise InputError(f"z must be a floating-point tensor of shape (B, *), got {kind}")
    if z.is_meta:
        raise InputError("z must hold values, but it is on the device meta")


def checked_field(f: VectorField) -> VectorField:
    """``f``, refusing a value that would only broadcast to the shape of the state.

    Raises:
        InputError: if it is no function; when called, with both shapes.
    """
    require(callable(f), "the field must be a function f(t, z)", shown(repr(f)))

    def field(t: Tensor, z: Tensor, *args: Tensor) -> Tensor:
        value = f(t, z, *args)
        require_shape("the field f(t, z)", value, z)
        return value

    return field


def checked_quadrature(q: Quadrature) -> Quadrature:
    """``q``, refusing a field that is not shaped like the state, or an integrand that is not one per row.

    Raises:
        InputError: when called, with both shapes.
    """

    def quadrature(t: Tensor, z: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        value, integrand = q(t, z, *args)
        require_shape("the field of the quadrature", value, z)
        check_times(z, integrand=integrand)
        return value, integrand

    return quadrature


def checked_rate(g: NoiseRate, z: Tensor) -> NoiseRate:
    """``g``, refusing a value that is not one per row, one per row and channel, or one per element of ``z``.

    Raises:
        InputError: when called, with both shapes.
    """

    def rate(t: Tensor) -> Tensor:
        value = g(t)
        if getattr(value, "shape", None) not in ((len(t), *z.shape[1:2]), z.shape):
            require_shape("the noise rate g(t)", value, t, "t")
        return value

    return rate
