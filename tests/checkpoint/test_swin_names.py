"""Public Swin Transformers, and CBNetV2's of two of them: every tensor finds its place."""

import pytest
import torch
from detectron2.modeling import build_model
from weights_models import IMAGENET, Detector

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.reading import read_weights
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.errors import WeightsError

KEY = "DEEPFUSE_D2.MODEL.SWIN"
SWIN = (
    f"{KEY}.EMBED_DIM", 16, f"{KEY}.DEPTHS", [1, 2, 1, 1], f"{KEY}.NUM_HEADS", [1, 2, 4, 8],
)  # fmt: skip
COMPOSITE = (
    *SWIN, "MODEL.COMPOSITE.BOTTOM_UP", "build_swin_backbone", "MODEL.COMPOSITE.PRUNE", 0,
    "MODEL.COMPOSITE.NORM", "", "MODEL.COMPOSITE.CONNECT_TO", "blocks",
)  # fmt: skip


def single():
    """The authors' classifier, in names and shapes."""
    network = Detector("build_swin_backbone", *SWIN).backbone
    state = {
        name: torch.randn(value.shape) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if not name.startswith(("norm0", "norm1", "norm2", "norm3"))
    }
    # a shifted window's mask, the norm behind the last stage, and the classifier
    state["layers.1.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    for name, shape in (("norm", (128,)), ("head", (10, 128))):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(shape), torch.randn(shape[:1])
    return state


def load(tmp_path, state, model):
    torch.save(state, tmp_path / "swin.pth")
    DeepFuseCheckpointer(model).load(str(tmp_path / "swin.pth"))
    return model


def test_the_authors_classifier_fills_the_network_but_the_norms_of_features(tmp_path):
    state = single()
    model = load(tmp_path, {"model": state}, Detector("build_swin_backbone", *SWIN, **IMAGENET))
    network = model.backbone
    assert torch.equal(
        network.layers[2].downsample.norm.bias, state["layers.2.downsample.norm.bias"]
    )
    weight = state["layers.1.blocks.1.attn.qkv.weight"]
    assert torch.equal(network.layers[1].blocks[1].attn.qkv.weight, weight)
    assert torch.equal(network.norm0.weight, torch.ones(16))
    assert read_weights(tmp_path / "swin.pth").origin == "Swin Transformer"


def test_one_classifier_fills_both_networks_of_a_composite(tmp_path):
    state = single()
    model = load(tmp_path, state, Detector("build_composite_backbone", *COMPOSITE, **IMAGENET))
    for network in model.backbone.backbones:
        assert torch.equal(network.layers[3].blocks[0].mlp.fc2.weight,
                           state["layers.3.blocks.0.mlp.fc2.weight"])  # fmt: skip


def public_detector(model):
    """CBNetV2's names for random tensors of the shapes of `model`, with neck and heads."""
    state = {}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value = torch.randn(value.shape)
        for ours, theirs in (
            ("backbone.bottom_up.backbones.", "backbone.cb_modules."),
            ("proposal_generator.rpn_head.conv.", "rpn_head.rpn_conv."),
            ("proposal_generator.rpn_head.objectness_logits.", "rpn_head.rpn_cls."),
            ("proposal_generator.rpn_head.anchor_deltas.", "rpn_head.rpn_reg."),
            ("roi_heads.box_head.fc1.", "roi_head.bbox_head.shared_fcs.0."),
            ("roi_heads.box_head.fc2.", "roi_head.bbox_head.shared_fcs.1."),
            ("roi_heads.box_predictor.cls_score.", "roi_head.bbox_head.fc_cls."),
            ("roi_heads.box_predictor.bbox_pred.", "roi_head.bbox_head.fc_reg."),
            ("roi_heads.mask_head.mask_fcn1.", "roi_head.mask_head.convs.0.conv."),
            ("roi_heads.mask_head.mask_fcn2.", "roi_head.mask_head.convs.1.conv."),
            ("roi_heads.mask_head.deconv.", "roi_head.mask_head.upsample."),
            ("roi_heads.mask_head.predictor.", "roi_head.mask_head.conv_logits."),
        ):
            if name.startswith(ours):
                state[name.replace(ours, theirs)] = value
        if name.startswith("backbone.fpn_"):
            kind, last = name.removeprefix("backbone.fpn_").split(".", 1)
            level = int(kind[-1]) - 2
            state[f"neck.{kind[:-1]}_convs.{level}.conv.{last}".replace("output_", "fpn_")] = value
        if name.startswith("backbone.bottom_up.connections."):
            to, source, _, last = name.split(".")[4:]
            i, j = int(to[3]) - 2, int(source[3]) - int(to[3])
            state[f"backbone.cb_linears.{i}.{j}.{last}"] = value
    return {"state_dict": state, "meta": {}}


def detector(repository, tiny_opts, *opts):
    config = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    images = (
        "INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", list(IMAGENET["pixel_mean"]),
        "MODEL.PIXEL_STD", list(IMAGENET["pixel_std"]), "MODEL.NECK.NORM", "",
        "MODEL.NECK.BOTTOM_UP", "build_composite_backbone",
    )  # fmt: skip
    return build_model(load_config(config, [*tiny_opts, *COMPOSITE, *images, *opts]))


def test_a_whole_detector_converts(repository, tiny_opts, tmp_path):
    model = detector(repository, tiny_opts)
    public = public_detector(model)
    load(tmp_path, public, model)
    state = public["state_dict"]
    ours = {n: v for n, v in model.state_dict().items() if "anchor_generator" not in n}
    assert len(ours) == len(state)
    sums = [sorted(v.double().sum().item() for v in part.values()) for part in (ours, state)]
    assert sums[0] == sums[1]
    connection = model.backbone.bottom_up.connections["1"]["res3"]["res5"].conv
    assert torch.equal(connection.weight, state["backbone.cb_linears.1.2.weight"])
    assert torch.equal(model.backbone.fpn_output3.bias, state["neck.fpn_convs.1.conv.bias"])
    assert read_weights(tmp_path / "swin.pth").origin == "CBNetV2 of Swin"


def test_a_composite_connected_otherwise_is_refused_with_the_key(repository, tiny_opts, tmp_path):
    public = public_detector(detector(repository, tiny_opts))
    other = detector(repository, tiny_opts, "MODEL.COMPOSITE.CONNECT_TO", "stage")
    with pytest.raises(WeightsError, match=r"CONNECT_TO is stage, must be blocks"):
        load(tmp_path, public, other)
