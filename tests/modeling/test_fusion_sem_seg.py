"""FusionSemanticSegmentor: losses that padding does not touch, detectron2's logits, auxiliaries."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from torch import nn

from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling import FusionSemanticSegmentor
from deepfuse_d2.modeling.meta_arch import DenseInference
from deepfuse_d2.modeling.sem_seg.losses import CrossEntropy, DiceLoss, SemSegLosses

CLASSES = 5


class Average(Backbone):
    """One map of stride 4: 4 x 4 means, so that nothing looks beyond its own pixels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, image):
        return {"res2": self.conv(F.avg_pool2d(image, 4))}

    def output_shape(self):
        return {"res2": ShapeSpec(channels=6, stride=4)}


class Head(nn.Module):
    def __init__(self, auxiliary_weights=None):
        super().__init__()
        self.predictor = nn.Conv2d(6, CLASSES, 1)
        self.coarse = nn.Conv2d(6, CLASSES, 1)
        self.auxiliary_weights = auxiliary_weights or {}

    def forward(self, features):
        outputs = {"sem_seg": self.predictor(features["res2"])}
        if self.training and "coarse" in self.auxiliary_weights:
            outputs["coarse"] = self.coarse(F.avg_pool2d(features["res2"], 2))
        if self.training and "image" in self.auxiliary_weights:
            outputs["image"] = self.coarse(features["res2"]).mean(dim=(2, 3))
        return outputs


def segmentor(losses=None, head=None, **arguments):
    return FusionSemanticSegmentor(
        backbone=Average(),
        sem_seg_head=head or Head(),
        losses=SemSegLosses(losses or {"cross_entropy": (CrossEntropy(9), 1.0)}),
        inference=arguments.pop("inference", DenseInference()),
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[50.0, 60.0, 70.0],
        **{"ignore_value": 9, "size_divisibility": 8, **arguments},
    )


def entry(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        "sem_seg": torch.randint(0, CLASSES, (height, width), generator=generator),
    }


