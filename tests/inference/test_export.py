"""Models as files: every format gives what the model gives, at sizes it was not exported with."""

import builtins
import itertools

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from inference_models import images, rcnn_cfg
from torch import nn

from benchmarks.calibrated_weights import calibrated_random_weights
from deepfuse_d2.errors import ConfigError, WeightsError
from deepfuse_d2.inference import optimize_for_inference
from deepfuse_d2.inference.export.formats import FORMATS, difference, export_graph, load_exported
from deepfuse_d2.inference.export.graphs import build_graph, default_part

# Sides that are no multiples of a stride, that are, and larger and smaller than the exporter's.
SIZES = ((101, 150), (128, 192), (257, 193))
PAIRS = tuple(itertools.product(("semantic", "rpn", "detector"), FORMATS))


class FourConvolutions(Backbone):
    """A bottom-up network that is exported in a moment."""

    def __init__(self, width: int = 8):
        super().__init__()
        stages = (("res2", 4), ("res3", 2), ("res4", 2), ("res5", 2))
        self.stages = nn.ModuleDict()
        self._out_features = [name for name, _ in stages]
        self._out_feature_channels = dict.fromkeys(self._out_features, width)
        self._out_feature_strides = {}
        channels, stride = 3, 1
        for name, step in stages:
            self.stages[name] = nn.Conv2d(channels, width, 3, stride=step, padding=1)
            channels, stride = width, stride * step
            self._out_feature_strides[name] = stride

    def forward(self, x):
        outputs = {}
        for name, conv in self.stages.items():
            x = torch.relu(conv(x))
            outputs[name] = x
        return outputs


@pytest.fixture(scope="module", autouse=True)
def _registered():
    def build_four_convolutions(cfg, input_shape):
        return FourConvolutions()

    BACKBONE_REGISTRY.register(build_four_convolutions)
    yield
    del BACKBONE_REGISTRY._obj_map["build_four_convolutions"]


SMALL = [
    "MODEL.BACKBONE.NAME", "build_neck_backbone",
    "MODEL.NECK.BOTTOM_UP", "build_four_convolutions",
    "MODEL.NECK.NAME", "DeepFuseFPN",
]  # fmt: skip
SEMANTIC = [
    *SMALL,
    "MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor",
    "MODEL.NECK.TOP_BLOCK", "none",
    "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8,
    "MODEL.SEM_SEG_HEAD.NORM", "",
]  # fmt: skip


def detector(*opts):
    torch.manual_seed(0)
    model = build_model(rcnn_cfg(*SMALL, *opts)).eval()
    calibrated_random_weights(model, images((128, 192), (128, 192), seed=9), candidates=150)
    return model


def segmentor(*opts):
    torch.manual_seed(0)
    return build_model(rcnn_cfg(*SEMANTIC, *opts)).eval()


def input_of(part, size, seed=0):
    image = images(size, seed=seed)[0]["image"]
    return image if part in ("detector", "panoptic") else image[None]


def check(graph, run):
    """Compare a loaded file with the graph at all sizes."""
    for size in SIZES:
        image = input_of(graph.part, size)
        with torch.no_grad():
            expected = graph(image)
        found = run(image)
        assert len(found) == len(graph.outputs)
        assert [a.dtype for a in found] == [b.dtype for b in expected]
        apart = difference(found, expected, graph.part)
        assert apart["difference"] < 1e-4
        assert apart.get("unmatched", 0) <= 0.05


