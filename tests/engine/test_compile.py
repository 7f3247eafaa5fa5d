"""Compiled parts: names and numbers stay, and other sizes do not compile anew."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from torch._dynamo.testing import CompileCounter

from deepfuse_d2.engine import load_config
from deepfuse_d2.engine.speed import compile as compiling
from deepfuse_d2.engine.speed.compile import compile_by_config, compile_parts
from deepfuse_d2.kernels.capabilities import why_not_compile


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def mask_rcnn(repository, tiny_opts):
    config = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    return build_model(load_config(config, tiny_opts)).train()


def test_backbone_and_heads_compile_once_for_all_sizes(mask_rcnn):
    names = list(mask_rcnn.state_dict())
    images = [torch.randn(n, 3, h, w) for n, h, w in ((2, 64, 128), (2, 96, 64), (3, 128, 160))]
    expected = [mask_rcnn.backbone(image)["p3"].detach() for image in images]
    counter = CompileCounter()
    parts = compile_parts(mask_rcnn, "cpu", backend=counter)
    assert list(parts) == ["backbone", "proposal_generator.rpn_head"]
    assert list(mask_rcnn.state_dict()) == names
    found, graphs = [], []
    for image in images:
        features = mask_rcnn.backbone(image)
        mask_rcnn.proposal_generator.rpn_head([features[name] for name in ("p2", "p3", "p4")])
        found.append(features["p3"].detach())
        graphs.append(counter.frame_count)
    assert graphs[0] > 0
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7):
        assert graphs == [graphs[0]] * 3
    else:
        # an odd number of cells is another graph there; so are a few, however many sizes there are
        assert graphs[-1] <= graphs[0] + 3
    torch.testing.assert_close(found, expected)


def test_without_a_compiler_training_goes_on_after_one_warning(mask_rcnn, monkeypatch, caplog):
    monkeypatch.setattr(compiling, "why_not_compile", lambda device_type: "there is no g++")
    with caplog.at_level(logging.WARNING):
        assert compile_parts(mask_rcnn, "cpu") == {}
    assert [r.getMessage() for r in caplog.records] == [
        "MODEL.COMPILE.ENABLED has no effect: there is no g++. Training goes on without."
    ]
    assert mask_rcnn.backbone._compiled_call_impl is None


def test_what_a_machine_lacks_is_said_by_the_one_who_looks_for_it(monkeypatch):
    def find():
        raise RuntimeError("No working C++ compiler found\nin 7 places")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", find)
    reason = why_not_compile("cpu")
    assert reason == "RuntimeError: No working C++ compiler found"


def test_the_config_switches_it_on(repository, tiny_opts):
    config = str(repository / "configs/MiniCity/sem_seg_R_18_SemSegFPN_quick.yaml")
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    cfg = load_config(config, opts)
    assert compile_by_config(cfg, build_model(cfg)).backbone._compiled_call_impl is None
    cfg = load_config(
        config, [*opts, "MODEL.COMPILE.ENABLED", "True", "MODEL.COMPILE.BACKEND", "eager"]
    )
    model = compile_by_config(cfg, build_model(cfg))
    assert model.backbone._compiled_call_impl is not None
    assert model.sem_seg_head._compiled_call_impl is not None
