"""An experiment: its settings, the recipes that hold settings, the model built from them, and the folder of a run."""

from .build import make_decoder, make_model
from .recipe import read_config, recipes
from .run import Run
from .settings import Config, ModelConfig, make_config
from .snapshot import Snapshot

__all__ = [
    "Config", "ModelConfig", "Run", "Snapshot", "make_config", "make_decoder", "make_model", "read_config", "recipes",
]  # fmt: skip
