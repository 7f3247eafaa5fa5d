"""Drawing: what is coloured, where, and what is left alone."""

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances

from deepfuse_d2.visualization import (
    FIRST_COLOR,
    SECOND_COLOR,
    draw_annotations,
    draw_difference,
    draw_labels,
    draw_predictions,
    mask_of,
    shapes_of,
    sheet,
)

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def image():
    return np.full((HEIGHT, WIDTH, 3), 90, np.uint8)


@pytest.fixture
def metadata():
    return Metadata(
        name="toy", thing_classes=["car"], thing_colors=[(0, 0, 142)],
        stuff_classes=["road", "car"], stuff_colors=[(128, 64, 128), (0, 0, 142)],
    )  # fmt: skip


def found(form, score=0.93):
    """One car at rows 10..30 and columns 20..40, its mask in one of four forms."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:40] = 1
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor([[20.0, 10.0, 40.0, 30.0]]))
    instances.scores = torch.tensor([score])
    instances.pred_classes = torch.tensor([0])
    if form == "pasted":
        instances.pred_masks = torch.from_numpy(mask).bool()[None]
    elif form == "unpasted":
        instances.pred_masks = torch.ones(1, 1, 28, 28)
    elif form == "rle":
        instances.pred_masks_rle = [pycocotools.mask.encode(np.asfortranarray(mask))]
    return instances


@pytest.mark.parametrize("form", ["pasted", "unpasted", "rle"])
def test_masks_are_drawn_where_they_lie_whatever_their_form(image, metadata, form):
    before = image.copy()
    drawn = draw_predictions(image, found(form), metadata)
    np.testing.assert_array_equal(image, before)
    changed = (drawn != image).any(axis=2)
    assert changed[10:30, 20:40].all()
    changed[8:32, 18:42] = False  # it and its outline
    changed[8:24, 14:62] = False  # its text, two pixels wider with matplotlib 3.8
    assert not changed.any()
    # blue of the class: BGR
    assert drawn[28, 30, 0] > drawn[28, 30, 1]


def test_instances_without_masks_get_an_outline_alone(image, metadata):
    drawn = draw_predictions(image, found("none"), metadata)
    assert (drawn[25, 20] != image[25, 20]).any()
    np.testing.assert_array_equal(drawn[26:28, 24:36], image[26:28, 24:36])


def test_a_drawing_can_be_larger_than_its_image(image, metadata):
    drawn = draw_predictions(image, found("unpasted"), metadata, scale=2)
    assert drawn.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    changed = (drawn != 90).any(axis=2)
    assert changed[20:60, 40:80].all()
    assert not changed[64:].any()


def test_text_has_class_and_score_and_a_number_for_a_class_without_a_name(metadata):
    assert shapes_of(found("unpasted"), metadata)[0].text == "car 93%"
    assert shapes_of(found("unpasted"), Metadata(name="bare"))[0].text == "class 0 93%"


def test_polygons_boxes_and_uncompressed_masks_are_drawn_alike():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:40] = 1
    box = {"bbox": [20, 10, 40, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    # by columns: 20 empty ones, then 20 rows from row 10 on in each of 20 columns
    counts = [20 * HEIGHT + 10, *([20, 20] * 20)[:-1], 10 + 20 * HEIGHT]
    forms = {
        "compressed": pycocotools.mask.encode(np.asfortranarray(mask)),
        "uncompressed": {"size": [HEIGHT, WIDTH], "counts": counts},
        "polygon": [[20, 10, 39, 10, 39, 29, 20, 29]],
    }
    for name, segmentation in forms.items():
        result = mask_of({**box, "segmentation": segmentation}, HEIGHT, WIDTH)
        np.testing.assert_array_equal(result, mask, err_msg=name)
    # the corners of a box count as pixels of it
    assert np.abs(mask_of(box, HEIGHT, WIDTH).astype(int) - mask).sum() < 50


def test_groups_are_hatched(image, metadata):
    annotation = {
        "bbox": [20, 10, 40, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0,
        "segmentation": [[20, 10, 39, 10, 39, 29, 20, 29]],
    }  # fmt: skip
    whole = draw_annotations(image, {"annotations": [annotation]}, metadata)
    group = draw_annotations(image, {"annotations": [{**annotation, "iscrowd": 1}]}, metadata)
    inside = np.s_[22:28, 22:38]
    assert (whole[inside] != image[inside]).any(axis=2).all()
    share = (group[inside] != image[inside]).any(axis=2).mean()
    assert 0.2 < share < 0.6


def test_labels_are_coloured_and_what_has_no_class_is_darkened(image, metadata):
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    labels[:, 20:40], labels[:, 40:] = 1, 255
    drawn = draw_labels(image, labels, metadata)
    np.testing.assert_array_equal(drawn[5, 5], (116, 71, 116))  # 0.3 * 90 + 0.7 * (128, 64, 128)
    np.testing.assert_array_equal(drawn[5, 30], (126, 27, 27))  # BGR of (0, 0, 142)
    np.testing.assert_array_equal(drawn[5, 50], (27, 27, 27))


def test_a_difference_tints_what_one_model_alone_finds(image, metadata):
    shapes = shapes_of(found("unpasted"), metadata)
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[35:] = True

    def tint(**given):
        return draw_difference(image, **given).astype(int)

    plain = tint()
    assert (plain[..., 0] == plain[..., 2]).all()  # grey
    first, second = tint(first=shapes)[27, 37], tint(second=shapes)[27, 37]
    assert first[2] > first[0]
    assert FIRST_COLOR[0] > FIRST_COLOR[2]
    assert second[0] > second[2]
    assert SECOND_COLOR[2] > SECOND_COLOR[0]
    both = tint(both=shapes)
    np.testing.assert_array_equal(both[12:28, 22:38], plain[12:28, 22:38])
    assert (both[20, 20] > plain[20, 20]).all()
    changed = (tint(pixels=pixels) != plain).any(axis=2)
    assert changed[35:].all()
    assert not changed[:35].any()


def test_a_sheet_holds_tiles_of_any_size_in_rows(image):
    tall = cv2.resize(image, (WIDTH, 2 * HEIGHT))
    whole = sheet([image, tall, image], 2)
    assert whole.shape == (6 + 2 * HEIGHT + 6 + HEIGHT + 6, 6 + 2 * (WIDTH + 6), 3)
    assert (whole[6 : 6 + HEIGHT, 6 : 6 + WIDTH] == 90).all()
    assert (whole[6 : 6 + 2 * HEIGHT, 12 + WIDTH : 12 + 2 * WIDTH] == 90).all()
    assert (whole[6 + HEIGHT : 12 + 2 * HEIGHT, 6 : 6 + WIDTH] == 255).all()
    titled = sheet([image, image], 2, ["left", "right"])
    assert titled.shape[0] == 34 + HEIGHT + 6
    assert (titled[:34] < 255).any()
