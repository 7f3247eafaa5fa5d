"""Every engine predicts what the model predicts, at all sizes, and says what it cannot."""

import logging
import os
import subprocess
import sys
import threading

import pytest
import torch
from detectron2.modeling import build_model
from inference_models import busy_rcnn, images, rcnn_cfg
from torch import nn

from deepfuse_d2 import get_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.inference import Predictor, optimize_for_inference
from deepfuse_d2.inference.engines import ENGINES
from deepfuse_d2.inference.engines.eager import EagerEngine
from deepfuse_d2.inference.engines.part import PartInEngine
from deepfuse_d2.inference.engines.stored import StoredPart
from deepfuse_d2.kernels.capabilities import has_bfloat16

CPU = torch.device("cpu")
MISSING = {name: engine.why_not(CPU) for name, engine in ENGINES.items()}
# OpenVINO changes how a process and its forks take signals: its tests run in one of their own.
APART = "DEEPFUSE_TEST_OPENVINO"
# inductor takes a minute for a model: one test of its own; aot: test_compiled_ahead.py
LEFT_OUT = {"aot", "inductor"} | (set() if APART in os.environ else {"openvino"})
HERE = [name for name, reason in MISSING.items() if not reason and name not in LEFT_OUT]
BACKBONE = ("backbone", "proposal_generator.rpn_head", "roi_heads.box_head", "roi_heads.mask_head")


def assert_same_detections(found, expected):
    assert len(found) == len(expected)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert (found.pred_boxes.tensor - expected.pred_boxes.tensor).abs().max() < 1e-3
    assert (found.scores - expected.scores).abs().max() < 1e-4
    assert (found.pred_masks != expected.pred_masks).flatten(1).sum(1).max() <= 4


def parts(model):
    """Where the parts of a model are computed, by their methods."""
    found = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, PartInEngine):
                found[value.name] = value.runs_in
    return found


@pytest.fixture(scope="module")
def model():
    return busy_rcnn()


@torch.no_grad()
@pytest.mark.parametrize("name", HERE)
def test_detections_of_any_size_and_batch_are_those_of_the_model(model, name):
    fast = optimize_for_inference(model, engine=name)
    for sizes in (
        [(64, 96)],
        [(64, 96)],
        [(50, 70), (64, 33)],
        [(96, 64)],
        [(128, 160)],
        [(33, 64)],
    ):
        inputs = images(*sizes, seed=len(sizes))
        for found, expected in zip(fast(inputs), model(inputs), strict=True):
            assert_same_detections(found["instances"], expected["instances"])
    assert parts(fast) == dict.fromkeys(BACKBONE, name)


@torch.no_grad()
@pytest.mark.parametrize("name", HERE)
def test_an_image_without_detections_has_none(model, name):
    fast = optimize_for_inference(model, engine=name, score_threshold=1.0)
    assert len(fast(images((64, 96)))[0]["instances"]) == 0


@torch.no_grad()
def test_inductor_compiles_once_for_all_sizes(model):
    if MISSING["inductor"]:
        pytest.skip(MISSING["inductor"])
    fast = optimize_for_inference(model, engine="inductor")
    for size in ((64, 96), (64, 33), (96, 128), (50, 70)):
        inputs = images(size)
        assert_same_detections(fast(inputs)[0]["instances"], model(inputs)[0]["instances"])
    assert parts(fast) == dict.fromkeys(BACKBONE, "inductor")


@torch.no_grad()
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.NAME", "DeepFuseFPN",
         "MODEL.DEEPFUSE.ZERO_INIT", False),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
         "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ],
    ids=["DeepFuseFPN", "cascade"],
)  # fmt: skip
def test_variants_predict_what_they_predicted(opts, name):
    model = busy_rcnn(*opts)
    fast = optimize_for_inference(model, engine=name)
    inputs = images((64, 96), seed=2)
    assert_same_detections(fast(inputs)[0]["instances"], model(inputs)[0]["instances"])
    assert set(parts(fast).values()) == {name}


@torch.no_grad()
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    "config", ["MiniCity/sem_seg_R_18_DeepFuse_quick", "MiniCity/sem_seg_R_18_SemSegFPN_quick"]
)
def test_a_semantic_model_gives_the_labels_that_it_gave(config, name):
    model = build_model(get_config(config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])).eval()
    fast = optimize_for_inference(model, engine=name)
    for size in ((64, 96), (70, 50)):
        inputs = images(size)
        found, expected = (x(inputs)[0]["sem_seg"] for x in (fast, model))
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert set(parts(fast).values()) == {name}


