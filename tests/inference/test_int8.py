"""Dense parts in 8-bit integers: packed with what they cost, refused where that is too much."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from detectron2.modeling import build_model
from inference_models import busy_rcnn, images
from test_engines import parts

from deepfuse_d2 import get_config
from deepfuse_d2.checkpoint.model_folder import open_folder
from deepfuse_d2.errors import ConfigError, DamagedWeightsError, UserError
from deepfuse_d2.inference import Predictor, int8, optimize_for_inference
from deepfuse_d2.inference.int8 import Costs, Quantization, quantize
from deepfuse_d2.inference.packing import Calibration, pack

# OpenVINO changes how a process and its forks take signals: these tests run in one of their own.
APART = "DEEPFUSE_TEST_INT8"
HAS_ALL = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))
apart = pytest.mark.skipif(APART not in os.environ, reason="loads OpenVINO: run by the first test")


@pytest.mark.skipif(not HAS_ALL, reason="the packages openvino and nncf are not here")
def test_integers_are_packed_and_predict_nearly_the_same():
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-W", "ignore", "-p", "no:cacheprovider",
         "-k", "apart", __file__],
        env=os.environ | {APART: "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]


@pytest.fixture(scope="module")
def model():
    return busy_rcnn()


@pytest.fixture(scope="module")
def quantized(model, tmp_path_factory):
    """A folder, the names of its files, the costs."""
    folder = tmp_path_factory.mktemp("model")
    some = [images((64, 96), seed=i)[0] for i in range(4)]
    how = Quantization(some, lambda _: {"segm": {"AP": 30.0, "AP-car": 10.0}})
    return folder, *quantize(model, folder, how)


@apart
@torch.no_grad()
def test_apart_what_is_not_ranked_is_in_integers_at_any_size(model, quantized):
    fast = optimize_for_inference(model, "int8", engine="openvino", folder=quantized[0])
    for sizes in ([(128, 160)], [(64, 96)], [(150, 170), (164, 133)], [(128, 200)]):
        inputs = images(*sizes)
        for found, expected in zip(fast(inputs), model(inputs), strict=True):
            count = len(expected["instances"])
            assert abs(len(found["instances"]) - count) <= max(2, 0.3 * count)
    assert set(parts(fast).values()) == {"openvino"}
    dtypes = {
        part.name: part.dtype
        for module in fast.modules()
        for part in vars(module).values()
        if hasattr(part, "runs_in")
    }
    assert dtypes["proposal_generator.rpn_head"] is torch.float32
    # whether its random backbone can do with integers is another matter
    assert dtypes["roi_heads.box_head"] is dtypes["roi_heads.mask_head"] is torch.int8


@apart
@torch.no_grad()
def test_apart_masks_are_near_but_not_equal(model, quantized):
    fast = optimize_for_inference(model, "int8", engine="openvino", folder=quantized[0])
    x = torch.rand(3, 16, 14, 14, generator=torch.Generator().manual_seed(0))
    expected = model.roi_heads.mask_head.layers(x)
    apart = (fast.roi_heads.mask_head.layers(x) - expected).abs().max() / expected.abs().max()
    assert 1e-4 < apart < 0.3


@apart
def test_apart_what_integers_get_wrong_is_left_out(model, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(int8.TOLERANCE, torch.int8, 0.0)
    how = Quantization([images((64, 96))[0]], lambda _: {})
    with pytest.raises(UserError, match="No part of this GeneralizedRCNN can be brought to 8-bit"):
        quantize(model, tmp_path, how)
    assert "roi_heads.mask_head stays in float32: in integers it differs by" in caplog.text
    assert not list(tmp_path.iterdir())


@apart
def test_apart_the_costs_are_told(quantized):
    _, files, costs = quantized
    assert files[0] == "int8.json"
    assert {"int8-roi_heads.mask_head.xml", "int8-roi_heads.mask_head.bin"} < set(files)
    assert costs.figures == {"segm AP": (30.0, 30.0)}
    assert costs.loss == 0
    assert all(value > 0 for value in costs.milliseconds)
    # graphs are text, which counts with so few weights
    assert costs.megabytes[1] < 3 * costs.megabytes[0]
    assert "| segm AP | 30.00 | 30.00 | +0.00 |" in costs.table()


@apart
def test_apart_a_damaged_graph_is_named(model, quantized, tmp_path):
    copy = shutil.copytree(quantized[0], tmp_path / "copy")
    with (copy / "int8-roi_heads.mask_head.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DamagedWeightsError, match="bin is missing, or not as it was written"):
        optimize_for_inference(model, "int8", engine="openvino", folder=copy)


@apart
def test_apart_a_folder_is_packed_with_integers_or_not_at_all(tiny_opts, tmp_path):
    cfg = get_config("MiniCity/mask_rcnn_R_18_FPN_quick", tiny_opts)
    torch.manual_seed(1)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "w.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    plain = pack(cfg, tmp_path / "plain")
    files = [str(plain / "sample.png")] * 2
    scores = iter((30.0, 29.6, 30.0, 29.4))

    def evaluate(model):
        assert set(parts(model).values()) == {"openvino"}
        return {"segm": {"AP": next(scores)}}

    folder = pack(cfg, tmp_path / "m", int8=Calibration(files, evaluate))
    assert (
        "int8-roi_heads.box_head.bin"
        in json.loads((folder / "deepfuse_d2.json").read_text())["files"]
    )
    open_folder(folder)
    assert "| segm AP | 30.00 | 29.60 | -0.40 |" in (folder / "README.md").read_text()
    predictor = Predictor(folder, engine="openvino", dtype="int8")
    predictor(folder / "sample.png")
    assert parts(predictor.model)["roi_heads.box_head"] == "openvino"
    with pytest.raises(UserError, match=r"falls by 0\.60, more than the limit of 0\.5.*(.|\n)*29"):
        pack(cfg, tmp_path / "refused", int8=Calibration(files, evaluate))
    assert not list(tmp_path.glob("refused*"))
    with pytest.raises(ConfigError, match="holds no parts in 8-bit integers; deepfuse pack --int8"):
        Predictor(plain, engine="openvino", dtype="int8")


def test_integers_need_their_engine_and_a_folder(model):
    with pytest.raises(ConfigError, match=r'int8.*engine="native"'):
        optimize_for_inference(model, "int8")


def test_what_is_missing_is_named(model, tmp_path, monkeypatch):
    how = Quantization([], lambda _: {})
    monkeypatch.setattr(int8.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="cannot be calibrated: the package openvino is missing"):
        quantize(model, tmp_path, how)
    monkeypatch.setattr(
        int8.importlib.util, "find_spec", lambda name: None if name == "nncf" else 1
    )
    with pytest.raises(ConfigError, match=r"nncf is missing: pip install 'deepfuse-d2\[int8\]'"):
        quantize(model, tmp_path, how)
    monkeypatch.undo()
    if HAS_ALL:
        with pytest.raises(ConfigError, match="calibrated on images, and none were given"):
            quantize(model, tmp_path, how)


def test_the_figure_that_falls_most_decides():
    figures = {"bbox AP": (30.0, 30.5), "segm AP": (28.0, 27.2), "sem_seg mIoU": (60.0, 59.9)}
    costs = Costs(figures, (200.0, 100.0), 2.0, (40.0, 10.0))
    assert costs.loss == pytest.approx(0.8)
    assert costs.table().splitlines()[-2] == "| ms an image | 200 | 100 | 2.00 times |"


def test_figures_of_several_tasks_and_data_sets_are_told_apart():
    results = {"a": {"segm": {"AP": 3, "AP50": 6, "AP-car": 9}}, "b": {"sem_seg": {"mIoU": 50.0}}}
    assert int8._figures(results) == {"a segm AP": 3.0, "b sem_seg mIoU": 50.0}
    assert int8._figures({"segm": {"AP": float("nan")}}) == {}


def test_the_command_names_what_integers_need(deepfuse, tmp_path, capsys):
    words = ["pack", "--config-file", "MiniCity/mask_rcnn_R_18_FPN_quick", "--weights", "w.pth"]
    words += ["--output", tmp_path / "m", "--int8"]
    assert deepfuse(*words, "DATASETS.TEST", "()") == 2
    assert "--int8 evaluates on DATASETS.TEST, which names no data set" in capsys.readouterr().err
    assert deepfuse(*words, "DATASETS.TRAIN", "()") == 2
    assert "give --calibrate-on FOLDER" in capsys.readouterr().err
