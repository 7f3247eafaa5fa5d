"""One reader of images: a file means the same in training, evaluation, check and Predictor."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from deepfuse_d2.data.images import read_as, read_image, upright_size
from deepfuse_d2.data.label_images import read_labels
from deepfuse_d2.data.mappers.image_reading import read_transformed
from deepfuse_d2.data.mappers.record_mapper import RecordMapper
from deepfuse_d2.errors import ConfigError, DatasetError, ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
GREY = PIXELS[:, :, 0]


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return str(path)


def files(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "grey, 16 bits": save(folder / "a.png", GREY.astype(np.uint16) * 257),
        "grey, 16 bits, TIFF": save(folder / "a.tif", GREY.astype(np.uint16) * 257),
        "grey, 32 bits": save(folder / "b.tif", GREY.astype(np.int32) * 257),
        "floats from 0 to 1": save(folder / "c.tif", GREY.astype(np.float32) / 255),
        "colour": save(folder / "d.png", PIXELS),
        "turned JPEG": save(folder / "e.jpg", PIXELS, exif=exif.tobytes()),
        "JPEG": save(folder / "f.jpg", PIXELS),
        "transparent": save(folder / "g.png", np.dstack([PIXELS, GREY])),
    }


KINDS = ["grey, 16 bits", "grey, 16 bits, TIFF", "grey, 32 bits", "floats from 0 to 1", "colour",
         "turned JPEG", "JPEG", "transparent"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transforms", [[], [T.HFlipTransform(60)]])
def test_training_and_predictor_see_the_same_pixels(tmp_path, kind, transforms):
    path = files(tmp_path)[kind]
    seen = read_image(path)
    if transforms and kind == "turned JPEG":
        transforms = [T.HFlipTransform(40)]
    expected = T.TransformList(transforms).apply_image(seen)
    for image_format in ("BGR", "RGB"):
        fast = read_transformed(path, image_format, lambda height, width: transforms)
        order = slice(None, None, -1) if image_format == "RGB" else slice(None)
        assert np.array_equal(fast.numpy().transpose(1, 2, 0), expected[:, :, order])
    mapper = RecordMapper(True, augmentations=[], image_format="BGR")
    sample = mapper({"file_name": path, "height": seen.shape[0], "width": seen.shape[1]})
    assert torch.equal(sample["image"], torch.from_numpy(seen.transpose(2, 0, 1).copy()))
    if kind.startswith(("grey", "floats")):
        assert np.array_equal(seen, np.dstack([GREY] * 3))


def test_every_colour_format_is_that_of_detectron2(tmp_path):
    from detectron2.data.detection_utils import read_image as stock

    path = files(tmp_path)["colour"]
    for image_format in ("BGR", "RGB", "L", "YUV-BT.601", "YCbCr", "RGBA"):
        np.testing.assert_array_equal(
            read_as(path, image_format), stock(path, image_format), err_msg=image_format
        )
    with pytest.raises(ConfigError, match=r'INPUT\.FORMAT = "GBR" is no colour format; choose'):
        read_as(path, "GBR")


def test_alpha_is_kept_where_the_format_has_it(tmp_path):
    path = files(tmp_path)["transparent"]
    assert np.array_equal(read_as(path, "RGBA"), np.dstack([PIXELS, GREY]))


def test_sizes_and_labels_are_upright(tmp_path):
    found = files(tmp_path)
    assert upright_size(found["turned JPEG"]) == (60, 40)
    assert upright_size(found["JPEG"]) == (40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "labels.png", GREY, exif=exif)
    assert np.array_equal(read_labels(path), np.rot90(GREY, -1))


def test_floats_beyond_one_have_no_known_range(tmp_path):
    path = save(tmp_path / "x.tif", PIXELS[:, :, 0].astype(np.float32))
    with pytest.raises(ImageError, match="floating-point numbers from 0 to 255"):
        read_transformed(path, "BGR", lambda height, width: [])
    with pytest.raises(ImageError, match="floating-point numbers from 0 to 255"):
        read_image(path)


def test_a_cut_file_is_named(tmp_path):
    path = files(tmp_path)["JPEG"]
    with open(path, "rb+") as file:
        file.truncate(700)
    with pytest.raises(ImageError, match=r"f\.jpg is damaged"):
        read_as(path, "RGB")
    with pytest.raises(DatasetError, match="the end of the file is missing"):
        upright_size(path)
