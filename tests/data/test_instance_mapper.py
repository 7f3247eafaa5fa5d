"""Our mapper against detectron2's, on the same random numbers."""

import copy
import logging
import sys

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from PIL import Image

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.data.datasets.cityscapes import load_cityscapes_instances
from deepfuse_d2.data.mappers import image_reading
from deepfuse_d2.data.mappers.instance_mapper import InstanceMapper, build_instance_mapper
from deepfuse_d2.data.mappers.placement import resized_positions
from deepfuse_d2.data.mappers.record_mapper import RecordMapper
from deepfuse_d2.errors import ConfigError, DatasetError
from deepfuse_d2.structures.run_lengths import decode_counts, to_rle


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (14, 20, 37)
    cfg.INPUT.MAX_SIZE_TRAIN = 50
    cfg.merge_from_list(list(overrides))
    return cfg


CROP = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [11, 17])
ALL_CONFIGS = [
    (),
    ("INPUT.MIN_SIZE_TRAIN", (20,)),
    ("INPUT.MIN_SIZE_TRAIN", (0,)),
    ("INPUT.MIN_SIZE_TRAIN", (14, 37), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
    ("INPUT.RANDOM_FLIP", "vertical", "INPUT.FORMAT", "RGB"),
    ("INPUT.RANDOM_FLIP", "none"),
    CROP,
    (*CROP, "INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE", [0.3, 0.3]),
    (*CROP, "INPUT.MIN_SIZE_TRAIN", (0,)),
    ("MODEL.MASK_ON", False),
]


@pytest.fixture
def record(city, instance_ids):
    instance_ids[17, 27:] = 25003
    city.add("aachen_000001_000019", instanceIds=instance_ids)
    return load_cityscapes_instances(city.root, "train", workers=1)[0]


def assert_same(cfg, record, seeds=range(12)):
    stock, ours = DatasetMapper(cfg, True), InstanceMapper(cfg)
    before = copy.deepcopy(record)
    for seed in seeds:
        np.random.seed(seed)  # noqa: NPY002  (detectron2 draws from NumPy's global state)
        expected = stock(record)
        drawn = np.random.get_state()[2]  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        found = ours(record)
        assert np.random.get_state()[2] == drawn  # noqa: NPY002
        assert found.keys() == expected.keys()
        assert found["image"].dtype == expected["image"].dtype
        assert found["image"].is_contiguous()
        assert torch.equal(found["image"], expected["image"])
        if "sem_seg" in expected:
            assert torch.equal(found["sem_seg"], expected["sem_seg"])
        a, b = found["instances"], expected["instances"]
        assert a.image_size == b.image_size
        assert a.get_fields().keys() == b.get_fields().keys()
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        assert torch.equal(a.gt_classes, b.gt_classes)
        if b.has("gt_masks"):
            assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
    assert record == before
    return found


@pytest.mark.parametrize("overrides", ALL_CONFIGS)
def test_samples_are_detectron2s_bit_for_bit(record, overrides):
    assert_same(config(*overrides), record)


def test_instances_outside_of_the_crop_are_left_out(record):
    cfg = config(*CROP)
    counts = {len(assert_same(cfg, record, [seed])["instances"]) for seed in range(20)}
    assert len(counts) > 1


def test_a_crop_decodes_no_row_below_it(record, monkeypatch):
    decoded = []
    original = image_reading._decode_until

    def spy(image, row):
        original(image, row)
        decoded.append((row, int(np.asarray(image).any(axis=(1, 2)).sum())))

    monkeypatch.setattr(image_reading, "_decode_until", spy)
    assert_same(config(*CROP), record, range(20))
    assert len({row for row, _ in decoded}) > 3
    assert all(rows == row for row, rows in decoded)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_other_modes_become_colours(record, tmp_path, mode):
    path = tmp_path / "image.png"
    Image.open(record["file_name"]).convert(mode).save(path)
    for overrides in ((), CROP):
        assert_same(config(*overrides), {**record, "file_name": str(path)}, range(4))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_orientation_of_a_camera_is_obeyed(record, tmp_path, orientation, suffix):
    path = tmp_path / f"image.{suffix}"
    image = Image.open(record["file_name"])
    exif = image.getexif()
    exif[0x0112] = orientation
    if orientation == 6:
        image = image.transpose(Image.ROTATE_90)
    image.save(path, exif=exif)
    assert_same(config(*CROP), {**record, "file_name": str(path)}, range(4))


def test_an_orientation_behind_the_pixels_is_obeyed_too(record, tmp_path):
    image = Image.open(record["file_name"])
    exif = image.getexif()
    exif[0x0112] = 3
    path = tmp_path / "image.png"
    image.save(path, exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    trailer = content.index(b"IEND") - 4
    moved = content[:start] + content[end:trailer] + content[start:end] + content[trailer:]
    path.write_bytes(moved)
    assert "exif" not in Image.open(path).info
    assert_same(config(*CROP), {**record, "file_name": str(path)}, range(4))


def test_polygons_and_uncompressed_runs_are_masks_too(record):
    polygon = {
        "bbox": [3.0, 2.0, 20.0, 12.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 2,
        "segmentation": [[3.0, 2.0, 20.5, 4.0, 15.0, 14.0], [4.0, 15.0, 9.0, 15.0, 9.0, 19.0]],
    }
    assert_same(config(), {**record, "annotations": [*record["annotations"], polygon]})

    stated, compressed = dict(record["annotations"][-1]), record["annotations"][-1]
    counts = decode_counts(compressed["segmentation"]["counts"]).tolist()
    stated["segmentation"] = {**compressed["segmentation"], "counts": counts}
    found, expected = (
        InstanceMapper([])({**record, "annotations": [one]})["instances"].gt_masks.tensor
        for one in (stated, compressed)
    )
    assert expected.sum() > 0
    assert torch.equal(found, expected)


def test_labels_of_pixels_go_through_the_same_changes(record, tmp_path):
    labels = np.random.default_rng(0).integers(0, 20, (20, 30), dtype=np.uint8)
    path = tmp_path / "labels.png"
    Image.fromarray(labels).save(path)
    for overrides in ((), CROP):
        assert_same(config(*overrides), {**record, "sem_seg_file_name": str(path)})


def test_images_without_instances_give_none(record):
    for annotations in ([], [{**record["annotations"][0], "iscrowd": 1}]):
        for cfg in (config(), config("INPUT.CROP.ENABLED", True)):
            if not cfg.INPUT.CROP.ENABLED:
                assert_same(cfg, {**record, "annotations": annotations}, [0])
            found = InstanceMapper(cfg)({**record, "annotations": annotations})["instances"]
            assert len(found) == 0


def test_labels_are_resized_as_pillow_does_for_any_size():
    random = np.random.default_rng(0)
    for length, new in random.integers(1, 3000, (40, 2)):
        values = random.integers(0, 255, length, dtype=np.uint8)
        resized = Image.fromarray(values[None]).resize((int(new), 1), Image.NEAREST)
        assert np.array_equal(
            values[resized_positions(int(length), int(new))], np.asarray(resized)[0]
        )


def test_an_image_of_another_size_than_its_record_is_named(record):
    with pytest.raises(SizeMismatchError, match=r"aachen.*got \(30, 20\), expect \(31, 20\)"):
        InstanceMapper(config())({**record, "width": 31})


def test_a_mask_of_another_size_than_its_image_is_told(record):
    wrong = next(a for a in record["annotations"] if not a["iscrowd"])
    wrong = {**wrong, "segmentation": {"size": [5, 4], "counts": [20]}}
    with pytest.raises(DatasetError, match=r"has \(5, 4\) pixels .* its image \(20, 30\)"):
        InstanceMapper(config())({**record, "annotations": [wrong]})


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("DEEPFUSE_D2.INPUT.FAST_MAPPER", False), "FAST_MAPPER is False"),
        (("INPUT.MASK_FORMAT", "polygon"), "MASK_FORMAT is not bitmask"),
        (("INPUT.FORMAT", "L"), "INPUT.FORMAT is L"),
        (("MODEL.LOAD_PROPOSALS", True), "LOAD_PROPOSALS is True"),
    ],
)
def test_what_it_cannot_do_is_left_to_detectron2(overrides, reason, caplog):
    with caplog.at_level(logging.INFO, "deepfuse_d2.data.mappers.instance_mapper"):
        mapper = build_instance_mapper(config(*overrides))
    assert type(mapper) is RecordMapper
    assert reason in caplog.text
    assert type(build_instance_mapper(config())) is InstanceMapper


