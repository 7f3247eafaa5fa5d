"""The losses of training, on images that are not trained on."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ...data.mappers.build import build_mapper
from ...errors import ConfigError
from ...modeling.meta_arch.protocol import mapper_name_of, meta_arch_of
from ..watching import ModelState, watching

__all__ = ["ValidationLoss", "build_validation_loaders", "computing_losses", "mean_losses"]

# Of the proposals and regions that an R-CNN draws; every image starts from it, in every run.
_SEED = 20260


class ValidationLoss(HookBase):
    """Puts "validation/<loss>" and "validation/total_loss" into the storage; with several data sets
    "validation/<data set>/<loss>" each, and "validation/total_loss" is their mean.

    The model computes what it does in training, with its norms, its dropout and its whole bottom-up
    network as in evaluation. Every image counts the same. It is done within :func:`watching`.

    Args:
        period: iterations between two; 0 for the end of the training alone.
        model: its call on a batch in training gives a dict of losses; may be wrapped in
            DistributedDataParallel.
        loaders: function that gives the batches of each data set, of this process; it is called
            once, at the first use.
    """

    def __init__(
        self,
        period: int,
        model: nn.Module,
        loaders: Callable[[], Mapping[str, Iterable[list[dict]]]],
    ):
        self.period = period
        self.model = model
        self._build_loaders = loaders
        self._loaders: Mapping[str, Iterable[list[dict]]] | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self.measure()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after a failure
            self.measure()

    def measure(self) -> dict[str, float]:
        """Compute the losses and put them into the storage, in every process."""
        with watching(self.model) as model:
            if self._loaders is None:
                self._loaders = self._build_loaders()
            by_dataset = {
                name: mean_losses(model, loader) for name, loader in self._loaders.items()
            }
        totals = [sum(losses.values()) for losses in by_dataset.values()]
        scalars = {"validation/total_loss": float(np.mean(totals))} if totals else {}
        for name, losses in by_dataset.items():
            prefix = "validation" if len(by_dataset) == 1 else f"validation/{name}"
            scalars |= {f"{prefix}/{key}": value for key, value in losses.items()}
        self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
        if scalars:
            logging.getLogger(__name__).info(
                "Validation loss: %.4f", scalars["validation/total_loss"]
            )
        return scalars


def mean_losses(model: nn.Module, loader: Iterable[list[dict]]) -> dict[str, float]:
    """Mean over all images, of all processes, of each loss.

    Every batch meets the model as it is now: what a loss counts on the way (the boxes that a dense
    detector divides by) and random numbers begin anew with each, so the order does not matter.

    Args:
        model: see :class:`ValidationLoss`.
        loader: batches of this process.
    """
    sums: dict[str, float] = {}
    count = 0
    # parts of a model put scalars of their own there
    with torch.no_grad(), watching(model) as model, computing_losses(model), EventStorage(1):
        state = ModelState(model)
        for batch in loader:
            torch.manual_seed(_SEED)
            for name, loss in model(batch).items():
                sums[name] = sums.get(name, 0.0) + float(loss) * len(batch)
            count += len(batch)
            state.put_back()
    gathered = comm.all_gather((sums, count))
    total = sum(images for _, images in gathered)
    # of all processes: one without images knows no names
    names = dict.fromkeys(name for of_rank, _ in gathered for name in of_rank)
    return {name: sum(s.get(name, 0.0) for s, _ in gathered) / total for name in names}


@contextmanager
def computing_losses(model: nn.Module) -> Iterator[None]:
    """Within it, `model` gives losses, with norms and dropout as in evaluation.

    In training are the modules that decide by it what to compute: the meta-architecture and the
    heads, down to the smallest that hold others. The smallest themselves, among them norms and
    dropout, and the backbone are in evaluation.
    """
    modes = {module: module.training for module in model.modules()}
    backbone = getattr(model, "backbone", None)
    in_backbone = set(backbone.modules()) if isinstance(backbone, nn.Module) else set()
    for module in modes:
        is_leaf = next(module.children(), None) is None
        module.training = not ((is_leaf and module is not model) or module in in_backbone)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def build_validation_loaders(cfg: CfgNode) -> dict[str, Iterable[list[dict]]]:
    """Images of DATASETS.TEST with labels, as they are evaluated: not augmented, one at a time.

    Those of a data set are split over the processes.

    Raises: ConfigError: no data set has labels.
    """
    mapper = build_mapper(mapper_name_of(meta_arch_of(cfg)), cfg, "validate")
    loaders = {}
    for name in cfg.DATASETS.TEST:
        if MetadataCatalog.get(name).get("has_labels") is False:
            continue
        records = get_detection_dataset_dicts((name,), filter_empty=False)
        wanted = cfg.MONITOR.VALIDATION_LOSS_IMAGES
        if 0 < wanted < len(records):
            records = [records[i] for i in np.linspace(0, len(records) - 1, wanted).astype(int)]
        loaders[name] = build_detection_test_loader(
            records,
            mapper=mapper,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
    if not loaders:
        raise ConfigError(
            "MONITOR.VALIDATION_LOSS_PERIOD asks for the validation loss, but no data set of "
            f"DATASETS.TEST ({list(cfg.DATASETS.TEST)}) has labels. Name one that has, or set "
            "the period to 0."
        )
    return loaders
