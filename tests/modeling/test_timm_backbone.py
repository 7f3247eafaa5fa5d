"""timm's models as bottom-up networks: the suite of every backbone, and what is particular."""

import copy
import logging

import pytest
import torch
from backbone_suite import BackboneSuite, backbone_config, build
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from deepfuse_d2.errors import ConfigError, WeightsError
from deepfuse_d2.modeling.backbone import TimmBackbone

timm = pytest.importorskip("timm")


def chosen(name, *more):
    return ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name, *more)


class TimmSuite(BackboneSuite):
    out_features_key = "MODEL.TIMM.OUT_FEATURES"
    norm_key = "MODEL.TIMM.NORM"
    # timm's own mechanism is one switch for the whole network; ours is refused, see below
    checkpoint_stages = ()


class TestTimmResNet(TimmSuite):
    overrides = chosen("resnet10t")


class TestTimmMobileNet(TimmSuite):
    overrides = chosen("mobilenetv3_small_050")
    # timm's batch norms hold the activation, which detectron2's frozen norm does not
    norm_key = None
    # hard sigmoids of squeeze-and-excitation are flat where random weights put them
    without_gradient = (".se.",)


# One small model of each family; "refused" below has those that cannot serve.
FAMILIES = {
    "resnet": ("resnet18", {}),
    "resnext": ("resnext26ts", {}),
    "res2net": ("res2net50_26w_4s", {"layers": (1, 1, 1, 1)}),
    "convnext": ("convnext_atto", {}),
    "efficientnet": ("tf_efficientnet_lite0", {}),
    "regnet": ("regnety_002", {}),
    "mobilenet": ("mobilenetv4_conv_small_035", {}),
    "pvt": ("pvt_v2_b0", {}),
    # channels innermost
    "mambaout": ("mambaout_femto", {}),
    # a transformer whose images have one size by default, and whose maps have channels innermost
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"strict_img_size": False, "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1,) * 4},
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A network of each family with batch norms frozen, and timm's own of the same weights."""
    torch.manual_seed(0)
    name, arguments = FAMILIES[request.param]
    network = TimmBackbone(name, norm="FrozenBN", arguments=arguments).eval()
    reference = timm.create_model(
        name, features_only=True, out_indices=network.body.feature_info.out_indices, **arguments
    ).eval()
    reference.load_state_dict(network.body.state_dict(), strict=False)
    return network, reference


def test_every_family_gives_the_maps_of_timm_by_their_stride(family):
    network, reference = family
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found, expected = network(image), reference(image)
    assert list(found) == ["res2", "res3", "res4", "res5"]
    by_rows = {}
    for feature in expected:
        if getattr(reference, "output_fmt", None) == "NHWC":
            feature = feature.permute(0, 3, 1, 2)
        by_rows[feature.shape[2]] = feature
    for (name, shape), stride in zip(network.output_shape().items(), (4, 8, 16, 32), strict=True):
        assert shape.stride == stride
        assert found[name].shape == (2, shape.channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(found[name], by_rows[64 // stride], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(70, 101), (33, 129)])
def test_every_family_takes_odd_images(family, size):
    network, _ = family
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, *size))
    for name, shape in network.output_shape().items():
        rows, columns = (-(-length // shape.stride) for length in size)
        assert outputs[name].shape == (1, shape.channels, rows, columns), name


def test_every_family_has_its_stages_in_order_and_trains_all_of_them(family):
    network, _ = copy.deepcopy(family)
    sum(f.square().mean() for f in network.train()(torch.randn(1, 3, 64, 64)).values()).backward()
    assert set(network._stage_of.values()) == {1, 2, 3, 4, 5}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name

    frozen = network.freeze(3)
    outputs = frozen(torch.randn(1, 3, 64, 64))
    assert [f.requires_grad for f in outputs.values()] == [False, False, True, True]


def test_padding_of_a_network_in_patches_is_the_mean_of_the_image():
    network = TimmBackbone("convnext_atto").eval()
    image = torch.randn(1, 3, 70, 101)
    padded = nn.functional.pad(image, (0, 128 - 101, 0, 96 - 70))
    with torch.no_grad():
        found, expected = network(image), network(padded)
    for name, stride in zip(found, (4, 8, 16, 32), strict=True):
        rows, columns = -(-70 // stride), -(-101 // stride)
        assert torch.equal(found[name], expected[name][..., :rows, :columns]), name


def test_a_network_of_windows_takes_multiples_of_them_and_is_padded_to_these():
    # windows of 8 cells at stride 32
    network = TimmBackbone(
        "maxvit_rmlp_pico_rw_256",
        arguments={"stem_width": 8, "embed_dim": (32,) * 4, "depths": (1,) * 4},
    ).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, 64, 96))
    assert {f: tuple(o.shape[2:]) for f, o in outputs.items()} == {
        "res2": (16, 24), "res3": (8, 12), "res4": (4, 6), "res5": (2, 3),
    }  # fmt: skip


# --- image statistics ---------------------------------------------------------------------------


def seen_by(network, image):
    """What the timm model inside receives."""
    seen = []
    handle = network.body.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        network(image)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("image_format", "mean", "std"),
    [
        ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]),  # detectron2's default
        ("BGR", [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]),
        ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("RGB", [0.0, 10.0, 20.0], [255.0, 128.0, 1.0]),
    ],
)
# of ImageNet's statistics, and of 0.5 for all
@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_the_model_sees_images_with_its_own_statistics_whatever_the_config_says(
    name, image_format, mean, std
):
    network = build(
        *chosen(name), "INPUT.FORMAT", image_format,
        "MODEL.PIXEL_MEAN", mean, "MODEL.PIXEL_STD", std,
    ).eval()  # fmt: skip
    rgb = torch.randint(0, 256, (1, 3, 64, 64)).float()
    given = rgb if image_format == "RGB" else rgb.flip(1)
    given = (given - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    kept = given.clone()

    own = timm.get_pretrained_cfg(name)
    expected = torch.empty_like(rgb)
    for channel in range(3):
        expected[:, channel] = (rgb[:, channel] / 255 - own.mean[channel]) / own.std[channel]
    torch.testing.assert_close(seen_by(network, given), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(given, kept)


def test_an_image_with_the_statistics_of_the_model_is_left_alone():
    network = build(
        *chosen("resnet10t"), "INPUT.FORMAT", "RGB",
        "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375],
    ).eval()  # fmt: skip
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(seen_by(network, image), image)
    assert torch.equal(seen_by(TimmBackbone("resnet10t").eval(), image), image)


def test_a_conversion_of_statistics_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="deepfuse_d2"):
        build(*chosen("resnet10t"))
    assert "expects RGB images of mean [123.675, 116.28, 103.53]" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"), [("INPUT.FORMAT", "YUV-BT.601"), ("MODEL.PIXEL_MEAN", [100.0])]
)
def test_images_without_three_colours_are_refused(key, value):
    with pytest.raises(ConfigError, match="three channels; choose RGB or BGR"):
        build(*chosen("resnet10t"), key, value)


