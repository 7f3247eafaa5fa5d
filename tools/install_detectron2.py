#!/usr/bin/env python3
"""Install detectron2 from a package index, without a compiler: ``deepfuse install-detectron2``.

The file that does it is run by its path, since the package cannot be imported before detectron2.
"""

import runpy
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "deepfuse_d2" / "cli" / "install_detectron2.py"

if __name__ == "__main__":
    runpy.run_path(str(FILE), run_name="__main__")
