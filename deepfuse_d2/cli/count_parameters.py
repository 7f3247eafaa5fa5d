"""Count the parameters of every semantic head, beside the published numbers.

Published are counts printed by the authors or in their code (marked *), and otherwise sums over the
layers the papers describe. Exit code: 1 if a count differs.
"""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: it has no arguments."""


def run(args: argparse.Namespace) -> int:
    from ..analysis.published_counts import compare_counts

    table, differs = compare_counts()
    print(table)
    print("\n21 classes where none are given. * printed by the authors, others summed by layer.")
    return int(differs)
