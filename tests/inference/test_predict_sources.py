"""Anything that holds images in, predictions in order out: those of detectron2."""

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou
from inference_models import busy_rcnn, images, rcnn_cfg
from PIL import Image
from pycocotools import mask as coco

from deepfuse_d2.errors import ConfigError, ImageError, WeightsError
from deepfuse_d2.inference import Predictor, optimize_for_inference


def pixels(height, width, seed=0):
    image = images((height, width), seed=seed)[0]["image"]
    return image.permute(1, 2, 0).numpy().astype(np.uint8)


SIZES = [(64, 96), (80, 80), (64, 96), (50, 90), (64, 96), (80, 80)]


@pytest.fixture(scope="module")
def cfg():
    return rcnn_cfg()


@pytest.fixture(scope="module")
def model():
    return busy_rcnn()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    DetectionCheckpointer(model, str(folder)).save("model")
    return folder / "model.pth"


@pytest.fixture(scope="module")
def predictor(cfg, weights):
    return Predictor(cfg, weights)


@pytest.fixture(scope="module")
def stock(cfg, weights):
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(weights)
    return DefaultPredictor(cfg)


@pytest.fixture(scope="module")
def frames():
    return [pixels(*size, seed=i) for i, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def expected(stock, frames):
    return [stock(frame)["instances"] for frame in frames]


def assert_same(found, expected):
    assert len(found) == len(expected) > 5
    assert found.image_size == expected.image_size
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert (found.pred_boxes.tensor - expected.pred_boxes.tensor).abs().max() < 1e-3
    assert (found.scores - expected.scores).abs().max() < 1e-4
    assert (found.pred_masks != expected.pred_masks).flatten(1).sum(1).max() <= 4


def test_one_image_gives_what_detectron2_gives(predictor, frames, expected):
    assert_same(predictor(frames[3]), expected[3])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_list_gives_results_in_order(cfg, model, frames, expected, batch_size):
    predictor = Predictor.from_model(model, cfg, dtype="float32", batch_size=batch_size)
    found = predictor(frames)
    assert isinstance(found, list)
    for one, reference in zip(found, expected, strict=True):
        assert_same(one, reference)


def test_an_iterator_a_folder_and_files_give_the_same(predictor, frames, expected, tmp_path):
    for i, frame in enumerate(frames[:3]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), frame)
    stream = predictor(frame for frame in frames[:3])
    assert not isinstance(stream, list)
    folder = predictor(tmp_path)
    assert isinstance(folder, list)
    files = predictor(
        [str(tmp_path / "0.png"), tmp_path / "1.png", (tmp_path / "2.png").read_bytes()]
    )
    one = predictor(Image.fromarray(np.ascontiguousarray(frames[0][:, :, ::-1])))
    assert_same(one, expected[0])
    for results in zip(stream, folder, files, expected[:3], strict=True):
        for found in results[:3]:
            assert_same(found, results[3])


