"""One small data set in every format that DATASETS.EXTRA opens: two images, three objects."""

import base64
import io
import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

SIZE = (40, 60)
#: image -> [class, (x0, y0, x1, y1)]: squares of whole pixels
OBJECTS = {
    "a": [("cell", (12, 13, 22, 18)), ("wall", (30, 5, 50, 25))],
    "b": [("cell", (3, 3, 20, 30))],
    "c": [],
}
CLASSES = ["cell", "wall"]


def mask_of(box):
    mask = np.zeros(SIZE, np.uint8, order="F")
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 1
    return mask


def polygon_of(box):
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def write_images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(OBJECTS):
        noise = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{stem}.png")


def _coco(root, segmentation, **category):
    write_images(root / "images")
    content = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(CLASSES, start=1):
        content["categories"].append({"id": number, "name": name})
    for number, (stem, objects) in enumerate(OBJECTS.items()):
        content["images"].append(
            {"id": number, "file_name": f"{stem}.png", "height": SIZE[0], "width": SIZE[1]}
        )
        for name, box in objects:
            x0, y0, x1, y1 = box
            content["annotations"].append(
                {"id": len(content["annotations"]), "image_id": number,
                 "category_id": CLASSES.index(name) + 1, "iscrowd": 0,
                 "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                 "segmentation": segmentation(box)}
            )  # fmt: skip
    (root / "x.json").write_text(json.dumps(content))
    return {"FORMAT": "coco", "JSON": str(root / "x.json"), "IMAGES": str(root / "images")}


def coco_polygons(root):
    return _coco(root, lambda box: [polygon_of(box)])


def coco_rle(root):
    def rle(box):
        rle = mask_util.encode(mask_of(box))
        return {"size": list(SIZE), "counts": rle["counts"].decode()}

    return _coco(root, rle)


def coco_uncompressed(root):
    def rle(box):
        flat = mask_of(box).T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
        return {"size": list(SIZE), "counts": np.diff(np.concatenate([[0], edges])).tolist()}

    return _coco(root, rle)


def yolo(root):
    write_images(root / "images" / "train")
    labels = root / "labels" / "train"
    labels.mkdir(parents=True)
    for stem, objects in OBJECTS.items():
        lines = []
        for name, box in objects:
            points = np.array(polygon_of(box)) / np.tile(SIZE[::-1], 4)
            lines.append(f"{CLASSES.index(name)} " + " ".join(map(repr, points.tolist())))
        if lines:
            (labels / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnc: 2\nnames: {CLASSES}\n")
    return {"FORMAT": "yolo", "DATA": str(root), "SPLIT": "train"}


def labelme(root):
    write_images(root)
    kinds = ["polygon", "rectangle", "mask"]
    for stem, objects in OBJECTS.items():
        shapes = []
        for name, box in objects:
            kind = kinds[(len(shapes) + len(stem) + (stem == "b") * 1) % 3]
            points = np.array(polygon_of(box)).reshape(-1, 2).tolist()
            shape = {"label": name, "points": points, "shape_type": kind, "group_id": None}
            if kind == "rectangle":
                shape["points"] = [points[0], points[2]]
            elif kind == "mask":
                x0, y0, x1, y1 = box
                buffer = io.BytesIO()
                Image.fromarray(np.ones((y1 - y0, x1 - x0), bool)).save(buffer, format="PNG")
                shape["points"] = [[x0, y0], [x1 - 1, y1 - 1]]
                shape["mask"] = base64.b64encode(buffer.getvalue()).decode()
            shapes.append(shape)
        content = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.png",
                   "imageHeight": SIZE[0], "imageWidth": SIZE[1]}  # fmt: skip
        (root / f"{stem}.json").write_text(json.dumps(content))
    return {"FORMAT": "labelme", "ROOT": str(root)}


def cvat(root):
    write_images(root / "images")
    images = []
    for number, (stem, objects) in enumerate(OBJECTS.items()):
        shapes = []
        for name, (x0, y0, x1, y1) in objects:
            if len(shapes) % 2:
                width, height = x1 - x0 + 2, y1 - y0
                crop = np.zeros((height, width), int)
                crop[:, 2:] = 1
                flat = crop.ravel()
                edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
                runs = np.diff(np.concatenate([[0], edges])).tolist()
                shapes.append(
                    f'<mask label="{name}" rle="{", ".join(map(str, runs))}" left="{x0 - 2}" '
                    f'top="{y0}" width="{width}" height="{height}" z_order="0"></mask>'
                )
            else:
                points = np.array(polygon_of((x0, y0, x1, y1))).reshape(-1, 2)
                text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
                shapes.append(f'<polygon label="{name}" points="{text}" occluded="0"></polygon>')
        images.append(
            f'<image id="{number}" name="{stem}.png" width="{SIZE[1]}" height="{SIZE[0]}">'
            + "".join(shapes)
            + "</image>"
        )
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    (root / "x.xml").write_text(
        f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        + "".join(images) + "</annotations>"
    )  # fmt: skip
    return {"FORMAT": "cvat", "XML": str(root / "x.xml"), "IMAGES": str(root / "images")}


def voc_instances(root):
    write_images(root / "JPEGImages")
    for folder in ("SegmentationObject", "SegmentationClass"):
        (root / folder).mkdir()
    for stem, objects in OBJECTS.items():
        ids, kinds = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
        for number, (name, box) in enumerate(objects, start=1):
            ids[mask_of(box) > 0] = number
            kinds[mask_of(box) > 0] = CLASSES.index(name) + 1
        for folder, values in (("SegmentationObject", ids), ("SegmentationClass", kinds)):
            image = Image.fromarray(values)
            image.putpalette(list(range(256)) * 3)
            image.save(root / folder / f"{stem}.png")
    listed = root / "ImageSets" / "Segmentation"
    listed.mkdir(parents=True)
    (listed / "train.txt").write_text("\n".join(OBJECTS) + "\n")
    return {"FORMAT": "voc_instances", "ROOT": str(root), "SPLIT": "train", "CLASSES": CLASSES}


#: name -> writer(folder), which returns the entry of DATASETS.EXTRA without its NAME
FORMS = {
    "COCO, polygons": coco_polygons,
    "COCO, run lengths as text": coco_rle,
    "COCO, run lengths as a list": coco_uncompressed,
    "YOLO segmentation": yolo,
    "LabelMe": labelme,
    "CVAT for images": cvat,
    "PASCAL VOC instances": voc_instances,
}
