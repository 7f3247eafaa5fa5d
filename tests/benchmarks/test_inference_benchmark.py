"""The commands that time, measure and compare inference, on small networks."""

import importlib
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from benchmarks.calibrated_weights import calibrated_random_weights
from deepfuse_d2.engine import load_config
from deepfuse_d2.inference import Predictor
from deepfuse_d2.inference.engines import ENGINES

CONFIG = "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"
DEEP = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"
# set in the process in which OpenVINO may be loaded
APART = "DEEPFUSE_TEST_OPENVINO"


@pytest.fixture
def tool(repository, monkeypatch):
    """Function that imports a command by name; the working directory is the repository."""
    monkeypatch.chdir(repository)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_configs_are_timed_side_by_side(tool, tiny_opts, capsys):
    words = [CONFIG, DEEP, "--size", "64", "128", "--rounds", "1", "--images", "1"]
    assert tool("inference").main([*words, *tiny_opts]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0].split("|")[1].strip() == "config"
    first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert first[0] == CONFIG
    assert first[2] == first[6] == "1.000"
    assert second[0] == DEEP
    assert float(second[6]) >= 1  # no fewer parameters
    assert int(first[7]) > 0  # random weights find something
    assert int(first[3]) > 0  # a share of the peak


def test_programs_are_compared_in_each_engine_and_peers_that_are_missing_are_named(
    tool, tiny_opts, capsys, monkeypatch
):
    candidates = tool("inference_candidates")
    monkeypatch.setattr(candidates, "CONFIGS", [CONFIG, DEEP])
    monkeypatch.setattr(candidates, "TorchvisionPredictor", lambda model, cfg: stock(cfg, model))
    stock = candidates.StockPredictor
    reason = "the package openvino is missing"
    monkeypatch.setattr(type(ENGINES["openvino"]), "why_not", lambda self, device: reason)
    words = [
        *tiny_opts, "MODEL.DEVICE", "cpu", "--size", "64", "128", "--rounds", "1", "--images", "1",
        "--engines", "native", "eager", "--peers", "openvino", "onnxruntime",
    ]  # fmt: skip
    assert tool("inference").main(words) == 0
    out = capsys.readouterr().out
    assert "GFLOP/s in float32" in out
    assert "openvino is left out: the package openvino is missing" in out
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("|")}
    assert "detectron2 in onnxruntime, float32" in rows
    assert "ours, DeepFuseFPN, float32, eager" in rows
    # the table of necks has a row for detectron2 and for ours in each engine
    for name in ("detectron2", "ours, float32", "ours, float32, eager"):
        assert float(rows[name].split("|")[-2]) > 0


@pytest.mark.skipif(find_spec("openvino") is None, reason="without OpenVINO")
def test_a_whole_model_in_openvino_finds_what_detectron2_does():
    # OpenVINO takes over signals of its process: other tests send some
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "-k",
         "in_an_engine and openvino", __file__],
        env=os.environ | {APART: "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]


@torch.no_grad()
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_whole_model_in_an_engine_finds_what_detectron2_does(tool, tiny_opts, engine):
    pytest.importorskip("onnxruntime")
    if engine == "openvino" and APART not in os.environ:
        pytest.skip("loads OpenVINO: run by the test above")
    candidates, whole_models = tool("inference_candidates"), tool("whole_models")
    cfg = candidates.load_benchmark_config(CONFIG, [*tiny_opts, "MODEL.DEVICE", "cpu"], (64, 96))
    (image,) = candidates.make_images(1, (64, 96))
    model = candidates.build(cfg, [image])
    expected = candidates.StockPredictor(cfg, model)(image)["instances"]
    peer = whole_models.whole_model(model, engine)
    assert type(peer) is type(model)  # proposals and pasting are detectron2's
    found = candidates.StockPredictor(cfg, peer)(image)["instances"]
    heads = peer.roi_heads
    for part in (
        peer.backbone.forward, peer.proposal_generator.rpn_head.forward,
        heads.box_head.forward, heads.mask_head.layers,
    ):  # fmt: skip
        assert part.runs_in == engine
    assert whole_models.parts_outside(peer) == []
    assert len(found) == len(expected) > 5
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-3
    )
    assert "forward" not in vars(model.backbone)  # the model itself is as it was
    peer.backbone.forward._give_way("it differs")
    assert whole_models.parts_outside(peer) == ["backbone"]


def test_a_single_config_is_refused(tool, capsys):
    assert tool("inference").main([CONFIG]) == 2
    assert "One config was given; give two or more" in capsys.readouterr().err


