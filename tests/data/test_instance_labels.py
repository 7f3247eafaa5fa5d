"""Images with an id an object in a label image: `nuclei`, and FORMAT instance_label_images."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.data import register_extra
from deepfuse_d2.data.datasets.nuclei import load_nuclei
from deepfuse_d2.errors import ConfigError, DatasetError

ENTRY = {"NAME": "my_cells", "FORMAT": "instance_label_images", "IMAGES": "images",
         "LABELS": "labels"}  # fmt: skip


@pytest.fixture(autouse=True)
def _catalogs_stay_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    DatasetCatalog.pop("my_cells", None)
    MetadataCatalog.pop("my_cells", None)


@pytest.fixture
def ids():
    ids = np.zeros((20, 30), dtype=np.int64)
    ids[2:6, 3:9] = 1
    ids[10:18, 0:4] = 300
    return ids


def add(folder, labels, stem, ids, suffix=".png"):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / labels).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", ids.shape[::-1], (90, 20, 60)).save(folder / "images" / f"{stem}.jpg")
    Image.fromarray(ids).save(folder / labels / f"{stem}{suffix}")


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(np.uint16, ".png"), (np.uint16, ".tif"), (np.int32, ".tiff"), (np.uint32, ".tif")],
)
def test_every_id_is_an_object_whatever_the_bits_of_the_file(tmp_path, ids, kind, suffix):
    add(tmp_path, "labels", "a", ids.astype(kind), suffix)
    register_extra([{**ENTRY, "CLASSES": ["cell"]}])
    (record,) = DatasetCatalog.get("my_cells")
    assert [a["bbox"] for a in record["annotations"]] == [[3, 2, 9, 6], [0, 10, 4, 18]]
    masks = [mask_util.decode(a["segmentation"]) for a in record["annotations"]]
    np.testing.assert_array_equal(masks, [ids == 1, ids == 300])
    assert MetadataCatalog.get("my_cells").thing_classes == ["cell"]
    assert MetadataCatalog.get("my_cells").evaluator_type == "coco"


def test_an_image_without_objects_is_a_record_without_annotations(tmp_path):
    add(tmp_path, "labels", "a", np.zeros((8, 9), np.uint8))
    register_extra([ENTRY])
    (record,) = DatasetCatalog.get("my_cells")
    assert record["annotations"] == []
    assert MetadataCatalog.get("my_cells").thing_classes == ["object"]


def test_several_classes_are_refused():
    with pytest.raises(ConfigError, match=r"an id an object tells no class, so give one name"):
        register_extra([{**ENTRY, "CLASSES": ["cell", "debris"]}])


def test_every_fifth_nuclei_image_is_val(tmp_path, ids):
    for number in range(7):
        add(tmp_path, "instances", f"stem{number}", ids.astype(np.uint16))
    names = [record["image_id"] for record in load_nuclei(tmp_path, "val")]
    assert names == ["stem0", "stem5"]
    assert len(load_nuclei(tmp_path, "train")) == 5


def test_absent_nuclei_say_how_to_prepare_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match=r"nuclei/images does not exist\. .*prepare nuclei"):
        DatasetCatalog.get("nuclei_train")


def test_the_real_nuclei_are_all_there(shared_data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    records = DatasetCatalog.get("nuclei_val")
    assert len(records) == 133
    assert max(len(record["annotations"]) for record in records) == 198
