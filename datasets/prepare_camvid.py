#!/usr/bin/env python3
"""``deepfuse prepare camvid`` from a source tree, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from deepfuse_d2.cli.prepare import run_script

if __name__ == "__main__":
    sys.exit(run_script("camvid"))
