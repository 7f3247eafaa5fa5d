"""The page about the recipes, docs/models.md, from configs, costs and what was measured."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector

from deepfuse_d2 import get_config
from deepfuse_d2.analysis import Analysis
from deepfuse_d2.modeling.meta_arch.protocol import meta_arch_of

__all__ = ["METRICS", "SIZE", "recipe", "render"]

# (height, width) of the image that figures are for.
SIZE = (512, 1024)
# Of a training's results: (task, metric) -> title; the first that is there stands in the table.
METRICS = {
    ("segm", "AP"): "mask AP",
    ("segm", "AP50"): "mask AP50",
    ("bbox", "AP"): "box AP",
    ("bbox", "AP50"): "box AP50",
    ("sem_seg", "mIoU"): "mIoU",
    ("sem_seg", "IoU"): "mIoU",
    ("sem_seg", "pACC"): "pixel accuracy",
}

INTRODUCTION = f"""# Models

Every recipe in `configs/`, as `deepfuse_d2.get_config("<folder>/<name>")` gives it. `make cards`
writes this page from the configs and [models.yaml](models.yaml), which holds what was measured and
says how to add to it; the test suite fails where the page is not current.

- **Parameters** are those of the whole model, trained or not; a frozen batch norm has none.
- **Multiply-adds** are for one image of {SIZE[0]} x {SIZE[1]}, 1000 proposals for the box head and
  100 detections for the mask head, as `deepfuse analyze` counts them.
- **Latency** is for one such image in float32, of the model as it is trained, without
  `optimize_for_inference`; below a table stands on what, and from where to where.
- **Accuracy** is in percent, on the data set that the card names. A star: trained with other
  settings than the recipe's; the card says which. Of several seeds: mean ± standard deviation.

