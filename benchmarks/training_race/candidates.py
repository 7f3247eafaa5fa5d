"""detectron2's DefaultTrainer and our Trainer, step by step on the same images and weights."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import DefaultTrainer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import get_event_storage

from deepfuse_d2.data.loader.train_loader import TrainLoader
from deepfuse_d2.engine import Trainer, load_config

__all__ = ["KINDS", "Candidate", "Kind", "by_device"]

# detectron2's own builder in place of our composition: the same network, by the same names.
_STOCK_FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.FPN.IN_FEATURES": "['res2', 'res3', 'res4', 'res5']",
}
_OURS = {"DEEPFUSE_D2.MODEL.CHANNELS_LAST": "True"}
_AMP = {"SOLVER.AMP.ENABLED": "True"}
_BFLOAT16 = {**_AMP, "DEEPFUSE_D2.SOLVER.AMP.DTYPE": "bfloat16"}
_DEEPFUSE = {"MODEL.NECK.NAME": "DeepFuseFPN"}


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        name: as printed.
        trainer: detectron2's or ours.
        keys: of the config, in which it differs from the others.
        needs: "cuda", "bfloat16" (in hardware), or "" for nothing.
    """

    name: str
    trainer: type[DefaultTrainer]
    keys: dict[str, str]
    needs: str = ""

    @property
    def dtype(self) -> torch.dtype:
        """Of convolutions and matrix products."""
        return {"": torch.float32, "cuda": torch.float16}.get(self.needs, torch.bfloat16)


KINDS = (
    Kind("detectron2, float32", DefaultTrainer, _STOCK_FPN),
    Kind("detectron2, AMP (float16)", DefaultTrainer, _STOCK_FPN | _AMP, "cuda"),
    Kind("ours, float32", Trainer, _OURS),
    Kind("ours, bfloat16", Trainer, _OURS | _BFLOAT16, "bfloat16"),
    Kind("ours with DeepFuseFPN, float32", Trainer, _OURS | _DEEPFUSE),
    Kind("ours with DeepFuseFPN, bfloat16", Trainer, _OURS | _DEEPFUSE | _BFLOAT16, "bfloat16"),
)


def by_device(*, cuda: bool, bfloat16: bool) -> list[Kind]:
    """The kinds that a machine can run; the first is what the others are compared with."""
    has = {"": True, "cuda": cuda, "bfloat16": bfloat16}
    return [kind for kind in KINDS if has[kind.needs]]


class Candidate:
    """A trainer with its model, loader and optimizer, as it makes them itself.

    Args:
        kind: of it.
        config: file.
        keys: of the config, that all candidates share.
        seed: of weights and of the order of the images, the same for both trainers.
    """

    def __init__(self, kind: Kind, config: str | Path, keys: dict[str, str], seed: int = 0):
        words = [word for pair in {**keys, **kind.keys}.items() for word in pair]
        cfg = load_config(str(config), words)
        cfg.SEED = seed
        seed_all_rng(seed)
        self.kind = kind
        self.seed = seed
        self.trainer = kind.trainer(cfg)
        self.model = self.trainer._trainer.model
        _order_images(self.trainer._trainer.data_loader, seed)
        self.images = _Watched(self.trainer._trainer.data_loader)
        self.trainer._trainer.data_loader = self.images
        self.steps = 0

    def step(self) -> float:
        """One iteration: batch, forward, backward, update; returns its seconds.

        Draws regions by the seed and the number of the step, whoever has drawn before. To be called
        inside an EventStorage.
        """
        self.images.seed = 1000 * self.seed + self.steps
        self.trainer.iter = self.steps
        self.model.train()
        start = time.perf_counter()
        self.trainer.run_step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        self.trainer.scheduler.step()
        self.steps += 1
        return seconds

    @property
    def loss(self) -> float:
        """The total loss of the last step."""
        return get_event_storage().history("total_loss").latest()


def _order_images(loader: Any, seed: int) -> None:
    """Shuffle by `seed`: versions of detectron2 differ in the seed of their sampler."""
    if isinstance(loader, TrainLoader):
        loader.seed = seed
        return
    while not hasattr(getattr(loader, "sampler", None), "_seed"):
        loader = loader.dataset
    loader.sampler._seed = seed


class _Watched:
    """A loader that remembers which files the last batch was made of, and seeds what follows it."""

    def __init__(self, loader: Any):
        self.loader = loader
        self.last: tuple[str, ...] = ()
        self.seed = 0

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            self.last = tuple(sample["file_name"] for sample in batch)
            torch.manual_seed(self.seed)
            yield batch
