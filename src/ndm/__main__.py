"""``python -m ndm`` runs the command ``ndm``; launchers need it: ``accelerate launch -m ndm train ...``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
