"""Weights that fit in part: what is taken, what is said, and what is refused."""

import logging

import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from torch import nn
from weights_models import IMAGENET, resnet

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.matching import deepfuse_names, match
from deepfuse_d2.checkpoint.report import check_match, describe
from deepfuse_d2.errors import ConfigError, WeightsError
from deepfuse_d2.layers import DeepFuse, FuseSettings
from deepfuse_d2.modeling.neck import DeepFuseFPN


class Tiny(nn.Module):
    """The names of a detector, a few numbers each."""

    def __init__(self, classes=3, width=4, deepfuse=False, stages=4):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = nn.Module()
        for stage in range(2, 2 + stages):
            self.backbone.bottom_up.add_module(f"res{stage}", nn.Conv2d(2, 2, 1))
        self.backbone.fpn_output2 = nn.Conv2d(2, 2, 1)
        if deepfuse:
            self.backbone.bottom_up.fuse_res3 = DeepFuse([2, 2], 2, merge="sum", unit="residual")
            self.backbone.fuse2 = DeepFuse([2, 2], 2, merge="sum", unit="residual")
        self.roi_heads = nn.Module()
        self.roi_heads.box_head = nn.Sequential(nn.Linear(2, width), nn.Linear(width, width))
        self.roi_heads.box_predictor = nn.Linear(width, classes)


def load(tmp_path, state, model, **options):
    torch.save({"model": state}, tmp_path / "weights.pth")
    DeepFuseCheckpointer(model, **options).load(str(tmp_path / "weights.pth"))
    return model


def test_an_fpn_keeps_its_function_when_deepfuse_is_plugged_in(tmp_path):
    def neck(depth):
        model = resnet(18)
        features = ["res2", "res3", "res4", "res5"]
        settings = FuseSettings(merge="sum", depth=depth)
        model.backbone = DeepFuseFPN(model.backbone, features, 8, settings=settings)
        return model.eval()

    fpn = neck(0)
    deepfuse = load(tmp_path, fpn.state_dict(), neck(1))
    image = torch.randn(1, 3, 64, 64)
    for name, feature in fpn.backbone(image).items():
        assert torch.equal(deepfuse.backbone(image)[name], feature)
    found = match(fpn.state_dict(), deepfuse.state_dict(), deepfuse_names(deepfuse))
    assert (found.missing, found.unexpected, found.fraction) == ([], [], 1.0)
    assert all(".fuse" in name for name in found.new)
    assert "new, start as configured: backbone.fuse4.scale" in describe(found)


def test_the_report_counts_by_module_and_names_what_was_not_matched(tmp_path, caplog):
    state = Tiny(classes=5).state_dict()
    state["roi_heads.mask_head.weight"] = torch.ones(1)
    del state["backbone.bottom_up.res3.bias"]
    model = Tiny(deepfuse=True)
    with caplog.at_level(logging.INFO):
        load(tmp_path, state, model, min_match=0.8)
    report = caplog.records[-1].message
    rows = {line.split()[0]: line.split()[1:] for line in report.splitlines()[1:] if line}
    assert rows["backbone.bottom_up.res3"] == ["1", "1"]  # one matched, one missing
    assert rows["roi_heads.box_predictor"] == ["2"]
    assert rows["all"] == ["13", "10", "1", "1", "2"]
    assert "missing in the file, start as configured: backbone.bottom_up.res3.bias" in report
    assert "unexpected, not used: roi_heads.mask_head.weight" in report
    assert "box_predictor.weight (5, 4), here (3, 4), roi_heads.box_predictor.bias (5,)" in report
    assert caplog.records[-1].levelname == "WARNING"
    assert torch.equal(
        model.backbone.bottom_up.res2.weight, state["backbone.bottom_up.res2.weight"]
    )


def test_weights_that_fill_too_little_of_the_bottom_up_network_are_refused(tmp_path):
    state = Tiny(stages=3).state_dict()
    before = Tiny()
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    with pytest.raises(
        WeightsError,
        match=r"fills 75% of the bottom-up network \(backbone\.bottom_up\.\*\), less than the 90% "
        r"of DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH(?s:.*)missing in the file.*res5\.weight",
    ):
        load(tmp_path, state, before)
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.state_dict().items())
    load(tmp_path, state, before, min_match=0.75)
    assert torch.equal(
        before.backbone.bottom_up.res2.weight, state["backbone.bottom_up.res2.weight"]
    )