@torch.no_grad()
@pytest.mark.parametrize("name", HERE)
def test_a_retina_net_is_computed_too(name):
    cfg = rcnn_cfg(
        "MODEL.META_ARCHITECTURE", "RetinaNet",
        "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
        "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
        "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    fast = optimize_for_inference(model, engine=name)
    inputs = images((64, 96))
    found, expected = (x(inputs)[0]["instances"] for x in (fast, model))
    assert len(found) == len(expected) > 10
    assert (found.scores - expected.scores).abs().max() < 1e-4
    assert parts(fast) == {"backbone": name, "head": name}


def assert_threads_get_their_own(fast, inputs, expected):
    """Each thread asks for one of the inputs several times, all at once."""
    found = {}

    def predict(i):
        for _ in range(3):
            found[i] = fast(inputs[i])[0]["instances"]

    threads = [threading.Thread(target=predict, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, instances in enumerate(expected):
        assert_same_detections(found[i], instances)


@pytest.mark.parametrize("name", HERE)
def test_threads_that_predict_at_once_get_their_own_results(model, name):
    fast = optimize_for_inference(model, engine=name)
    inputs = [images((64, 96), seed=i) for i in range(4)]
    expected = [fast(x)[0]["instances"] for x in inputs]
    assert_threads_get_their_own(fast, inputs, expected)


@pytest.mark.skipif("openvino" not in HERE, reason="loads OpenVINO: run by a test of its own")
def test_in_bfloat16_what_is_ranked_stays_float32(model):
    fast = optimize_for_inference(model, "bfloat16", engine="openvino")
    values = [value for module in fast.modules() for value in vars(module).values()]
    dtypes = {x.name: x.dtype for x in values if isinstance(x, PartInEngine)}
    wanted = torch.bfloat16 if has_bfloat16() else torch.float32
    assert dtypes.pop("proposal_generator.rpn_head") is torch.float32
    assert set(dtypes.values()) == {wanted}
    found, expected = (x(images((64, 96)))[0]["instances"] for x in (fast, model))
    assert abs(len(found) - len(expected)) <= 0.2 * len(expected)
    assert set(parts(fast).values()) == {"openvino"}


class Rounding(EagerEngine):
    """An engine with as few digits as bfloat16, and one value of thousands far off."""

    name = "rounding"
    offset = 0.0

    def compile(self, part, example, dynamic, dtype):
        def run(x):
            (found,) = part(x)
            found = found.bfloat16().float() + self.offset
            found.view(-1)[0] += 0.5 * found.abs().max()
            return (found,)

        return run


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, None), (torch.float32, torch.bfloat16)])
def test_few_digits_are_no_fault_and_another_result_is(dtypes, caplog):
    conv = nn.Conv2d(3, 32, 3).requires_grad_(False)
    x = torch.rand(1, 3, 64, 64)
    for offset, runs_in in ((0.0, "rounding"), (1.0, "native")):
        engine = Rounding()
        engine.offset = offset
        part = PartInEngine(
            "backbone", conv.forward, conv.forward, engine, dynamic=(0, 2, 3), dtype=dtypes[0],
            native_dtype=dtypes[1],
        )  # fmt: skip
        part(x)
        assert part.runs_in == runs_in


class Constant(EagerEngine):
    """An engine that is wrong for all sizes but the first."""

    name = "constant"

    def compile(self, part, example, dynamic, dtype):
        rows = example[0].shape[2]
        return lambda x: tuple(y + (x.shape[2] != rows) for y in part(x))


class Broken(EagerEngine):
    name = "broken"

    def compile(self, part, example, dynamic, dtype):
        raise RuntimeError("no such operator\nand more")


class Wrapping(EagerEngine):
    """As inductor words it: what went wrong stands in the second line."""

    name = "wrapping"

    def compile(self, part, example, dynamic, dtype):
        raise RuntimeError("backend raised:\nno such operator\nand more")


