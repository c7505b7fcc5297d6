r"""The predictor turns a network's output into a prediction of x.

.. math::
    \hat x = \text{out}, \qquad
    \hat x = (z_t - \sigma_t\, \text{out}) / \alpha_t, \qquad
    \hat x = (\alpha_t z_t - \sigma_t\, \text{out}) / (\alpha_t^2 + \sigma_t^2), \qquad
    \hat x = (\alpha_t z_t - \sigma_t^2\, \text{out}) / (\alpha_t^2 + \sigma_t^2)

for the parameterisations ``x``, ``eps``, ``v`` and ``score``. The last one says how the score differs from that of a
standard normal variable: with the identity transform, :math:`\nabla \log p(z_t) = -z_t - \alpha_t\, \text{out}`. Where
noise vanishes, the error of the output hardly counts, so times at which there is nothing to learn add little to the
variance of the gradient. It suits densities that are smooth at the scale of the data's standard deviation. A density
that is narrow in some direction has large scores, and ``v`` learns it faster.

They are reparameterisations of :math:`\hat x`: with a transform other than the identity, the output for ``eps`` or
``v`` is not a prediction of the noise or of v itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError
from .process import ForwardProcess
from .support.blueprint import Blueprint
from .support.checks import require, require_choice, require_count, require_flag, require_kind, require_network
from .support.registry import Registry
from .support.tensors import expand

Parameterization = Literal["x", "eps", "v", "score"]


class Prediction(NamedTuple):
    """A prediction from ``z_t``: x, or the target in its place; optionally the coefficients of the curve of x, the
    elementwise variance, and F(x, t)."""

    x_hat: Tensor
    coefficients: Tensor | None
    variance: Tensor | None
    value: Tensor | None = None


class BasePredictor(nn.Module):
    """Base class of all predictors: ``predictor(z_t, t, process)`` turns ``net(z_t, t)`` into a :class:`Prediction`.

    Args:
        net: the network; its outputs are concatenated along dimension 1.
        num_basis: the number of predicted curve coefficients, equal to the transform's; 0 evaluates F(x_hat) instead.
        variance: whether the prediction has a variance.
        target: whether the target of the reverse process is predicted in the place of x, so that F is evaluated on data
            alone; see :class:`ndm.target.TargetProcess`.
        value: whether F(x, t) is predicted besides the target: the ODE needs it. Training at several eta teaches it.

    Raises:
        InputError: if the network is none, or a target is predicted together with a curve, or a value without a target.
    """

    levels: int | None = None
    """The number of values that an element can take, if the predictor is only for such data; None otherwise."""
    symbols = False
    """Whether the prediction holds probabilities of the symbols of an :class:`ndm.Embedding`. Then a step of the
    reverse process is a mixture (:mod:`ndm.mixture`). Without this flag it is a Gaussian about their mean."""

    def __init__(
        self, net: nn.Module, num_basis: int = 0, variance: bool = False, target: bool = False, value: bool = False
    ) -> None:
        super().__init__()
        require_network(net)
        require_count(0, num_basis=num_basis)
        require_flag(variance=variance, target=target, value=value)
        require(
            not (target and num_basis), "a target and a curve cannot both be predicted: num_basis must be 0", num_basis
        )
        require(target or not value, "F(x, t) is predicted besides a target: value needs target=True", value)
        self.net = net
        self.num_basis = num_basis
        self.variance = variance
        self.target = target
        self.value = value

    @classmethod
    def build(cls, blueprint: Blueprint) -> BasePredictor:
        """Build the predictor from a recipe's settings."""
        raise NotImplementedError

    def forward(self, z_t: Tensor, t: Tensor, process: ForwardProcess) -> Prediction:
        """The prediction at ``z_t``, ``(B, C, *)``.

        Args:
            process: the forward process, whose noise and curves the prediction may use.

        Raises:
            InputError: if the network's output does not have the expected shape.
        """
        raise NotImplementedError

    def outputs(self, z_t: Tensor, t: Tensor, process: ForwardProcess, *counts: int) -> tuple[Tensor, ...]:
        """The network's output in the dtype of ``z_t``, in parts of ``counts`` channels per channel of ``z_t``.

        Raises:
            InputError: if the output has another shape.
        """
        channels = z_t.shape[1]
        parts = f" ({' + '.join(map(str, counts))} per channel)"
        out = self.read(z_t, t, process, channels * sum(counts), parts)
        return out.split([channels * count for count in counts], dim=1)

    def read(
        self, z_t: Tensor, t: Tensor, process: ForwardProcess, count: int, how: str = "",
        beliefs: Callable[[], Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """The network's output in the dtype of ``z_t``, which must have ``count`` channels.

        A network with ``damped = True`` is called with the standard deviation of the noise, too. One with a number
        ``beliefs`` of channels is called with what ``beliefs()`` gives, if the predictor has any.

        Raises:
            InputError: if the output has another shape.
        """
        # The bound multiplies errors by e^{-gamma}: no reduced precision from here on.
        noise = (expand(process.schedule(t).sigma, z_t),) if getattr(self.net, "damped", False) else ()
        more = {} if beliefs is None or not getattr(self.net, "beliefs", 0) else {"beliefs": beliefs()}
        out = self.net(z_t, t, *noise, **more)
        require_kind(**{"the output of the predictor's network": (out, Tensor)})
        out = out.to(z_t.dtype)
        expected = (len(z_t), count, *z_t.shape[2:])
        if out.shape != expected:
            raise InputError(
                f"the predictor's network must return shape {expected} for z_t of shape {tuple(z_t.shape)}{how}; "
                f"got {tuple(out.shape)}"
            )
        return out


PREDICTORS = Registry[type[BasePredictor]]("parameterization")


@PREDICTORS.register("x")
@PREDICTORS.register("eps")
@PREDICTORS.register("v")
@PREDICTORS.register("score")
class Predictor(BasePredictor):
    """Reads ``net(z_t, t)`` as a prediction of x in one of four parameterisations.

    Args:
        net: module with ``net(z_t, t) -> (B, C * (1 + num_basis + variance + value), *)``, ``z_t`` of shape
            ``(B, C, *)`` and ``t`` of shape ``(B,)``.
        parameterization: ``"x"``, ``"eps"``, ``"v"`` or ``"score"``.
        num_basis: the number of predicted curve coefficients, equal to the transform's; 0 evaluates F(x_hat) instead.
        variance: whether the network also gives a variance of the prediction, which widens the reverse process at any
            number of steps (not used in continuous time).
        target, value: those of :class:`BasePredictor`; both are read in the same parameterisation as x.
    """

    def __init__(
        self,
        net: nn.Module,
        parameterization: Parameterization = "v",
        num_basis: int = 0,
        variance: bool = False,
        target: bool = False,
        value: bool = False,
    ) -> None:
        super().__init__(net, num_basis, variance, target, value)
        require_choice(get_args(Parameterization), parameterization=parameterization)
        self.parameterization = parameterization

    @classmethod
    def build(cls, blueprint: Blueprint) -> Predictor:
        m = blueprint.settings
        curve = m.num_basis if m.predict_curve else 0
        target, value = m.predict_target, m.predict_target and blueprint.any_eta
        net = blueprint.predictor_network(1 + curve + m.variance + value)
        return cls(net, m.parameterization, curve, m.variance, target, value)

    def forward(self, z_t: Tensor, t: Tensor, process: ForwardProcess) -> Prediction:
        counts = (1, self.num_basis, int(self.variance), int(self.value))
        out, coefficients, raw_variance, second = self.outputs(z_t, t, process, *counts)
        noise = process.schedule(t)
        alpha, sigma = expand(noise.alpha, z_t), expand(noise.sigma, z_t)

        def read(out: Tensor) -> Tensor:
            if self.parameterization == "x":
                return out
            if self.parameterization == "eps":
                return (z_t - sigma * out) / alpha
            scale = sigma if self.parameterization == "v" else sigma**2
            return (alpha * z_t - scale * out) / (alpha**2 + sigma**2)

        # sigma^2 is Var[x | z_t] for standard normal data, so the network learns a factor of order one.
        variance = sigma**2 * functional.softplus(raw_variance) if self.variance else None
        value = read(second) if self.value else None
        return Prediction(read(out), coefficients if self.num_basis else None, variance, value)