A dash: not measured. No trained weights come with the repository; a card has the command that makes
them.
"""


@functools.cache
def recipe(name: str) -> CfgNode:
    """Config of a recipe, on whatever machine."""
    return get_config(name, ["MODEL.DEVICE", "cpu"])


def render(costs: Mapping[str, Analysis], measured: Mapping[str, dict]) -> str:
    """The page.

    Args:
        costs: of all recipes, in their order.
        measured: of some; see docs/models.yaml.
    """
    blocks = [INTRODUCTION]
    for folder in dict.fromkeys(name.partition("/")[0] for name in costs):
        names = [name for name in costs if name.startswith(f"{folder}/")]
        blocks += [f"## {folder}\n", table(names, costs, measured)]
        timed = [measured[name]["latency"] for name in names if "latency" in measured.get(name, {})]
        blocks += [f"Latency: {text}.\n" for text in dict.fromkeys(x["measured"] for x in timed)]
        blocks += [
            card(name, costs[name], measured[name])
            for name in names
            if "results" in measured.get(name, {})
        ]
    return "\n".join(blocks)


def table(names: list[str], costs: Mapping[str, Analysis], measured: Mapping[str, dict]) -> str:
    rows = [
        "| recipe | parameters, M | multiply-adds, G | latency, ms | accuracy | trained on |",
        "|:---|---:|---:|---:|---:|:---|",
    ]
    for name in names:
        entry, total = measured.get(name, {}), costs[name].total
        latency = f"{entry['latency']['milliseconds']:.0f}" if "latency" in entry else "-"
        rows.append(
            f"| [{name.partition('/')[2]}](../configs/{name}.yaml) | {total.parameters / 1e6:.2f} "
            f"| {total.multiply_adds / 1e9:.1f} | {latency} | {headline(entry)} "
            f"| {', '.join(recipe(name).DATASETS.TRAIN)} |"
        )
    return "\n".join(rows) + "\n"


def card(name: str, cost: Analysis, entry: dict) -> str:
    """What one who uses the trained model has to know."""
    cfg = recipe(name)
    parts = "; ".join(
        f"{part} {cost.parameters / 1e6:.2f} M, {cost.multiply_adds / 1e9:.1f} G"
        for part, cost in cost.parts.items()
    )
    lines = [
        f"### {name}",
        "",
        f"- Network: {network(cfg)}",
        f"- Parameters and multiply-adds: {parts}",
        f"- Input: {cfg.INPUT.FORMAT}, 0 to 255; mean {list(cfg.MODEL.PIXEL_MEAN)}, deviation "
        f"{list(cfg.MODEL.PIXEL_STD)}; {test_size(cfg)}",
        f"- Start: {start(cfg)}",
        f"- Training: {cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images of "
        f"{', '.join(cfg.DATASETS.TRAIN)}, {cfg.DEEPFUSE_D2.SOLVER.OPTIMIZER}, "
        f"rate {cfg.SOLVER.BASE_LR}",
    ]
    if "latency" in entry:
        lines.append(
            f"- Latency: {entry['latency']['milliseconds']:.0f} ms, {entry['latency']['measured']}"
        )
    for result in entry["results"]:
        lines += ["", measurement(result), "", "  ```", f"  {result['command']}", "  ```"]
    return "\n".join(lines) + "\n"


def measurement(result: dict) -> str:
    """A result as an item of a list."""
    # two evaluators have different names for mIoU; a result has one of them
    found = [(title, values_of(result, *key)) for key, title in METRICS.items()]
    accuracy = ", ".join(f"{title} {spread(x)}" for title, x in found if x)
    seeds = result["seeds"]
    text = f"- On {', '.join(result['data'])}: **{accuracy}** (seed"
    text += f"s {', '.join(map(str, seeds))})." if len(seeds) > 1 else f" {seeds[0]})."
    if "note" in result:
        text += f" {result['note']}"
    if "changes" in result:
        changes = ", ".join(f"{key} {value}" for key, value in result["changes"].items())
        text += f" Trained otherwise than the recipe: `{changes}`."
    return text


def network(cfg: CfgNode) -> str:
    model = cfg.MODEL
    backbone = [model.BACKBONE.NAME]
    if backbone == ["build_neck_backbone"]:
        backbone = [model.NECK.BOTTOM_UP, model.NECK.NAME]
    if "build_composite_backbone" in backbone:
        place = backbone.index("build_composite_backbone") + 1
        inner = f"{model.COMPOSITE.NUM_BACKBONES} x {model.COMPOSITE.BOTTOM_UP}"
        backbone.insert(place, f"{inner} ({model.COMPOSITE.STYLE})")
    kind = meta_arch_of(cfg)
    if issubclass(kind, GeneralizedRCNN):
        head = model.ROI_HEADS
    else:
        head = model.RETINANET if issubclass(kind, DenseDetector) else model.SEM_SEG_HEAD
    names = ", ".join(filter(None, [model.META_ARCHITECTURE, *backbone, head.get("NAME")]))
    return f"{names}; {head.NUM_CLASSES} {'class' if head.NUM_CLASSES == 1 else 'classes'}"


def test_size(cfg: CfgNode) -> str:
    if cfg.INPUT.MIN_SIZE_TEST == 0:
        return "original size"
    return f"shorter side {cfg.INPUT.MIN_SIZE_TEST}, longer up to {cfg.INPUT.MAX_SIZE_TEST}"


def start(cfg: CfgNode) -> str:
    return f"`{cfg.MODEL.WEIGHTS}`" if cfg.MODEL.WEIGHTS else "random weights"


def headline(entry: dict) -> str:
    """Of the result that is the recipe's own, or else of the first."""
    results = sorted(entry.get("results", []), key=lambda result: "changes" in result)
    for result in results[:1]:
        for key, title in METRICS.items():
            if values := values_of(result, *key):
                return f"{title} {spread(values)}{' *' if 'changes' in result else ''}"
    return "-"


def values_of(result: dict, task: str, metric: str) -> list[float]:
    """A metric's value for each seed."""
    return result["metrics"].get(task, {}).get(metric, [])


def spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
