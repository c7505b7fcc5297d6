r"""A model as a distribution of PyTorch: that of the model's ODE.

.. math:: z_1 \sim \mathcal{N}(0, I), \qquad z_0 = z_1 - \int_0^1 u_p(z_t, t)\, dt, \qquad x = z_0 / \alpha_0

and back to data units. So ``log_prob`` is exactly the density of ``sample``, up to the solver's error, where the data
are real numbers. Levels and symbols are drawn from the decoder's :math:`p(x \mid z_0)`; their ``log_prob`` is a lower
bound in expectation, by importance samples that are the same at every call (:mod:`ndm.likelihood`). Rounded numbers are
drawn without rounding, and ``log_prob`` is the probability of the cell around them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .errors import InputError
from .likelihood import affordable_divergence, ode_likelihood
from .model import NDM, check_model, check_not_random
from .sampling import check_finite, velocity_field
from .solvers import ODE_SOLVERS, Solver, find_solver, solve_ode
from .support.checks import require, require_count, require_flag, require_kind, require_seed
from .support.tensors import is_dense, require_shape, seeded

NO_GRADIENT = "scipy:"
"""What the names of solvers without gradients start with."""


class ModelDistribution(Distribution):
    """The distribution of a model's ODE; :meth:`ndm.NDM.distribution` makes it.

    Draws come from PyTorch's global random numbers, as those of other distributions do. The density of a row of at most
    256 latents is exact up to the solver's error. That of a larger one is Hutchinson's estimate, the same at each call
    and off by some nats; ``ndm.log_prob`` computes it exactly, in longer time. Shapes are PyTorch's:
    ``sample_shape + batch_shape + event_shape``, where the event is one row of the data.

    Args:
        model: the model, in evaluation mode if it has dropout or batch norm. It must know its shape.
        solver: an ODE solver of ``ndm.ODE_SOLVERS``, or an :class:`ndm.Solver`.
        samples: the number of importance samples of ``log_prob`` for levels and symbols.
        seed: seed of what ``log_prob`` draws, if it draws anything.
        validate_args: whether values are compared with the support; None is PyTorch's default.

    Raises:
        InputError: if the model does not know its shape, the solver is unknown or not installed, the schedule has no
            continuous time, or the model's dtype cannot resolve it.

    Example:
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
        >>> model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder())
        >>> p = model.distribution(solver="rk4")
        >>> x = p.rsample((3,))
        >>> p.log_prob(x).shape
        torch.Size([3])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  the type is that of the base class

    def __init__(
        self,
        model: NDM,
        solver: Solver | str = "dopri5",
        samples: int = 8,
        seed: int = 0,
        validate_args: bool | None = None,
    ) -> None:
        check_model(model)
        if model.shape is None:
            raise InputError("this model does not know the shape of a sample; make it with NDM(..., shape=shape)")
        require_count(samples=samples)
        require_flag(validate_args=False if validate_args is None else validate_args)
        require_seed(seed)
        self.model, self.solver, self.samples, self.seed = model, Solver.of(solver), samples, seed
        find_solver(self.solver.name, ODE_SOLVERS)
        model.process.schedule.check_steps(None)
        model.process.schedule.check_precision(model.reference.dtype)
        super().__init__(torch.Size(), torch.Size(model.shape), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have gradients: the data are real numbers, and the solver keeps gradients."""
        return not self.model.decoder.drawn and not self.solver.name.startswith(NO_GRADIENT)

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers, levels 0..K-1, or in rows of a table real numbers and then the codes of symbols."""
        decoder = self.model.decoder
        if decoder.levels is not None:
            return constraints.independent(constraints.integer_interval(0, decoder.levels - 1), len(self.event_shape))
        alphabets = getattr(decoder, "alphabets", ())
        if not alphabets:
            return constraints.independent(constraints.real, len(self.event_shape))
        numbers = self.event_shape[0] - len(alphabets)
        codes = [constraints.integer_interval(0, count - 1) for count in alphabets]
        real = [constraints.real] if numbers else []
        parts = constraints.cat([*real, *codes], dim=-1, lengths=[*([numbers] if numbers else []), *[1] * len(codes)])
        return constraints.independent(parts, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ModelDistribution:
        """Independent copies of this distribution, with a batch shape."""
        new = self._get_checked_instance(ModelDistribution, _instance)
        new.model, new.solver, new.samples, new.seed = self.model, self.solver, self.samples, self.seed
        Distribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def from_base(self, z_1: Tensor) -> Tensor:
        """Carry standard normal draws to data by the ODE: ``(*, *latent_shape)`` to ``(*, *event_shape)``.

        For real numbers it is a smooth map, which is differentiable in ``z_1`` and in the model's weights, with the
        solver's steps held fixed. Levels and symbols are drawn at the end.

        Raises:
            InputError: if the shape is another, the model is in training mode, or a gradient is asked for that the
                solver does not have.
            SolverError: if the solver could not finish some rows.
        """
        check_not_random(self.model)
        require_kind(z_1=(z_1, Tensor))
        wanted = self.model.reference.dtype
        require(z_1.dtype == wanted or self.model.weightless, f"z_1 must be in the model's {wanted}", z_1.dtype)
        latent = self.model.latent_shape(tuple(self.event_shape))
        lead = z_1.shape[: z_1.ndim - len(latent)]
        require_shape("z_1", z_1, z_1.new_empty((*lead, *latent), device="meta"), "the model's latents")
        if not lead.numel():
            return z_1.new_empty((*lead, *self.event_shape))
        z_0 = solve_ode(velocity_field(self.model), z_1.reshape(-1, *latent), 1.0, 0.0, self.solver).checked().state
        decoder, process = self.model.decoder, self.model.process
        x = decoder.decode(z_0, process, mode=True)
        if decoder.drawn:
            numbers = getattr(decoder, "numbers", 0)
            drawn = decoder.decode(z_0, process)
            x = torch.cat([x[:, :numbers], drawn[:, numbers:]], dim=1) if numbers else drawn
        check_finite(self.model, x)
        return x.view(*lead, *self.event_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  an empty shape, as in the base class
        """Draws with gradients in the model's weights, ``sample_shape + batch_shape + event_shape``.

        Raises:
            NotImplementedError: if the distribution has none, see ``has_rsample``.
        """
        if not self.has_rsample:
            raise NotImplementedError(
                "draws of levels and symbols, and those of scipy's solvers, have no gradient; use sample"
            )
        return self.from_base(self._base(sample_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws without gradients, ``sample_shape + batch_shape + event_shape``."""
        return self.from_base(self._base(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of values, nats, ``sample_shape + batch_shape``; differentiable in ``value`` if that asks for it.

        Raises:
            ValueError: if a value is not in the support, or has another shape.
            InputError: if ``value`` is no dense tensor of real numbers.
            SolverError: if the solver could not finish some rows.
        """
        require_kind(value=(value, Tensor))
        dense = is_dense(value) and not value.is_meta
        require(dense, "value must be a dense tensor of real numbers", f"{value.dtype}, {value.layout}, {value.device}")
        lead = value.shape[: value.ndim - len(self.event_shape)]
        if not lead.numel():  # which PyTorch's own check cannot take
            return self.model.reference.new_empty(torch.broadcast_shapes(lead, self.batch_shape))
        if self._validate_args:
            self._validate_sample(value)
        latent = self.model.latent_shape(tuple(self.event_shape))
        divergence = affordable_divergence(value.new_empty((1, *latent), device="meta"))
        found = ode_likelihood(
            self.model, value.reshape(-1, *self.event_shape), self.solver, divergence=divergence, samples=self.samples,
            generator=seeded(self.seed), common=True,
        )  # fmt: skip
        log_p = found.checked().log_prob.view(lead)
        return log_p.expand(torch.broadcast_shapes(lead, self.batch_shape))

    def _base(self, sample_shape: Any) -> Tensor:
        """Standard normal draws in the shape of latents."""
        try:
            shape = torch.Size(sample_shape) + self.batch_shape
        except TypeError:
            raise InputError(f"sample_shape must be a shape such as (3,) or (), got {sample_shape!r}") from None
        like = self.model.reference
        latent = self.model.latent_shape(tuple(self.event_shape))
        return torch.randn((*shape, *latent), dtype=like.dtype, device=like.device)

    def __repr__(self) -> str:
        bits = f"event_shape={tuple(self.event_shape)}, batch_shape={tuple(self.batch_shape)}"
        return f"ModelDistribution({bits}, solver={self.solver.name}, parameters={self.model.num_parameters:,})"
