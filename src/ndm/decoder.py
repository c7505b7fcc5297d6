r"""Decoders convert between data units and model units, and define :math:`p(x \mid z_0)`.

The latent at time 0 is :math:`z_0 = \alpha_0 x + \sigma_0 \epsilon`, with x in model units. There are two decoders:

* :class:`CategoricalDecoder` is for integers 0..K-1. Level k has the value :math:`v_k = (2k + 1)/K - 1`, and
  :math:`p(x_i = k \mid z_0) \propto \mathcal{N}(z_{0,i};\, \alpha_0 v_k, \sigma_0^2)`.
* :class:`GaussianDecoder` is for real numbers: :math:`p(x \mid z_0) = \mathcal{N}(z_0 / \alpha_0,\, e^{\gamma_0} I)`.
  Its expected negative log-likelihood is :math:`\tfrac{D}{2} (\log 2\pi + \gamma_0 + 1)`. This falls without limit as
  :math:`\gamma_0 \to -\infty`, so :math:`\gamma_0` is fixed; report it with every likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .batch import as_float
from .errors import InputError
from .process import ForwardProcess
from .schedule import NoiseLevel
from .support.checks import require_count
from .support.registry import savable
from .support.statistics import check_statistic, exact_statistic
from .support.tensors import expand, rand, randn_like, sum_rows

COARSEST = 0.25
"""The largest distance of neighbouring numbers of a dtype, in standard deviations of the data that it is to hold."""


def check_data(x: Tensor) -> None:
    """Refuse data without a batch dimension or with a NaN or an infinity, naming the first bad row.

    Raises:
        InputError: if the data are refused; the message says what is wrong and in how many rows.
    """
    if x.ndim < 2 or x.numel() == 0:
        raise InputError(f"data must have shape (batch, ...) with at least one row, got {tuple(x.shape)}")
    bad = (~torch.isfinite(x)).flatten(1).any(1)
    if bad.any():
        raise InputError(
            f"data is not finite in {int(bad.sum())} of {len(x)} rows (first: row {int(bad.nonzero()[0])}); "
            "remove or impute them first"
        )


def level_values(levels: int, like: Tensor) -> Tensor:
    """v_k, the levels in model units, ``(levels,)``."""
    return (2 * torch.arange(levels, dtype=like.dtype, device=like.device) + 1) / levels - 1


def log_likelihoods(z: Tensor, noise: NoiseLevel, levels: int) -> Tensor:
    """log N(z_i; alpha v_k, sigma^2) of every level up to a constant, at any time, ``(B, *, levels)``."""
    # The division by sigma comes before the dimension of the levels, so that few operations run on the large tensor.
    # The square is not expanded: with little noise its terms are 10^5 times their difference.
    centre = expand(noise.alpha / noise.sigma, z)[..., None] * level_values(levels, z)
    return -0.5 * ((z / expand(noise.sigma, z))[..., None] - centre).square()


class Decoder(nn.Module):
    """Base class of all decoders."""

    levels: int | None = None
    """The number of values that an element can take; None for real numbers."""

    rounded: int = 0
    """How many numbers of a row are not known exactly; :meth:`jitter` needs a draw for each."""

    @property
    def discrete(self) -> bool:
        """Whether the data are integers."""
        return self.levels is not None

    @property
    def drawn(self) -> bool:
        """Whether a likelihood by the ODE needs draws, because z_0 is not a function of x."""
        return self.discrete

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in model units of a sample of ``shape`` in data units."""
        return shape

    def jitter(self, x: Tensor, u: Tensor) -> Tensor:
        """Data with a place for each number that is not known exactly, for u uniform in [0, 1), ``(B, rounded)``."""
        return x

    def encode(self, x: Tensor) -> Tensor:
        """Convert data units to model units, ``(B, *) -> (B, *)``, and refuse data that it cannot represent."""
        raise NotImplementedError

    def nll(self, x: Tensor, z_0: Tensor, process: ForwardProcess) -> Tensor:
        """-log p(x | z_0) in nats, or its expectation given x if that has a closed form; ``(B,)``."""
        raise NotImplementedError

    def closed(self, z: Tensor) -> Tensor:
        """The elements of latents whose part of :meth:`nll` is a closed form that needs F(x, 0) = x."""
        return z[:, :0]

    def decode(
        self, z_0: Tensor, process: ForwardProcess, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw from p(x | z_0), or its mode, in data units."""
        raise NotImplementedError

    def latent(self, x: Tensor, x_model: Tensor, process: ForwardProcess, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z_0 and the logarithm of the weight w such that w p(z_0) estimates p(x); ``(B, *)``, ``(B,)``.

        By default z_0 is the draw from q(z_0 | x) with this noise, and the weight is p(x | z_0) / q(z_0 | x).

        Args:
            x, x_model: the data in data units and in model units, ``(B, *)``.
            eps: standard normal noise, shaped like latents; without effect if nothing is drawn.
        """
        q_0 = process(x_model).start()
        z_0 = q_0.at(eps)
        return z_0, -self.nll(x, z_0, process) - q_0.log_prob(z_0)

    def dequantize(self, x_model: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
        """Add uniform noise over the cell of each level to encoded data; also give the log-volume of a row's cells.

        Raises:
            InputError: if the data are continuous.
        """
        raise InputError("uniform dequantisation is for discrete data; this model's data are continuous")


@savable
class CategoricalDecoder(Decoder):
    """Integers 0..levels-1: images (256 levels) and any other quantised data.

    Args:
        levels: the number K of values that an element can take.
    """

    levels: int

    def __init__(self, levels: int) -> None:
        super().__init__()
        require_count(2, levels=levels)
        self.levels = levels

    def encode(self, x: Tensor) -> Tensor:
        check_data(x)
        lowest, highest = x.min().item(), x.max().item()  # as numbers: uint8 cannot be compared with 256
        if lowest < 0 or highest >= self.levels or (x.is_floating_point() and (x != x.round()).any()):
            raise InputError(
                f"data must be integers 0..{self.levels - 1} for CategoricalDecoder(levels={self.levels}), "
                f"got values in [{lowest:g}, {highest:g}]; quantise them, or use GaussianDecoder"
            )
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return (2 * x + 1) / self.levels - 1

    @property
    def cell(self) -> float:
        """Width of a level's cell in model units: the cells of all levels fill [-1, 1]."""
        return 2 / self.levels

    def dequantize(self, x_model: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
        noise = self.cell * (rand(tuple(x_model.shape), x_model, generator) - 0.5)
        return x_model + noise, x_model[0].numel() * math.log(self.cell)

    def log_probs(self, z_0: Tensor, process: ForwardProcess) -> Tensor:
        """log p(x_i = k | z_0) of every level, ``(B, *, K)``."""
        noise = process.schedule.start(z_0)
        return functional.log_softmax(log_likelihoods(z_0, noise, self.levels), dim=-1)

    def near(self, z_0: Tensor, process: ForwardProcess) -> tuple[Tensor, Tensor]:
        """The levels around z_0 that have any probability, and log p(x_i = k | z_0) up to a constant.

        Returns:
            The levels, as numbers, and their logits; each ``(B, *, count)``.
        """
        noise = process.schedule.start(z_0)
        alpha, sigma = expand(noise.alpha, z_0), expand(noise.sigma, z_0)
        # Relative to the nearest level, a level d steps away has a weight of at most
        # exp(-d (d - 1) (cell alpha / sigma)^2 / 2). Weights below e^-40 change no digit and are left out; with little
        # noise those are nearly all levels.
        sharpness = self.cell * (noise.alpha / noise.sigma).min().item()
        reach = math.ceil(0.5 + (0.25 + 80 / sharpness**2) ** 0.5)
        count = min(self.levels, 2 * reach + 1)
        nearest = ((z_0.detach() / alpha + 1) / self.cell - 0.5).round()
        first = (nearest - reach).clamp(0, self.levels - count)
        k = first[..., None] + torch.arange(count, dtype=z_0.dtype, device=z_0.device)
        return k, -0.5 * self.distances(k, z_0[..., None], alpha[..., None], sigma[..., None]) ** 2

    def distances(self, k: Tensor, z_0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The distances of z_0 from levels ``k``, in standard deviations of its noise."""
        return (z_0 - alpha * ((k + 0.5) * self.cell - 1)) / sigma

    def nll(self, x: Tensor, z_0: Tensor, process: ForwardProcess) -> Tensor:
        noise = process.schedule.start(z_0)
        own = self.distances(x.to(z_0.dtype), z_0, expand(noise.alpha, z_0), expand(noise.sigma, z_0))
        return sum_rows(0.5 * own**2 + torch.logsumexp(self.near(z_0, process)[1], dim=-1))

    def decode(
        self, z_0: Tensor, process: ForwardProcess, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        levels, logits = self.near(z_0, process)
        if mode:
            index = logits.argmax(-1, keepdim=True)
        else:
            cumulative = logits.softmax(-1).cumsum(-1)
            u = rand(tuple(z_0.shape), z_0, generator)[..., None] * cumulative[..., -1:]
            index = (cumulative <= u).sum(-1, keepdim=True).clamp(max=levels.shape[-1] - 1)
        return levels.gather(-1, index).squeeze(-1).long()


@savable
class GaussianDecoder(Decoder):
    """Real-valued data, which are standardised by ``encode`` and restored by ``decode``.

    The statistics keep every digit that they are given with. They have the model's dtype where it holds them exactly,
    and float64 otherwise, whatever ``model.to(dtype)`` makes of the weights; on MPS, which has no float64, they are
    rounded to float32. Data are standardised in the wider of their dtype and that of the statistics: the mean of time
    stamps is subtracted before anything is rounded.

    Args:
        mean, std: the mean to subtract and the standard deviation to divide by; numbers, or lists or tensors with one
            value per element of a sample. A size of 1 in one of the dimensions of a sample serves all its elements.

    Raises:
        InputError: if a statistic is not finite, or a standard deviation is not positive; in ``encode`` and ``decode``,
            if their shape does not fit the rows, or the dtype of the data has no digit left of a standard deviation.
    """

    mean: Tensor
    std: Tensor
    coarseness: float
    """The largest ``|mean| / std``.

    Times the eps of a dtype, it is the distance of neighbouring data in units of std.
    """

    def __init__(self, mean: float | list[float] | Tensor = 0.0, std: float | list[float] | Tensor = 1.0) -> None:
        super().__init__()
        for name, given in (("mean", mean), ("std", std)):
            exact = exact_statistic(name, given)
            rounded = exact.to(torch.get_default_dtype())
            self.register_buffer(name, rounded if torch.equal(rounded.to(exact.dtype), exact) else exact)
        self._settle()

    def _settle(self) -> None:
        """Find the coarseness, and keep the mean in float64 if a narrower dtype has no digits near it."""
        self.coarseness = 0.0
        with suppress(RuntimeError):  # shapes that fit no common row are told when there is a row
            ratio = self.mean.abs().cpu().double() / self.std.cpu().double()
            self.coarseness = 0.0 if ratio.is_meta else ratio.max().item()
        if self._spacing(self.mean.dtype) > COARSEST and self.mean.device.type != "mps":
            self.mean = self.mean.double()

    def _spacing(self, dtype: torch.dtype) -> float:
        """The distance of neighbouring numbers of ``dtype`` near the mean, in standard deviations."""
        return self.coarseness * torch.finfo(dtype).eps

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GaussianDecoder:
        if fn(torch.empty(0, dtype=torch.float32, device=self.mean.device)).device.type == "mps":
            self.mean, self.std = self.mean.float(), self.std.float()
        before = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = getattr(self, name)
            known = not (old.is_meta or new.is_meta)
            if not known or new.dtype == old.dtype:
                continue
            if not torch.equal(new.to(old.device, old.dtype), old) or self._spacing(new.dtype) > COARSEST:
                setattr(self, name, old.to(new.device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # What is loaded keeps its digits too: the buffers are widened before it is copied into them.
        for name in ("mean", "std"):
            old, new = getattr(self, name), state_dict.get(prefix + name)
            if isinstance(new, Tensor) and not new.is_meta and not torch.equal(new.to(old.dtype).to(new.dtype), new):
                setattr(self, name, old.to(new.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._settle()

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape.

        Raises:
            InputError: if the mean or the std does not fit rows of this shape.
        """
        for name, statistic in (("mean", self.mean), ("std", self.std)):
            check_statistic(name, statistic, shape)
        return shape

    def check_resolution(self, dtype: torch.dtype) -> None:
        """Refuse a dtype of data near the mean in which less than a few values lie within a standard deviation.

        Raises:
            InputError: with what to do.
        """
        spacing = self._spacing(dtype)
        if spacing > COARSEST:
            name = str(dtype).removeprefix("torch.")
            advice = "subtract an offset in whole numbers first" if dtype == torch.float64 else "pass data in float64"
            raise InputError(
                f"near the mean of GaussianDecoder, neighbouring numbers in {name} are {spacing:.2g} standard "
                f"deviations apart, so the data have no digits left; {advice}"
            )

    def encode(self, x: Tensor) -> Tensor:
        check_data(x)
        self.model_shape(tuple(x.shape[1:]))
        x = x if x.is_floating_point() else as_float(x, torch.get_default_dtype())
        self.check_resolution(x.dtype)
        wide = self.wide(x)
        return ((x.to(wide) - self.mean.to(wide)) / self.std.to(wide)).to(x.dtype)

    def wide(self, x: Tensor) -> torch.dtype:
        """The dtype in which ``x`` is standardised or restored."""
        return torch.promote_types(x.dtype, torch.promote_types(self.mean.dtype, self.std.dtype))

    def log_scale(self, x: Tensor) -> Tensor:
        """``log |d(data units) / d(model units)|`` of each row of ``x``, ``(B,)``."""
        return sum_rows(self.std.to(self.wide(x)).log().to(x.dtype).expand_as(x))

    def latent(self, x: Tensor, x_model: Tensor, process: ForwardProcess, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z_0 = alpha_0 x_model, and the log-determinant of the map from x to z_0; nothing is drawn."""
        noise = process.schedule.start(x_model)
        z_0 = expand(noise.alpha, x_model) * x_model
        return z_0, x[0].numel() * noise.alpha.log() - self.log_scale(z_0)

    def nll(self, x: Tensor, z_0: Tensor, process: ForwardProcess) -> Tensor:
        noise = process.schedule.start(z_0)
        per_element = (math.log(2 * math.pi) + noise.gamma + 1) / 2
        return x[0].numel() * per_element + self.log_scale(z_0)

    def closed(self, z: Tensor) -> Tensor:
        return z

    def decode(
        self, z_0: Tensor, process: ForwardProcess, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        self.model_shape(tuple(z_0.shape[1:]))
        # The result has the wide dtype: rounded to the model's, time stamps would be minutes apart.
        wide = self.wide(z_0)
        self.check_resolution(wide)
        noise = process.schedule.start(z_0)
        x = z_0 / expand(noise.alpha, z_0)
        if not mode:
            x = x + expand((noise.gamma / 2).exp(), z_0) * randn_like(z_0, generator)
        return x.to(wide) * self.std.to(wide) + self.mean.to(wide)
