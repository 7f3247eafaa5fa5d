"""One small data set in every format that DATASETS.EXTRA opens: three images, three objects."""

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


def instance_labels(dtype, suffix):
    """Label images with an id an object, of one class: what microscopes' programs write."""

    def write(root):
        write_images(root / "images")
        (root / "instances").mkdir()
        for stem, objects in OBJECTS.items():
            ids = np.zeros(SIZE, dtype)
            for number, (_, box) in enumerate(objects, start=1):
                # ids need not follow each other, and may need all bits
                ids[mask_of(box) > 0] = np.iinfo(dtype).max - number
            Image.fromarray(ids).save(root / "instances" / f"{stem}{suffix}")
        return {"FORMAT": "instance_label_images", "IMAGES": str(root / "images"),
                "LABELS": str(root / "instances"), "CLASSES": ["cell"]}  # fmt: skip

    return write


def coco_keypoints(root):
    """Polygons, and three keypoints of each object."""
    entry = coco_polygons(root)
    content = json.loads((root / "x.json").read_text())
    for category in content["categories"]:
        category["keypoints"] = ["middle", "left_end", "right_end"]
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["keypoints"] = [x + w // 2, y + h // 2, 2, x, y, 2, x + w - 1, y, 1]
        one["num_keypoints"] = 3
    (root / "x.json").write_text(json.dumps(content))
    return entry


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
#: the same, of objects of one class
LABEL_FORMS = {
    "instance label images, 8-bit PNG": instance_labels(np.uint8, ".png"),
    "instance label images, 16-bit PNG": instance_labels(np.uint16, ".png"),
    "instance label images, 16-bit TIFF": instance_labels(np.uint16, ".tif"),
    "instance label images, 32-bit TIFF": instance_labels(np.int32, ".tif"),
}
#: the same as the first of FORMS, with keypoints
KEYPOINT_FORMS = {"COCO, keypoints": coco_keypoints}
OKS_SIGMAS = [0.1, 0.1, 0.1]


def _changed_forms():
    """What exporters and editors make of a COCO file: name -> writer, as in FORMS."""

    def each(change):
        return lambda content: [change(one) for one in content["annotations"]]

    def one(change):
        return lambda content: change(content["annotations"][0])

    def centre(a):
        x, y, w, h = a["bbox"]
        a["bbox"] = [x + w / 2, y + h / 2, w, h]

    def corners(a):
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]

    nan, inf = float("nan"), float("inf")
    changes = {
        "annotation ids from 0": each(lambda a: None),
        "no area, no iscrowd": each(lambda a: (a.pop("area"), a.pop("iscrowd"))),
        "no boxes": each(lambda a: a.pop("bbox")),
        "boxes of the centre": each(centre),
        "boxes of two corners": each(corners),
        "one flat polygon": each(lambda a: a.update(segmentation=a["segmentation"][0])),
        "coordinates as text": each(
            lambda a: a.update(segmentation=[[str(x) for x in a["segmentation"][0]]])
        ),
        "images without a size": lambda c: [i.pop("width") for i in c["images"]],
        "sizes as floats": lambda c: [i.update(width=float(i["width"])) for i in c["images"]],
        "image_id as text": each(lambda a: a.update(image_id=str(a["image_id"]))),
        "a category without a name": lambda c: c["categories"].append({"id": 9}),
        "two categories of one name": lambda c: c["categories"].append({"id": 0, "name": "wall"}),
        "the same image twice": lambda c: c["images"].append(dict(c["images"][0])),
        "file names with backslashes": lambda c: [
            i.update(file_name="images\\" + i["file_name"]) for i in c["images"]
        ],
        "one polygon with nan": one(lambda a: a["segmentation"][0].__setitem__(0, nan)),
        "one polygon with infinity": one(lambda a: a["segmentation"][0].__setitem__(0, inf)),
        "one polygon of 4 numbers": one(lambda a: a.update(segmentation=[[1, 2, 3, 4]])),
        "one RLE longer than its image": one(
            lambda a: a.update(segmentation={"size": list(SIZE), "counts": [0, 10**7]})
        ),
        "one RLE with a negative run": one(
            lambda a: a.update(segmentation={"size": list(SIZE), "counts": [9, -9, 2400]})
        ),
        "one RLE of another size": one(
            lambda a: a.update(segmentation={"size": [4, 4], "counts": [0, 16]})
        ),
        "one image_id of no image": one(lambda a: a.update(image_id=77)),
        "one category_id of no category": one(lambda a: a.update(category_id=77)),
        "one box without area and no mask": one(
            lambda a: a.update(bbox=[1, 1, 0, 0], segmentation=None)
        ),
        "null for an annotation": lambda c: c["annotations"].append(None),
        "boxes alone": each(lambda a: a.pop("segmentation")),
        "boxes alone in one image": one(lambda a: a.pop("segmentation")),
        "all masks are crowds": each(lambda a: a.update(iscrowd=1)),
        "two images of one id": lambda c: c["images"][1].update(id=c["images"][0]["id"]),
        "no categories": lambda c: c.update(categories=[]),
        "a list of results": lambda c: c.update(images=None),
        "a missing image": lambda c: c["images"][0].update(file_name="A.PNG"),
    }
    return {f"COCO: {name}": _writer(change) for name, change in changes.items()}


def _writer(change):
    def write(folder):
        entry = coco_polygons(folder)
        content = json.loads((folder / "x.json").read_text())
        change(content)
        (folder / "x.json").write_text(json.dumps(content))
        return entry

    return write


#: the same of COCO files as exporters and editors change them
CHANGED_FORMS = _changed_forms()
#: what of them no reading can make sense of
REFUSED_FORMS = {
    f"COCO: {name}"
    for name in ("all masks are crowds", "two images of one id", "no categories",
                 "a list of results", "a missing image")
}  # fmt: skip
