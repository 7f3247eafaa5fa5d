"""Training of a bottom-up network to classify images, every stage of it (semantic supervision).

Each stage gets a classifier of its own, as in ExFuse (arXiv 1804.03821). This is a plain training
loop for networks without public weights, such as the rearranged ResNet, and for small data;
ImageNet at full length asks for a cluster and a loop made for it.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch.utils.data import DataLoader

from ..checkpoint import DeepFuseCheckpointer
from ..checkpoint.writing import check_suffix, write_weights
from ..config.look_up import look_up
from ..errors import ConfigError, DatasetError
from ..modeling.backbone.protocol import networks_of
from ..modeling.sem_seg.semantic_supervision import SupervisedClassifier

__all__ = ["pretrain"]

logger = logging.getLogger(__name__)


def pretrain(
    cfg: CfgNode,
    images: Path,
    output: Path,
    *,
    val_images: Path | None = None,
    epochs: int = 90,
    batch: int = 64,
    size: int = 224,
    lr: float = 0.1,
    weight_decay: float = 1e-4,
    width: int = 256,
    weights: Sequence[float] = (1.0,),
    workers: int = 4,
    seed: int = 1,
) -> None:
    """Train the bottom-up network of a config and write it.

    Args:
        cfg: what names the network, and how images are normalised.
        images: a folder with one folder of images a class (torchvision's ImageFolder).
        output: file for the network alone, without the classifiers.
        val_images: the same classes; accuracy on them is reported after each epoch.
        epochs: times that each image is seen.
        batch: images of a step.
        size: side of the crops, in pixels.
        lr: for 256 images a batch; it is scaled.
        weight_decay: of all parameters.
        width: channels of the classifiers.
        weights: of the stages' losses from fine to coarse, or one for all.
        workers: processes that read images.
        seed: of the order, the crops and the classifiers.
    """
    check_suffix(output)
    for name, value in (("epochs", epochs), ("batch", batch), ("size", size), ("width", width)):
        if value < 1:
            raise ConfigError(f"--{name} is {value}; it must be 1 or more.")
    torch.manual_seed(seed)
    device = torch.device(cfg.MODEL.DEVICE)
    train = image_folder(images, cfg, size, training=True)
    val = image_folder(val_images, cfg, size, training=False) if val_images else None
    if val is not None and val.classes != train.classes:
        raise DatasetError(
            f"The classes in {val_images} are not those in {images}: folders must have "
            "the same names in both."
        )
    model = SupervisedClassifier(build_bottom_up(cfg), len(train.classes), width)
    if cfg.MODEL.WEIGHTS:
        checkpointer = DeepFuseCheckpointer(
            model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
        )
        checkpointer.load(cfg.MODEL.WEIGHTS)
    model.to(device).train()
    stages = list(model.supervision)
    shares = list(weights) * len(stages) if len(weights) == 1 else list(weights)
    if len(shares) != len(stages) or min(shares) < 0:
        raise ConfigError(
            f"--weights are {list(weights)}; give one for all, or {len(stages)} for {stages}, 0 or "
            "more each."
        )
    logger.info(
        "%d images of %d classes, %d batches an epoch",
        len(train), len(train.classes), -(-len(train) // batch),
    )  # fmt: skip

    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(train, batch, shuffle=True, num_workers=workers, generator=generator)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=lr * batch / 256, momentum=0.9, weight_decay=weight_decay, nesterov=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    for epoch in range(1, epochs + 1):
        losses = []
        for pictures, labels in to_device(loader, device):
            logits = model(pictures)
            stage_losses = [F.cross_entropy(logits[stage], labels) for stage in stages]
            loss = sum(w * value for w, value in zip(shares, stage_losses, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(torch.stack(stage_losses).detach().cpu())
        mean = torch.stack(losses).mean(0).tolist()
        report = ", ".join(f"{s} {value:.3f}" for s, value in zip(stages, mean, strict=True))
        logger.info("Epoch %d of %d, losses: %s", epoch, epochs, report)
        if val is not None:
            accuracy = evaluate(model, DataLoader(val, batch, num_workers=workers))
            logger.info(
                "Accuracy: %s", ", ".join(f"{s} {100 * a:.1f} %" for s, a in accuracy.items())
            )
    save(model, cfg, output)


def build_bottom_up(cfg: CfgNode) -> Backbone:
    """The network below the neck, the first of several that take the same weights."""
    builder = look_up(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    backbone = builder(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    return next(iter(networks_of(backbone).values()))


def image_folder(folder: Path, cfg: CfgNode, size: int, training: bool):
    """Images of `folder`, normalised as the config's models normalise theirs."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT}; images are read as RGB or BGR.")
    crop = (
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
        if training
        else [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size)]
    )
    flip_channels = [transforms.Lambda(_reverse)] if cfg.INPUT.FORMAT == "BGR" else []
    # the config's statistics are on the scale of 0..255
    mean = [value / 255 for value in cfg.MODEL.PIXEL_MEAN]
    std = [value / 255 for value in cfg.MODEL.PIXEL_STD]
    steps = [*crop, transforms.ToTensor(), *flip_channels, transforms.Normalize(mean, std)]
    try:
        return ImageFolder(str(folder), transforms.Compose(steps))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder} is no folder of images by class ({error}). It needs one folder a class, "
            "with images in it."
        ) from error


def _reverse(image: torch.Tensor) -> torch.Tensor:
    return image.flip(0)


def to_device(loader: DataLoader, device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of `loader` on `device`."""
    for images, labels in loader:
        yield images.to(device), labels.to(device)


@torch.no_grad()
def evaluate(model: SupervisedClassifier, loader: DataLoader) -> dict[str, float]:
    """Fraction of images whose class each stage's classifier finds."""
    model.eval()
    device = next(model.parameters()).device
    right, total = dict.fromkeys(model.supervision, 0), 0
    for images, labels in to_device(loader, device):
        for stage, logits in model(images).items():
            right[stage] += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    model.train()
    return {stage: number / total for stage, number in right.items()}


def save(model: SupervisedClassifier, cfg: CfgNode, path: Path) -> None:
    """Write the bottom-up network, without classifiers, and which images it expects."""
    expects = {
        "INPUT.FORMAT": cfg.INPUT.FORMAT,
        "MODEL.PIXEL_MEAN": list(cfg.MODEL.PIXEL_MEAN),
        "MODEL.PIXEL_STD": list(cfg.MODEL.PIXEL_STD),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, model.bottom_up.state_dict(), "", expects)
    logger.info("Wrote %s: set MODEL.WEIGHTS to it", path)
