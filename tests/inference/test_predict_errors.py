"""What a person may hand to a Predictor: taken, or refused by one clear message in its place."""

import io

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from inference_models import images, rcnn_cfg
from PIL import Image

from deepfuse_d2.errors import ConfigError, ImageError
from deepfuse_d2.inference import Predictor


def pixels(height, width, seed=0):
    image = images((height, width), seed=seed)[0]["image"]
    return image.permute(1, 2, 0).numpy().astype(np.uint8)


FRAME = pixels(64, 96)


@pytest.fixture(scope="module")
def cfg():
    return rcnn_cfg(
        "MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor", "MODEL.SEM_SEG_HEAD.NORM", "BN",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


@pytest.fixture(scope="module")
def predictor(model, cfg):
    return Predictor.from_model(model, cfg)


@pytest.fixture(scope="module")
def expected(predictor):
    return predictor(FRAME)


def test_every_form_of_an_image_gives_one_prediction(predictor, expected, tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), FRAME)
    content = path.read_bytes()
    forms = [
        path,
        str(path),
        content,
        bytearray(content),
        memoryview(content),
        io.BytesIO(content),
        Image.fromarray(np.ascontiguousarray(FRAME[:, :, ::-1])),
        {"image": FRAME},
    ]
    for form in forms:
        assert torch.equal(predictor(form), expected), type(form)
    with open(path, "rb") as file:
        assert torch.equal(predictor(file), expected)
    assert all(torch.equal(x, expected) for x in predictor([io.BytesIO(content), path]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(3, 8, 8), r"A tensor of shape \(3, 8, 8\) does not say how its colours"),
        (io.StringIO("text"), "is open as text; open it with mode"),
        ("https://example.org/a.png", "is an address; fetch it first"),
        (42, "A int is not an image"),
        ({"picture": FRAME}, r"A mapping of \['picture'\] has no \"image\""),
        (np.zeros((4, 8, 8, 3), np.uint8), r"An array of shape \(4, 8, 8, 3\) is not an image"),
        (b"", r"is empty \(0 bytes\)"),
        ("a\0b.png", r"'a\\x00b.png' is no name of a file"),
        (np.zeros((1, 5000, 3), np.uint8), "An image of 1 x 5000 is so long that INPUT.MAX_SIZE"),
    ],
)
def test_what_is_no_image_is_named_raised_or_returned(predictor, model, cfg, source, message):
    with pytest.raises(ImageError, match=message):
        predictor(source)
    lenient = Predictor.from_model(model, cfg, errors="return")
    first, second = lenient([source, FRAME])
    assert isinstance(first, ImageError)
    assert second.shape == (64, 96)


def test_whatever_goes_wrong_with_one_image_is_its_result_alone(model, cfg, expected, monkeypatch):
    """In the network and behind it; the others in its batch have their results."""
    lenient = Predictor.from_model(model, cfg, errors="return", batch_size=3)
    bad = np.full_like(FRAME, 7)
    forward = lenient.model.forward

    def failing(entries):
        if any((entry["image"] == 7).all() for entry in entries):
            raise RuntimeError("out of memory")
        return forward(entries)

    monkeypatch.setattr(lenient.model, "forward", failing)
    found = lenient([FRAME, bad, FRAME, FRAME])
    assert isinstance(found[1], RuntimeError)
    assert all(torch.equal(found[i], expected) for i in (0, 2, 3))
    monkeypatch.undo()

    def unable(*args):
        raise MemoryError("no room for masks")

    strict = Predictor.from_model(model, cfg)
    for predictor in (lenient, strict):
        monkeypatch.setattr(predictor, "_convert", unable)
    assert isinstance(lenient(FRAME), MemoryError)
    with pytest.raises(MemoryError, match="no room"):
        strict(FRAME)


def test_a_source_that_fails_itself_is_no_image_and_raised(model, cfg):
    def frames():
        yield FRAME
        raise OSError("the camera is gone")

    stream = Predictor.from_model(model, cfg, errors="return").stream(frames())
    assert next(stream).shape == (64, 96)
    with pytest.raises(OSError, match="the camera is gone"):
        next(stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": "4"}, r"batch_size='4'\): give a whole number, 1 or more"),
        ({"batch_size": True}, r"batch_size=True\): give a whole number"),
        ({"workers": 1.5}, r"workers=1\.5\): give a whole number"),
        ({"tile": 512}, r"tile=512\): give \(height, width\) in pixels, or None"),
        ({"tile": (64, 64), "tile_overlap": -1}, r"tile_overlap=-1\): give a whole number"),
        ({"score_threshold": "high"}, r"score_threshold='high'\): give a number in 0 \.\. 1"),
        ({"score_threshold": 50}, r"score_threshold=50\): give a number in 0 \.\. 1"),
        ({"optimize": "no"}, r"optimize='no'\): give True or False"),
        ({"errors": "ignore"}, r'errors=\'ignore\'\): give "raise" or "return"'),
        ({"max_pixels": 0}, r"max_pixels=0\): give a whole number"),
        ({"dtype": 32}, r'dtype=32\): give a name such as "float32"'),
        ({"output": "masks"}, 'output="masks" is unknown'),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(model, cfg, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Predictor.from_model(model, cfg, **arguments)


def test_wrong_configs_models_and_weights_are_named(model, cfg):
    with pytest.raises(ConfigError, match="given a NoneType for its config; give the name of"):
        Predictor(None)
    with pytest.raises(ConfigError, match="given a dict for its config"):
        Predictor({"MODEL": {}})
    with pytest.raises(ConfigError, match=r"give a list of KEY, VALUE"):
        Predictor(cfg, opts="MODEL.DEVICE cpu")
    with pytest.raises(ConfigError, match=r"given a OrderedDict for its weights; .*from_model"):
        Predictor(cfg, model.state_dict())
    with pytest.raises(ConfigError, match=r"give a model, a torch\.nn\.Module"):
        Predictor.from_model("model.pth", cfg)
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        Predictor.from_model(model, cfg, batchsize=2)


def test_a_config_of_detectron2_alone_will_do(model):
    from detectron2.config import get_cfg

    plain = get_cfg()
    plain.MODEL.DEVICE = "cpu"
    plain.INPUT.MIN_SIZE_TEST = 64
    assert Predictor.from_model(model, plain)(FRAME).shape == (64, 96)


def test_float32_is_the_default_as_in_optimize_for_inference(model, cfg, monkeypatch):
    from deepfuse_d2.inference.optimize import precision

    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True, raising=False)
    seen = []
    monkeypatch.setattr(
        "deepfuse_d2.inference.predictor.optimize_for_inference",
        lambda model, dtype, *args, **kwargs: seen.append(dtype) or model,
    )
    Predictor.from_model(model, cfg)
    assert seen == ["float32"]
