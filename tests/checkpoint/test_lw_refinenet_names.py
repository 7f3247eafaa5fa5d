"""Public weights of RefineNet find their places, and give what the published network gives.

The published forward passes are written out here in plain functions over the published names.
"""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.sources.lw_refinenet_names import (
    is_lw_refinenet,
    is_lw_refinenet_mobilenet,
    rename_lw_refinenet,
    rename_lw_refinenet_mobilenet,
)
from deepfuse_d2.checkpoint.sources.table import recognise

NUM_CLASSES = 5
WIDTHS = [16, 8]


def decoder_shapes(light_weight, features=(64, 128, 256, 512)):
    """Names and shapes of the published decoder, widths 16 and 8 in place of 512 and 256."""
    k = 1 if light_weight else 3
    shapes = {}
    for g, channels in enumerate(reversed(features), start=1):
        width = WIDTHS[0] if g == 1 else WIDTHS[1]
        shapes[f"p_ims1d2_outl{g}_dimred.weight"] = (width, channels, k, k)
        for i in range(1, 5):
            shapes[f"mflow_conv_g{g}_pool.0.{i}_outvar_dimred.weight"] = (width, width, k, k)
        if g > 1:
            shapes[f"adapt_stage{g}_b2_joint_varout_dimred.weight"] = (width, width, k, k)
        if g < 4:
            name = f"mflow_conv_g{g}_b3_joint_varout_dimred.weight"
            shapes[name] = (WIDTHS[1], width, k, k)
        units = {} if light_weight else {"adapt_stage{}_b": 2, "mflow_conv_g{}_b": 3}
        for stem, number in units.items():
            for i in range(1, number + 1):
                name = f"{stem.format(g)}.0.{i}_conv"
                shapes[f"{name}.weight"] = (width, width, 3, 3)
                shapes[f"{name}.bias"] = (width,)
                shapes[f"{name}_relu_varout_dimred.weight"] = (width, width, 3, 3)
    shapes["clf_conv.weight"] = (NUM_CLASSES, WIDTHS[1], 3, 3)
    shapes["clf_conv.bias"] = (NUM_CLASSES,)
    return shapes


def random_tensors(shapes):
    return {
        name: torch.randn(shape) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        for name, shape in shapes.items()
    }


def with_statistics(module):
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.2, 0.2)
            nn.init.uniform_(m.running_var, 0.7, 1.3)
            nn.init.uniform_(m.weight, 0.7, 1.3)
            nn.init.uniform_(m.bias, -0.2, 0.2)
    return module.eval()


