"""The entry of the command ``ndm`` and of ``python -m ndm``, which launchers need: ``accelerate launch -m ndm train``.

The rest is imported inside ``main``, so that Ctrl-C ends the command without a traceback from its first moment on.
"""

import os
import signal
import sys
import threading
from types import FrameType


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt. While PyTorch is imported, its C++ code would abort: no work has begun, so leave."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "torch":
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; see :func:`ndm.cli.main`. SIGTERM acts like Ctrl-C."""
    # A launcher that ends its processes must not wait for one that is inside a collective.
    alone = "WORLD_SIZE" not in os.environ and threading.current_thread() is threading.main_thread()
    for number, default in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if alone and signal.getsignal(number) is default:
            signal.signal(number, interrupt)
    # Threads that wait by spinning take the time of those they wait for, where programs share the cores. GNU's OpenMP
    # spins 300,000 times. To sleep at once, by OMP_WAIT_POLICY, would make small steps slow on a quiet machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        from .cli import main as run

        status = run(arguments)
    except KeyboardInterrupt:
        status = 130
    # Without this module, or if an interrupt left it half imported, there is only this process.
    processes = sys.modules.get("ndm.support.processes")
    if processes is not None and hasattr(processes, "leave"):
        processes.leave(failed=status != 0)
    return status


if __name__ == "__main__":
    sys.exit(main())
