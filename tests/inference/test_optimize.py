"""An optimised model predicts what the model predicts."""

import copy
import itertools

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from inference_models import busy_rcnn, images, rcnn_cfg
from torch import nn

from deepfuse_d2.engine.speed.fast_kernels import use_fast_kernels
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.inference import optimize_for_inference
from deepfuse_d2.inference.optimize.heads import LinearAsConvolution
from deepfuse_d2.inference.optimize.neck import InferenceFPN
from deepfuse_d2.kernels.capabilities import can_pack
from deepfuse_d2.kernels.packed_conv import InferenceConv2d
from deepfuse_d2.kernels.roi_align import RowROIAlign
from deepfuse_d2.kernels.winograd import WinogradConv2d
from deepfuse_d2.modeling.postprocessing.unpasted import UnpastedMasks


def assert_same_detections(found, expected, *, scores=1e-4):
    assert len(found) == len(expected) > 10
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert (found.pred_boxes.tensor - expected.pred_boxes.tensor).abs().max() < 1e-3
    assert (found.scores - expected.scores).abs().max() < scores
    if expected.has("pred_masks"):
        assert found.pred_masks.dtype == torch.bool
        assert found.pred_masks.shape == expected.pred_masks.shape
        assert expected.pred_masks.any()
        assert (found.pred_masks != expected.pred_masks).flatten(1).sum(1).max() <= 4


@pytest.fixture(scope="module")
def model():
    return busy_rcnn()


@pytest.fixture(scope="module")
def fast(model):
    return optimize_for_inference(model)


@torch.no_grad()
def test_detections_of_one_image_are_those_of_the_model(model, fast):
    inputs = images((64, 96))
    assert_same_detections(fast(inputs)[0]["instances"], model(inputs)[0]["instances"])


@torch.no_grad()
def test_detections_of_a_batch_of_other_sizes_are_those_of_the_model(model, fast):
    inputs = images((50, 70), (64, 33), seed=1)
    inputs[0].update(height=101, width=140)
    for found, expected in zip(fast(inputs), model(inputs), strict=True):
        assert found["instances"].image_size == expected["instances"].image_size
        assert_same_detections(found["instances"], expected["instances"])


@torch.no_grad()
@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.ROI_MASK_HEAD.NORM", "BN"),
        ("MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 32,
         "MODEL.RESNETS.STRIDE_IN_1X1", False),
        ("MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", 16),
        ("MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.NAME", "DeepFuseFPN",
         "MODEL.DEEPFUSE.NORM", "BN", "MODEL.DEEPFUSE.ZERO_INIT", False),
        ("MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.BOTTOM_UP",
         "build_res2net_backbone", "MODEL.RES2NET.DEEP_STEM", True,
         "MODEL.RES2NET.BASE_WIDTH", 16),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
         "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign",
         "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 2),
    ],
    ids=["BN", "GN", "convolution in the box head", "DeepFuseFPN", "Res2Net", "cascade", "poolers"],
)  # fmt: skip
def test_variants_predict_what_they_predicted(opts):
    model = busy_rcnn(*opts)
    inputs = images((64, 96), seed=2)
    found, expected = (x(inputs)[0]["instances"] for x in (optimize_for_inference(model), model))
    # random weights of some networks turn the rounding of floats into as much
    assert_same_detections(found, expected, scores=max(1e-4, 2 * effect_of_rounding(model, inputs)))


def effect_of_rounding(model, inputs):
    """Largest change of a score where each weight is rounded to a neighbour of its float."""
    expected, changes = model(inputs)[0]["instances"].scores, [0.0]
    for _ in range(3):
        rounded = copy.deepcopy(model)
        for weight in rounded.parameters():
            weight.mul_(1 + (torch.rand_like(weight) - 0.5) * 2**-23)
        scores = rounded(inputs)[0]["instances"].scores
        if len(scores) == len(expected):
            changes.append(float((scores - expected).abs().max()))
    return max(changes)


def test_the_model_itself_stays_as_it_is(model):
    before = copy.deepcopy(model.state_dict())
    modules = [type(m) for m in model.modules()]
    optimize_for_inference(model, "auto", score_threshold=0.5)
    assert [type(m) for m in model.modules()] == modules
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.roi_heads.box_predictor.test_score_thresh == 0.05


def test_no_batch_norm_and_no_plain_convolution_is_left(fast):
    left = [m for m in fast.modules() if isinstance(m, (FrozenBatchNorm2d, nn.BatchNorm2d, Conv2d))]
    assert not left
    assert sum(isinstance(m, InferenceConv2d) for m in fast.modules()) > 60