def crp(w, stem, x, activation=torch.relu):
    x = activation(x)
    path = x
    for i in range(1, 5):
        weight = w[f"{stem}.0.{i}_outvar_dimred.weight"]
        path = F.conv2d(F.max_pool2d(path, 5, 1, 2), weight, padding=weight.shape[-1] // 2)
        x = x + path
    return x


def units(w, stem, number, x):
    for i in range(1, number + 1):
        name = f"{stem}.0.{i}_conv"
        if f"{name}.weight" not in w:
            return x
        y = F.conv2d(x.relu(), w[f"{name}.weight"], w[f"{name}.bias"], padding=1).relu()
        x = x + F.conv2d(y, w[f"{name}_relu_varout_dimred.weight"], padding=1)
    return x


def published_decoder(w, features):
    """RefineNet, light-weight or not, from features res2 to res5."""

    def conv(name, x):
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    x = None
    for g, feature in enumerate(reversed(features), start=1):
        path = units(w, f"adapt_stage{g}_b", 2, conv(f"p_ims1d2_outl{g}_dimred", feature))
        if x is not None:
            path = conv(f"adapt_stage{g}_b2_joint_varout_dimred", path)
            x = conv(f"mflow_conv_g{g - 1}_b3_joint_varout_dimred", x)
            x = F.interpolate(x, path.shape[-2:], mode="bilinear", align_corners=True)
            path = path + x
        x = units(w, f"mflow_conv_g{g}_b", 3, crp(w, f"mflow_conv_g{g}_pool", path))
    return F.conv2d(x, w["clf_conv.weight"], w["clf_conv.bias"], padding=1)


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.merge_from_list(
        [
            "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor",
            "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 0,
            "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
            "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.STRIDE_IN_1X1", False,
            "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.SEM_SEG_HEAD.NAME", "RefineNetHead",
            "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES", NUM_CLASSES,
            "MODEL.REFINENET.WIDTHS", WIDTHS, "MODEL.REFINENET.ALIGN_CORNERS", True,
            "INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53],
            "MODEL.PIXEL_STD", [58.395, 57.12, 57.375], *overrides,
        ]
    )  # fmt: skip
    return cfg


def loaded_model(cfg, state, folder):
    torch.save(state, folder / "weights.pth")
    model = build_model(cfg).eval()
    DeepFuseCheckpointer(model).load(str(folder / "weights.pth"))
    return model


@pytest.mark.parametrize("light_weight", [True, False])
def test_converted_weights_give_the_scores_of_the_published_network(light_weight, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    encoder = with_statistics(torchvision.models.resnet18())
    state = {k: v for k, v in encoder.state_dict().items() if not k.startswith("fc.")}
    state |= random_tensors(decoder_shapes(light_weight))
    model = loaded_model(config("MODEL.REFINENET.LIGHT_WEIGHT", light_weight), state, tmp_path)

    image = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(image))))
        features = []
        for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
            x = layer(x)
            features.append(x)
        expected = published_decoder(state, features)
        found = model.outputs({"image": image})["sem_seg"]
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("light_weight", [True, False])
def test_every_tensor_has_one_place_and_every_place_a_tensor(light_weight):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        encoder = torchvision.models.resnet18().state_dict()
        state = encoder | {n: torch.empty(s) for n, s in decoder_shapes(light_weight).items()}
    decoder = decoder_shapes(light_weight)
    assert len(decoder) == (28 if light_weight else 88)
    assert is_lw_refinenet(state)
    assert recognise(state).name == "RefineNet, light-weight or not"
    renamed = rename_lw_refinenet(state)
    dropped = [n for n in state if n.startswith("fc.") or n.endswith("num_batches_tracked")]
    assert len(renamed) == len(state) - len(dropped)

    cfg = config("MODEL.REFINENET.LIGHT_WEIGHT", light_weight)
    expected = {
        name.removeprefix("backbone."): value.shape
        for name, value in build_model(cfg).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert {name: value.shape for name, value in renamed.items()} == expected


# ---------------------------------------------------------------- MobileNet-v2

MOBILENET = (
    "MODEL.BACKBONE.NAME", "build_mobilenet_v2_backbone",
    "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4a", "res4", "res5a", "res5"],
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4a", "res4", "res5a", "res5"],
    "MODEL.REFINENET.LIGHT_WEIGHT", True, "MODEL.REFINENET.WIDTHS", [8, 8],
    "MODEL.REFINENET.ACTIVATION", "relu6", "MODEL.REFINENET.FUSE_CONV_ON_FEATURES", False,
)  # fmt: skip


