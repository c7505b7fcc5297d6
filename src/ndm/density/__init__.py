"""The density of a table, as estimators of scikit-learn."""

from typing import TYPE_CHECKING

from ..support.lazy import lazy

if TYPE_CHECKING:
    from .build import table_model
    from .detector import NeuralDiffusionDetector
    from .estimator import NeuralDiffusionDensity
    from .plan import Plan, plan_for
    from .scores import log_bound, log_density

__all__ = [
    "NeuralDiffusionDensity",
    "NeuralDiffusionDetector",
    "Plan",
    "log_bound",
    "log_density",
    "plan_for",
    "table_model",
]

HOMES = {
    "build": "table_model",
    "detector": "NeuralDiffusionDetector",
    "estimator": "NeuralDiffusionDensity",
    "plan": "Plan plan_for",
    "scores": "log_bound log_density",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