def test_a_video_gives_its_frames(predictor, tmp_path):
    path = str(tmp_path / "a.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for seed in range(3):
        writer.write(pixels(64, 96, seed))
    writer.release()
    found = list(predictor(path))
    assert [x.image_size for x in found] == [(64, 96)] * 3


def test_a_model_of_rgb_images_gets_them(model, frames):
    cfg = rcnn_cfg("INPUT.FORMAT", "RGB")
    found = Predictor.from_model(model, cfg, dtype="float32")(frames[0])
    swapped = Predictor.from_model(model, rcnn_cfg(), dtype="float32")(frames[0][:, :, ::-1])
    assert_same(found, swapped)


def test_threads_get_their_own_results(predictor, frames, expected):
    start = threading.Barrier(4)

    def work(index):
        if index < 4:
            start.wait(timeout=60)
        return predictor(frames[index % len(frames)])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    for index, one in enumerate(found):
        assert_same(one, expected[index % len(frames)])


def test_run_lengths_and_a_threshold(cfg, model, frames, expected):
    threshold = expected[0].scores.median().item() + 1e-6
    predictor = Predictor.from_model(
        model, cfg, dtype="float32", output="rle", score_threshold=threshold
    )
    found = predictor(frames[0])
    kept = expected[0][expected[0].scores > threshold]
    assert len(found) == len(kept) > 2
    for entry, mask, box in zip(found, kept.pred_masks, kept.pred_boxes, strict=True):
        assert (coco.decode(entry["segmentation"]) != mask.numpy()).sum() <= 4
        assert entry["bbox"][:2] == pytest.approx(box[:2].tolist(), abs=1e-3)
    assert len(predictor(frames[0], output="native")) == len(kept)


def test_bad_images_are_raised_or_returned_in_their_place(predictor, cfg, model, frames, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    sources = [frames[0], tmp_path / "bad.png", frames[1]]
    stream = predictor.stream(sources)
    assert len(next(stream)) > 5
    with pytest.raises(ImageError, match=r"bad\.png is empty"):
        next(stream)
    lenient = Predictor.from_model(model, cfg, errors="return", batch_size=2)
    first, second, third = lenient(sources)
    assert isinstance(second, ImageError)
    assert len(first) > 5
    assert third.image_size == frames[1].shape[:2]
    with pytest.raises(ImageError, match="A int is not an image"):
        predictor(42)
    with pytest.raises(ImageError, match="does not exist"):
        predictor("nowhere.jpg")


def test_a_tile_that_is_the_image_changes_nothing(cfg, model, frames, expected):
    predictor = Predictor.from_model(model, cfg, dtype="float32", tile=(96, 96), tile_overlap=16)
    assert_same(predictor(frames[0]), expected[0])


def test_tiles_find_what_each_of_them_finds(cfg, model):
    """An image of two equal halves, in tiles that do not overlap: everything twice."""
    half = pixels(64, 96, seed=3)
    whole = np.concatenate([half, half], axis=1)
    cfg = cfg.clone()
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    options = {"dtype": "float32", "tile": (64, 96), "tile_overlap": 0}
    predictor = Predictor.from_model(model, cfg, **options)
    one, both = predictor(half), predictor(whole)
    assert len(both) == 2 * len(one)
    assert both.image_size == (64, 192)
    in_left = both.pred_boxes.tensor[:, 2] <= 96
    left = both[in_left]
    assert len(left) == len(one)
    best, index = pairwise_iou(one.pred_boxes, left.pred_boxes).max(dim=1)
    assert best.min() > 0.999
    assert (left.pred_masks[index][:, :, :96] != one.pred_masks).flatten(1).sum(1).max() <= 4
    assert len(predictor(whole, output="rle")) == len(both)


def test_augmentation_is_detectron2s(cfg, model, frames):
    cfg = cfg.clone()
    cfg.TEST.AUG.MIN_SIZES = (64, 96)
    cfg.TEST.AUG.MAX_SIZE = 160
    from detectron2.modeling import GeneralizedRCNNWithTTA

    image = torch.from_numpy(frames[0]).permute(2, 0, 1)
    with torch.no_grad():
        expected = GeneralizedRCNNWithTTA(cfg, model)(
            [{"image": image, "height": 64, "width": 96}]
        )[0]["instances"]
    predictor = Predictor.from_model(model, cfg, dtype="float32", augment=True)
    assert_same(predictor(frames[0]), expected)
    assert len(predictor(frames[0], output="rle")) == len(expected)


@pytest.fixture(scope="module")
def semantic():
    cfg = rcnn_cfg(
        "MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor", "MODEL.SEM_SEG_HEAD.NORM", "BN",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
    )  # fmt: skip
    torch.manual_seed(0)
    return build_model(cfg).eval(), cfg


def test_a_semantic_model_gives_label_maps(semantic, frames):
    model, cfg = semantic
    labels = Predictor.from_model(model, cfg, dtype="float32")(frames[3])
    assert labels.dtype == torch.uint8
    assert labels.shape == frames[3].shape[:2]
    cfg = cfg.clone()
    cfg.DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT = "logits"
    image = DefaultPredictorOf(model, cfg)(frames[3])["sem_seg"]
    assert (labels == image.argmax(0)).float().mean() > 0.99
    found = Predictor.from_model(model, cfg, output="rle")(frames[3])
    areas = [coco.area(entry["segmentation"]) for entry in found]
    assert sum(areas) == labels.numel()
    assert model.inference.output == "logits"  # the model is as it was


class DefaultPredictorOf(DefaultPredictor):
    def __init__(self, model, cfg):
        super().__init__(cfg)
        self.model = model


@pytest.mark.parametrize("kind", ["detectron2", "ours", "semantic"])
def test_detectron2s_default_predictor_runs_every_model_also_optimised(kind, frames, tmp_path):
    opts = {
        "detectron2": (),
        "ours": ("MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.NAME", "DeepFuseFPN"),
        "semantic": ("MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor",
                     "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5),
    }[kind]  # fmt: skip
    cfg = rcnn_cfg(*opts)
    if kind == "semantic":
        torch.manual_seed(0)
        model = build_model(cfg).eval()
    else:
        model = busy_rcnn(*opts)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    predictor = DefaultPredictor(cfg)
    plain = predictor(frames[3])
    predictor.model = optimize_for_inference(predictor.model)
    fast = predictor(frames[3])
    if kind == "semantic":
        torch.testing.assert_close(fast["sem_seg"], plain["sem_seg"], rtol=1e-3, atol=1e-3)
    else:
        assert_same(fast["instances"], plain["instances"])


def test_a_semantic_model_takes_tiles_and_augmentation(semantic, frames):
    model, cfg = semantic
    plain = Predictor.from_model(model, cfg, dtype="float32")(frames[0])
    tiled = Predictor.from_model(model, cfg, tile=(64, 64), tile_overlap=32)
    assert tiled.model.inference.tile == (64, 64)
    assert tiled(frames[0]).shape == plain.shape
    augmented = Predictor.from_model(model, cfg, augment=True)
    assert augmented.model.inference.flip
    assert augmented.model.inference.scales == (0.75, 1.0, 1.25)
    assert augmented(frames[0]).shape == plain.shape


def test_wrong_settings_are_named(cfg, model, semantic):
    make = Predictor.from_model
    with pytest.raises(WeightsError, match="no weights"):
        Predictor(cfg)
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        Predictor(cfg, "nowhere.pth")
    with pytest.raises(ConfigError, match=r'output="masks" is unknown.*native'):
        make(model, cfg, output="masks")
    with pytest.raises(ConfigError, match="tile or augment, not both"):
        make(model, cfg, tile=(64, 64), tile_overlap=8, augment=True)
    with pytest.raises(ConfigError, match=r"smaller than both sides of tile, \(64, 64\)"):
        make(model, cfg, tile=(64, 64), tile_overlap=64)
    with pytest.raises(ConfigError, match=r"batch_size=0\): give a whole number"):
        make(model, cfg, batch_size=0)
    with pytest.raises(ConfigError, match="needs optimize=True"):
        make(model, cfg, optimize=False, score_threshold=0.5)
    with pytest.raises(ConfigError, match="Labels have no scores"):
        make(*semantic, score_threshold=0.5)
    plain = rcnn_cfg("MODEL.META_ARCHITECTURE", "SemanticSegmentor")
    with pytest.raises(ConfigError, match="FusionSemanticSegmentor"):
        make(build_model(plain), plain, tile=(64, 64), tile_overlap=8)
