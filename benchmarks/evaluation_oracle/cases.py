"""Random frames to compare evaluators: small ones full of rare situations, large ones for speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
LABEL_OF = dict(zip(CLASSES, (24, 25, 26, 27, 28, 31, 32, 33), strict=True))
STUFF = (7, 8, 11, 21, 23)
VOID = (0, 1, 3, 4, 9, 29, 30)  # 29, 30: groups of caravans and trailers
BESIDE = (29000, 30001)  # instances of labels that are ignored are not void to the official script


@dataclass
class Frame:
    """Ground truth and N predictions of one image.

    Attributes:
        gt_map: (H, W) uint16 instance ids.
        masks: (N, H, W) bool.
        names: N class names.
        scores: (N,) float32.
    """

    gt_map: np.ndarray
    masks: np.ndarray
    names: list[str]
    scores: np.ndarray


def random_case(seed: int, *, height: int = 64, width: int = 128) -> list[Frame]:
    """Return one to four frames of a random taste: few or many classes, ties, empty frames."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(CLASSES)[: rng.integers(1, 5)]
    levels = rng.choice([2, 5, 1000])  # distinct scores: 2 makes nearly all of them equal
    return [_random_frame(rng, names, levels, height, width) for _ in range(rng.integers(1, 5))]


def _random_frame(
    rng: np.random.Generator, names: np.ndarray, levels: int, height: int, width: int
) -> Frame:
    gt_map = np.full((height, width), rng.choice(STUFF), dtype=np.uint16)
    for _ in range(rng.integers(0, 4)):
        gt_map[_random_shape(rng, height, width, 60)] = rng.choice(STUFF + VOID + BESIDE)
    shapes = []
    if rng.random() < 0.9:
        for number in range(rng.integers(1, 9)):
            shape = _random_shape(rng, height, width, rng.choice([12, 30, 60]))
            label = LABEL_OF[rng.choice(names)]
            gt_map[shape] = label if rng.random() < 0.2 else label * 1000 + number
            shapes.append((label, shape))
    if rng.random() < 0.3:
        gt_map[_random_shape(rng, height, width, 40)] = rng.choice(VOID)  # void that occludes

    masks, pred_names = [], []
    wanted = rng.integers(1, 10) if rng.random() < 0.9 else 0
    for _ in range(wanted):
        if shapes and rng.random() < 0.75:
            label, shape = shapes[rng.integers(len(shapes))]
            mask = shape if rng.random() < 0.3 else _jitter(rng, shape)
            # as the camera sees it, or the whole object behind what occludes it
            if rng.random() < 0.3:
                ids = gt_map[shape]
                mask = mask & (gt_map == np.bincount(ids).argmax() if ids.size else False)
            name = next(n for n in CLASSES if LABEL_OF[n] == label)
        else:
            mask = _random_shape(rng, height, width, 60)
            name = str(rng.choice(names))
        if rng.random() < 0.1:
            name = str(rng.choice(CLASSES))
        if rng.random() < 0.05:
            mask = np.zeros_like(mask)
        for _ in range(1 + (rng.random() < 0.2)):  # the same mask twice
            masks.append(mask)
            pred_names.append(name)
    scores = (rng.integers(1, levels + 1, len(masks)) / levels).astype(np.float32)
    stacked = np.array(masks, dtype=bool).reshape(-1, height, width)
    return Frame(gt_map, stacked, pred_names, scores)


def _random_shape(rng: np.random.Generator, height: int, width: int, largest: int) -> np.ndarray:
    """Return a rectangle or an ellipse as a bool mask (height, width)."""
    h, w = rng.integers(3, min(largest, height) + 1), rng.integers(3, min(largest, width) + 1)
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    mask = np.zeros((height, width), dtype=bool)
    if rng.random() < 0.5:
        mask[top : top + h, left : left + w] = True
    else:
        y, x = np.ogrid[:h, :w]
        inside = ((y + 0.5) / h - 0.5) ** 2 + ((x + 0.5) / w - 0.5) ** 2 <= 0.25
        mask[top : top + h, left : left + w] = inside
    return mask


