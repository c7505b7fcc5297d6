"""An experiment: its settings, the recipes that hold settings, the model built from them, and the folder of a run."""

from typing import TYPE_CHECKING

from ..support.lazy import lazy

if TYPE_CHECKING:
    from .build import make_decoder, make_model
    from .recipe import read_config, recipes
    from .run import Run
    from .settings import Config, ModelConfig, make_config
    from .snapshot import Snapshot

__all__ = [
    "Config", "ModelConfig", "Run", "Snapshot", "make_config", "make_decoder", "make_model", "read_config", "recipes",
]  # fmt: skip

HOMES = {
    "build": "make_decoder make_model",
    "recipe": "read_config recipes",
    "run": "Run",
    "settings": "Config ModelConfig make_config",
    "snapshot": "Snapshot",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
