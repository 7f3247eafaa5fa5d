#!/usr/bin/env python3
"""``deepfuse convert-data`` from a source tree."""

import sys

from deepfuse_d2.cli.main import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("convert-data"))
