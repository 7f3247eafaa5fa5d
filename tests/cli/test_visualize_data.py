"""deepfuse visualize-data on a small data set registered by hand."""

import cv2
import numpy as np
import pycocotools.mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode


@pytest.fixture
def street(tmp_path):
    """Register toy_instance_seg_val and toy_sem_seg_val: four gray pictures, a square on each."""
    records = []
    for k in range(4):
        image = np.full((40, 60, 3), 90, np.uint8)
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 20:40] = 1
        files = [tmp_path / f"{kind}{k}.png" for kind in ("image", "classes")]
        cv2.imwrite(str(files[0]), image)
        cv2.imwrite(str(files[1]), mask)
        shape = pycocotools.mask.encode(np.asfortranarray(mask))
        annotation = {
            "bbox": [20, 10, 40, 30],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 0,
            "segmentation": shape,
            "iscrowd": int(k == 3),
        }
        base = {"file_name": str(files[0]), "image_id": k, "height": 40, "width": 60}
        records.append(
            ({**base, "annotations": [annotation]}, {**base, "sem_seg_file_name": str(files[1])})
        )
    for n, task in enumerate(("instance_seg", "sem_seg")):
        DatasetCatalog.register(f"toy_{task}_val", lambda n=n: [r[n] for r in records])
    MetadataCatalog.get("toy_instance_seg_val").set(thing_classes=["car"])
    MetadataCatalog.get("toy_sem_seg_val").set(
        stuff_classes=["road", "car"], stuff_colors=[(128, 64, 128), (0, 0, 142)]
    )
    yield records
    for task in ("instance_seg", "sem_seg"):
        DatasetCatalog.remove(f"toy_{task}_val")
        MetadataCatalog.remove(f"toy_{task}_val")


def test_a_png_output_gives_one_sheet_with_picture_instances_and_classes(
    deepfuse, street, tmp_path
):
    out = tmp_path / "sheets" / "toy.png"
    options = ["--num", "3", "--columns", "2", "--tile-width", "120"]
    assert (
        deepfuse(
            "visualize-data", "--dataset", "toy_instance_seg_val", "--output", str(out), *options
        )
        == 0
    )
    sheet = cv2.imread(str(out))
    assert sheet.shape == (2 * (3 * 80 + 6) + 6, 2 * (120 + 6) + 6, 3)
    tile = sheet[6:246, 6:126].astype(int)
    picture, instances, classes = tile[:80], tile[80:160], tile[160:]
    changed = np.abs(instances - picture).sum(2) > 20
    assert changed[25:55, 45:75].mean() > 0.9
    assert changed[65:, :].mean() < 0.05
    assert classes[40, 60, 0] > classes[5, 5, 0]  # the car's blue against the road


def test_a_folder_output_also_gets_each_sample(deepfuse, street, tmp_path):
    out = tmp_path / "sheets"
    deepfuse("visualize-data", "--dataset", "toy_sem_seg_val", "--output", str(out), "--num", "99")
    assert {p.name for p in out.iterdir()} == {"toy_sem_seg_val.png"} | {
        f"image{k}.png" for k in range(4)
    }


def test_an_unknown_data_set_is_answered_with_the_known_ones(deepfuse, street, tmp_path, capsys):
    code = deepfuse("visualize-data", "--dataset", "toy_nope", "--output", str(tmp_path / "a.png"))
    assert code == 2
    message = capsys.readouterr().err
    assert '"toy_nope" is unknown' in message
    assert "toy_instance_seg_val" in message


def test_a_missing_picture_is_named(deepfuse, street, tmp_path, capsys):
    (tmp_path / "image0.png").unlink()
    code = deepfuse(
        "visualize-data", "--dataset", "toy_sem_seg_val", "--output", str(tmp_path / "a.png")
    )
    assert code == 2
    assert "image0.png" in capsys.readouterr().err