def small_config(*overrides):
    return load_config(
        "configs/Base-SemSeg.yaml",
        [
            "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18",
            "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.BACKBONE.FREEZE_AT", "0",
            "MODEL.NECK.OUT_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(CLASSES), *overrides,
        ],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


def test_the_loss_is_that_of_each_image_alone_weighted_by_its_labelled_pixels():
    model = segmentor().train()
    # padded to 16 x 24 and 24 x 16 alone, both to 24 x 24 together
    first, second = entry(12, 20, 1), entry(20, 12, 2)
    second["sem_seg"][:8] = 9
    alone = [model([x])["loss_sem_seg"] for x in (first, second)]
    expected = (alone[0] * 12 * 20 + alone[1] * 12 * 12) / (12 * 20 + 12 * 12)
    torch.testing.assert_close(model([first, second])["loss_sem_seg"], expected)


def test_the_gradient_of_padding_does_not_reach_the_logits_of_padding():
    model = segmentor().train()
    found = {}

    def keep(module, inputs, output):
        output["sem_seg"].retain_grad()
        found["logits"] = output["sem_seg"]

    model.sem_seg_head.register_forward_hook(keep)
    model([entry(16, 24, 1), entry(24, 16, 2)])["loss_sem_seg"].backward()
    gradient = found["logits"].grad
    assert gradient.shape == (2, CLASSES, 6, 6)
    # beyond the neighbour that interpolation reads at the border
    assert gradient[0, :, 5].abs().max() == 0
    assert gradient[1, :, :, 5].abs().max() == 0
    assert gradient[0, :, :4].abs().min() > 0


def test_labels_that_are_all_ignored_give_the_loss_0_and_a_gradient():
    model = segmentor().train()
    batch = entry(16, 16)
    batch["sem_seg"][:] = 9
    loss = model([batch])["loss_sem_seg"]
    loss.backward()
    assert loss == 0
    assert model.backbone.conv.weight.grad.abs().max() == 0


def test_losses_and_resizing_are_float32_under_bfloat16_autocast():
    model = segmentor().train()
    seen = []
    model.losses.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = [entry(16, 16)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)["loss_sem_seg"]
    assert seen[0].dtype == loss.dtype == torch.float32
    # interpolated in float32: the values between two pixels are no bfloat16 numbers
    assert (seen[0] != seen[0].bfloat16().float()).any()
    torch.testing.assert_close(loss, model(batch)["loss_sem_seg"], rtol=0.02, atol=0.02)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(batch)[0]["sem_seg"].dtype == torch.float32


def test_auxiliary_outputs_have_losses_of_their_own_name_and_weight():
    model = segmentor(head=Head({"coarse": 0.4}), loss_weight=2.0).train()
    batch = entry(16, 24)
    losses = model([batch])
    assert list(losses) == ["loss_sem_seg", "loss_sem_seg_coarse"]
    outputs = model.outputs(model.inputs([batch]))
    for name, key, weight in (("sem_seg", "", 2.0), ("coarse", "_coarse", 0.4)):
        logits = F.interpolate(outputs[name], (16, 24), mode="bilinear", align_corners=False)
        expected = weight * F.cross_entropy(logits, batch["sem_seg"][None])
        torch.testing.assert_close(losses[f"loss_sem_seg{key}"], expected)
    assert list(model.eval().outputs({"image": torch.rand(1, 3, 16, 16)})) == ["sem_seg"]


def test_an_auxiliary_output_of_an_image_learns_which_classes_it_holds():
    model = segmentor(head=Head({"image": 0.5})).train()
    batch = entry(16, 16)
    batch["sem_seg"] = torch.full((16, 16), 2)
    outputs = model.outputs(model.inputs([batch]))
    truth = torch.tensor([[0.0, 0, 1, 0, 0]])
    expected = 0.5 * F.binary_cross_entropy_with_logits(outputs["image"], truth)
    torch.testing.assert_close(model([batch])["loss_sem_seg_image"], expected)


def test_several_losses_are_told_apart_by_name():
    losses = {"cross_entropy": (CrossEntropy(9), 1.0), "dice": (DiceLoss(9), 0.5)}
    model = segmentor(losses, Head({"coarse": 0.4})).train()
    assert list(model([entry(16, 16)])) == [
        "loss_sem_seg_cross_entropy",
        "loss_sem_seg_dice",
        "loss_sem_seg_coarse_cross_entropy",
        "loss_sem_seg_coarse_dice",
    ]


def test_training_without_labels_names_the_image():
    batch = entry(16, 16)
    del batch["sem_seg"]
    batch["file_name"] = "street.png"
    with pytest.raises(ConfigError, match=r"street\.png.*sem_seg_file_name"):
        segmentor().train()([batch])


def test_it_gives_the_logits_and_losses_of_detectron2s_segmentor_with_the_same_weights():
    ours = build_model(small_config())
    theirs = build_model(small_config("MODEL.META_ARCHITECTURE", "SemanticSegmentor"))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    # detectron2 pads by what the neck asks for, 32
    batch = [{**entry(50, 90, 1), "height": 75, "width": 130}, entry(64, 70, 2)]
    torch.testing.assert_close(ours.train()(batch), theirs.train()(batch))
    with torch.no_grad():
        found, expected = ours.eval()(batch), theirs.eval()(batch)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a["sem_seg"], b["sem_seg"], rtol=1e-4, atol=1e-4)
    assert found[0]["sem_seg"].shape == (CLASSES, 75, 130)
    assert found[1]["sem_seg"].shape == (CLASSES, 64, 70)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("MODEL.NECK.NAME", "DeepFuseFPN"),
        (
            "MODEL.BACKBONE.NAME", "build_resnet_backbone",
            "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        ),
    ],
    ids=["FPN", "DeepFuseFPN", "no neck"],
)  # fmt: skip
def test_it_trains_with_a_neck_and_without_on_images_of_any_size(overrides):
    model = build_model(small_config(*overrides)).train()
    # a plain ResNet asks for no divisibility; its strides do
    assert model.size_divisibility == 32
    batch = [entry(45, 61, 1), entry(33, 70, 2)]
    sum(model(batch).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("output", ["logits", "labels"])
def test_a_padded_image_of_a_batch_is_predicted_as_alone(output):
    model = segmentor(inference=DenseInference(output=output)).eval()
    batch = [{**entry(12, 20, 1), "height": 30, "width": 41}, entry(20, 12, 2)]
    with torch.no_grad():
        together = model(batch)
        for one, found in zip(batch, together, strict=True):
            torch.testing.assert_close(found["sem_seg"], model([one])[0]["sem_seg"])


def test_a_blank_image_is_predicted_as_if_its_padding_went_on():
    # the mean colour is what padding stands for
    model = segmentor().eval()
    image = torch.tensor([100.0, 110.0, 120.0])[:, None, None].expand(3, 12, 20)
    with torch.no_grad():
        logits = model([{"image": image}])[0]["sem_seg"]
    torch.testing.assert_close(logits, logits[:, :1, :1].expand(CLASSES, 12, 20))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p9']"), r"'p9'\]; the backbone gives \['p2'"),
        (("MODEL.SEM_SEG_HEAD.IN_FEATURES", "[]"), r"is \[\]; the backbone gives"),
        (("MODEL.SEM_SEG_HEAD.NAME", "NoHead"), 'NAME = "NoHead" is unknown; choose one of'),
        (("MODEL.SEM_SEG_HEAD.NAME", "GCNHead", "MODEL.GCN.KERNEL_SIZE", "[4]"), "odd"),
    ],
)
def test_a_wrong_head_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_model(small_config(*overrides))
