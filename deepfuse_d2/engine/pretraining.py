#!/usr/bin/env python3
"""Train a config's bottom-up network to classify images, every stage of it (semantic supervision).

    python tools/pretrain_classifier.py --config-file configs/VOC/sem_seg_X_101_ExFuse.yaml \\
        --images FOLDER --output output/pretrained.pth [KEY VALUE ...]

FOLDER has one folder of images a class (torchvision's ImageFolder). Each stage gets a classifier of
its own, as in ExFuse (arXiv 1804.03821); losses are summed with --weights. The file written holds
the bottom-up network alone: MODEL.WEIGHTS loads it into any model with that network.

This is a plain training loop for networks without public weights, such as the rearranged ResNet,
and for small data; ImageNet at full length asks for a cluster and a loop made for it.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.utils.logger import setup_logger
from torch.utils.data import DataLoader

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.writing import check_suffix, write_weights
from deepfuse_d2.config.look_up import look_up
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError, DatasetError, UserError
from deepfuse_d2.modeling.backbone.protocol import networks_of
from deepfuse_d2.modeling.sem_seg.semantic_supervision import SupervisedClassifier

logger = logging.getLogger("deepfuse_d2.pretrain_classifier")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.pth")
    parser.add_argument("--val-images", type=Path, metavar="FOLDER", help="report accuracy on it")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="side of the crops, in pixels")
    parser.add_argument("--lr", type=float, default=0.1, help="for 256 images a batch; scaled")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--width", type=int, default=256, help="channels of the classifiers")
    parser.add_argument(
        "--weights", type=float, nargs="+", default=[1.0], metavar="W",
        help="of the stages' losses from fine to coarse, or one for all (default: 1)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_intermixed_args()
    setup_logger(name="deepfuse_d2", abbrev_name="df2")
    try:
        pretrain(args)
    except UserError as error:
        print(f"pretrain_classifier.py: {error}", file=sys.stderr)
        sys.exit(2)


def pretrain(args: argparse.Namespace) -> None:
    """Train as the arguments say and write the bottom-up network."""
    check_suffix(args.output)
    for name in ("epochs", "batch", "size", "width"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} is {getattr(args, name)}; it must be 1 or more.")
    torch.manual_seed(args.seed)
    cfg = load_config(args.config_file, args.opts)
    device = torch.device(cfg.MODEL.DEVICE)
    train = image_folder(args.images, cfg, args.size, training=True)
    val = image_folder(args.val_images, cfg, args.size, training=False) if args.val_images else None
    if val is not None and val.classes != train.classes:
        raise DatasetError(
            f"The classes in {args.val_images} are not those in {args.images}: folders must have "
            "the same names in both."
        )
    model = SupervisedClassifier(build_bottom_up(cfg), len(train.classes), args.width)
    if cfg.MODEL.WEIGHTS:
        checkpointer = DeepFuseCheckpointer(
            model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
        )
        checkpointer.load(cfg.MODEL.WEIGHTS)
    model.to(device).train()
    stages = list(model.supervision)
    weights = args.weights * len(stages) if len(args.weights) == 1 else args.weights
    if len(weights) != len(stages) or min(weights) < 0:
        raise ConfigError(
            f"--weights are {args.weights}; give one for all, or {len(stages)} for {stages}, 0 or "
            "more each."
        )
    logger.info(
        "%d images of %d classes, %d batches an epoch",
        len(train), len(train.classes), -(-len(train) // args.batch),
    )  # fmt: skip

    generator = torch.Generator().manual_seed(args.seed)
    loader = DataLoader(
        train, args.batch, shuffle=True, num_workers=args.workers, generator=generator
    )
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=args.lr * args.batch / 256, momentum=0.9, weight_decay=args.weight_decay, nesterov=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    for epoch in range(1, args.epochs + 1):
        losses = []
        for images, labels in to_device(loader, device):
            logits = model(images)
            stage_losses = [F.cross_entropy(logits[stage], labels) for stage in stages]
            loss = sum(w * value for w, value in zip(weights, stage_losses, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(torch.stack(stage_losses).detach().cpu())
        mean = torch.stack(losses).mean(0).tolist()
        report = ", ".join(f"{s} {value:.3f}" for s, value in zip(stages, mean, strict=True))
        logger.info("Epoch %d of %d, losses: %s", epoch, args.epochs, report)
        if val is not None:
            accuracy = evaluate(model, DataLoader(val, args.batch, num_workers=args.workers))
            logger.info(
                "Accuracy: %s", ", ".join(f"{s} {100 * a:.1f} %" for s, a in accuracy.items())
            )
    save(model, cfg, args.output)


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


if __name__ == "__main__":
    main()