@torch.no_grad()
def test_torchvisions_network_gives_the_maps_and_proposals_of_detectron2s(tool):
    benchmark = tool("inference_candidates")
    size = (64, 96)
    cfg = benchmark.load_benchmark_config(
        benchmark.CONFIGS[0], [*benchmark.AS_TORCHVISION, "MODEL.DEVICE", "cpu"], size
    )
    (image,) = benchmark.make_images(1, size)
    model = benchmark.build(cfg, [image])
    peer = benchmark.TorchvisionPredictor(model, cfg)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    ours = model.backbone(model.preprocess_image([{"image": pixels}]).tensor)
    images, _ = peer.model.transform([pixels / 255])
    theirs = peer.model.backbone(images.tensors)
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        assert (a - b).norm() < 1e-3 * a.norm()
    logits, deltas = model.proposal_generator.rpn_head(list(ours.values()))
    found = peer.model.rpn.head(list(theirs.values()))
    for a, b in zip([*logits, *deltas], [*found[0], *found[1]], strict=True):
        assert (a - b).norm() < 2e-3 * a.norm()
    # the heads pool and round a little differently
    boxes = torch.rand(5, model.roi_heads.box_head.fc1.in_features)
    scores, _ = model.roi_heads.box_predictor(model.roi_heads.box_head.fc_relu2(
        model.roi_heads.box_head.fc2(model.roi_heads.box_head.fc1(boxes).relu())))  # fmt: skip
    heads = peer.model.roi_heads
    other, _ = heads.box_predictor(heads.box_head(boxes))
    torch.testing.assert_close(scores, other.roll(-1, dims=1), rtol=1e-3, atol=1e-3)
    assert len(peer(image)["masks"]) > 10


def test_memory_of_an_image_is_measured(tool, monkeypatch):
    benchmark = tool("inference")
    monkeypatch.setattr(benchmark, "CONFIGS", [CONFIG])
    args = benchmark.argparse.Namespace(size=(256, 512))
    overrides = ["MODEL.DEVICE", "cpu"]
    for dtype, output in ((None, "native"), ("float32", "rle")):
        found, peak = benchmark.memory_of(dtype, output, overrides, args)
        assert found > 0
        assert 0 <= peak < 2000


def test_every_kind_of_input_is_listed_with_what_it_got(tool, tiny_opts):
    tried = tool("input_trials")
    cfg = load_config(CONFIG, tiny_opts)
    predictor = Predictor.from_model(build_model(cfg), cfg, errors="return")
    text = tried.table(predictor)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    found = {row[0]: row[1] for row in rows if row[0]}
    assert found["EXIF: turned by 90 degrees"] == "a prediction of 48 x 64 pixels"
    assert found["grey, 16 bits"] == "a prediction of 64 x 48 pixels"
    assert found["0 bytes"] == "error: empty.jpg is empty (0 bytes)."
    assert found["20,000 x 20,000 pixels"].startswith("error: huge.png has ")
    assert len(found) >= 30


@pytest.fixture
def trained(tool, tiny_minicity, tiny_opts, tmp_path, monkeypatch):
    """Arguments for a model that finds something."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))
    benchmark = tool("inference")
    cfg = load_config(CONFIG, tiny_opts)
    torch.manual_seed(0)
    model = build_model(cfg)
    frames = [np.ascontiguousarray(x) for x in benchmark.make_images(2, (64, 128))]
    inputs = [{"image": torch.from_numpy(x).permute(2, 0, 1).float()} for x in frames]
    calibrated_random_weights(model, inputs)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return [
        "--config-file", CONFIG, "--weights", str(tmp_path / "weights.pth"),
        *tiny_opts, "OUTPUT_DIR", str(tmp_path),
    ]  # fmt: skip


def test_what_optimising_changes_is_reported(tool, trained, capsys):
    assert tool("inference_accuracy").main([*trained, "--dtypes", "float32"]) == 0
    out = capsys.readouterr().out
    tables = [
        [c.strip() for c in line.strip("|").split("|")] for line in out.splitlines() if "|" in line
    ]
    names = [row[0] for row in tables]
    assert names.count("as it is") == 1
    assert names.count("float32") == 2
    detections, alone, boxes, scores, masks = map(float, tables[-1][1:])
    assert detections > 10
    assert alone == 0
    assert boxes < 1e-3
    assert scores < 1e-4
    assert masks <= 4


def test_weights_are_asked_for(tool, tiny_opts, capsys):
    assert tool("inference_accuracy").main(["--config-file", CONFIG, *tiny_opts]) == 2
    assert "no weights to evaluate: give a file with --weights" in capsys.readouterr().err


def test_memory_of_many_predictions_is_measured(capsys):
    from benchmarks import prediction_memory

    assert prediction_memory.main(["--images", "10", "--allowed", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert re.fullmatch(r" +10 images: +\d+\.\d MiB", lines[9])
    assert re.match(
        r"10 images in \d+ s, \d+ instances, 0 of them damaged; from the third", lines[10]
    )
