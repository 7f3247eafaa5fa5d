"""Count the parameters of semantic heads and of SpineNet's detectors, beside the published numbers.

Published are counts printed by the authors or in their code (marked *), and otherwise sums over the
layers the papers describe. Exit code: 1 if a count of a head differs. Of detectors, the published
numbers are rounded, and detectron2's heads are not quite the authors'.
"""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: it has no arguments."""


def run(args: argparse.Namespace) -> int:
    from ..analysis.published_counts import compare_counts, compare_detectors

    table, differs = compare_counts()
    print(table)
    print("\n21 classes where none are given. * printed by the authors, others summed by layer.\n")
    print(compare_detectors())
    return int(differs)
