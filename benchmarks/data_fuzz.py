"""Data sets changed at random, sent the whole way of a training: python -m benchmarks.data_fuzz

Each case is loaded, checked, trained with for two steps and evaluated, and ends in a right result
or in one message, within the seconds and the memory of tests/data/fuzzing.py. Half of the cases
change values of a COCO file, half change bytes of any file of any format. The first case that ends
otherwise is reduced to its least and printed, and the exit code is 1. Ctrl-C ends it early.
"""

import argparse
import contextlib
import json
import sys
import time
import traceback
from collections import Counter

import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.data import fuzzing
from tests.data.forms import FORMS, LABEL_FORMS

BY_FILES = {**FORMS, **LABEL_FORMS}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="others give other cases")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    ends: Counter = Counter()
    slowest = 0.0

    def end(walk) -> None:
        nonlocal slowest
        start = time.process_time()
        message = walk()
        slowest = max(slowest, time.process_time() - start)
        ends["one message" if message else "trained and evaluated"] += 1

    how = settings(
        max_examples=max(args.cases // 2, 1), deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip

    @seed(args.seed)
    @how
    @given(
        changes=fuzzing.CHANGES,
        form=st.sampled_from(["COCO, polygons", "COCO, run lengths as a list"]),
        masks=st.booleans(),
    )
    def values(changes, form, masks) -> None:
        with fuzzing.changed_copy(FORMS[form]) as (folder, entry):
            content = json.loads((folder / "x.json").read_text())
            fuzzing.write_json(folder, fuzzing.changed(content, changes))
            end(lambda: fuzzing.walk(entry, masks=masks))

    @seed(args.seed)
    @how
    @given(
        form=st.sampled_from(sorted(BY_FILES)),
        damages=st.lists(fuzzing.DAMAGE, min_size=1, max_size=3),
    )
    def files(form, damages) -> None:
        with fuzzing.changed_copy(BY_FILES[form]) as (folder, entry):
            fuzzing.damage(folder, damages)
            end(lambda: fuzzing.walk(entry))

    failed = False
    with contextlib.suppress(KeyboardInterrupt):
        for part in (values, files):
            try:
                part()
            except (Exception, fuzzing.TooLong):
                failed = True
                traceback.print_exc()
    told = ", ".join(f"{count} {what}" for what, count in sorted(ends.items()))
    print(
        f"{ends.total()} cases: {told}; the slowest took {slowest:.1f} s of the processor",
        flush=True,
    )
    sys.exit(failed)


if __name__ == "__main__":
    main()
