"""``python -m ndm`` is the command ``ndm``, for launchers: ``accelerate launch -m ndm train ...``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
