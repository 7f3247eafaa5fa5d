"""What a training would end with after hours is found before its first iteration."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.engine.preflight import check_classes, check_way
from deepfuse_d2.engine.record_checks import check_keypoints, check_masks
from deepfuse_d2.errors import ConfigError, DatasetError
from deepfuse_d2.evaluation import COCOInstanceEvaluator
from deepfuse_d2.evaluation.perfect import perfect_output

SIZE = (48, 64)


@pytest.fixture(autouse=True)
def _catalogs_stay_as_they_were():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write(folder, name, classes, kinds=(0, 1), count=2, **changes):
    """A COCO file of squares of those kinds; returns its entry of DATASETS.EXTRA."""
    (folder / "images").mkdir(exist_ok=True)
    annotations = []
    for image in range(count):
        noise = np.random.default_rng(image).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{image}.png")
        for number, kind in enumerate(kinds):
            x, y, side = 2 + 20 * number, 3, 16
            polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                {"id": len(annotations), "image_id": image, "category_id": kind + 1,
                 "bbox": [x, y, side, side], "segmentation": [polygon], "area": side * side,
                 "iscrowd": 0, **changes}
            )  # fmt: skip
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]}
                   for i in range(count)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": one} for i, one in enumerate(classes)],
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(content))
    return {"NAME": name, "FORMAT": "coco", "JSON": str(folder / f"{name}.json"),
            "IMAGES": str(folder / "images")}  # fmt: skip


@pytest.fixture
def config(tmp_path, tiny_opts):
    def build(train, val, *opts, num_classes=2):
        return load_config(
            "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml",
            [*tiny_opts, "DATASETS.EXTRA", str([train, val]), "DATASETS.TRAIN",
             f"('{train['NAME']}',)", "DATASETS.TEST", f"('{val['NAME']}',)",
             "MODEL.ROI_HEADS.NUM_CLASSES", num_classes, "OUTPUT_DIR", str(tmp_path / "out"),
             "SOLVER.MAX_ITER", 1, "DEEPFUSE_D2.INPUT.MIN_INSTANCE_AREA", 0, *opts],
        )  # fmt: skip

    return build


ASSISTED = (
    "MODEL.NECK.BOTTOM_UP", "build_composite_backbone",
    "MODEL.COMPOSITE.BOTTOM_UP", "build_resnet_backbone",
    "MODEL.COMPOSITE.ASSISTANT_WEIGHTS", "[0.5]",
)  # fmt: skip


@pytest.mark.parametrize("opts", [(), ASSISTED], ids=["plain", "with losses on assistants"])
def test_a_sound_config_is_walked_and_trained(tmp_path, config, opts):
    pair = (write(tmp_path, name, ["cell", "wall"]) for name in "ab")
    results = Trainer(config(*pair, *opts)).train()
    assert set(results) == {"bbox", "segm"}


def test_classes_in_another_order_meet_by_name(tmp_path, config):
    train = write(tmp_path, "a", ["cell", "wall"])
    val = write(tmp_path, "b", ["wall", "cell"], kinds=(1, 0))
    cfg = config(train, val)
    model = Trainer.build_model(cfg)
    check_classes(cfg, model)
    assert MetadataCatalog.get("b").thing_classes == ["cell", "wall"]
    kinds = [a["category_id"] for a in DatasetCatalog.get("b")[0]["annotations"]]
    assert kinds == [0, 1]
    assert MetadataCatalog.get("b").thing_dataset_id_to_contiguous_id == {1: 1, 2: 0}
    # weights that learned them in yet another order
    check_classes(cfg, model, ["wall", "cell"], training=False)
    assert [a["category_id"] for a in DatasetCatalog.get("b")[0]["annotations"]] == [1, 0]
    assert DatasetCatalog.get("b") == DatasetCatalog.get("b")


@pytest.mark.parametrize(
    ("classes", "num_classes", "error", "message"),
    [
        (["cell", "door"], 2, DatasetError, r"lacks \['wall'\] and has also \['door'\]"),
        (["cell", "wall", "door"], 2, DatasetError, r"has also \['door'\].*CLASSES: \['cell'"),
        (["cell", "wall"], 3, ConfigError, r"has 3 classes.*ROI_HEADS\.NUM_CLASSES: 2"),
        (["cell", "wall"], 1, ConfigError, r"has 1 classes.*ROI_HEADS\.NUM_CLASSES: 2"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path, config, classes, num_classes, error, message):
    train, val = write(tmp_path, "a", ["cell", "wall"]), write(tmp_path, "b", classes)
    with pytest.raises(error, match=message):
        Trainer(config(train, val, num_classes=num_classes))


def test_an_evaluation_does_not_need_the_images_of_the_training(tmp_path, config):
    train, val = write(tmp_path, "a", ["cell", "wall"]), write(tmp_path, "b", ["cell", "wall"])
    cfg = config({**train, "JSON": "gone.json"}, val)
    check_classes(cfg, Trainer.build_model(cfg), training=False)


def test_checkpoints_hold_the_names_of_the_classes(tmp_path, config):
    cfg = config(write(tmp_path, "a", ["cell", "wall"]), write(tmp_path, "b", ["cell", "wall"]))
    trainer = Trainer(cfg)

    trainer.checkpointer.save("x")
    assert trainer.checkpointer.load(str(tmp_path / "out" / "x.pth"))["thing_classes"] == [
        "cell", "wall"]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "opts", "message"),
    [
        ({"segmentation": None}, (), r"4 of 4 instances .* a box and no mask.*MASK_ON: False"),
        (
            {"segmentation": {"size": list(SIZE), "counts": [48, 20, 3004]}},
            ("INPUT.MASK_FORMAT", "polygon"),
            r"run-length mask, and INPUT\.MASK_FORMAT is polygon",
        ),
    ],
)
def test_masks_that_cannot_be_learned_are_refused(tmp_path, config, changes, opts, message):
    train = write(tmp_path, "a", ["cell", "wall"], **changes)
    cfg = config(train, write(tmp_path, "b", ["cell", "wall"]), *opts)
    with pytest.raises(ConfigError, match=message):
        check_masks(cfg, DatasetCatalog.get("a"), "a")


def test_more_objects_than_are_found_are_told(tmp_path, config, caplog):
    train, val = write(tmp_path, "a", ["cell", "wall"]), write(tmp_path, "b", ["cell", "wall"])
    trainer = Trainer(config(train, val, "TEST.DETECTIONS_PER_IMAGE", 1))
    with caplog.at_level("WARNING"):
        check_way(trainer)
    assert "DETECTIONS_PER_IMAGE is 1, and 2 of 2 images" in caplog.text


def test_sizes_that_do_not_fit_end_before_the_training(tmp_path, config):
    train, val = write(tmp_path, "a", ["cell", "wall"]), write(tmp_path, "b", ["cell", "wall"])
    trainer = Trainer(config(train, val))
    for number in range(2):
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / f"{number}.png")
    with pytest.raises(DatasetError, match=r'2 images of "a" were tried, and none.*\(30, 20\)'):
        check_way(trainer)


def test_evaluating_weights_of_other_classes_maps_them(tmp_path, config):
    train = write(tmp_path, "a", ["cell", "wall"])
    val = write(tmp_path, "b", ["wall", "cell"])
    cfg = config(train, val)
    check_classes(cfg, Trainer.build_model(cfg), ["cell", "wall"], training=False)
    assert MetadataCatalog.get("b").thing_classes == ["cell", "wall"]


NAMES = ["nose", "left_eye", "right_eye"]
POINTS = [4, 5, 2, 9, 8, 2, 14, 6, 1]


def with_keypoints(folder, name, names=NAMES, points=POINTS):
    """Instances with keypoints, whose category may name them."""
    entry = write(folder, name, ["cell"], kinds=(0,), keypoints=points)
    file = folder / f"{name}.json"
    content = json.loads(file.read_text())
    content["categories"][0]["keypoints"] = names
    file.write_text(json.dumps(content))
    return entry


KEYPOINTS = [
    "MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3, "TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.1, 0.1]",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "[16]", "INPUT.RANDOM_FLIP", "horizontal",
]  # fmt: skip


def test_keypoints_of_a_file_of_ones_own_are_trained_mirrored_and_evaluated(tmp_path, config):
    train, val = with_keypoints(tmp_path, "a"), with_keypoints(tmp_path, "b")
    cfg = config(train, val, *KEYPOINTS, num_classes=1)
    results = Trainer(cfg).train()
    assert set(results) == {"bbox", "keypoints"}
    assert MetadataCatalog.get("a").keypoint_flip_map == [("left_eye", "right_eye")]


@pytest.mark.parametrize(
    ("changes", "opts", "message"),
    [
        ({"points": None}, (), "None of 2 instances .* has keypoints.*KEYPOINT_ON: False"),
        ({"points": POINTS[:6]}, (), r"have 2 \(2 instances\) keypoints, .*NUM_KEYPOINTS is 3"),
        ({"names": None}, (), 'names 0 keypoints and has 3.*"left_eye"'),
        ({}, ("TEST.KEYPOINT_OKS_SIGMAS", "[]"), "OKS_SIGMAS has 0 numbers and .* 3 keypoints"),
    ],
)
def test_keypoints_that_cannot_be_learned_are_refused(tmp_path, config, changes, opts, message):
    one = with_keypoints(tmp_path, "a", **changes)
    cfg = config(one, {**one, "NAME": "b"}, *KEYPOINTS, *opts, num_classes=1)
    cfg.DATASETS.TEST = ("a",)
    with pytest.raises(ConfigError, match=message):
        check_keypoints(cfg, DatasetCatalog.get("a"), "a")
    with pytest.raises(ConfigError, match=message):
        Trainer(cfg)


def test_a_file_without_annotations_is_not_trained_on(tmp_path, config):
    entries = [write(tmp_path, name, ["cell"], kinds=(0,)) for name in ("a", "b")]
    content = json.loads((tmp_path / "a.json").read_text())
    del content["annotations"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    cfg = config(*entries, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, num_classes=1)
    with pytest.raises(ConfigError, match=r'2 of 2 images of "a" have no list of annotations'):
        Trainer(cfg)


def test_an_evaluation_of_other_keypoints_than_cocos_asks_for_their_sigmas(tmp_path, config):
    one = with_keypoints(tmp_path, "a")
    config(one, {**one, "NAME": "b"})
    evaluator = COCOInstanceEvaluator("a")
    record = DatasetCatalog.get("a")[0]
    evaluator.process([record], [perfect_output(record)])
    with pytest.raises(ConfigError, match=r"17 sigmas .* objects with \[3\].*OKS_SIGMAS"):
        evaluator.evaluate()
