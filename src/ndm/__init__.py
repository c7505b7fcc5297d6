r"""Neural diffusion models: diffusion with a learned forward process.

.. math:: q(z_t \mid x) = \mathcal{N}(\alpha_t F_\phi(x, t), \sigma_t^2 I)
"""

from typing import TYPE_CHECKING

from .support.lazy import lazy

if TYPE_CHECKING:
    from . import nn
    from .blur import Blur
    from .decoder import CategoricalDecoder, Decoder, GaussianDecoder
    from .density.detector import NeuralDiffusionDetector
    from .density.estimator import NeuralDiffusionDensity
    from .distribution import ModelDistribution
    from .elementwise import ElementwiseSchedule
    from .embedding import Embedding
    from .errors import InputError
    from .filling import infill
    from .flow import GaussianFlow
    from .gaussian import Gaussian
    from .levels import LevelsPredictor
    from .likelihood import Likelihood, bits_per_dim, log_prob, ode_likelihood, ode_log_prob
    from .marginal import Marginals
    from .mixed import MixedDecoder, MixedPredictor
    from .model import NDM
    from .objective import Bound, bound
    from .predictor import Prediction, Predictor
    from .process import ConditionalProcess, ForwardProcess
    from .sampling import SOLVERS, sample
    from .schedule import (
        CosineSchedule,
        GeometricSchedule,
        LearnedSchedule,
        LinearSchedule,
        NoiseLevel,
        OTSchedule,
        Schedule,
        StepwiseSchedule,
    )
    from .solvers import ODE_SOLVERS, SDE_SOLVERS, Failures, Solution, Solver, SolverError
    from .staggered import StaggeredSchedule
    from .symbols import SymbolDecoder, SymbolPredictor
    from .times import ImportanceTimes, LowDiscrepancyTimes
    from .transform import BasisCurve, Curve, Identity, Linear, LinearBasis, Network, TimeBasis, Transform
    from .version import __version__

__all__ = [
    "NDM",
    "ODE_SOLVERS",
    "SDE_SOLVERS",
    "SOLVERS",
    "BasisCurve",
    "Blur",
    "Bound",
    "CategoricalDecoder",
    "ConditionalProcess",
    "CosineSchedule",
    "Curve",
    "Decoder",
    "ElementwiseSchedule",
    "Embedding",
    "Failures",
    "ForwardProcess",
    "Gaussian",
    "GaussianDecoder",
    "GaussianFlow",
    "GeometricSchedule",
    "Identity",
    "ImportanceTimes",
    "InputError",
    "LearnedSchedule",
    "LevelsPredictor",
    "Likelihood",
    "Linear",
    "LinearBasis",
    "LinearSchedule",
    "LowDiscrepancyTimes",
    "Marginals",
    "MixedDecoder",
    "MixedPredictor",
    "ModelDistribution",
    "Network",
    "NeuralDiffusionDensity",
    "NeuralDiffusionDetector",
    "NoiseLevel",
    "OTSchedule",
    "Prediction",
    "Predictor",
    "Schedule",
    "Solution",
    "Solver",
    "SolverError",
    "StaggeredSchedule",
    "StepwiseSchedule",
    "SymbolDecoder",
    "SymbolPredictor",
    "TimeBasis",
    "Transform",
    "__version__",
    "bits_per_dim",
    "bound",
    "infill",
    "log_prob",
    "nn",
    "ode_likelihood",
    "ode_log_prob",
    "sample",
]

HOMES = {
    "nn": "",
    "blur": "Blur",
    "decoder": "CategoricalDecoder Decoder GaussianDecoder",
    "density": "NeuralDiffusionDensity NeuralDiffusionDetector",
    "distribution": "ModelDistribution",
    "elementwise": "ElementwiseSchedule",
    "embedding": "Embedding",
    "errors": "InputError",
    "filling": "infill",
    "flow": "GaussianFlow",
    "gaussian": "Gaussian",
    "levels": "LevelsPredictor",
    "likelihood": "Likelihood bits_per_dim log_prob ode_likelihood ode_log_prob",
    "marginal": "Marginals",
    "mixed": "MixedDecoder MixedPredictor",
    "model": "NDM",
    "objective": "Bound bound",
    "predictor": "Prediction Predictor",
    "process": "ConditionalProcess ForwardProcess",
    "sampling": "SOLVERS sample",
    "schedule": "CosineSchedule GeometricSchedule LearnedSchedule LinearSchedule NoiseLevel OTSchedule Schedule "
    "StepwiseSchedule",
    "solvers": "ODE_SOLVERS SDE_SOLVERS Failures Solution Solver SolverError",
    "staggered": "StaggeredSchedule",
    "symbols": "SymbolDecoder SymbolPredictor",
    "times": "ImportanceTimes LowDiscrepancyTimes",
    "transform": "BasisCurve Curve Identity Linear LinearBasis Network TimeBasis Transform",
    "version": "__version__",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