# torch.export cannot take a whole R-CNN; a test below holds the message
@pytest.mark.parametrize(
    ("part", "ending"),
    [pair for pair in PAIRS if pair != ("detector", ".pt2")],
    ids=lambda value: value.removeprefix("."),
)
def test_a_written_file_gives_what_the_model_gives_at_any_size(part, ending, tmp_path):
    for name in {".onnx": ("onnx", "onnxscript", "onnxruntime")}.get(ending, ()):
        pytest.importorskip(name)
    graph = build_graph(segmentor() if part == "semantic" else detector(), part)
    file = tmp_path / f"model{ending}"
    export_graph(graph, file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    run = load_exported(file)
    check(graph, run)
    if part == "detector":
        counts = [len(run(input_of(part, size))[0]) for size in SIZES]
        assert min(counts) > 3
    else:
        pair = torch.cat([input_of(part, SIZES[1], seed) for seed in (1, 2)])
        with torch.no_grad():
            assert difference(run(pair), graph(pair), part)["difference"] < 1e-4


PANOPTIC = (
    "MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8, "MODEL.SEM_SEG_HEAD.NORM", "",
)  # fmt: skip


@pytest.mark.parametrize("ending", [".ts", ".onnx"])
def test_a_panoptic_fpn_is_written_with_both_of_its_predictions(ending, tmp_path):
    for name in {".onnx": ("onnx", "onnxruntime")}.get(ending, ()):
        pytest.importorskip(name)
    model = detector(*PANOPTIC)
    graph = build_graph(model)
    assert graph.part == default_part(model) == "panoptic"
    export_graph(graph, tmp_path / f"model{ending}")
    check(graph, load_exported(tmp_path / f"model{ending}"))
    image = input_of("panoptic", SIZES[1])
    with torch.no_grad():
        boxes, scores, _, masks, logits = graph(image)
        expected = model([{"image": image}])[0]
    assert len(boxes) == len(masks) == len(scores) > 3
    torch.testing.assert_close(logits, expected["sem_seg"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[: len(expected["instances"])], expected["instances"].scores)


def test_a_proposal_network_is_written_up_to_its_proposals():
    model = build_model(rcnn_cfg(*SMALL, "MODEL.META_ARCHITECTURE", "ProposalNetwork")).eval()
    assert build_graph(model).part == default_part(model) == "rpn"


def test_the_semantic_graph_gives_the_logits_of_the_model():
    model = segmentor()
    for size in SIZES:
        image = input_of("semantic", size)
        with torch.no_grad():
            (found,) = build_graph(model)(image)
            expected = model([{"image": image[0]}])[0]["sem_seg"]
        assert found.shape == (1, 5, *size)
        torch.testing.assert_close(found[0], expected)


def test_the_graph_of_detectron2s_own_segmentor_gives_its_logits():
    model = segmentor("MODEL.META_ARCHITECTURE", "SemanticSegmentor")
    assert default_part(model) == "semantic"
    image = input_of("semantic", SIZES[0])
    with torch.no_grad():
        (found,) = build_graph(model)(image)
        expected = model([{"image": image[0]}])[0]["sem_seg"]
    torch.testing.assert_close(found[0], expected)


def test_the_detector_graph_gives_the_instances_of_the_model_before_pasting():
    model = detector()
    image = input_of("detector", SIZES[0])
    with torch.no_grad():
        boxes, scores, classes, masks = build_graph(model)(image)
        expected = model.inference([{"image": image}], do_postprocess=False)[0]
    assert len(boxes) > 3
    assert torch.equal(boxes, expected.pred_boxes.tensor)
    assert torch.equal(scores, expected.scores)
    assert torch.equal(classes, expected.pred_classes)
    assert torch.equal(masks, expected.pred_masks)


def test_the_best_anchors_of_the_rpn_graph_are_the_models_proposals():
    model = detector()
    graph = build_graph(model, "rpn")
    image = input_of("rpn", SIZES[0])
    with torch.no_grad():
        *maps, boxes, logits = graph(image)
        batch = model.preprocess_image([{"image": image[0]}])
        features = model.backbone(batch.tensor)
        proposals = model.proposal_generator(batch, features, None)[0][0]
    assert list(graph.outputs) == [*features, "anchor_boxes", "anchor_logits"]
    for found, expected in zip(maps, features.values(), strict=True):
        assert torch.equal(found, expected)
    height, width = SIZES[0]
    limits = torch.tensor([width, height, width, height])
    cut = boxes[0].clamp(min=torch.zeros(4)).minimum(limits)
    for box, logit in zip(
        proposals.proposal_boxes.tensor, proposals.objectness_logits, strict=True
    ):
        near = (cut - box).abs().amax(dim=1) < 1e-3
        assert near.any()
        assert (logits[0][near] - logit).abs().min() < 1e-5


def test_padding_inside_of_a_graph_is_detectron2s():
    model = detector()
    image = input_of("features", (70, 33))
    batch = model.preprocess_image([{"image": image[0]}]).tensor
    assert torch.equal(build_graph(model, "features").prepared(image), batch)


def test_a_detector_without_masks_gives_boxes_alone():
    graph = build_graph(detector_without_masks())
    assert list(graph.outputs) == ["boxes", "scores", "classes"]
    with torch.no_grad():
        assert len(graph(input_of("detector", (64, 96)))) == 3


def detector_without_masks():
    return build_model(rcnn_cfg(*SMALL, "MODEL.MASK_ON", False)).eval()


# Differences --------------------------------------------------------------------------------------


def test_a_difference_is_a_fraction_of_the_largest_value_of_its_map():
    expected = (torch.tensor([0.0, 4.0]), torch.tensor([100.0]))
    found = (torch.tensor([0.0, 3.0]), torch.tensor([101.0]))
    assert difference(found, expected, "features") == {"difference": 0.25}
    other_shape = (torch.zeros(3), torch.tensor([101.0]))
    assert difference(other_shape, expected, "features") == {"difference": float("inf")}
    undefined = (torch.tensor([0.0, float("nan")]), expected[1])
    assert difference(undefined, expected, "features") == {"difference": float("inf")}


def detections(*rows):
    """Each row: x of the box, score, class."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows])
    return boxes, scores, torch.tensor([label for *_, label in rows], dtype=torch.int64)


def test_detections_are_compared_whatever_their_order():
    expected = detections((0, 0.9, 1), (50, 0.8, 2))
    assert difference(expected[:], expected, "detector") == {"difference": 0.0, "unmatched": 0.0}
    swapped = tuple(x.flip(0) for x in expected)
    assert difference(swapped, expected, "detector") == {"difference": 0.0, "unmatched": 0.0}
    apart = difference(detections((0, 0.9, 1), (50, 0.71, 2)), expected, "detector")
    assert apart == {"difference": pytest.approx(0.1), "unmatched": 0.0}


@pytest.mark.parametrize(
    ("found", "unmatched"),
    [
        (detections((0, 0.9, 1)), 0.5),
        (detections((0, 0.9, 1), (50, 0.8, 1)), 0.5),
        (detections((0, 0.9, 1), (51, 0.8, 2)), 0.5),
        (detections(), 1.0),
    ],
)
def test_detections_that_one_alone_has_are_counted(found, unmatched):
    expected = detections((0, 0.9, 1), (50, 0.8, 2))
    for a, b in ((found, expected), (expected, found)):
        assert difference(a, b, "detector") == {"difference": 0.0, "unmatched": unmatched}


# Mistakes -----------------------------------------------------------------------------------------


def test_a_whole_rcnn_is_refused_by_torch_export_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r'cannot take a whole R-CNN.* as \.ts or .*part "rpn"'):
        export_graph(build_graph(detector_without_masks()), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending_is_answered_with_those_there_are(tmp_path):
    graph = build_graph(detector_without_masks())
    with pytest.raises(ConfigError, match=r'"model\.pth" does not tell the format.*\.onnx'):
        export_graph(graph, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=r"ends in one of \['\.ts', '\.pt2', '\.onnx'\]"):
        load_exported(tmp_path / "model")
    with pytest.raises(WeightsError, match=r"model\.ts does not exist"):
        load_exported(tmp_path / "model.ts")


def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(ConfigError, match=r"package onnx, .*'deepfuse-d2\[export\]'"):
        export_graph(build_graph(detector_without_masks()), tmp_path / "model.onnx")


def test_a_part_that_a_model_lacks_is_answered_with_what_it_has():
    with pytest.raises(ConfigError, match=r'"sematic" is unknown; choose one of \[\'semantic\''):
        build_graph(segmentor(), "sematic")
    with pytest.raises(ConfigError, match=r'semantic segmentors; .*Export "detector"'):
        build_graph(detector_without_masks(), "semantic")
    with pytest.raises(ConfigError, match=r'detectron2\'s RPN; Fusion.*Export "semantic"'):
        build_graph(segmentor(), "rpn")
    with pytest.raises(ConfigError, match=r'"detector" is of R-CNNs .*Export "semantic"'):
        build_graph(segmentor(), "detector")


def test_a_model_in_another_state_is_refused():
    with pytest.raises(ConfigError, match=r"is in training, on cpu and in torch\.float32"):
        build_graph(segmentor().train())
    with pytest.raises(ConfigError, match=r"in evaluation, on cpu and in torch\.bfloat16"):
        build_graph(segmentor().bfloat16())
    with pytest.raises(ConfigError, match="went through optimize_for_inference"):
        build_graph(optimize_for_inference(detector_without_masks()))


def test_a_backbone_of_one_size_is_refused():
    model = segmentor()
    model.padding_constraints = {"square_size": 224}
    with pytest.raises(ConfigError, match="takes squares of 224 pixels only"):
        build_graph(model)


def test_a_segmentor_is_most_of_itself_and_others_are_their_backbone():
    class Dense(nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone
            self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
            self.register_buffer("pixel_std", torch.ones(3, 1, 1))

    graph = build_graph(Dense(FourConvolutions()).eval())
    assert graph.part == "features"
    assert graph.outputs["res3"] == "(N, 8, H', W'), stride 8 in the padded image"
    maps = graph(torch.rand(1, 3, 32, 64))
    shapes = [ShapeSpec(channels=x.shape[1], stride=64 // x.shape[3]) for x in maps]
    assert shapes == list(FourConvolutions().output_shape().values())
    assert torch.equal(maps[0], F.relu(maps[0]))