# --- weights ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    """State dict of a whole timm classifier, batch norms with statistics of their own."""
    torch.manual_seed(1)
    model = timm.create_model("resnet10t")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
    return model.state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_timms_weights_is_loaded_without_its_classifier(tmp_path, weights, suffix):
    path = str(tmp_path / f"weights{suffix}")
    if suffix == ".safetensors":
        pytest.importorskip("safetensors").torch.save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    network = build(
        *chosen("resnet10t", "MODEL.TIMM.CHECKPOINT", path, "MODEL.TIMM.NORM", "FrozenBN")
    )
    found = network.body.state_dict()
    assert len(found) > 50
    for name, value in found.items():
        assert torch.equal(value, weights[name]), name


def test_real_weights_in_timms_names_load(shared_data):
    path = shared_data / "weights" / "resnet18_places365_fp16.pth"
    network = TimmBackbone("resnet18", checkpoint=str(path))
    expected = torch.load(path, weights_only=True)
    expected = expected.get("state_dict", expected)
    assert torch.equal(network.body.conv1.weight, expected["conv1.weight"].float())


def test_a_checkpoint_of_another_model_is_refused(tmp_path, weights):
    path = str(tmp_path / "weights.pth")
    torch.save(weights, path)
    with pytest.raises(WeightsError, match=r'for the timm model "resnet18": .*another shape'):
        TimmBackbone("resnet18", checkpoint=path)


def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"CHECKPOINT, .*nowhere.pth does not exist"):
        TimmBackbone("resnet10t", checkpoint=str(tmp_path / "nowhere.pth"))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\xff" * 64)
    with pytest.raises(WeightsError, match="damaged or was cut short"):
        TimmBackbone("resnet10t", checkpoint=str(damaged))


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(
        WeightsError, match=r"could not be fetched.*TIMM.CHECKPOINT.*PRETRAINED Fal"
    ):
        build(*chosen("resnet10t", "MODEL.TIMM.PRETRAINED", True))