def test_weights_of_nothing_known_are_refused_and_the_next_step_is_told(tmp_path):
    state = {"features.0.weight": torch.ones(2, 2, 1, 1)}
    with pytest.raises(WeightsError, match=r"fills 0% of(?s:.*)unknown origin.*checkpoints\.md"):
        load(tmp_path, state, Tiny())


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_a_min_match_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"WEIGHTS_MIN_MATCH = .* must be in \[0, 1\]"):
        DeepFuseCheckpointer(Tiny(), min_match=wrong)


def test_predictors_of_other_classes_start_anew_and_hidden_layers_of_other_widths_are_refused(
    tmp_path,
):
    trained = Tiny(classes=80)
    model = load(tmp_path, trained.state_dict(), Tiny(classes=3))
    assert torch.equal(model.roi_heads.box_head[1].weight, trained.roi_heads.box_head[1].weight)
    with pytest.raises(
        WeightsError,
        match=r"2 tensors have another shape .*box_head\.1\.weight \(8, 8\), here \(4, 4\), "
        r"roi_heads\.box_predictor\.weight \(3, 8\), here \(3, 4\)\. Only the last layers",
    ):
        load(tmp_path, Tiny(width=8).state_dict(), Tiny())
    load(tmp_path, Tiny(width=8).state_dict(), Tiny(), min_match=0)  # what fits, if one insists


def test_a_bottom_up_network_of_another_width_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "weights.pth")
    wider = resnet(18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 32, **IMAGENET)
    with pytest.raises(WeightsError, match=r"another shape.*stem\.conv1\.weight.*MODEL\.RESNETS"):
        DeepFuseCheckpointer(wider).load(str(tmp_path / "weights.pth"))


def test_a_network_used_up_to_a_stage_takes_the_weights_of_the_whole(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "weights.pth")
    model = resnet(18, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3"])
    DeepFuseCheckpointer(model, min_match=1.0).load(str(tmp_path / "weights.pth"))
    assert list(model.backbone.output_shape().values())[-1] == ShapeSpec(channels=128, stride=8)


def test_a_fusion_of_another_network_is_no_deepfuse(tmp_path):
    """As timm's HRNet names the layers that a third of it consists of."""
    model = Tiny()
    model.backbone.bottom_up.fuse_layers = nn.Sequential(*[nn.Conv2d(2, 2, 1) for _ in range(4)])
    state = {n: x for n, x in model.state_dict().items() if "fuse_layers" not in n}
    found = match(state, model.state_dict(), deepfuse_names(model))
    assert len(found.missing) == 8
    assert found.new == []
    assert found.fraction == 0.5
    with pytest.raises(WeightsError, match="fills 50% of the bottom-up network"):
        load(tmp_path, state, model)


def test_a_name_with_several_places_is_an_error():
    model = {"a.x.weight": torch.ones(1), "b.x.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"x\.weight of the weights could go to 2 places.*a\.x"):
        match({"x.weight": torch.ones(1)}, model)


def test_two_tensors_for_one_place_are_an_error():
    model = {"backbone.x.weight": torch.ones(1)}
    state = {"x.weight": torch.ones(1), "backbone.x.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"both belong to backbone\.x\.weight"):
        match(state, model)


def test_the_bottom_up_network_comes_before_the_end_of_a_name():
    model = {"backbone.bottom_up.x.weight": torch.ones(1), "roi_heads.x.weight": torch.ones(1)}
    found = match({"x.weight": torch.zeros(1)}, model)
    assert list(found.placed) == ["backbone.bottom_up.x.weight"]
    # in a detector whose heads hold res5, its weights go there
    found = match({"res5.weight": torch.zeros(1)}, {"roi_heads.res5.weight": torch.ones(1)})
    assert list(found.placed) == ["roi_heads.res5.weight"]


def test_counters_and_anchors_of_old_files_are_no_difference():
    model = {"backbone.x.weight": torch.ones(1), "backbone.x.num_batches_tracked": torch.tensor(0)}
    old = {"proposal_generator.anchor_generator.cell_anchors.0": torch.ones(3, 4)}
    found = match({"backbone.x.weight": torch.ones(1), **old}, model)
    assert [found.new, found.missing, found.unexpected, found.wrong_shape] == [[], [], [], []]
    check_match(found, "x", min_match=1.0, renamed=False)