class PublishedBlock(nn.Module):
    def __init__(self, inner, outer, expansion, stride):
        super().__init__()
        width = inner * expansion

        def unit(a, b, k, s, groups):
            conv = nn.Conv2d(a, b, k, s, k // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(b))

        self.output = nn.Sequential(
            unit(inner, width, 1, 1, 1), unit(width, width, 3, stride, width),
            unit(width, outer, 1, 1, 1),
        )  # fmt: skip
        self.residual = inner == outer and stride == 1

    def forward(self, x):
        y = F.relu6(self.output[1](F.relu6(self.output[0](x))))
        y = self.output[2](y)
        return x + y if self.residual else y


class PublishedMobileNet(nn.Module):
    """The encoder with the published names layer1 to layer8."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()
        )
        inner = 32
        plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
        for index, (expansion, outer, number, stride) in enumerate(plan, start=2):
            blocks = []
            for i in range(number):
                blocks.append(PublishedBlock(inner, outer, expansion, stride if i == 0 else 1))
                inner = outer
            setattr(self, f"layer{index}", nn.Sequential(*blocks))

    def forward(self, x):
        features = {}
        for index in range(1, 9):
            x = features[index] = getattr(self, f"layer{index}")(x)
        return features


def mobilenet_decoder_shapes(width=8):
    shapes = {f"conv_adapt{i}.weight": (width, width, 1, 1) for i in (2, 3, 4)}
    for index, channels in zip(range(3, 9), (24, 32, 64, 96, 160, 320), strict=True):
        shapes[f"conv{index}.weight"] = (width, channels, 1, 1)
    for g in range(1, 5):
        for i in range(1, 5):
            shapes[f"crp{g}.0.{i}_outvar_dimred.weight"] = (width, width, 1, 1)
    shapes["segm.weight"] = (NUM_CLASSES, width, 3, 3)
    shapes["segm.bias"] = (NUM_CLASSES,)
    return shapes


def published_mobilenet_decoder(w, features):
    def path(index):
        return F.conv2d(features[index], w[f"conv{index}.weight"])

    x = crp(w, "crp4", path(8) + path(7), F.relu6)
    for g, indices in ((3, (5, 6)), (2, (4,)), (1, (3,))):
        level = sum(path(index) for index in indices)
        x = F.conv2d(x, w[f"conv_adapt{g + 1}.weight"])
        x = F.interpolate(x, level.shape[-2:], mode="bilinear", align_corners=True)
        x = crp(w, f"crp{g}", level + x, F.relu6)
    return F.conv2d(x, w["segm.weight"], w["segm.bias"], padding=1)


def test_converted_mobilenet_weights_give_the_scores_of_the_published_network(tmp_path):
    encoder = with_statistics(PublishedMobileNet())
    decoder = random_tensors(mobilenet_decoder_shapes())
    assert len(decoder) == 27
    assert len(list(encoder.parameters())) == 156
    state = encoder.state_dict() | decoder
    assert is_lw_refinenet_mobilenet(state)
    assert recognise(state).name == "Light-Weight RefineNet on MobileNet-v2"
    cfg = config(*MOBILENET)
    model = loaded_model(cfg, state, tmp_path)
    image = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        expected = published_mobilenet_decoder(state, encoder(image))
        found = model.outputs({"image": image})["sem_seg"]
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())

    renamed = rename_lw_refinenet_mobilenet(state)
    places = {
        name.removeprefix("backbone.")
        for name in model.state_dict()
        if not name.endswith("num_batches_tracked")
    }
    assert set(renamed) == places


def test_both_convolutions_of_a_light_weight_path_fold_into_one(tmp_path):
    cfg = config("MODEL.REFINENET.LIGHT_WEIGHT", True)
    model = build_model(cfg).eval()
    head = model.sem_seg_head
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    features = {f"res{i}": torch.randn(1, 2 ** (i + 4), 2 ** (7 - i), 8) for i in range(2, 6)}
    with torch.no_grad():
        expected = head(features)["sem_seg"]
        for block, name in zip(head.blocks[1:], ("res4", "res3", "res2"), strict=True):
            path, adapt = head.paths[name][1], block.fusion.convs[0]
            path.weight.copy_(torch.einsum("om...,mi...->oi...", adapt.weight, path.weight))
            block.fusion.convs[0] = nn.Identity()
        found = head(features)["sem_seg"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_torchvision_resnet_is_not_taken_for_refinenet():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        names = torchvision.models.resnet18().state_dict()
    assert not is_lw_refinenet(names)
    assert not is_lw_refinenet_mobilenet(names)