def test_pretrained_weights_are_what_timm_fetches(monkeypatch, weights):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: weights)
    network = build(*chosen("resnet10t", "MODEL.TIMM.PRETRAINED", True))
    assert torch.equal(network.body.bn1.running_mean, weights["bn1.running_mean"])


def test_a_model_without_published_weights_names_some_that_have_them():
    name = next(n for n in timm.list_models("resnet*") if not timm.models.is_model_pretrained(n))
    with pytest.raises(
        WeightsError, match=rf'no pretrained weights of "{name}".*It has them of: re'
    ):
        TimmBackbone(name, pretrained=True)


def test_weights_of_the_whole_model_make_fetching_needless(monkeypatch, caplog):
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: pytest.fail("fetched")
    )
    with caplog.at_level(logging.INFO, logger="deepfuse_d2"):
        build(*chosen("resnet10t", "MODEL.TIMM.PRETRAINED", True, "MODEL.WEIGHTS", "model.pth"))
    assert "MODEL.WEIGHTS = model.pth holds the network" in caplog.text


def test_freezing_random_weights_is_warned_of(caplog):
    build(*chosen("resnet10t", "MODEL.BACKBONE.FREEZE_AT", 2))
    assert "FREEZE_AT = 2 freezes random weights" in caplog.text


