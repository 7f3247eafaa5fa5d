"""``python -m deepfuse_d2`` is the command ``deepfuse``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
