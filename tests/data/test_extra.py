"""DATASETS.EXTRA: own data from a yaml, as train_net.py reads it."""

import json

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from deepfuse_d2.data import register_extra
from deepfuse_d2.engine import check_config, load_config
from deepfuse_d2.errors import ConfigError, DatasetError


@pytest.fixture(autouse=True)
def _catalogs_stay_as_they_were():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def data(tmp_path, city, instance_ids, monkeypatch):
    """A folder with data of every format; the working directory."""
    city.add("bonn_000000_000019", split="val", instanceIds=instance_ids,
             labelIds=(instance_ids // 1000).astype(np.uint8))  # fmt: skip
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    Image.new("RGB", (30, 20)).save(images / "a.jpg")
    Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(labels / "a_mask.png")
    box = {"bbox": [2, 3, 10, 5], "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]], "area": 50}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, **box}],
        "categories": [{"id": 3, "name": "cell"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


COCO = {"NAME": "my_train", "FORMAT": "coco", "JSON": "train.json", "IMAGES": "images"}
CITY = {"NAME": "my_val", "FORMAT": "cityscapes_instances", "ROOT": "town", "SPLIT": "val"}
PIXELS = {**CITY, "NAME": "my_pixels", "FORMAT": "cityscapes_semantic"}
LABELS = {
    "NAME": "my_cells",
    "FORMAT": "label_images",
    "IMAGES": "images",
    "LABELS": "labels",
    "LABEL_SUFFIX": "_mask.png",
    "CLASSES": ["background", "cell"],
}
PART = {"NAME": "my_part", "FORMAT": "subset", "OF": "my_many", "COUNT": 3}


def test_a_yaml_alone_registers_every_format(data):
    config = {
        "DATASETS": {
            "EXTRA": [COCO, CITY, PIXELS, LABELS],
            "TRAIN": ["my_train"],
            "TEST": ["my_val", "my_pixels", "my_cells"],
        }
    }
    (data / "mine.yaml").write_text(yaml.safe_dump(config))
    cfg = load_config("mine.yaml")
    check_config(cfg)

    (record,) = DatasetCatalog.get("my_train")
    assert record["file_name"] == str(data / "images" / "a.jpg")
    assert record["annotations"][0]["category_id"] == 0
    assert MetadataCatalog.get("my_train").thing_classes == ["cell"]
    assert len(DatasetCatalog.get("my_val")[0]["annotations"]) == 3
    assert DatasetCatalog.get("my_pixels")[0]["sem_seg_file_name"].endswith(".png")
    (record,) = DatasetCatalog.get("my_cells")
    assert record["sem_seg_file_name"] == str(data / "labels" / "a_mask.png")
    assert MetadataCatalog.get("my_cells").stuff_classes == ["background", "cell"]
    types = ["coco", "cityscapes_instance", "cityscapes_sem_seg", "sem_seg"]
    names = [entry["NAME"] for entry in config["DATASETS"]["EXTRA"]]
    assert [MetadataCatalog.get(name).evaluator_type for name in names] == types

    (data / "dumped.yaml").write_text(cfg.dump())  # as train_net.py writes it down
    assert load_config("dumped.yaml").DATASETS == cfg.DATASETS


def test_the_command_line_registers_too_and_again_changes_nothing(data):
    for _ in range(2):
        load_config("", ["DATASETS.EXTRA", str([COCO]), "DATASETS.TRAIN", "('my_train',)"])
        assert len(DatasetCatalog.get("my_train")) == 1


def test_an_entry_with_another_content_takes_over(data, monkeypatch):
    register_extra([CITY])
    register_extra([{**CITY, "FORMAT": "cityscapes_semantic"}])
    assert MetadataCatalog.get("my_val").evaluator_type == "cityscapes_sem_seg"
    (data / "elsewhere").mkdir()
    monkeypatch.chdir(data / "elsewhere")  # a relative path means another folder from here
    register_extra([CITY])
    assert MetadataCatalog.get("my_val").gt_dir.startswith(str(data / "elsewhere" / "town"))


def test_a_split_without_labels_gives_images_only(data):
    register_extra([{**CITY, "HAS_LABELS": False}])
    (record,) = DatasetCatalog.get("my_val")
    assert sorted(record) == ["file_name", "height", "image_id", "width"]
    assert not MetadataCatalog.get("my_val").has_labels


def test_a_subset_is_spread_evenly_over_its_source_and_has_its_metadata(data):
    def numbered(count):
        return [{"file_name": f"{i}.png"} for i in range(count)]

    DatasetCatalog.register("my_many", lambda: numbered(8))
    MetadataCatalog.get("my_many").set(
        thing_classes=["cell"], evaluator_type="coco", json_file="all.json"
    )
    register_extra([PART])
    names = [record["file_name"] for record in DatasetCatalog.get("my_part")]
    assert names == ["0.png", "2.png", "5.png"]
    metadata = MetadataCatalog.get("my_part")
    assert metadata.thing_classes == ["cell"]
    # of all eight images: the five left out would count as missed
    assert not hasattr(metadata, "json_file")

    register_extra([{**PART, "COUNT": 9}])
    with pytest.raises(DatasetError, match='COUNT = 9 images of "my_many", which has 8'):
        DatasetCatalog.get("my_part")


def test_a_subset_of_an_entry_above_it_learns_its_classes_when_loaded(data):
    register_extra([COCO, {**PART, "OF": "my_train", "COUNT": 1}])
    for _ in range(2):
        assert DatasetCatalog.get("my_part")[0]["annotations"][0]["category_id"] == 0
        assert MetadataCatalog.get("my_part").thing_dataset_id_to_contiguous_id == {3: 0}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("my_train", r"EXTRA\[0\] is 'my_train'; expected a mapping with NAME and FORMAT"),
        ({"NAME": "a"}, r"EXTRA\[0\] \(a\): no FORMAT; choose one of \['coco', 'instance_label"),
        ({**COCO, "FORMAT": "voc"}, r"\(my_train\): FORMAT = 'voc' is unknown; choose one of"),
        ({"FORMAT": "coco", "JSON": "a"}, r"NAME, IMAGES is missing; FORMAT coco takes NAME, FORM"),
        ({**COCO, "ROOT": "."}, "key 'ROOT' is unknown; FORMAT coco takes NAME, FORMAT, JSON, IM"),
        ({**COCO, "IMAGE": "."}, r"key 'IMAGE' is unknown; .* Did you mean IMAGES\?"),
        ({**CITY, "SPLIT": 3}, "SPLIT = 3 is int; expected a str"),
        ({**CITY, "HAS_LABELS": "no"}, "HAS_LABELS = 'no' is str; expected a bool"),
        ({**CITY, "ROOT": ""}, "ROOT = '' is str; expected a str that is not empty"),
        ({**CITY, "NAME": "a/b"}, "NAME holds more than letters, digits"),
        ({**CITY, "NAME": "pennfudan_val"}, "is the name of a data set that is registered alr"),
        ({**LABELS, "CLASSES": []}, r"CLASSES = \[\]; expected the names of ids 0, 1"),
        ({**LABELS, "CLASSES": ["a", "a"]}, "CLASSES holds a name twice"),
        ({**LABELS, "IGNORE_LABEL": 1}, r"IGNORE_LABEL = 1 is outside 2\.\.255"),
        (
            {**PART, "COUNT": 0},
            r"\(my_part\): COUNT = 0, OF = .my_many.; expected 1 or more",
        ),
        ({**PART, "OF": "my_part"}, "expected 1 or more images of a data set of another name"),
        ({**PART, "OF": "penfudan_val"}, r"is not registered; .* Did you mean: pennfudan_val"),
    ],
)
def test_a_wrong_entry_is_answered_by_one_message(data, entry, message):
    with pytest.raises(ConfigError, match=message):
        load_config("", ["DATASETS.EXTRA", str([entry])])


def test_a_wrong_list_registers_nothing(data):
    with pytest.raises(ConfigError, match=r"EXTRA\[1\]\.NAME = 'my_train' is used twice"):
        register_extra([COCO, COCO])
    assert "my_train" not in DatasetCatalog
    with pytest.raises(ConfigError, match=r"DATASETS\.EXTRA is dict; expected a list of mappings"):
        register_extra(COCO)


def test_what_is_missing_or_damaged_is_named_when_it_is_used(data):
    register_extra([COCO, LABELS, {**COCO, "NAME": "no_json", "JSON": "no.json"}])
    with pytest.raises(DatasetError, match=r'"no_json": Annotation file .*no\.json does not exist'):
        DatasetCatalog.get("no_json")
    content = json.loads((data / "train.json").read_text())
    for text, message in (
        ("{", "holds no JSON"),
        ("[]", "holds a list, as files of COCO's results do"),
        (json.dumps({**content, "categories": []}), "holds no category"),
        (json.dumps({"images": []}), r'is not in COCO\'s format: it has no "categories"'),
    ):
        (data / "train.json").write_text(text)
        with pytest.raises(DatasetError, match=rf'"my_train": .*train\.json:? .*{message}'):
            DatasetCatalog.get("my_train")
    (data / "train.json").write_text(json.dumps(content))
    (data / "images").rename(data / "pictures")
    with pytest.raises(DatasetError, match=r'"my_train": .*image folder .*images does not exist'):
        DatasetCatalog.get("my_train")
    with pytest.raises(DatasetError, match=r"images does not exist"):
        DatasetCatalog.get("my_cells")


def test_masks_of_0_and_255_are_explained(data):
    labels = np.zeros((20, 30), np.uint8)
    labels[3:9, 4:20] = 255
    Image.fromarray(labels).save(data / "labels" / "a_mask.png")
    register_extra([{**LABELS, "IGNORE_LABEL": 9}])
    with pytest.raises(DatasetError, match="A mask of 0 and 255 is no label image: 1, not 255"):
        DatasetCatalog.get("my_cells")