def _jitter(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Shift a mask by a few pixels and cut a piece off at times."""
    moved = np.roll(mask, tuple(rng.integers(-3, 4, 2)), axis=(0, 1))
    if rng.random() < 0.3:
        moved[: rng.integers(0, mask.shape[0])] = False
    return moved


def random_pixels(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ground truth (instance ids) and predicted train ids of one to four frames, (H, W).

    Mostly right, with regions of other classes, at times all of one class or all wrong.
    """
    from cityscapesscripts.helpers.labels import id2label

    rng = np.random.default_rng(seed)
    frames = []
    for frame in random_case(seed):
        ids = frame.gt_map
        train_ids = np.array([id2label[x].trainId if x in id2label else 255 for x in range(34)])
        predicted = train_ids[np.where(ids < 1000, ids, ids // 1000)]
        predicted[predicted == 255] = rng.integers(19)
        for _ in range(rng.integers(0, 8)):
            predicted[_random_shape(rng, *ids.shape, 60)] = rng.integers(19)
        taste = rng.random()
        if taste < 0.05:
            predicted[:] = rng.integers(19)
        elif taste < 0.1:
            predicted = (predicted + 1) % 19
        noise = rng.random(ids.shape) < 0.02
        predicted[noise] = rng.integers(0, 19, int(noise.sum()))
        frames.append((ids, predicted.astype(np.uint8)))
    return frames


def street_frame(
    seed: int, count: int, *, height: int = 1024, width: int = 2048, instances: int = 30
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Return a large frame with instances as large as in a street, and what a mask head predicts.

    Two thirds of the predictions are good or fair copies of an instance, the rest lie anywhere.

    Returns:
        gt_map (H, W) uint16; soft masks (count, 1, 28, 28) and boxes (count, 4) float32; names;
        scores (count,) float32.
    """
    rng = np.random.default_rng(seed)
    gt_map = np.full((height, width), 7, dtype=np.uint16)
    gt_map[: height // 2] = 11
    gt_map[-height // 20 :] = 1  # ego vehicle
    boxes, names = [], []
    for number in range(instances):
        box, name = _street_box(rng, height, width), str(rng.choice(CLASSES))
        left, top, right, bottom = box.astype(int)
        y, x = np.ogrid[top:bottom, left:right]
        inside = ((x + 0.5 - (left + right) / 2) / (right - left)) ** 2 + (
            (y + 0.5 - (top + bottom) / 2) / (bottom - top)
        ) ** 2 <= 0.25
        group = rng.random() < 0.1
        gt_map[top:bottom, left:right][inside] = LABEL_OF[name] * (1 if group else 1000) + (
            0 if group else number
        )
        boxes.append(box)
        names.append(name)

    centre = (np.arange(28) + 0.5) / 28 - 0.5
    radius = np.sqrt(centre[:, None] ** 2 + centre**2)
    soft = np.clip(
        (0.5 - radius[None, None]) * 8 + 0.5 + rng.normal(0, 0.1, (count, 1, 28, 28)), 0, 1
    )
    pred_boxes, pred_names = [], []
    for number in range(count):
        if number % 3:
            index = rng.integers(instances)
            size = np.tile(boxes[index][2:] - boxes[index][:2], 2)
            pred_boxes.append(boxes[index] + rng.normal(0, 0.05, 4) * size)
            pred_names.append(names[index])
        else:
            pred_boxes.append(_street_box(rng, height, width))
            pred_names.append(str(rng.choice(CLASSES)))
    corners = np.array(pred_boxes).reshape(-1, 4).clip(0, [width, height, width, height])
    scores = rng.uniform(0.05, 1, count)
    return (
        gt_map,
        soft.astype(np.float32),
        corners.astype(np.float32),
        pred_names,
        scores.astype(np.float32),
    )


def _street_box(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return x0, y0, x1, y1: most objects are small, a few as high as half the frame."""
    h = height * np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
    w = min(h * rng.uniform(0.4, 2.0), width - 2)
    left, top = rng.uniform(0, width - w - 1), rng.uniform(0, height - h - 1)
    return np.array([left, top, left + w, top + h])
