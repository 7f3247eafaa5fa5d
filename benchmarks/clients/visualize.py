#!/usr/bin/env python3
"""detectron2's demo.py, visualize_data.py and visualize_json_results.py draw what is ours.

    git clone https://github.com/facebookresearch/detectron2 CHECKOUT
    python -m benchmarks.clients.visualize CHECKOUT [--recipe NAME] [--output FOLDER]

The annotations of a data set of ours, pictures as its training sees them, the predictions of a
model of ours for an image, and those that our evaluator has written as COCO's JSON.
"""

import itertools
from unittest import mock

import detectron2.data
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model

from benchmarks.calibrated_weights import calibrated_random_weights
from deepfuse_d2 import get_config
from deepfuse_d2.evaluation import COCOInstanceEvaluator

from .checkout import NARROW, arguments, narrow_config, run_script, written


def main(argv=None):
    args = arguments(__doc__, argv)
    cfg = get_config(args.recipe, NARROW)
    dataset = cfg.DATASETS.TEST[0]
    torch.manual_seed(0)
    model = build_model(cfg)
    loader = build_detection_test_loader(cfg, dataset)
    calibrated_random_weights(model, next(iter(loader)))
    weights = args.output / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    config = narrow_config(
        args.recipe, args.output, ["DATASETS.TRAIN", str((dataset,)), "MODEL.WEIGHTS", str(weights)]
    )
    image = DatasetCatalog.get(dataset)[0]["file_name"]

    run_script(
        args.checkout, "tools/visualize_data.py", "--source", "annotation",
        "--config-file", config, "--output-dir", args.output / "annotation",
    )  # fmt: skip
    with _few_batches():
        run_script(
            args.checkout, "tools/visualize_data.py", "--source", "dataloader",
            "--config-file", config, "--output-dir", args.output / "dataloader",
        )  # fmt: skip
    run_script(
        args.checkout, "demo/demo.py", "--config-file", config, "--input", image,
        "--output", args.output / "demo.png", "--confidence-threshold", 0.1,
    )  # fmt: skip
    # visualize_json_results.py asks for the ids of categories, which Cityscapes' kind does not have
    metadata = MetadataCatalog.get(dataset)
    if not metadata.get("thing_dataset_id_to_contiguous_id"):
        ids = range(len(metadata.thing_classes))
        metadata.thing_dataset_id_to_contiguous_id = dict(zip(ids, ids, strict=True))
    evaluator = COCOInstanceEvaluator(dataset, output_dir=str(args.output))
    inference_on_dataset(model, loader, evaluator)
    run_script(
        args.checkout, "tools/visualize_json_results.py", "--dataset", dataset,
        "--input", args.output / "coco_instances_results.json",
        "--output", args.output / "json_results", "--conf-threshold", 0.1,
    )  # fmt: skip
    written(args.output)


def _few_batches():
    """visualize_data.py draws a training without end; here, two batches of it."""
    build = detectron2.data.build_detection_train_loader
    return mock.patch.object(
        detectron2.data,
        "build_detection_train_loader",
        lambda cfg: itertools.islice(build(cfg), 2),
    )


if __name__ == "__main__":
    main()
