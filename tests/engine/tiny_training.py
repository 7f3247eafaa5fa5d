"""A training of a few milliseconds a step that draws random numbers wherever a real one does."""

import multiprocessing
import random
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from PIL import Image
from torch import nn
from torch.nn import functional as F

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.data.loader.train_loader import build_train_loader
from deepfuse_d2.engine import Trainer

NAME = "tiny_training"
COUNT = 10


class TinyModel(nn.Module):
    """Two losses, a batch norm that learns statistics, and noise of all three generators.

    ``fault`` is called on the images, as floats, of a training batch, and gives what takes their
    place.
    """

    fault = None

    def __init__(self, cfg):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, batch):
        x = torch.stack([sample["image"] for sample in batch]).float() / 255
        if self.fault is not None and self.training:
            x = self.fault(x)
        x = F.dropout(self.norm(self.conv(x)).relu(), 0.2, self.training).mean((2, 3))
        y = self.head(x)
        if not self.training:
            return y
        noise = 1 + 0.1 * (random.random() + float(np.random.rand()))  # noqa: NPY002
        target = torch.stack([sample["target"] for sample in batch])
        losses = {"loss_a": noise * (y[:, 0] - target).square().mean(), "loss_b": y[:, 1].exp()}
        return {name: loss.mean() for name, loss in losses.items()}


if "TinyModel" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(TinyModel)


class MapTiny:
    """Reads an image, mirrors it at random, draws a target."""

    def __call__(self, record):
        with Image.open(record["file_name"]) as file:
            image = torch.from_numpy(np.array(file)).permute(2, 0, 1)
        if random.random() < 0.5:
            image = image.flip(2)
        target = torch.rand(()) + float(np.random.rand())  # noqa: NPY002
        return {**record, "image": image, "target": target}


class TinyEvaluator(DatasetEvaluator):
    """Draws a number too: an evaluation takes part in the random state of a training."""

    def reset(self):
        self.total = 0.0

    def process(self, inputs, outputs):
        self.total += outputs.sum().item()

    def evaluate(self):
        return {"tiny": {"score": self.total + float(np.random.rand())}}  # noqa: NPY002


class LossLog(HookBase):
    """Every loss of every iteration, to the last bit, in OUTPUT_DIR/losses.txt."""

    def after_step(self):
        latest = self.trainer.storage.latest()
        if not comm.is_main_process():
            return
        line = [self.trainer.iter, *(latest[name][0].hex() for name in ("loss_a", "loss_b", "lr"))]
        with open(Path(self.trainer.cfg.OUTPUT_DIR, "losses.txt"), "a") as file:
            file.write(" ".join(map(str, line)) + "\n")


class TinyTrainer(Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg, mapper=MapTiny())

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        records = DatasetCatalog.get(dataset_name)[:3]
        return torch.utils.data.DataLoader(
            [MapTiny()(record) for record in records], batch_size=1, collate_fn=list
        )

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return TinyEvaluator()

    def build_hooks(self):
        hooks = super().build_hooks()
        return [*hooks[:2], LossLog(), *hooks[2:]]


def make_data(folder):
    """Ten images of two orientations, registered under :data:`NAME`."""
    generator = np.random.default_rng(0)
    records = []
    for number in range(COUNT):
        path = Path(folder, f"{number}.png")
        Image.fromarray(generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(path)
        records.append(
            {
                "file_name": str(path),
                "image_id": number,
                "width": 8 + number % 3 % 2,
                "height": 8,
                "annotations": [],
            }
        )
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(evaluator_type="tiny")
    return records


def tiny_config(output, *overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "TinyModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.MAX_ITER = 24
    cfg.SOLVER.STEPS = (16,)
    cfg.SOLVER.WARMUP_ITERS = 6
    cfg.SOLVER.CHECKPOINT_PERIOD = 5
    cfg.DEEPFUSE_D2.SOLVER.FINAL_SAFETENSORS = False
    # faults are timed by the steps and evaluations of the training itself
    cfg.DEEPFUSE_D2.SOLVER.SAFETY.CHECK_FIRST = False
    cfg.TEST.EVAL_PERIOD = 8
    cfg.MONITOR.PERIOD = 3
    cfg.MONITOR.WRITERS = ["json"]
    cfg.SEED = 7
    cfg.OUTPUT_DIR = str(output)
    cfg.merge_from_list(list(overrides))
    Path(output).mkdir(parents=True, exist_ok=True)
    return cfg


class FaultAt(HookBase):
    """Gives the model a fault in some iterations."""

    def __init__(self, iterations, fault):
        self.iterations, self.fault = set(iterations), fault

    def before_step(self):
        is_due = self.trainer.iter in self.iterations
        self.trainer.checkpointer.model.fault = self.fault if is_due else None


def train(cfg, *, resume=False, hooks=(), kind=TinyTrainer):
    """Train in this process; returns the trainer."""
    seed = cfg.SEED + comm.get_rank()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (what the trainer under test keeps)
    torch.manual_seed(seed)
    trainer = kind(cfg)
    trainer.register_hooks(list(hooks))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@contextmanager
def in_another_process(*args, **kwargs):
    """``train(*args, **kwargs)`` in a process of its own, which may be killed."""
    process = multiprocessing.get_context("fork").Process(target=train, args=args, kwargs=kwargs)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def train_as_rank(rank, world_size, rendezvous, cfg, kwargs):
    """``train(cfg, **kwargs)`` as one process of several (gloo)."""
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    train(cfg, **kwargs)
    dist.destroy_process_group()


def start_ranks(world_size, rendezvous, cfg, **kwargs):
    """Start such a training; returns its processes."""
    Path(rendezvous).unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=train_as_rank, args=(rank, world_size, str(rendezvous), cfg, kwargs))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def losses(folder):
    """iteration -> losses and rate as written last."""
    lines = Path(folder, "losses.txt").read_text().splitlines()
    # a line that was cut by a kill is followed by nothing
    rows = [line.split() for line in lines if len(line.split()) == 4]
    return {int(row[0]): tuple(row[1:]) for row in rows}