@pytest.mark.parametrize("engine", [Constant(), Broken(), Wrapping()])
def test_a_part_that_an_engine_gets_wrong_or_not_at_all_stays_out_of_it(engine, caplog):
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
    part = PartInEngine(
        "backbone", conv.forward, conv.forward, engine, dynamic=(0, 2, 3), dtype=torch.float32
    )
    with caplog.at_level(logging.WARNING):
        for rows in (8, 9, 8, 12):
            x = torch.rand(1, 3, rows, 8)
            assert torch.equal(part(x), conv(x))
    assert part.runs_in == "native"
    reason = "differs by" if engine.name == "constant" else "no such operator"
    assert reason in caplog.text
    assert "and more" not in caplog.text


class Slow(EagerEngine):
    name = "slow"

    def compile(self, part, example, dynamic, dtype):
        def run(*inputs):
            threading.Event().wait(0.2)
            return part(*inputs)

        return run


@pytest.mark.skipif(bool(MISSING["openvino"]), reason=MISSING["openvino"] or "it is here")
def test_openvino_predicts_what_the_model_predicts():
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "-k",
         "(openvino and not predicts_what_the_model) or bfloat16 or test_auto", __file__],
        env=os.environ | {APART: "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]


@pytest.mark.skipif(APART not in os.environ, reason="loads OpenVINO: run by the test above")
@torch.no_grad()
def test_auto_predicts_some_images_before_it_compiles(model):
    fast = optimize_for_inference(model, engine="auto")
    inputs = images((64, 96))
    expected = model(inputs)[0]["instances"]
    for _ in range(10):
        assert_same_detections(fast(inputs)[0]["instances"], expected)
    # whichever was faster here
    assert set(parts(fast).values()) <= {"native", "openvino"}


@pytest.mark.parametrize("fastest", [True, False])
def test_a_slower_engine_gives_way_where_the_fastest_is_asked_for(fastest):
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
    part = PartInEngine(
        "backbone", conv.forward, conv.forward, Slow(), dynamic=(0, 2, 3), dtype=torch.float32,
        fastest=fastest,
    )  # fmt: skip
    part(torch.rand(1, 3, 8, 8))
    assert part.runs_in == ("native" if fastest else "slow")


def stored_part(conv, run, least):
    """A part that was made ready before, and the sizes that its own modules computed."""
    sizes = []

    def native(x):
        sizes.append(tuple(x.shape))
        return conv(x)

    stored = StoredPart(run, least, torch.float32)
    part = PartInEngine(
        "backbone", conv.forward, native, EagerEngine(), dynamic=(0, 2, 3), dtype=torch.float32,
        stored=stored,
    )  # fmt: skip
    return part, sizes


def test_a_stored_part_computes_the_first_image_already_and_no_smaller_one():
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
    part, sizes = stored_part(conv, lambda x: (conv(x),), ((1, 3, 8, 8),))
    for size in ((1, 3, 12, 9), (2, 3, 7, 9), (1, 3, 8, 8)):
        x = torch.rand(size)
        assert torch.equal(part(x), conv(x))
    assert sizes == [(2, 3, 7, 9)]
    assert part.runs_in == "eager"


@pytest.mark.parametrize("least", [((1, 5, 8, 8),), ((1, 3, 8, 8), (1, 3, 4, 4)), ((1, 9),)])
def test_a_stored_part_of_another_model_gives_way(least, caplog):
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
    part, _ = stored_part(conv, lambda *x: (conv(x[0]),), least)
    x = torch.rand(1, 3, 12, 9)
    assert torch.equal(part(x), conv(x))
    assert part.runs_in == "native"
    assert "backbone stays out of the engine" in caplog.text


def test_a_predictor_takes_what_is_there_and_names_what_is_not(model):
    cfg = rcnn_cfg()
    predict = Predictor.from_model(model, cfg)
    image = images((64, 96))[0]["image"].permute(1, 2, 0).byte().numpy()
    assert len(predict(image)) > 10
    with pytest.raises(ConfigError, match=r'engine "tensorrt": .* choose "auto"'):
        Predictor.from_model(model, cfg, engine="tensorrt")
    with pytest.raises(ConfigError, match=r'engine "onyx" is unknown; choose one of .*openvino'):
        Predictor.from_model(model, cfg, engine="onyx")
    with pytest.raises(ConfigError, match="not both"):
        optimize_for_inference(model, compile="eager", engine="eager")
