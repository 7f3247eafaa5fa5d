#!/usr/bin/env python3
"""Let predict-many and serve go wrong in every way; print what is lost as a Markdown table.

    python -m benchmarks.application_faults   # all, 20 kills: some minutes on a CPU
    python -m benchmarks.application_faults --kills 3 --only "full disk" "slow clients"

"Nothing" means of predict-many: every image is in exactly one row, with what a Predictor gives for
it; of serve: whoever sent an image got its prediction, or was told to come again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.application_faults.many_trials import MANY_TRIALS, ManyImages
from benchmarks.application_faults.server_trials import SERVER_TRIALS, RunningServer


def main(argv: list[str] | None = None) -> bool:
    """Returns: whether nothing was lost in any trial."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*MANY_TRIALS, *SERVER_TRIALS]
    parser.add_argument("--kills", type=int, default=20, help="kill -9 so many times (default: 20)")
    parser.add_argument("--images", type=int, default=400, help="of predict-many (default: 400)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="FAULT")
    args = parser.parse_args(argv)
    all_kept = True
    print("| of | fault | what happened | lost |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        many = ManyImages(folder, args.images)
        for name in [name for name in MANY_TRIALS if name in args.only]:
            print(f"{name} ...", file=sys.stderr, flush=True)
            outcome = MANY_TRIALS[name](many, folder / name.replace(" ", "_"), args.kills)
            all_kept &= told("predict-many", name, outcome)
        asked = [name for name in SERVER_TRIALS if name in args.only]
        if asked:
            with RunningServer(many) as server:
                for name in asked:
                    print(f"{name} ...", file=sys.stderr, flush=True)
                    all_kept &= told("serve", name, SERVER_TRIALS[name](server, args.kills))
    return all_kept


def told(command: str, name: str, outcome) -> bool:
    lost = ", ".join(outcome.lost) or "nothing"
    print(f"| {command} | {name} | {outcome.happened} | {lost} |", flush=True)
    return not outcome.lost


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
