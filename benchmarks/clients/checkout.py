"""Run the scripts and import the projects of a checkout with this package's names and keys."""

import argparse
import importlib
import runpy
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import detectron2.config
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from deepfuse_d2 import add_deepfuse_config, get_config

__all__ = [
    "NARROW",
    "arguments",
    "import_project",
    "learn_once",
    "narrow_config",
    "our_defaults",
    "run_script",
    "written",
]

# Small enough for seconds on one core.
NARROW = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.NECK.OUT_CHANNELS", "32",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "64", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32",
    "MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
    "INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MIN_SIZE_TEST", "128", "SOLVER.IMS_PER_BATCH", "2",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


def arguments(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The checkout, the folder for what is written, and a recipe of ours."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of the clone")
    parser.add_argument("--output", type=Path, default=Path("output/clients"))
    parser.add_argument("--recipe", default="MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick")
    args = parser.parse_args(argv)
    if not args.checkout.is_dir():
        parser.error(f"{args.checkout} is no folder; clone what the text above says, and name it.")
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def narrow_config(recipe: str, folder: Path, opts: Sequence[str] = ()) -> Path:
    """Write a recipe, narrowed, as one yaml that detectron2's scripts take; returns its path."""
    cfg = get_config(recipe, [*NARROW, *opts])
    path = folder / "config.yaml"
    path.write_text(cfg.dump())
    return path


def our_defaults() -> CfgNode:
    """detectron2's defaults and our keys, as a project's own script would begin."""
    cfg = _get_cfg()
    add_deepfuse_config(cfg)
    return cfg


_get_cfg = detectron2.config.get_cfg


def run_script(checkout: Path, script: str, *words: object) -> None:
    """Run a script of the checkout as its user would, but that it knows our keys.

    The only change to it: the ``get_cfg`` that it imports has our keys as well.
    """
    path = checkout / script
    print(f"$ python {script} {' '.join(map(str, words))}", flush=True)
    with (
        mock.patch.object(detectron2.config, "get_cfg", our_defaults),
        mock.patch.object(sys, "argv", [str(path), *map(str, words)]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        _demo_of(checkout),
    ):
        runpy.run_path(str(path), run_name="__main__")


def _demo_of(checkout: Path):
    """demo/demo.py of today imports its neighbour by a name that holds inside a company alone."""
    sys.path.insert(0, str(checkout / "demo"))
    try:
        names = ["vision", "vision.fair", "vision.fair.detectron2", "vision.fair.detectron2.demo"]
        modules = {name: types.ModuleType(name) for name in names}
        if (checkout / "demo" / "predictor.py").exists():
            modules[names[-1] + ".predictor"] = importlib.import_module("predictor")
        return mock.patch.dict(sys.modules, modules)
    finally:
        sys.path.remove(str(checkout / "demo"))


def import_project(checkout: Path, folder: str, package: str) -> types.ModuleType:
    """A package of the checkout's projects, by the name under which detectron2's users import it.

    That is ``detectron2.projects.<package>``, as the projects import each other.
    """
    name = f"detectron2.projects.{package}"
    if name not in sys.modules:
        path = checkout / "projects" / folder / package / "__init__.py"
        spec = importlib.util.spec_from_file_location(
            name, path, submodule_search_locations=[str(path.parent)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def written(folder: Path) -> None:
    """Print what lies in a folder."""
    for path in sorted(x for x in folder.rglob("*") if x.is_file()):
        print(f"{path.relative_to(folder)}: {path.stat().st_size:,} bytes")


def learn_once(model: torch.nn.Module, batch: list[dict]) -> None:
    """One step of training: prints the losses; every parameter that learns has a gradient."""
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    print({name: round(float(loss), 3) for name, loss in losses.items()})
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    missing = [n for n, p in learning if p.grad is None]
    finite = all(p.grad is None or p.grad.isfinite().all() for _, p in learning)
    print(f"{len(learning)} parameters learn, {len(missing)} without gradient, finite: {finite}")
    if missing or not finite:
        raise SystemExit(f"no gradient reaches {missing[:5]}")
