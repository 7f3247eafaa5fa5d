"""Wrong values of detectron2's keys are one message that names the key, before all is built."""

import importlib.util

import pytest
from detectron2.modeling import build_model as build_detectron2_model

from deepfuse_d2.config.building import build_model
from deepfuse_d2.config.checking import check_config
from deepfuse_d2.config.loading import get_config, load_config
from deepfuse_d2.errors import ConfigError, WeightsError

RCNN = "MiniCity/mask_rcnn_R_18_FPN_quick"
SEMANTIC = "MiniCity/sem_seg_R_18_SemSegFPN_quick"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.RESNETS.NORM", "BatchNorm"], r"RESNETS\.NORM is 'BatchNorm'; .*'FrozenBN'"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "0"], r"ROI_HEADS\.NUM_CLASSES is 0; .* 1 or more"),
        (["MODEL.RPN.IN_FEATURES", "[]"], r"RPN\.IN_FEATURES is \[\]; .*one name or more"),
        (["MODEL.PIXEL_MEAN", "[1.0, 2.0]"], r"PIXEL_MEAN is \[1.0, 2.0\] and MODEL.PIXEL_STD"),
        (["MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]"], "no deviation of 0"),
        (["INPUT.FORMAT", "L"], r'of 3 channels; images of INPUT\.FORMAT "L" have 1'),
        (
            ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]"],
            r"ANCHOR_GENERATOR\.SIZES is \[\[8\], \[16\]\]; .*each of \['p2', .*5 in all",
        ),
        (["MODEL.ANCHOR_GENERATOR.NAME", "Anchors"], r"NAME is 'Anchors'; .*DefaultAnchorGen"),
        (["MODEL.RPN.HEAD_NAME", "Head"], r"HEAD_NAME is 'Head'; .*StandardRPNHead"),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "Mean"], r"POOLER_TYPE is 'Mean'; .*ROIAlignV2"),
        (["DATALOADER.SAMPLER_TRAIN", "Random"], r"SAMPLER_TRAIN is 'Random'; .*TrainingSampler"),
        (["SOLVER.MAX_ITER", "0"], r"MAX_ITER is 0; it must be 1 or more"),
        (["SOLVER.WARMUP_METHOD", "cosine"], r"WARMUP_METHOD is 'cosine'; .*linear"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full"], r"CLIP_TYPE is 'full'; .*norm"),
        (["INPUT.RANDOM_FLIP", "both"], r"RANDOM_FLIP is 'both'; .*horizontal"),
        (["INPUT.MASK_FORMAT", "rle"], r"MASK_FORMAT is 'rle'; .*bitmask"),
        (
            ["INPUT.MIN_SIZE_TRAIN", "(1, 2, 3)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
            "which takes the smallest and the largest of two sizes",
        ),
        (["MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "l1"], r"LOSS_TYPE is 'l1'; .*smooth_l1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(opts, message):
    with pytest.raises(ConfigError, match=message):
        check_config(get_config(RCNN, opts))


@pytest.mark.skipif(
    importlib.util.find_spec("detectron2._C") is not None, reason="detectron2 is compiled here"
)
@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, True, True]"],
        ["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"],
        ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"],
    ],
)
def test_what_needs_detectron2s_compiled_operators_says_so(opts):
    with pytest.raises(ConfigError, match=rf"{opts[0]} .* needs detectron2's compiled operators"):
        check_config(get_config(RCNN, opts))


def test_a_device_that_torch_does_not_know_is_named_when_the_config_is_loaded():
    with pytest.raises(ConfigError, match=r'MODEL\.DEVICE is "gpu", which is no device of torch'):
        load_config("", ["MODEL.DEVICE", "gpu"])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.RESNETS.DEPTH", "51"], r"MODEL\.RESNETS\.DEPTH is 51; choose one of \[18, 34"),
        (
            ["MODEL.RPN.IN_FEATURES", "['p2', 'p9']"],
            r"IN_FEATURES is \['p2', 'p9'\]; the back",
        ),
        (["MODEL.ROI_HEADS.IN_FEATURES", "['res4']"], r"ROI_HEADS\.IN_FEATURES is \['res4'\]"),
        (["MODEL.RESNETS.RES2_OUT_CHANNELS", "256"], "RES2_OUT_CHANNELS = 64 for R18/R34"),
    ],
)
def test_a_model_that_cannot_be_built_names_the_key(opts, message):
    cfg = get_config(RCNN, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts])
    with pytest.raises((KeyError, AssertionError)):
        build_detectron2_model(cfg)  # otherwise there is nothing to explain
    with pytest.raises(ConfigError, match=message):
        build_model(cfg)


def test_weights_that_cannot_be_fetched_are_named(tmp_path, monkeypatch):
    from torch import nn

    from deepfuse_d2.checkpoint import DeepFuseCheckpointer

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    address = "http://127.0.0.1:9/model.pth"  # nobody listens there
    with pytest.raises(
        WeightsError, match=rf"MODEL\.WEIGHTS {address} cannot be fetched: .*refused"
    ):
        DeepFuseCheckpointer(nn.Linear(1, 1)).load(address)
