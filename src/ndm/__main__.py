"""The entry of the command ``ndm`` and of ``python -m ndm``, which launchers need: ``accelerate launch -m ndm train``.

The rest is imported inside ``main``, so that Ctrl-C ends the command without a traceback from its first moment on.
"""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; see :func:`ndm.cli.main`."""
    try:
        from .cli import main as run

        status = run(arguments)
    except KeyboardInterrupt:
        status = 130
    if "torch.distributed" in sys.modules:  # only then there can be other processes
        from .support.processes import leave

        leave(failed=status != 0)
    return status


if __name__ == "__main__":
    sys.exit(main())
