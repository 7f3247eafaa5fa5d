"""Whole models on SpineNet without a neck, and under one; how an application takes them along."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from test_meta_architectures import (
    CASCADE,
    MASK_RCNN,
    MASK_RCNN_LOSSES,
    PANOPTIC,
    RETINANET,
    RPN_LOSSES,
    batch,
    check_instances,
)

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.analysis import analyze
from deepfuse_d2.engine.solver.optimizer import build_optimizer
from deepfuse_d2.engine.speed.compile import compile_parts
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.inference.export.formats import difference, export_graph, load_exported
from deepfuse_d2.inference.export.graphs import build_graph
from deepfuse_d2.inference.optimize import optimize_for_inference
from deepfuse_d2.modeling.backbone.protocol import stages_of
from deepfuse_d2.modeling.neck import NECK_REGISTRY

FEATURES = ["p3", "p4", "p5", "p6", "p7"]
SMALL = (
    "MODEL.BACKBONE.NAME", "build_spinenet_backbone",
    "MODEL.BACKBONE.FREEZE_AT", 0,
    "MODEL.SPINENET.NAME", "m0",
    "MODEL.SPINENET.ENDPOINT_CHANNELS", 32,
)  # fmt: skip
RCNN_ON_P3 = ("MODEL.RPN.IN_FEATURES", FEATURES, "MODEL.ROI_HEADS.IN_FEATURES", FEATURES[:4])
MODELS = {
    "Faster R-CNN": (*MASK_RCNN, *RCNN_ON_P3, "MODEL.MASK_ON", False),
    "Mask R-CNN": (*MASK_RCNN, *RCNN_ON_P3),
    "Cascade Mask R-CNN": (*CASCADE, *RCNN_ON_P3),
    "RetinaNet": RETINANET,
    "FCOS": (*RETINANET, "MODEL.META_ARCHITECTURE", "FCOS"),
    "Panoptic FPN": (
        *PANOPTIC, *RCNN_ON_P3, "MODEL.SEM_SEG_HEAD.IN_FEATURES", FEATURES[:3],
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8,
    ),
    "FusionSemanticSegmentor": (
        "MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor",
        "MODEL.SEM_SEG_HEAD.NAME", "DeepFuseSemSegHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", FEATURES,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    ),
}  # fmt: skip
LOSSES = {
    "Faster R-CNN": MASK_RCNN_LOSSES - {"loss_mask"},
    "Mask R-CNN": MASK_RCNN_LOSSES,
    "Cascade Mask R-CNN": RPN_LOSSES
    | {"loss_mask"}
    | {f"loss_{kind}_stage{i}" for kind in ("cls", "box_reg") for i in range(3)},
    "RetinaNet": {"loss_cls", "loss_box_reg"},
    "FCOS": {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"},
    "Panoptic FPN": MASK_RCNN_LOSSES | {"loss_sem_seg"},
    "FusionSemanticSegmentor": {"loss_sem_seg"},
}


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([*SMALL, *overrides])
    return cfg


@pytest.mark.parametrize("kind", MODELS)
def test_every_meta_architecture_trains_and_predicts_on_it_without_a_neck(kind):
    model = build_model(config(*MODELS[kind]))
    assert type(model.backbone).__name__ == "SpineNet"
    with EventStorage():
        losses = model.train()(batch())
    assert set(losses) == LOSSES[kind]
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    missing = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    # what a head does not read has no part in the loss
    assert all(n.startswith("endpoints.") or "block" in n for n in missing)
    if kind != "Panoptic FPN":
        assert not missing
    with torch.no_grad():
        results = model.eval()(batch())
    for result, size in zip(results, ((128, 192), (114, 166)), strict=True):
        if "sem_seg" in result:
            assert result["sem_seg"].shape == (4, *size)
        if "instances" in result and kind != "FCOS":
            check_instances(result, masks=kind not in ("Faster R-CNN", "RetinaNet"))


def test_a_batch_is_padded_to_what_the_network_divides_by_or_to_a_square():
    backbone = build_backbone(config(), ShapeSpec(channels=3))
    images = [torch.zeros(3, 100, 60), torch.zeros(3, 90, 130)]
    padded = ImageList.from_tensors(
        images, backbone.size_divisibility, padding_constraints=backbone.padding_constraints
    )
    assert padded.tensor.shape == (2, 3, 128, 256)
    square = build_backbone(
        config(
            "MODEL.SPINENET.SQUARE_SIZE", 384, "INPUT.MAX_SIZE_TEST", 384, "INPUT.MAX_SIZE_TRAIN",
            384,
        ),
        ShapeSpec(channels=3),
    )  # fmt: skip
    padded = ImageList.from_tensors(
        images, square.size_divisibility, padding_constraints=square.padding_constraints
    )
    assert padded.tensor.shape == (2, 3, 384, 384)


@pytest.mark.parametrize("neck", sorted(name for name, _ in NECK_REGISTRY))
def test_a_neck_on_it_pads_as_it_asks_and_gives_its_levels(neck):
    # a cell of NAS-FPN takes five levels, others what there is
    levels = ["p3", "p4", "p5", "p6", "p7"] if neck == "NASFPN" else ["p3", "p4", "p5"]
    cfg = config(
        "MODEL.BACKBONE.NAME", "build_neck_backbone",
        "MODEL.NECK.BOTTOM_UP", "build_spinenet_backbone",
        "MODEL.NECK.NAME", neck,
        "MODEL.NECK.IN_FEATURES", levels,
        "MODEL.NECK.TOP_BLOCK", "none",
        "MODEL.NECK.OUT_CHANNELS", 32,
    )  # fmt: skip
    backbone = build_backbone(cfg, ShapeSpec(channels=3)).train()
    # a neck may end at stride 32, but the network below goes down to 128
    assert backbone.size_divisibility == 128
    assert backbone.padding_constraints["size_divisibility"] == 128
    outputs = backbone(torch.randn(2, 3, 128, 256))
    assert list(outputs) == levels
    assert outputs["p3"].shape == (2, 32, 16, 32)


def test_a_pooled_level_on_a_feature_of_the_same_name_is_refused():
    cfg = config(
        "MODEL.BACKBONE.NAME", "build_neck_backbone",
        "MODEL.NECK.BOTTOM_UP", "build_spinenet_backbone",
        "MODEL.NECK.IN_FEATURES", ["p3", "p4", "p5"],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r'TOP_BLOCK = "maxpool" takes p5 of the neck.*"p6p7"'):
        build_backbone(cfg, ShapeSpec(channels=3))


def test_an_optimised_model_gives_what_the_model_gives():
    model = build_model(config(*MODELS["RetinaNet"], "MODEL.SPINENET.NORM", "SyncBN")).eval()
    image = torch.rand(1, 3, 128, 256)
    with torch.no_grad():
        expected = model.backbone(image)
    fast = optimize_for_inference(copy.deepcopy(model))
    norms = [m for m in fast.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    # those behind space to depth follow no convolution
    assert len(norms) == sum(1 for name, _ in fast.named_modules() if name.endswith("s.0.norm")) + (
        sum(1 for name, _ in fast.named_modules() if name.endswith("s.1.norm"))
    )
    with torch.no_grad():
        found = fast.backbone(image)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_rates_by_layer_fall_from_the_last_block_to_the_stem():
    model = build_model(
        config(*MODELS["RetinaNet"], "DEEPFUSE_D2.SOLVER.LAYER_DECAY", 0.5, "SOLVER.BASE_LR", 1.0)
    )
    optimizer = build_optimizer(
        config(*MODELS["RetinaNet"], "DEEPFUSE_D2.SOLVER.LAYER_DECAY", 0.5, "SOLVER.BASE_LR", 1.0),
        model,
    )
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    stages = stages_of(model.backbone)
    assert [stage.name for stage in stages[:3]] == ["stem", "block0", "block1"]
    rates = [rate[id(next(stage.parameters()))] for stage in stages]
    assert rates == [0.5 ** (len(stages) - i) for i in range(len(stages))]
    assert {id(p) for stage in stages for p in stage.parameters()} == {
        id(p) for p in model.backbone.parameters()
    }


def test_analysis_counts_it_as_the_bottom_up_network_and_leaves_nothing_uncounted():
    model = build_model(config(*MODELS["Mask R-CNN"]))
    result = analyze(model, (100, 200))
    assert result.size == (128, 256)
    assert not result.unsupported
    parameters = sum(p.numel() for p in model.backbone.parameters())
    assert result.parts["bottom-up"].parameters == parameters
    assert "neck" not in result.parts


# A network of three blocks, for what takes minutes with all of them.
SHORT = (
    "MODEL.SPINENET.NAME", "SpineNet-49S", "MODEL.SPINENET.BLOCKS", [
        {"LEVEL": 4, "KIND": "residual", "INPUTS": [0, 1], "WIDTH": 8},
        {"LEVEL": 3, "KIND": "bottleneck", "INPUTS": [1, 2], "WIDTH": 4, "OUTPUT": True},
        {"LEVEL": 5, "KIND": "mbconv", "INPUTS": [2, 3], "WIDTH": 8, "OUTPUT": True},
    ],
    "MODEL.SPINENET.OUT_FEATURES", ["p3", "p5"], "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p3", "p5"],
)  # fmt: skip


def test_compiled_it_gives_the_same_for_other_sizes_too():
    model = build_model(config(*MODELS["FusionSemanticSegmentor"], *SHORT)).eval()
    images = [torch.rand(1, 3, 128, 256), torch.rand(2, 3, 256, 128)]
    with torch.no_grad():
        expected = [model.backbone(image) for image in images]
        compile_parts(model, "cpu", backend="eager")
        found = [model.backbone(image) for image in images]
    for before, after in zip(expected, found, strict=True):
        for name in before:
            torch.testing.assert_close(after[name], before[name])


def test_a_written_file_gives_what_the_model_gives_and_pads_as_it_does(tmp_path):
    model = build_model(config(*MODELS["FusionSemanticSegmentor"], *SHORT)).eval()
    graph = build_graph(model)
    assert graph.divisor == 32
    for ending in (".ts", ".pt2"):
        file = tmp_path / f"model{ending}"
        export_graph(graph, file)
        run = load_exported(file)
        for size in ((101, 150), (128, 192)):
            image = 255 * torch.rand(1, 3, *size)
            with torch.no_grad():
                expected = graph(image)
            assert difference(run(image), expected, "semantic")["difference"] < 1e-4
