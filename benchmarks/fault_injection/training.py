"""A small Mask R-CNN in a process of its own, which may be killed, and what is left of it."""

import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from deepfuse_d2.data.minicity import generate_minicity
from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.errors import UserError

__all__ = ["FaultyTraining", "at_iteration"]

_CONFIG = Path(__file__).parents[2] / "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"

# An eighth of ResNet-50's width, images of 64 x 128: an iteration takes a tenth of a second.
_SMALL = {
    "MODEL.RESNETS.DEPTH": "50",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "32",
    "MODEL.NECK.OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "16",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": "16",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": "1",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "16",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.AMP.ENABLED": "False",
    "SOLVER.MAX_ITER": "24",
    "SOLVER.CHECKPOINT_PERIOD": "5",
    "SOLVER.WARMUP_ITERS": "6",
    "DEEPFUSE_D2.SOLVER.FINAL_SAFETENSORS": "False",
    "TEST.EVAL_PERIOD": "8",
    "MONITOR.PERIOD": "1",
    "MONITOR.WRITERS": '["json"]',
    "DATALOADER.NUM_WORKERS": "0",
}

# Of a machine, not of a training.
_MEASURED = ("time", "eta", "images_per_second", "data_wait_share", "peak")


class FaultyTraining:
    """Trainings of one config and data set, each in a folder of its own.

    Args:
        folder: for all of them; is made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = folder / "data"
        sizes = {"num_train": 6, "num_val": 2, "width": 256, "height": 128}
        generate_minicity(self.data, **sizes, workers=1)
        self.whole = folder / "whole"
        self.last_iteration = 23

    def config(self, output: Path, *overrides: Any) -> CfgNode:
        extra = [
            {"NAME": f"faults_{split}", "FORMAT": "cityscapes_instances",
             "ROOT": str(self.data), "SPLIT": split}
            for split in ("train", "val")
        ]  # fmt: skip
        output.mkdir(parents=True, exist_ok=True)
        names = ["DATASETS.TRAIN", '("faults_train",)', "DATASETS.TEST", '("faults_val",)']
        small = [word for pair in _SMALL.items() for word in pair]
        own = ["DATASETS.EXTRA", repr(extra), "OUTPUT_DIR", str(output)]
        return load_config(str(_CONFIG), [*small, *names, *own, *map(str, overrides)])

    @contextmanager
    def started(
        self, output: Path, *overrides: Any, hooks: Sequence[HookBase] = (), resume: bool = True
    ) -> Iterator[multiprocessing.Process]:
        """A training that runs; killed at the end, if it still does.

        What it prints goes to ``log.txt`` in `output`; so does the message of its end.
        """
        cfg = self.config(output, *overrides)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_train, args=(cfg, resume, list(hooks)))
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()

    def run(self, output: Path, *overrides: Any, **kwargs: Any) -> int:
        """Train to the end, whichever it is; returns the exit code."""
        with self.started(output, *overrides, **kwargs) as process:
            process.join()
            return process.exitcode

    def differences(self, output: Path) -> list[str]:
        """What of a finished training is not as in the one that was never disturbed."""
        found = []
        if not (output / "model_final.pth").is_file():
            return ["it did not come to its end"]
        ours, theirs = _metrics(output), _metrics(self.whole)
        if ours != theirs:
            found.append("metrics.json")
        ours, theirs = _final(output), _final(self.whole)
        for name, get in {
            "weights": lambda x: x["model"],
            "optimizer": lambda x: x["trainer"]["_trainer"]["optimizer"]["state"],
            "random states": lambda x: x["trainer"]["resume"]["processes"],
            "place in the data": lambda x: x["trainer"]["resume"]["loaders"],
        }.items():
            if not _same(get(ours), get(theirs)):
                found.append(name)
        return found


def at_iteration(iteration: int, act: Callable[[HookBase], None]) -> HookBase:
    """A hook that calls ``act(hook)`` before a step, once."""

    class Act(HookBase):
        def before_step(self):
            if self.trainer.iter == iteration:
                act(self)

    return Act()


def _train(cfg: CfgNode, resume: bool, hooks: list[HookBase]) -> None:
    log = open(Path(cfg.OUTPUT_DIR, "log.txt"), "a", buffering=1)  # noqa: SIM115
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    random.seed(cfg.SEED)
    np.random.seed(cfg.SEED)  # noqa: NPY002  (what a training draws from)
    torch.manual_seed(cfg.SEED)
    try:
        trainer = Trainer(cfg)
        trainer.register_hooks(hooks)
        trainer.resume_or_load(resume=resume)
        trainer.train()
    except UserError as error:
        print(f"train_net.py: {error}", file=sys.stderr)
        sys.exit(2)


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> bool:
    """Whether `condition` came true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def _metrics(output: Path) -> list[dict]:
    rows = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return [
        {key: value for key, value in row.items() if not any(x in key for x in _MEASURED)}
        for row in rows
    ]


def _final(output: Path) -> dict[str, Any]:
    return torch.load(output / "model_final.pth", weights_only=True)


def _same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b or (a != a and b != b)
