"""Images of every kind become the right pixels, or an error that names them."""

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.input_trials import make_inputs
from deepfuse_d2.errors import ImageError, UserError
from deepfuse_d2.inference import read_image
from deepfuse_d2.inference.reading import find_images, video

COLOUR = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
BLUE_FIRST = np.ascontiguousarray(COLOUR[:, :, ::-1])
RED = COLOUR[:, :, 0]
GREY = np.dstack([RED] * 3)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("PNG, 8-bit colour", BLUE_FIRST),
        ("grey, 8 bits", GREY),
        ("grey, 16 bits", GREY),
        ("colour, 16 bits", COLOUR),  # written by OpenCV, blue first
        ("colour with transparency (RGBA)", BLUE_FIRST),
        ("a suffix that lies: PNG as .jpg", BLUE_FIRST),
        ("1 x 1 pixel", BLUE_FIRST[:1, :1]),
        ("64 x 1 pixels", BLUE_FIRST[:1]),
        ("PIL image", BLUE_FIRST),
        ("array, uint8, (H, W, 3)", COLOUR),  # arrays are blue first already
        ("array, uint8, (H, W)", GREY),
        ("array, uint8, (H, W, 4)", COLOUR),
        ("array, uint16", COLOUR),
        ("array, not contiguous", COLOUR[::2, ::-1]),
    ],
)
def test_the_pixels_are_right(inputs, kind, expected):
    image = read_image(inputs[kind])
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("kind", ["JPEG", "WebP", "CMYK", "palette", "bytes of a JPEG"])
def test_lossy_files_are_close(inputs, kind):
    image = read_image(inputs[kind])
    assert image.shape == COLOUR.shape
    assert np.corrcoef(image.ravel(), BLUE_FIRST.ravel())[0, 1] > 0.5


def test_exif_orientation_is_applied(inputs, tmp_path):
    image = read_image(inputs["EXIF: turned by 90 degrees"])
    assert image.shape == (64, 48, 3)
    plain = read_image(inputs["JPEG"])
    assert np.array_equal(image, np.rot90(plain, k=-1))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("0 bytes", r"empty\.jpg is empty \(0 bytes\)"),
        ("text named .jpg", r"text\.jpg is not an image.*b'this is '"),
        ("JPEG cut in half", r"half\.jpg is damaged: .*truncated"),
        ("20,000 x 20,000 pixels", r"huge\.png has .*At most 178,956,970.*max_pixels"),
        ("no such file", r"missing\.png does not exist"),
        ("floating-point TIFF", r"float\.tif holds floating-point numbers"),
        ("array, float", "float64 has no known range.*uint8"),
        ("array, 5 channels", r"shape \(8, 8, 5\) is not an image"),
        ("array, empty", r"shape \(0, 8, 3\) is not an image"),
        ("a number", "A int is not an image"),
    ],
)
def test_what_is_no_image_is_named(inputs, kind, message):
    with pytest.raises(ImageError, match=message) as caught:
        read_image(inputs[kind])
    assert isinstance(caught.value, UserError)


def test_bytes_and_pil_images_can_be_given_a_name():
    with pytest.raises(ImageError, match=r"^upload\.png is not an image"):
        read_image(b"no image", name="upload.png")
    image = Image.new("RGB", (8, 8))
    with pytest.raises(ImageError, match=r"^upload\.png has 8 x 8 pixels"):
        read_image(image, 63, name="upload.png")


def test_max_pixels_refuses_from_the_header_and_can_be_raised(tmp_path):
    Image.new("L", (40, 30), 7).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png has 40 x 30 pixels\. At most 1,000"):
        read_image(tmp_path / "a.png", max_pixels=1000)
    with pytest.raises(ImageError, match="The array has 40 x 30"):
        read_image(np.zeros((30, 40), dtype=np.uint8), max_pixels=1000)
    assert read_image(tmp_path / "a.png", max_pixels=1200).shape == (30, 40, 3)


def test_an_image_beyond_pillows_limit_is_read_if_asked_for(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="too many pixels"):
        read_image(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", max_pixels=10**9), COLOUR)


def test_a_32_bit_image_is_read_if_it_holds_16_bits(tmp_path):
    Image.fromarray(RED.astype(np.int32) * 257).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif"), GREY)
    Image.fromarray(RED.astype(np.int32) * 70000).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match=r"b\.tif holds 32-bit numbers from 0 to 17850000"):
        read_image(tmp_path / "b.tif")


def test_folders_are_searched_in_order_and_named_if_empty(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.jpeg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)]
    assert names == ["a.JPG", "b.png", "sub/c.jpeg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"no images in .*empty"):
        find_images(tmp_path / "empty")
    with pytest.raises(ImageError, match="is a folder, not an image"):
        read_image(tmp_path)


def test_a_video_that_is_none_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ImageError, match=r"a\.mp4 cannot be opened as a video"):
        next(video(tmp_path / "a.mp4"))
