"""A report of runs as one page of HTML: what was trained, its estimates, its samples, and how the model moves data."""

from .build import write_report
from .subject import Subject

__all__ = ["Subject", "write_report"]
