r"""Neural diffusion models: diffusion with a learned forward process.

.. math:: q(z_t \mid x) = \mathcal{N}(\alpha_t F_\phi(x, t), \sigma_t^2 I)
"""

from . import nn
from .decoder import CategoricalDecoder, Decoder, GaussianDecoder
from .errors import InputError
from .gaussian import Gaussian
from .levels import LevelsPredictor
from .likelihood import Likelihood, bits_per_dim, log_prob, ode_likelihood, ode_log_prob
from .model import NDM
from .objective import Bound, bound
from .predictor import Prediction, Predictor
from .process import ConditionalProcess, ForwardProcess
from .sampling import SOLVERS, sample
from .schedule import (
    CosineSchedule,
    LearnedSchedule,
    LinearSchedule,
    NoiseLevel,
    Schedule,
    StepwiseSchedule,
)
from .solvers import ODE_SOLVERS, SDE_SOLVERS, Failures, Solution, Solver, SolverError
from .times import ImportanceTimes, LowDiscrepancyTimes
from .transform import BasisCurve, Curve, Identity, Linear, Network, TimeBasis, Transform
from .version import __version__

__all__ = [
    "NDM",
    "ODE_SOLVERS",
    "SDE_SOLVERS",
    "SOLVERS",
    "BasisCurve",
    "Bound",
    "CategoricalDecoder",
    "ConditionalProcess",
    "CosineSchedule",
    "Curve",
    "Decoder",
    "Failures",
    "ForwardProcess",
    "Gaussian",
    "GaussianDecoder",
    "Identity",
    "ImportanceTimes",
    "InputError",
    "LearnedSchedule",
    "LevelsPredictor",
    "Likelihood",
    "Linear",
    "LinearSchedule",
    "LowDiscrepancyTimes",
    "Network",
    "NoiseLevel",
    "Prediction",
    "Predictor",
    "Schedule",
    "Solution",
    "Solver",
    "SolverError",
    "StepwiseSchedule",
    "TimeBasis",
    "Transform",
    "__version__",
    "bits_per_dim",
    "bound",
    "log_prob",
    "nn",
    "ode_likelihood",
    "ode_log_prob",
    "sample",
]
