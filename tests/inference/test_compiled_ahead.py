"""Packages of a model folder: they predict what the model predicts, and run only when asked for."""

import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch
from detectron2.modeling import build_model
from inference_models import busy_rcnn, images
from test_engines import assert_same_detections, assert_threads_get_their_own, parts

from deepfuse_d2 import get_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.inference import optimize_for_inference
from deepfuse_d2.inference.compile_ahead import compile_ahead
from deepfuse_d2.inference.engines import aot

CPU = torch.device("cpu")
MISSING = aot.why_not_write(CPU)
# Two stages and two levels: every operation is compiled for itself.
SMALL = (
    "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3"],
    "MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.NAME", "FPN",
    "MODEL.NECK.IN_FEATURES", ["res2", "res3"], "MODEL.NECK.OUT_CHANNELS", 8,
    "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4"],
    "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64]],
    "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3"], "MODEL.ROI_MASK_HEAD.NUM_CONV", 1,
)  # fmt: skip
DENSE = {
    "backbone", "proposal_generator.rpn_head", "roi_heads.box_head", "roi_heads.mask_head",
}  # fmt: skip

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "it is here")


@pytest.fixture(scope="module")
def model():
    return busy_rcnn(*SMALL)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Packages of it, compiled with another number of threads: about a minute."""
    folder = tmp_path_factory.mktemp("model")
    aoti = torch._inductor.config.aot_inductor
    if hasattr(aoti, "compile_wrapper_opt_level"):
        aoti.compile_wrapper_opt_level = "O0"  # what calls the kernels
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert set(compile_ahead(model, folder)) == DENSE
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@torch.no_grad()
def test_detections_of_any_size_and_batch_are_those_of_the_model(model, folder):
    fast = optimize_for_inference(model, engine="aot", folder=folder)
    for sizes in (
        [(128, 196)],
        [(64, 96)],  # smaller than what the packages were compared on
        [(150, 170), (164, 133)],
        [(33, 300)],
        [(256, 160)],
        [(130, 130)] * 3,
    ):
        inputs = images(*sizes, seed=len(sizes))
        for found, expected in zip(fast(inputs), model(inputs), strict=True):
            assert_same_detections(found["instances"], expected["instances"])
    assert parts(fast) == dict.fromkeys(DENSE, "aot")


@torch.no_grad()
def test_an_image_without_detections_has_none(model, folder):
    fast = optimize_for_inference(model, engine="aot", folder=folder, score_threshold=1.0)
    assert len(fast(images((128, 160)))[0]["instances"]) == 0


def test_threads_that_predict_at_once_get_their_own_results(model, folder):
    fast = optimize_for_inference(model, engine="aot", folder=folder)
    inputs = [images((128, 160), seed=i) for i in range(4)]
    with torch.no_grad():
        expected = [model(x)[0]["instances"] for x in inputs]
    assert_threads_get_their_own(fast, inputs, expected)


@torch.no_grad()
def test_packages_of_other_weights_are_not_used(folder, caplog):
    torch.manual_seed(5)
    other = busy_rcnn(*SMALL, "MODEL.ROI_BOX_HEAD.FC_DIM", 24)
    for parameter in other.backbone.parameters():
        parameter.mul_(1.1)
    fast = optimize_for_inference(other, engine="aot", folder=folder)
    inputs = images((128, 160))
    with caplog.at_level(logging.WARNING):
        found, expected = (x(inputs)[0]["instances"] for x in (fast, other))
    assert_same_detections(found, expected)
    assert parts(fast)["backbone"] == parts(fast)["roi_heads.box_head"] == "native"
    assert "backbone stays out of the engine aot: it is of another model" in caplog.text


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"torch": "2.0.0"}, f"made for torch 2.0.0, here it is {torch.__version__}"),
        ({"device": "H200"}, "made for device H200, here it is cpu"),
        ({"instructions": ["avx1024"]}, "made for a processor with avx1024"),
        ({"kernels": "none"}, "made for kernels none, here it is"),
    ],
)
def test_packages_of_another_machine_are_not_opened(
    model, copy, facts, message, caplog, monkeypatch
):
    monkeypatch.setattr(aot, "open_package", None)  # would raise
    file = copy / "aot" / "aot.json"
    record = json.loads(file.read_text())
    record["made_for"] |= facts
    file.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        fast = optimize_for_inference(model, engine="aot", folder=copy)
    assert message in caplog.text
    assert "The model computes by itself" in caplog.text
    assert parts(fast) == {}


def test_a_changed_package_is_not_opened(model, copy, caplog, monkeypatch):
    monkeypatch.setattr(aot, "open_package", None)
    with (copy / "aot" / "backbone.pt2").open("ab") as file:
        file.write(b"x")
    with caplog.at_level(logging.WARNING):
        assert parts(optimize_for_inference(model, engine="aot", folder=copy)) == {}
    assert "backbone.pt2 is missing, or not as it was written" in caplog.text


def test_a_folder_without_packages_computes_as_usual(model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert parts(optimize_for_inference(model, engine="aot", folder=tmp_path)) == {}
    assert "there are none; deepfuse pack --aot writes them" in caplog.text


@pytest.mark.parametrize("engine", ["native", "auto", "eager"])
def test_no_other_engine_opens_a_package(model, folder, engine, monkeypatch):
    monkeypatch.setattr(aot, "read_record", None)
    monkeypatch.setattr(aot, "open_package", None)
    with torch.no_grad():
        optimize_for_inference(model, engine=engine, folder=folder)(images((64, 96)))


def test_the_engine_needs_a_folder(model):
    with pytest.raises(ConfigError, match="give a model folder that deepfuse pack --aot wrote"):
        optimize_for_inference(model, engine="aot")


def test_a_model_of_several_inputs_is_refused(tmp_path):
    cfg = get_config("MiniFields/m3fusion_deepfuse_quick", ["MODEL.DEVICE", "cpu"])
    with pytest.raises(ConfigError, match=r"an image alone are made ready before; this M3Fusion"):
        compile_ahead(build_model(cfg).eval(), tmp_path)


def test_a_part_that_cannot_be_compiled_is_left_out_by_name(model, tmp_path, caplog, monkeypatch):
    def refuse(part, example, dynamic, file):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(aot, "write_package", refuse)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ConfigError, match="No part of this GeneralizedRCNN could be compiled"),
    ):
        compile_ahead(model, tmp_path)
    assert "roi_heads.mask_head is not compiled, and stays as it is: no such op" in caplog.text


def test_a_package_that_is_wrong_at_some_size_is_left_out(model, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(aot, "write_package", lambda *_: None)
    monkeypatch.setattr(aot, "open_package", lambda file: lambda *inputs: inputs)
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError, match="No part of this"):
        compile_ahead(model, tmp_path)
    assert "roi_heads.box_head is not compiled" in caplog.text


def test_a_process_that_predicts_compiles_nothing(folder, tmp_path):
    """torch's compiler is not even imported whole: that alone takes seconds."""
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from deepfuse_d2.inference.engines.aot import load_packages\n"
        f"found = load_packages(Path({str(folder)!r}), torch.device('cpu'), torch.float32)\n"
        "assert len(found) == 4\n"
        "print('torch._inductor.compile_fx' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=os.environ | {"PATH": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
