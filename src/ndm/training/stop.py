"""What ends a training: Ctrl-C and SIGTERM as a request to stop after the current step, time, and no progress."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from .checkpoint import State
from .settings import TrainingConfig

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within ``with StopRequest() as stop`` a first signal sets ``stop.signal`` to its name; a second acts as usual."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()


def out_of_time(settings: TrainingConfig, seconds: float) -> bool:
    """Whether the limit of time is reached."""
    return settings.max_seconds is not None and seconds >= settings.max_seconds


def stalled(settings: TrainingConfig, step: int, best_step: int | None) -> bool:
    """Whether the bound has not become better in the last ``patience`` validations."""
    patience = settings.patience
    return patience > 0 and best_step is not None and step >= best_step + patience * settings.evaluate_every


def ended_early(settings: TrainingConfig, state: State) -> str | None:
    """The setting that ended a training in this state before its last step, or None."""
    if out_of_time(settings, state.values["seconds"]):
        return "max_seconds"
    return "patience" if stalled(settings, state.step, state.values["best_step"]) else None
