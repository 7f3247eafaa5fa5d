import os
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from deepfuse_d2.data import minicity, register_all, register_cityscapes_layout
from deepfuse_d2.errors import DatasetError

CITYSCAPES = [
    f"cityscapes_fine_{task}_{split}"
    for task in ("instance_seg", "sem_seg")
    for split in ("train", "val", "test")
]
MINICITY = [
    f"minicity_fine_{task}_{split}"
    for task in ("instance_seg", "sem_seg")
    for split in ("train", "val")
]
PENNFUDAN = ["pennfudan_train", "pennfudan_val"]
CAMVID = [f"camvid_sem_seg_{split}" for split in ("train", "val", "test")]
VOC = [f"voc_2012_sem_seg_{split}" for split in ("train", "trainaug", "val", "test")]
OTHERS = CITYSCAPES + PENNFUDAN + CAMVID + VOC


@pytest.mark.parametrize("name", CITYSCAPES + MINICITY + PENNFUDAN)
def test_every_name_is_registered_with_its_metadata(name):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    if name in PENNFUDAN:
        assert metadata.evaluator_type == "coco"
        assert metadata.thing_classes == ["person"]
        return
    task = "instance" if "instance" in name else "sem_seg"
    assert metadata.evaluator_type == f"cityscapes_{task}"
    assert metadata.ignore_label == 255
    assert metadata.image_dir.endswith(os.path.join("leftImg8bit", name.rsplit("_", 1)[1]))
    assert metadata.gt_dir.endswith(os.path.join("gtFine", name.rsplit("_", 1)[1]))
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == 19
    assert len(metadata.thing_classes) == len(metadata.thing_colors) == 8


def test_class_names_are_those_of_detectron2_in_its_order():
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

    theirs = _get_builtin_metadata("cityscapes")
    ours = MetadataCatalog.get("minicity_fine_instance_seg_train")
    assert ours.thing_classes == theirs["thing_classes"]
    assert ours.stuff_classes == theirs["stuff_classes"]


def test_registering_again_changes_nothing():
    names = sorted(DatasetCatalog)
    before = {
        name: MetadataCatalog.get(name).as_dict() for name in CITYSCAPES + PENNFUDAN + CAMVID + VOC
    }
    register_all()
    assert sorted(DatasetCatalog) == names
    after = {
        name: MetadataCatalog.get(name).as_dict() for name in CITYSCAPES + PENNFUDAN + CAMVID + VOC
    }
    assert after == before


def test_the_folder_of_the_data_sets_is_read_at_the_time_of_use(city, instance_ids, monkeypatch):
    city.root = city.root.parent / "cityscapes"
    city.add("bonn_000000_000019", city="bonn", split="val", instanceIds=instance_ids)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(city.root.parent))
    (record,) = DatasetCatalog.get("cityscapes_fine_instance_seg_val")
    assert record["file_name"] == str(city.image_file("val", "bonn", "bonn_000000_000019"))
    assert len(record["annotations"]) == 3


@pytest.mark.parametrize("name", CITYSCAPES)
def test_absent_cityscapes_says_where_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    message = r"does not exist\. Download .*cityscapes-dataset\.com .* or set DETECTRON2_DATASETS"
    with pytest.raises(DatasetError, match=message):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("name", PENNFUDAN)
def test_absent_pennfudan_says_how_to_prepare_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    message = r"PNGImages does not exist\. .*deepfuse prepare pennfudan --source"
    with pytest.raises(DatasetError, match=message):
        DatasetCatalog.get(name)


@pytest.mark.parametrize(
    ("names", "folder", "command"),
    [(CAMVID, "camvid", "prepare camvid"), (VOC, "VOC2012", "prepare voc")],
)
def test_an_absent_semantic_set_says_how_to_prepare_it(
    names, folder, command, tmp_path, monkeypatch
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in names:
        with pytest.raises(DatasetError, match=rf"{folder}.* Prepare .*deepfuse {command} --s"):
            DatasetCatalog.get(name)


def test_semantic_sets_have_a_colour_for_every_class():
    for names, classes, ignored in ((CAMVID, 11, 11), (VOC, 21, 255)):
        for name in names:
            metadata = MetadataCatalog.get(name)
            assert metadata.evaluator_type == "sem_seg"
            assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == classes
            assert metadata.ignore_label == ignored
            assert metadata.has_labels == (name != "voc_2012_sem_seg_test")


def test_metadata_tell_which_splits_have_no_labels():
    for name in CITYSCAPES:
        assert MetadataCatalog.get(name).has_labels == (not name.endswith("_test"))


@pytest.mark.parametrize("name", MINICITY)
def test_minicity_is_made_on_first_use(name, city, instance_ids, monkeypatch):
    made = []

    def ensure(root):
        made.append(str(root))
        city.root = root
        labels = {"instanceIds": instance_ids, "labelIds": np.zeros((20, 30), np.uint8)}
        for split in ("train", "val"):
            city.add("minitown_000000_000000", city="minitown", split=split, **labels)

    monkeypatch.setattr(minicity, "ensure_minicity", ensure)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(city.root))
    assert len(DatasetCatalog.get(name)) == 1
    assert made == [os.path.join(os.environ["DETECTRON2_DATASETS"], "minicity")]


def test_damaged_minicity_says_how_to_make_it_again(city, instance_ids, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(city.root))
    monkeypatch.setattr(minicity, "ensure_minicity", lambda root: None)
    city.root = city.root / "minicity"
    city.add("minitown_000000_000000", city="minitown", instanceIds=instance_ids)
    path = city.label_file("train", "minitown", "minitown_000000_000000", "instanceIds")
    path.write_bytes(path.read_bytes()[:60])
    message = r"instanceIds\.png is damaged .* delete that folder and run it again"
    with pytest.raises(DatasetError, match=message):
        DatasetCatalog.get("minicity_fine_instance_seg_train")


@pytest.fixture
def town():
    yield "my_town_train"
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("my_town_train", None)


def test_a_user_registers_a_folder_of_the_same_layout(town, city, instance_ids):
    city.add("bonn_000000_000019", instanceIds=instance_ids)
    register_cityscapes_layout(town, city.root, "train")
    assert len(DatasetCatalog.get(town)) == 1
    metadata = MetadataCatalog.get(town)
    assert metadata.evaluator_type == "cityscapes_instance"
    assert metadata.gt_dir == str(city.root / "gtFine" / "train")


def test_a_name_is_taken_over_only_on_request(town, city):
    register_cityscapes_layout(town, city.root, "train")
    with pytest.raises(ValueError, match=r"'my_town_train' is already registered; .*replace=True"):
        register_cityscapes_layout(town, city.root, "val", "sem_seg")
    register_cityscapes_layout(town, city.root, "val", "sem_seg", replace=True)
    assert MetadataCatalog.get(town).evaluator_type == "cityscapes_sem_seg"


def test_an_unknown_task_is_refused(town, city):
    with pytest.raises(ValueError, match=r"task = 'panoptic' is unknown; .*'instance_seg'"):
        register_cityscapes_layout(town, city.root, "train", "panoptic")


def test_importing_reads_no_data(tmp_path, repository):
    code = (
        "import sys, deepfuse_d2.data\n"
        "assert 'detectron2.data.datasets.cityscapes_panoptic' in sys.modules\n"
        "assert 'deepfuse_d2.data.minicity.scene' not in sys.modules\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "DETECTRON2_DATASETS": str(tmp_path / "absent"),
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    assert list(tmp_path.iterdir()) == []
