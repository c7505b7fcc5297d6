"""The parts of a model that a recipe or a saved model can name. Importing this module registers all of the package."""

from __future__ import annotations

from typing import Any

from .blur import Blur  # noqa: F401  it registers itself, as do the others that are not used here
from .elementwise import ElementwiseSchedule  # noqa: F401
from .embedding import Embedding  # noqa: F401
from .flow import GaussianFlow  # noqa: F401
from .levels import LevelsPredictor  # noqa: F401
from .mixed import MixedDecoder  # noqa: F401
from .nn import NETWORKS
from .predictor import PREDICTORS
from .schedule import SCHEDULES
from .staggered import StaggeredSchedule  # noqa: F401
from .support.registry import Registry
from .symbols import SymbolDecoder  # noqa: F401
from .transform import TRANSFORMS

PARTS: dict[str, Registry[Any]] = {
    "schedule": SCHEDULES, "transform": TRANSFORMS, "parameterization": PREDICTORS, "network": NETWORKS,
}  # fmt: skip
"""The settings ``model.*`` that name a part, each with the registry of its parts."""

__all__ = ["NETWORKS", "PARTS", "PREDICTORS", "SCHEDULES", "TRANSFORMS"]
