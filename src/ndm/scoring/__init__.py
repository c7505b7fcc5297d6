"""Scores of the rows of a table under a saved model: log-densities, ranks, and the columns that make a row odd."""

from typing import TYPE_CHECKING

from ..support.lazy import lazy

if TYPE_CHECKING:
    from .explain import conditional_drops
    from .model import Reasons, TableModel
    from .stream import score_file, stream_scores

__all__ = ["Reasons", "TableModel", "conditional_drops", "score_file", "stream_scores"]

HOMES = {
    "explain": "conditional_drops",
    "model": "Reasons TableModel",
    "stream": "score_file stream_scores",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
