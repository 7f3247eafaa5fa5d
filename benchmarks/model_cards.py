#!/usr/bin/env python3
"""Write docs/models.md, the page about every recipe: what it costs, and what was measured of it.

    python -m benchmarks.model_cards             # after a config, a network or a figure changed
    python -m benchmarks.model_cards --check     # the same, writing nothing
    python -m benchmarks.model_cards --time 'MiniCity/mask_rcnn_R_18_*'
    python -m benchmarks.model_cards --record MiniCity/mask_rcnn_R_18_FPN_quick \\
        output/MiniCity/mask_rcnn_R_18_FPN_quick

Parameters and multiply-adds are counted each time, of models without memory. What was measured
stands in docs/models.yaml. --time measures latency, with random weights. --record takes the
accuracy that finished trainings left in their folders, one for each seed, and in what they differed
from the recipe.

Exit code: 0; 1 if --check finds something out of date; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from tqdm import tqdm

from benchmarks.calibrated_weights import calibrated_random_weights
from benchmarks.evaluation_oracle.measuring import CLOCKS
from benchmarks.machine import cpu_name
from benchmarks.model_page import METRICS, SIZE, recipe, render
from benchmarks.timing import run_rounds
from deepfuse_d2 import get_config, list_configs
from deepfuse_d2.analysis import Analysis, analyze
from deepfuse_d2.config.recipes import config_path
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.files import written_whole

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTHING_LOADED = ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"]
# Says nothing about what was trained, or stands in the result anyway.
NO_CHANGES = (
    "DATALOADER.NUM_WORKERS", "DATASETS.EXTRA", "DATASETS.TEST", "MODEL.DEVICE", "OUTPUT_DIR",
    "SEED",
)  # fmt: skip

HEADER = """\
# What was measured of the recipes. `make cards` writes docs/models.md from it.
#
# Of a training that ended in output/X (one folder for each seed):
#   python -m benchmarks.model_cards --record CamVid/sem_seg_R_18_GCN output/X \\
#       --command "the command, where it is not train_net.py alone" --note "A sentence."
# Of latency, on a quiet machine:
#   python -m benchmarks.model_cards --time 'CamVid/*'
#
# Or by hand, then `make cards`:
#   <recipe>:
#     latency: {milliseconds: 81.4, measured: on what, parameters: of the model}
#     results:
#     - data: [what it was evaluated on]
#       metrics: {segm: {AP: [a value for each seed]}}     # or sem_seg: {mIoU: [...]}
#       seeds: [1]
#       parameters: of the model that was trained
#       changes: {KEY: value}     # where the training was not the recipe's; else left out
#       command: that leads to it
#       note: A sentence.         # may be left out
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if stale")
    parser.add_argument(
        "--time", nargs="+", metavar="PATTERN", help="measure these recipes' latency"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of --time (default: 5)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="of --time, on a CPU")
    parser.add_argument(
        "--record", nargs="+", metavar="RECIPE OUTPUT", help="add the result of these trainings"
    )
    parser.add_argument("--command", help="of --record (default: train_net.py with the changes)")
    parser.add_argument("--note", help="a sentence, of --record")
    parser.add_argument("--docs", type=Path, default=DOCS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    try:
        return run(args)
    except UserError as error:
        print(f"make_model_cards.py: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    file, page_file = args.docs / "models.yaml", args.docs / "models.md"
    measured = yaml.safe_load(file.read_text()) or {} if file.exists() else {}
    costs = {name: count(name) for name in tqdm(list_configs(), desc="Recipes", disable=None)}
    if args.time:
        add_latency(measured, costs, args.time, args.rounds, args.clock)
    if args.record:
        add_result(measured, args.record[0], args.record[1:], args.command, args.note)
    check_measured(measured, costs)
    page = render(costs, measured)
    if args.check:
        return report(page_file, page)
    if args.time or args.record:
        measured = {name: measured[name] for name in costs if name in measured}
        write(file, HEADER + dump(measured))
    write(page_file, page)
    return 0


def count(name: str) -> Analysis:
    """What a recipe's model costs, which is built without memory."""
    cfg = get_config(name, [*NOTHING_LOADED, "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    analysis = analyze(model, SIZE)
    if analysis.unsupported:
        raise ConfigError(
            f"{name} has operators that deepfuse_d2.analysis cannot count: "
            f"{', '.join(analysis.unsupported)}. Add them in deepfuse_d2/analysis/counting.py."
        )
    return analysis


def check_measured(measured: Mapping[str, dict], costs: Mapping[str, Analysis]) -> None:
    """Refuse figures of recipes that are no more, or whose network was another one."""
    for name, entry in measured.items():
        config_path(name)
        parameters = costs[name].total.parameters
        figures = [entry["latency"]] if "latency" in entry else []
        figures += [result for result in entry.get("results", []) if "changes" not in result]
        for figure in figures:
            if figure["parameters"] != parameters:
                raise ConfigError(
                    f"{name} has {parameters:,} parameters, and in docs/models.yaml a figure of a "
                    f"network of {figure['parameters']:,}; measure it again, or take it out."
                )


def report(page_file: Path, page: str) -> int:
    """Say in which lines the page differs from what it should be."""
    there = page_file.read_text() if page_file.exists() else ""
    if there == page:
        return 0
    lines = difflib.unified_diff(
        there.splitlines(), page.splitlines(), page_file.name, "as it should be", lineterm="", n=0
    )
    print("\n".join(lines))
    print(f"{page_file.name} is out of date; make cards brings it up to date.")
    return 1


def write(file: Path, text: str) -> None:
    with written_whole(file) as temporary:
        temporary.write_text(text)
    print(file)


def dump(measured: dict) -> str:
    # a list of numbers in one line
    return yaml.safe_dump(measured, sort_keys=False, default_flow_style=None, width=100)


def add_latency(
    measured: dict, costs: Mapping[str, Analysis], patterns: list[str], rounds: int, clock: str
) -> None:
    """Measure the recipes that match, each once a round, on a GPU where there is one."""
    names = []
    for pattern in patterns:
        found = list_configs(pattern)
        if not found:
            raise ConfigError(
                f'No recipe matches "{pattern}"; names are like {list_configs()[0]}, and * stands '
                "for any letters."
            )
        names += [name for name in found if name not in names]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    works = {name: timed_inference(name, device, clock) for name in tqdm(names, desc="Models")}
    seconds = run_rounds(works, rounds, desc="Rounds")
    if device == "cuda":
        where = torch.cuda.get_device_name()
    else:
        clocks = {"cpu": "processor time", "wall": "wall clock"}
        where = f"{cpu_name()}, {torch.get_num_threads()} threads, {clocks[clock]}"
    for name in names:
        measured.setdefault(name, {})["latency"] = {
            "milliseconds": round(1000 * statistics.median(seconds[name]), 1),
            "measured": f"{where}, tensor in and results out, torch {torch.__version__}, median of "
            f"{rounds} rounds",
            "parameters": costs[name].total.parameters,
        }


def timed_inference(name: str, device: str, clock: str) -> Callable[[], float]:
    """Function that predicts one image and returns its seconds."""
    torch.manual_seed(0)
    model = build_model(get_config(name, [*NOTHING_LOADED, "MODEL.DEVICE", device])).eval()
    inputs = [{"image": 255 * torch.rand(3, *SIZE)}]
    if isinstance(model, GeneralizedRCNN):
        # untrained, it would find nothing, or thousands of objects
        calibrated_random_weights(model, inputs)
    now = CLOCKS[clock] if device == "cpu" else time.perf_counter

    def once() -> float:
        start = now()
        with torch.no_grad():
            model(inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        return now() - start

    return once


def add_result(
    measured: dict, name: str, folders: list[str], command: str | None, note: str | None
) -> None:
    """Add what trainings of one recipe, each with another seed, left in their folders."""
    config_path(name)
    if not folders:
        raise ConfigError(f"--record {name}: give the output folder of a training as well.")
    trainings = [read_training(Path(folder), name) for folder in folders]
    changes = [differences(recipe(name), cfg) for cfg, _, _ in trainings]
    parameters = {count for _, count, _ in trainings}
    if len(parameters) > 1 or any(other != changes[0] for other in changes):
        raise ConfigError(
            f"The trainings in {', '.join(folders)} differ in more than their seeds; record each "
            "by itself."
        )
    first, tested = trainings[0][2], trainings[0][0].DATASETS.TEST
    result = {
        "data": [data for data in recipe(name).DATASETS.TEST if data in tested],
        "metrics": {
            task: {key: [found[task][key] for _, _, found in trainings] for key in first[task]}
            for task in first
        },
        "seeds": [cfg.SEED for cfg, _, _ in trainings],
        "parameters": parameters.pop(),
    }
    if changes[0]:
        result["changes"] = changes[0]
    words = [f"{key} {shlex.quote(str(value))}" for key, value in changes[0].items()]
    plain = f"python train_net.py --config-file configs/{name}.yaml"
    result["command"] = command or " ".join([plain, *words])
    if note:
        result["note"] = note
    results = measured.setdefault(name, {}).setdefault("results", [])
    # the same again takes the place of what was there
    same = ("command", "changes")
    results[:] = [x for x in results if any(x.get(k) != result.get(k) for k in same)] + [result]


def read_training(folder: Path, name: str) -> tuple[CfgNode, int, dict[str, dict[str, float]]]:
    """Config, parameters and accuracy of a finished training."""
    try:
        left = json.loads((folder / "results.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{folder} has no results.json that can be read ({error}); give the OUTPUT_DIR of a "
            "training that has ended."
        ) from error
    cfg = load_config(str(folder / "config.yaml"), ["MODEL.DEVICE", "cpu"])
    wanted = recipe(name).DATASETS.TEST
    results = next((left["results"][data] for data in wanted if data in left["results"]), None)
    if results is None:
        raise ConfigError(
            f"{folder} was evaluated on {', '.join(left['results']) or 'nothing'}, and {name} is "
            f"on {', '.join(wanted)}."
        )
    found: dict[str, dict[str, float]] = {}
    for task, metric in METRICS:
        if results.get(task, {}).get(metric) is not None:
            found.setdefault(task, {})[metric] = round(results[task][metric], 3)
    if not found:
        raise ConfigError(
            f"{folder}/results.json has none of {', '.join('/'.join(key) for key in METRICS)}."
        )
    return cfg, left["parameters"], found


def differences(wanted: CfgNode, trained: CfgNode) -> dict[str, object]:
    """Keys of a training with other values than the recipe's, and those values."""
    ours, theirs = (dict(leaves(cfg)) for cfg in (wanted, trained))
    return {
        key: value
        for key, value in sorted(theirs.items())
        if key not in NO_CHANGES and ours.get(key) != value
    }


def leaves(node: CfgNode, path: str = "") -> Iterator[tuple[str, object]]:
    """Keys with dots and their values, as a yaml file holds them."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", json.loads(json.dumps(value))


if __name__ == "__main__":
    sys.exit(main())
