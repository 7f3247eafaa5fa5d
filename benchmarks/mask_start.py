"""How a mask head starts to learn, with and without a norm: python -m benchmarks.mask_start

The mask branch of configs/PennFudan/mask_rcnn_R_18_FPN.yaml alone, on boxes of the ground truth:
its loss in the course of some iterations, and the IoU on images of val, with the same samples in
the same order.
"""

import argparse
import logging
import math

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor, nn

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data.mappers.build import build_mapper
from deepfuse_d2.engine import Trainer
from deepfuse_d2.randomness import seeded

CONFIG = "PennFudan/mask_rcnn_R_18_FPN"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", required=True, help="of the ResNet-18")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--rate", type=float, default=1e-3, help="of AdamW")
    parser.add_argument("--side", type=int, default=192, help="shorter one of the images")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for norm in ("", "GN"):
        cfg = load_config(
            CONFIG,
            ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", args.weights, "MODEL.ROI_MASK_HEAD.NORM", norm,
             "INPUT.MIN_SIZE_TRAIN", f"({args.side},)"],
        )  # fmt: skip
        logging.disable(logging.WARNING)
        losses, iou = _learn(cfg, args.iterations, args.rate)
        rows.append([norm or "none", *losses, iou])
    columns = ["norm of the mask head", *_spans(args.iterations), "IoU on val"]
    print(tabulate(rows, columns, tablefmt="pipe", floatfmt=".3f"))


def _spans(iterations: int) -> list[str]:
    return [f"loss, {start + 1} to {start + 10}" for start in range(0, iterations - 9, 10)]


def _learn(cfg: CfgNode, iterations: int, rate: float) -> tuple[list[float], float]:
    """Mean loss of each ten iterations, and the mean IoU on ten images of val."""
    mapper = build_mapper("instances", cfg, "train")
    records = DatasetCatalog.get("pennfudan_train")
    with seeded(0), EventStorage(0):
        model = Trainer.build_model(cfg)
        DeepFuseCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
        losses = []
        for iteration in range(iterations):
            warmup = min(1, (iteration + 1) / 10)
            for group in optimizer.param_groups:
                decay = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
                group["lr"] = rate * warmup * decay
            batch = [mapper(records[i]) for i in np.random.randint(len(records), size=2)]  # noqa: NPY002
            pooled, instances = _pooled(model, batch)
            loss = model.roi_heads.mask_head(pooled, instances)["loss_mask"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means = [float(np.mean(losses[i : i + 10])) for i in range(0, iterations - 9, 10)]
        return means, _iou(model, [mapper(r) for r in DatasetCatalog.get("pennfudan_val")[:10]])


def _pooled(model: nn.Module, batch: list[dict]) -> tuple[Tensor, list[Instances]]:
    """Features of the boxes of the ground truth, and these as the mask head takes them."""
    heads = model.roi_heads
    features = model.backbone(model.preprocess_image(batch).tensor)
    instances = [sample["instances"] for sample in batch]
    for one in instances:
        one.proposal_boxes = one.gt_boxes
    boxes = [one.gt_boxes for one in instances]
    return heads.mask_pooler([features[name] for name in heads.mask_in_features], boxes), instances


@torch.no_grad()
def _iou(model: nn.Module, samples: list[dict]) -> float:
    model.eval()
    found = []
    for sample in samples:
        pooled, (instances,) = _pooled(model, [sample])
        masks = model.roi_heads.mask_head.layers(pooled)[:, 0] > 0
        truth = instances.gt_masks.crop_and_resize(instances.gt_boxes.tensor, masks.shape[-1])
        found += ((masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))).tolist()
    return float(np.mean(found))


if __name__ == "__main__":
    main()
