#!/usr/bin/env python3
"""Let a small training go wrong in every way, and print as a Markdown table what is lost.

    python -m benchmarks.fault_injection   # all, 20 kills: some minutes on a CPU
    python -m benchmarks.fault_injection --kills 3 --only "full disk" SIGTERM

"Nothing" means: the training, resumed where it had ended, came to the same metrics, weights,
optimizer and random states as one that nothing happened to, bit for bit.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.fault_injection.training import FaultyTraining
from benchmarks.fault_injection.trials import TRIALS


def main(argv: list[str] | None = None) -> bool:
    """Returns: whether nothing was lost in any trial."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="kill -9 so many times (default: 20)")
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="FAULT")
    parser.add_argument("--keep", metavar="FOLDER", help="leave the trainings in this folder")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # processes are forked: no threads of torch's must run before
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary)
        training = FaultyTraining(folder)
        _say("undisturbed")
        start = time.monotonic()
        if training.run(training.whole) != 0:
            sys.exit(f"fault_injection: the undisturbed training failed:\n{_tail(training.whole)}")
        training.seconds = time.monotonic() - start
        print("| fault | what happened | lost |\n|---|---|---|", flush=True)
        all_kept = True
        for number, name in enumerate(args.only):
            _say(name)
            outcome = TRIALS[name](training, folder / f"trial_{number}", args.kills)
            lost = ", ".join(outcome.lost) or "nothing"
            print(f"| {name} | {outcome.happened} | {lost} |", flush=True)
            all_kept &= not outcome.lost
    return all_kept


def _say(name: str) -> None:
    print(f"{name} ...", file=sys.stderr, flush=True)


def _tail(output: Path) -> str:
    return "\n".join((output / "log.txt").read_text().splitlines()[-20:])


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
