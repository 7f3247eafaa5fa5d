"""Makes ``tools/evaluation_oracle`` (the official script, made to run) importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