@torch.no_grad()
def test_bfloat16_is_as_close_as_autocast_and_keeps_what_is_ranked_in_float32(model):
    inputs = images((64, 96))
    fast = optimize_for_inference(model, torch.bfloat16)
    if fast.backbone.fpn_output2.dtype is not torch.bfloat16:
        pytest.skip("this CPU has no bfloat16")
    pixels = model.preprocess_image(inputs).tensor
    exact, found = model.backbone(pixels), fast.backbone(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        usual = model.backbone(pixels)
    for name in exact:
        assert found[name].dtype is torch.bfloat16
        error = (found[name] - exact[name]).norm()
        assert 0 < error < 1.3 * (usual[name] - exact[name]).norm()
    instances = fast(inputs)[0]["instances"]
    assert len(instances) > 10
    assert instances.pred_boxes.tensor.dtype is instances.scores.dtype is torch.float32
    # bfloat16 has 256 values between powers of two; scores have more
    assert (instances.scores != instances.scores.bfloat16()).float().mean() > 0.8
    logits = fast.proposal_generator.rpn_head([found["p2"]])[0][0]
    assert logits.dtype is torch.float32


@torch.no_grad()
def test_a_score_threshold_keeps_the_best(model, fast):
    inputs = images((64, 96))
    everything = fast(inputs)[0]["instances"]
    threshold = everything.scores[len(everything) // 2].item() - 1e-6
    fewer = optimize_for_inference(model, score_threshold=threshold)(inputs)[0]["instances"]
    assert 0 < len(fewer) < len(everything)
    assert_close = torch.testing.assert_close
    expected = everything[everything.scores > threshold]
    assert_close(fewer.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(fewer.pred_masks, expected.pred_masks)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_an_image_without_detections_is_fine(model, dtype):
    fast = optimize_for_inference(model, dtype, score_threshold=0.9999)
    for found in fast(images((64, 96), (50, 70))):
        assert len(found["instances"]) == 0
        assert found["instances"].pred_masks.shape[1:] == found["instances"].image_size


@torch.no_grad()
def test_evaluation_without_pasting_works_on_it(model, fast):
    inputs = images((64, 96))
    assert UnpastedMasks.fits(fast)
    found = UnpastedMasks(fast)(inputs)[0]["instances"]
    expected = UnpastedMasks(model)(inputs)[0]["instances"]
    assert found.pred_masks.shape == expected.pred_masks.shape == (len(expected), 1, 28, 28)
    assert (found.pred_masks - expected.pred_masks).abs().max() < 1e-4


@torch.no_grad()
def test_compiled_parts_predict_the_same():
    model = busy_rcnn("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
    inputs = images((64, 96))
    compiled = optimize_for_inference(model, compile="eager")
    assert compiled.backbone._compiled_call_impl is not None
    assert_same_detections(compiled(inputs)[0]["instances"], model(inputs)[0]["instances"])


@torch.no_grad()
@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_a_semantic_segmentor_gives_the_same_logits(norm):
    cfg = rcnn_cfg(
        "MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NORM", norm,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
        "MODEL.FPN.NORM", "BN",
    )  # fmt: skip
    model = build_model(cfg)
    for _ in range(3):  # statistics that are not the initial ones
        model.train()
        labels = {"sem_seg": torch.zeros(64, 96, dtype=torch.long)}
        model([{**entry, **labels} for entry in images((64, 96), (64, 96))])
    model.eval()
    inputs = images((64, 96), (64, 70))
    for found, expected in zip(optimize_for_inference(model)(inputs), model(inputs), strict=True):
        torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], rtol=1e-3, atol=1e-3)
    lower = optimize_for_inference(model, "auto")(inputs)[0]["sem_seg"]
    expected = model(inputs)[0]["sem_seg"]
    assert (lower.argmax(0) == expected.argmax(0)).float().mean() > 0.95


def test_it_refuses_what_it_cannot_do(model, fast):
    with pytest.raises(ConfigError, match="give the original"):
        optimize_for_inference(fast)
    with pytest.raises(ConfigError, match=r"cannot compute in int16.*bfloat16"):
        optimize_for_inference(model, "int16")
    with pytest.raises(ConfigError, match=r"int8.*engine=\"openvino\".*deepfuse pack --int8"):
        optimize_for_inference(model, "int8")
    with pytest.raises(ConfigError, match="float16 on cpu"):
        optimize_for_inference(model, torch.float16)
    with pytest.raises(ConfigError, match="gives no scored boxes"):
        optimize_for_inference(nn.Conv2d(3, 3, 1), score_threshold=0.5)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fast.train()


@torch.no_grad()
@pytest.mark.parametrize(
    ("activation", "bias"), list(itertools.product(["relu", "gelu", None], [0, 1]))
)
def test_a_packed_convolution_equals_the_plain_one(activation, bias):
    function = {"relu": nn.ReLU(), "gelu": nn.GELU(), None: None}[activation]
    conv = Conv2d(6, 8, 3, stride=2, padding=(2, 1), groups=2, bias=bool(bias), activation=function)
    x = torch.randn(2, 6, 9, 12)
    for pack in (True, False):
        fast = InferenceConv2d(conv, dtype=torch.float32, pack=pack)
        torch.testing.assert_close(fast(x), conv(x), rtol=1e-5, atol=1e-5)
        assert fast(x[:0]).shape == conv(x[:0]).shape
        assert torch.equal(fast.weight, conv.weight)


@torch.no_grad()
@pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="torch without oneDNN")
def test_1x1_filters_are_laid_out_for_a_few_sizes_of_maps_and_stay_right():
    conv = Conv2d(24, 40, 1, bias=True)
    fast = InferenceConv2d(conv, dtype=torch.float32, pack=True)
    for side in (2, 4, 8, 16, 32, 4, 3):
        x = torch.randn(1, 24, side, side)
        torch.testing.assert_close(fast(x), conv(x), rtol=1e-5, atol=1e-5)
    assert 1 < len(fast.packed) <= 3
    torch.testing.assert_close(fast.weight, conv.weight)


@torch.no_grad()
def test_wide_layers_go_by_tiles_and_predict_the_same():
    """Widths of real models: Winograd's convolutions, also merged with the RPN's predictions."""
    model = busy_rcnn(
        "MODEL.FPN.OUT_CHANNELS", 128, "MODEL.ROI_MASK_HEAD.CONV_DIM", 128,
        "MODEL.ROI_BOX_HEAD.FC_DIM", 256,
    )  # fmt: skip
    fast = optimize_for_inference(model)
    if can_pack(torch.device("cpu")) and WinogradConv2d.fits(
        model.proposal_generator.rpn_head.conv, torch.float32
    ):
        tiled = [m for m in fast.modules() if isinstance(m, InferenceConv2d) and m.winograd]
        assert len(tiled) == 4 + 1 + 2  # outputs of the neck, RPN, mask head
        assert sum(isinstance(m, LinearAsConvolution) for m in fast.modules()) == 1
    inputs = images((64, 96), (50, 70), seed=3)
    for found, expected in zip(fast(inputs), model(inputs), strict=True):
        assert_same_detections(found["instances"], expected["instances"])


@torch.no_grad()
@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_maps_of_backbone_and_neck_are_those_of_the_model(fuse_type):
    model = busy_rcnn("MODEL.FPN.FUSE_TYPE", fuse_type, "MODEL.RESNETS.OUT_FEATURES",
                      ["stem", "res2", "res3", "res4", "res5"])  # fmt: skip
    fast = optimize_for_inference(model)
    assert type(fast.backbone) is InferenceFPN
    x = torch.randn(2, 3, 64, 96)
    before = x.clone()
    expected = {**model.backbone(x), **model.backbone.bottom_up(x)}
    found = {**fast.backbone(x), **fast.backbone.bottom_up(x)}
    assert list(found) == list(expected)
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=1e-3, atol=1e-3)
    assert torch.equal(x, before)


