"""The README.md of a packed model, in the form that model hubs read: facts ahead, then words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from torch import nn

from ..analysis import analyze
from ..checkpoint.model_folder import WEIGHTS
from ..config.flatten import flatten
from ..errors import UserError
from ..modeling.meta_arch.protocol import predictions_of
from ..version import __version__

__all__ = ["model_card"]

# Of many figures, those that a card shows where they are there; all are in its front matter.
_SHOWN = ("AP", "AP50", "mIoU", "IoU", "PQ")


def model_card(
    cfg: CfgNode,
    model: nn.Module,
    folder: Path,
    *,
    name: str,
    license: str,
    labels: Mapping[str, Any],
    results: Mapping[str, Any],
    files: Sequence[str],
    integers: str = "",
) -> str:
    """Return the text of the card.

    Args:
        folder: where the weights lie already.
        labels: see :class:`~.model_folder.ModelFolder`.
        results: {data set: {task: {figure: value}}}.
        files: names of the files in the folder.
        integers: table of what 8-bit integers cost and give, where the folder holds them.
    """
    classes = labels.get("thing_classes") or labels.get("stuff_classes") or []
    values = flatten(cfg)
    parts = [
        values[key]
        for key in ("MODEL.BACKBONE.NAME", "MODEL.NECK.BOTTOM_UP", "MODEL.NECK.NAME")
        if values.get(key)
    ]
    gives = ", ".join(predictions_of(model)) or "predictions"
    sample = ""
    if "sample.png" in files:
        given = next(file for file in files if file in ("sample.json", "sample_labels.png"))
        sample = f"`sample.png` is an image, and `{given}` what the model gives for it.\n\n"
    return f"""---
{yaml.safe_dump(_facts(name, license, results), sort_keys=False, allow_unicode=True)}---

# {name}

{cfg.MODEL.META_ARCHITECTURE} of {", ".join(parts)}; gives {gives}.
Packed by deepfuse_d2 {__version__}. No file of this folder is executed when the model is used.

## Use

```python
from deepfuse_d2.inference import Predictor

predictor = Predictor("this folder")  # or hf://owner/name
predictor("image.jpg")
```

or `deepfuse predict --model FOLDER --input image.jpg --output results/`. {sample}## Data

{_data(cfg, classes)}
## Figures

{_figures(results)}
## Costs

{_costs(model, folder)}
{_integers(integers)}## Licence

{license or "None is stated for these weights: ask who made them."}
"""


def _integers(table: str) -> str:
    if not table:
        return ""
    return (
        '## In 8-bit integers\n\n`Predictor("this folder", engine="openvino", dtype="int8")`; '
        f"measured where it was packed, against OpenVINO in float32:\n\n{table}\n\n"
    )


def _facts(name: str, license: str, results: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "library_name": "deepfuse_d2",
        "pipeline_tag": "image-segmentation",
        "tags": ["detectron2", "image-segmentation", "deepfuse_d2"],
    }
    if license:
        facts["license"] = license
    listed = []
    for dataset, tasks in results.items():
        metrics = [
            {"type": f"{task}/{figure}", "name": figure, "value": float(value)}
            for task, figures in tasks.items()
            for figure, value in figures.items()
            if isinstance(value, (int, float)) and figure in _SHOWN
        ]
        if metrics:
            listed.append(
                {
                    "task": {"type": "image-segmentation"},
                    "dataset": {"type": dataset, "name": dataset},
                    "metrics": metrics,
                }
            )
    if listed:
        facts["datasets"] = [entry["dataset"]["name"] for entry in listed]
        facts["model-index"] = [{"name": name, "results": listed}]
    return facts


def _data(cfg: CfgNode, classes: Sequence[str]) -> str:
    trained = ", ".join(f"`{name}`" for name in cfg.DATASETS.TRAIN) or "not stated"
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(classes)) or "without names"
    return f"Trained on {trained}. Classes: {listed}.\n"


def _figures(results: Mapping[str, Any]) -> str:
    rows = [
        f"| {dataset} | {task} | {figure} | {value:.2f} |"
        for dataset, tasks in results.items()
        for task, figures in tasks.items()
        for figure, value in figures.items()
        if isinstance(value, (int, float)) and figure in _SHOWN
    ]
    if not rows:
        return "None are stated.\n"
    return "\n".join(["| data set | task | figure | value |", "|---|---|---|---:|", *rows]) + "\n"


def _costs(model: nn.Module, folder: Path) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    text = f"{count / 1e6:.2f} M parameters, {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB."
    try:
        total = analyze(model, (512, 1024)).total
    except UserError:  # it knows no way through this network
        return f"{text}\n"
    return f"{text} {total.multiply_adds / 1e9:.1f} G multiply-adds for an image of 512 x 1024.\n"
