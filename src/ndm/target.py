"""The reverse process of a model that predicts the target: F is evaluated on data alone."""

from __future__ import annotations

from torch import Tensor

from .errors import InputError
from .gaussian import Gaussian
from .process import ConditionalProcess, ForwardProcess
from .support.tensors import expand, require_shape
from .transform import BasisCurve


class TargetProcess(ConditionalProcess):
    r"""The reverse process given a prediction of the target, the one combination of F(x, s) and F(x, t) that it needs.

    .. math::
        m_s - \kappa m_t = w G, \qquad w = \alpha_s - \kappa \alpha_t, \qquad
        G = \frac{\alpha_s F(x, s) - \kappa \alpha_t F(x, t)}{w} \;\to\;
        F - \frac{2}{1 + \eta} \frac{\dot F}{\dot \gamma} \quad (s \to t)

    For the identity, and for any F that does not move, G = x. So the posterior and the reverse drift are those of a
    conventional model whose prediction of x is G. The score needs F(x, t) itself, and so does the velocity: it is the
    reverse drift plus :math:`g^2 / 2` times the score.

    Args:
        process: the forward process.
        target: the predicted G of the limit, ``(B, *)``: for the eta of the process; with ``value``, for eta = 1.
        value: the predicted F(x, t), or None.
        variance, eta: those of :class:`ConditionalProcess`; the variance is that of G.
    """

    def __init__(
        self, process: ForwardProcess, target: Tensor, value: Tensor | None, variance: Tensor | None = None,
        eta: float | Tensor = 1.0,
    ) -> None:  # fmt: skip
        own = target
        if value is not None:
            require_shape("value", value, target, "target")
            share = expand(eta, target) if isinstance(eta, Tensor) and eta.ndim else eta
            own = value + 2 / (1 + share) * (target - value)
        super().__init__(process, BasisCurve(own), variance, eta)
        self.target = target
        self.value = value

    def _of_value(self) -> ConditionalProcess:
        """The process whose mean at the time of the prediction is alpha_t F(x, t)."""
        if self.value is None:
            raise InputError(
                "this model predicts a target alone, so it has no ODE and no score; sample by ancestral steps or the "
                "SDE, or predict F(x, t), too: Predictor(..., value=True), or training.eta_range above 1"
            )
        return self.process.along(BasisCurve(self.value))

    def marginal(self, t: Tensor) -> Gaussian:
        """N(alpha_t F, sigma_t^2 I) at the time of the prediction.

        Raises:
            InputError: if F(x, t) is not predicted.
        """
        return self._of_value().marginal(t)

    def score(self, z: Tensor, t: Tensor) -> Tensor:
        return self._of_value().score(z, t)

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        return self.reverse_drift(z, t) + expand(self.noise_rate(t), z) ** 2 / 2 * self.score(z, t)