def test_augmentations_that_look_at_pixels_are_refused():
    with pytest.raises(ValueError, match=r"RandomContrast.*crops, resizings and flips"):
        InstanceMapper([T.RandomContrast(0.5, 1.5)])
    with pytest.raises(ValueError, match=r"image_format 'YUV'.*\['RGB', 'BGR'\]"):
        InstanceMapper([], image_format="YUV")
    with pytest.raises(ValueError, match="set use_masks"):
        InstanceMapper([], use_masks=False, recompute_boxes=True)


def test_polygons_are_cropped_without_a_package_for_it(record):
    """As the same masks in run lengths, up to the border of the drawn polygon."""
    square = [4, 3, 18, 3, 18, 14, 4, 14]
    polygon = {"bbox": [4, 3, 14, 11], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0,
               "segmentation": [square], "iscrowd": 0}  # fmt: skip
    runs = {**polygon, "segmentation": to_rle([square], 20, 30)}
    mapper = InstanceMapper([T.RandomCrop("absolute", (12, 10))], image_format="BGR")
    for seed in range(6):
        drawn = []
        for one in (polygon, runs):
            np.random.seed(seed)  # noqa: NPY002
            drawn.append(mapper({**record, "annotations": [one]})["instances"])
        assert len(drawn[0]) == len(drawn[1])
        if len(drawn[0]):
            assert torch.equal(*(one.gt_masks.tensor for one in drawn))
    assert any(len(one) for one in drawn)


def test_cropped_polygons_of_detectron2s_mapper_ask_for_bitmasks_before_the_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package shapely\. Set INPUT\.MASK_FORMAT"):
        build_instance_mapper(config(*CROP, "INPUT.MASK_FORMAT", "polygon"))
