"""Composites in an application: folded and fused, exported, counted, learning by layer."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from inference_models import images, rcnn_cfg
from torch._dynamo.testing import CompileCounter

from benchmarks.calibrated_weights import calibrated_random_weights
from deepfuse_d2.analysis import analyze
from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.engine.solver.optimizer import build_optimizer
from deepfuse_d2.engine.speed.compile import compile_parts
from deepfuse_d2.engine.speed.stage_checkpointing import CheckpointedStage
from deepfuse_d2.inference import optimize_for_inference
from deepfuse_d2.inference.export.formats import difference, export_graph, load_exported
from deepfuse_d2.inference.export.graphs import build_graph

COMPOSITE = (
    "MODEL.NECK.BOTTOM_UP", "build_composite_backbone",
    "MODEL.COMPOSITE.BOTTOM_UP", "build_resnet_backbone", "MODEL.COMPOSITE.ZERO_INIT", False,
)  # fmt: skip


@pytest.fixture
def config(repository, tiny_opts):
    path = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    return lambda *opts: load_config(path, [*tiny_opts, *COMPOSITE, *opts])


def test_an_optimised_composite_predicts_the_same_in_one_kind_of_convolution(config):
    torch.manual_seed(0)
    model = build_model(config()).eval()
    for network in (m.conv for m in model.modules() if hasattr(m, "resize")):
        torch.nn.init.uniform_(network.norm.weight, 0.5, 1.0)
    fast = optimize_for_inference(model)
    assert not [m for m in fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for name, feature in model.backbone(image).items():
            torch.testing.assert_close(fast.backbone(image)[name], feature, rtol=1e-3, atol=1e-3)


def test_supervision_leaves_the_optimised_model_as_it_is(config):
    torch.manual_seed(0)
    cfg = config("MODEL.COMPOSITE.ASSISTANT_WEIGHTS", "[0.5]")
    trained = Trainer.build_model(cfg)
    plain = build_model(cfg)
    plain.load_state_dict(trained.state_dict())
    kinds = [
        [type(m).__name__ for m in optimize_for_inference(model.eval()).modules()]
        for model in (trained, plain)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("weights", ["[]", "[0.5]"])
def test_checkpointed_stages_change_neither_losses_nor_gradients(config, weights):
    stages = ("DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", "['res2', 'res3', 'res5']")
    supervision = ("MODEL.COMPOSITE.ASSISTANT_WEIGHTS", weights)
    plain = Trainer.build_model(config(*supervision)).train()
    saving = Trainer.build_model(config(*supervision, *stages)).train()
    assert sum(isinstance(m, CheckpointedStage) for m in saving.modules()) == 6
    saving.load_state_dict(copy.deepcopy(plain.state_dict()))
    image, losses = torch.randn(2, 3, 64, 64), []
    for model in (plain, saving):
        with EventStorage():
            features = model.backbone(image)
        assert any("assistant" in name for name in features) == (weights != "[]")
        loss = sum(f.square().mean() for f in features.values())
        loss.backward()
        losses.append(loss)
    assert torch.equal(losses[0], losses[1])
    gradients = {n: p.grad for n, p in saving.backbone.named_parameters()}
    for name, parameter in plain.backbone.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_networks_learn_by_their_depth_and_connections_like_the_neck(config):
    keys = ("DEEPFUSE_D2.SOLVER.LAYER_DECAY", 0.5, "DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", 0.1)
    cfg = config(*keys, "SOLVER.BASE_LR", 1.0)
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {n: rates[id(p)] for n, p in model.named_parameters() if n.endswith("weight")}
    prefix = "backbone.bottom_up."
    for number in (0, 1):
        last = found[f"{prefix}backbones.{number}.res5.0.conv1.weight"]
        assert last == pytest.approx(0.05)
        third = found[f"{prefix}backbones.{number}.res3.0.conv1.weight"]
        assert third == pytest.approx(0.1 * 0.5**3)
    assert found[f"{prefix}backbones.0.stem.conv1.weight"] == pytest.approx(0.1 * 0.5**5)
    assert found[f"{prefix}connections.1.res3.res5.conv.weight"] == 1.0
    assert found["backbone.fpn_lateral2.weight"] == 1.0


def test_a_composite_is_counted_as_the_bottom_up_network(config):
    model = build_model(config())
    parts = analyze(model, (128, 256)).parts
    bottom_up = sum(p.numel() for p in model.backbone.bottom_up.parameters())
    assert parts["bottom-up"].parameters == bottom_up
    assert parts["bottom-up"].multiply_adds > 0
    assert parts["neck"].parameters > 0


@pytest.fixture
def forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("forget_compiled_code")
def test_a_compiled_composite_gives_assistants_too_and_compiles_once_for_all_sizes(config):
    model = Trainer.build_model(config("MODEL.COMPOSITE.ASSISTANT_WEIGHTS", "[0.5]")).train()
    sizes = ((2, 64, 128), (2, 96, 64), (3, 128, 160))
    inputs = [torch.randn(n, 3, height, width) for n, height, width in sizes]
    # all norms of this model are live, and of a batch alone
    expected = [model.backbone(image) for image in inputs]
    counter = CompileCounter()
    assert "backbone" in compile_parts(model, "cpu", backend=counter)
    counts = []
    for image, features in zip(inputs, expected, strict=True):
        found = model.backbone(image)
        assert any("assistant1" in name for name in found)
        torch.testing.assert_close(dict(found), dict(features))
        counts.append(counter.frame_count)
    assert counts[0] > 0
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7):
        assert counts == [counts[0]] * 3


@pytest.mark.parametrize(
    ("part", "ending"),
    [("detector", ".ts"), ("detector", ".onnx"), ("rpn", ".pt2")],
)
def test_a_detector_on_a_composite_is_exported_whole_without_its_assistants_losses(
    part, ending, tmp_path
):
    for name in {".onnx": ("onnx", "onnxscript", "onnxruntime")}.get(ending, ()):
        pytest.importorskip(name)
    torch.manual_seed(0)
    neck = ("MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.NAME", "FPN")
    # few layers, so that rounding stays small
    small = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
    supervised = ("MODEL.COMPOSITE.ASSISTANT_WEIGHTS", [0.5])
    model = Trainer.build_model(rcnn_cfg(*neck, *COMPOSITE, *small, *supervised)).eval()
    calibrated_random_weights(model, images((128, 192), (128, 192), seed=9), candidates=150)
    graph = build_graph(model, part)
    file = tmp_path / f"model{ending}"
    export_graph(graph, file)
    run = load_exported(file)
    # multiples of no stride, and other sizes than the file was written with
    for size in ((101, 150), (257, 193)):
        image = images(size)[0]["image"]
        image = image if part == "detector" else image[None]
        with torch.no_grad():
            expected = graph(image)
        apart = difference(run(image), expected, part)
        assert apart["difference"] < 1e-4
        assert apart.get("unmatched", 0) <= 0.05
        assert part != "detector" or len(expected[0]) > 3