# --- norms, depth, sizes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_frozen_norms_compute_what_the_norms_did_activation_included(name):
    live = TimmBackbone(name).eval()
    for module in live.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    frozen = TimmBackbone(name, norm="FrozenBN")
    frozen.load_state_dict(live.state_dict(), strict=False)
    partly = copy.deepcopy(live).freeze(5)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = live(image)
        # in training mode, where live norms would follow the batch
        for network in (frozen.train(), partly.train()):
            assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
            for feature, found in network(image).items():
                torch.testing.assert_close(found, expected[feature], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_synchronised_norms_compute_what_the_norms_did_activation_included(name):
    live, synchronised = TimmBackbone(name).eval(), TimmBackbone(name, norm="SyncBN").eval()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in synchronised.modules())
    assert any(isinstance(m, nn.SyncBatchNorm) for m in synchronised.modules())
    synchronised.load_state_dict(live.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for feature, found in synchronised(image).items():
            torch.testing.assert_close(found, live(image)[feature], rtol=1e-4, atol=1e-4)


def test_freezing_two_stages_freezes_the_norms_of_these_alone():
    network = TimmBackbone("resnet18", freeze_at=2)
    body = network.body
    assert isinstance(body.bn1, FrozenBatchNorm2d)
    assert all(isinstance(block.bn1, FrozenBatchNorm2d) for block in body.layer1)
    assert all(isinstance(block.bn1, nn.BatchNorm2d) for block in body.layer2)
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_a_stem_without_a_map_of_its_own_is_the_module_of_the_first_convolution():
    network = TimmBackbone("convnext_atto", freeze_at=1)
    frozen = {n.split(".")[0] for n, p in network.body.named_parameters() if not p.requires_grad}
    assert frozen == {"stem_0", "stem_1"}


def test_a_norm_that_the_model_does_not_have_is_warned_of(caplog):
    TimmBackbone("convnext_atto", norm="FrozenBN")
    assert 'MODEL.TIMM.NORM = "FrozenBN" changes nothing' in caplog.text


def test_drop_path_drops_branches_in_training_and_nothing_at_test_time():
    network = TimmBackbone("convnext_atto", drop_path=0.9)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        first, second = network.train()(image)["res5"], network(image)["res5"]
        assert not torch.equal(first, second)
        assert torch.equal(network.eval()(image)["res5"], network(image)["res5"])


def test_a_stage_that_no_feature_needs_is_not_built():
    whole, part = TimmBackbone("resnet18"), TimmBackbone("resnet18", out_features=["res2", "res3"])
    assert list(part.output_shape()) == ["res2", "res3"]
    assert hasattr(whole.body, "layer4")
    assert not hasattr(part.body, "layer3")


def test_layers_behind_the_last_feature_are_left_out_of_networks_timm_builds_to_the_end():
    part = TimmBackbone("mobilenetv3_small_050", out_features=["res3"])
    whole = TimmBackbone("mobilenetv3_small_050")
    names = {name for name, _ in part.named_parameters()}
    assert len(names) < len(list(whole.parameters())) / 2
    whole.load_state_dict(part.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(part.eval()(image)["res3"], whole.eval()(image)["res3"])


def test_a_network_built_for_one_size_takes_smaller_images_too():
    arguments = {
        "img_size": [96, 160], "window_size": 4,
        "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1,) * 4,
    }  # fmt: skip
    network = build(*chosen("swin_tiny_patch4_window7_224", "MODEL.TIMM.ARGS", [arguments])).eval()
    image = torch.randn(1, 3, 70, 160)
    padded = nn.functional.pad(image, (0, 0, 0, 26))
    # the padding is the mean of the model, which is not that of the config
    network.input.rescale = network.input.flip = False
    with torch.no_grad():
        found, expected = network(image), network(padded)
    for name, stride in zip(found, (4, 8, 16, 32), strict=True):
        assert torch.equal(found[name], expected[name][:, :, : -(-70 // stride)]), name
    with pytest.raises(ConfigError, match=r"for images of 96 x 160 .* and got one of 97 x 96"):
        network(torch.randn(1, 3, 97, 96))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (chosen("resnet5O"), r'TIMM.NAME = "resnet5O" is none of .* Did you mean: resnet50'),
        (chosen("resnet50.nobody_in1k"), r"unknown tag of weights; choose one of: resnet50\.a1"),
        (chosen("vit_tiny_patch16_224"), r"strides \[16, 16, 16\]; a bottom-up network needs 4"),
        (chosen("levit_128s"), r"strides \[16, 32, 64\]"),
        (chosen("nest_tiny"), r"strides \[4, 8, 16\]"),
        (
            chosen("swin_tiny_patch4_window7_224"),
            r"Input height \(64\) doesn't match model \(224\). It does with MODEL.TIMM.ARGS "
            r"\"\[\{'strict_img_size': False\}\]\"",
        ),
        (chosen("hiera_tiny_224"), r"does not take images of any size.*\{'img_size': \[hei"),
        (chosen("inception_v3"), r"does not take images of any size.*Choose another model"),
        (
            chosen("resnet10t", "MODEL.TIMM.OUT_FEATURES", ["res3", "res6"]),
            r"OUT_FEATURES asks for \['res6'\].*has \['res2', 'res3', 'res4', 'res5'\]",
        ),
        (chosen("resnet10t", "MODEL.TIMM.NORM", "GN"), r'NORM = "GN" is unknown.*"FrozenBN", "S'),
        (chosen("resnet10t", "MODEL.TIMM.DROP_PATH", 1.0), r"DROP_PATH = 1.0 must be in \[0, 1\)"),
        (chosen("densenet121", "MODEL.TIMM.DROP_PATH", 0.1), r"drop_path_rate"),
        (chosen("resnet10t", "MODEL.TIMM.ARGS", [{"widht": 3}]), r"\{'widht': 3\}.*'widht'"),
        (chosen("resnet10t", "MODEL.TIMM.ARGS", ["width"]), r"must be a list of mappings"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_is_possible(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(*overrides)


def test_a_model_without_feature_maps_is_refused(monkeypatch):
    def no_features(*_, **__):
        raise RuntimeError("features_only not implemented for Mixer models.")

    monkeypatch.setattr(timm, "create_model", no_features)
    with pytest.raises(ConfigError, match="gives no feature maps"):
        TimmBackbone("mixer_s32_224")


def test_a_missing_timm_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[timm\]'"):
        TimmBackbone("resnet10t")


def test_a_model_without_stride_4_gives_res3_to_res5(monkeypatch):
    real = timm.create_model

    def without_stride_4(*arguments, **keywords):
        keywords.setdefault("out_indices", (0, 2, 3, 4))
        return real(*arguments, **keywords)

    monkeypatch.setattr(timm, "create_model", without_stride_4)
    network = TimmBackbone("resnet10t").eval()
    assert {f: s.stride for f, s in network.output_shape().items()} == {
        "res3": 8, "res4": 16, "res5": 32,
    }  # fmt: skip
    assert list(network(torch.randn(1, 3, 64, 64))) == ["res3", "res4", "res5"]


def test_any_neck_stands_on_it():
    cfg = backbone_config(
        "MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.OUT_CHANNELS", 32,
        "MODEL.NECK.BOTTOM_UP", "build_timm_backbone", "MODEL.TIMM.NAME", "mobilenetv3_small_050",
    )  # fmt: skip
    outputs = build_backbone(cfg, ShapeSpec(channels=3)).eval()(torch.randn(1, 3, 64, 96))
    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"]