@torch.no_grad()
def test_a_watched_block_is_not_written_over():
    model = busy_rcnn()
    seen = []
    model.backbone.bottom_up.res2[0].conv3.register_forward_hook(
        lambda module, args, output: seen.append(output.clone())
    )
    fast = optimize_for_inference(model)
    x = torch.randn(1, 3, 64, 96)
    expected, found = model.backbone(x), fast.backbone(x)
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_model_with_kernels_for_training_is_optimised_as_any_other():
    model = busy_rcnn("MODEL.FPN.OUT_CHANNELS", 128)
    inputs = images((64, 96))
    expected = model(inputs)[0]["instances"]
    trained = use_fast_kernels(copy.deepcopy(model))
    changed = {type(m) for m in trained.modules()} - {type(m) for m in model.modules()}
    assert changed
    fast = optimize_for_inference(trained)
    assert changed & {type(m) for m in fast.modules()} == {RowROIAlign}
    assert sum(isinstance(m, InferenceConv2d) for m in fast.modules()) > 60
    assert_same_detections(fast(inputs)[0]["instances"], expected)
    assert changed <= {type(m) for m in trained.modules()}


@torch.no_grad()
def test_a_panoptic_model_keeps_its_instances_and_labels():
    model = busy_rcnn(
        "MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.FPN.NORM", "BN",
    )  # fmt: skip
    inputs = images((64, 96), seed=2)
    fast = optimize_for_inference(model)
    assert sum(isinstance(m, InferenceConv2d) for m in fast.modules()) > 60
    for found, expected in zip(fast(inputs), model(inputs), strict=True):
        assert_same_detections(found["instances"], expected["instances"])
        torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], rtol=1e-3, atol=1e-3)
        assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])
        segments, others = (
            [{**s, "score": 0} for s in x["panoptic_seg"][1]] for x in (found, expected)
        )
        assert segments == others
