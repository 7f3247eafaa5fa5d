"""SMPDecoderHead: the suite of every head, smp's own models to the last digits, and mistakes."""

import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from sem_seg_head_suite import NUM_CLASSES, SHAPES, SemSegHeadSuite, build_head, random_features

from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.sem_seg import SMPDecoderHead
from deepfuse_d2.modeling.sem_seg.smp_decoder import DECODERS

smp = pytest.importorskip("segmentation_models_pytorch")

NAME = ("MODEL.SEM_SEG_HEAD.NAME", "SMPDecoderHead")
# Narrow, where that can be chosen.
NARROW = {
    "Unet": {"decoder_channels": [16, 12, 8, 8, 4]},
    "UnetPlusPlus": {"decoder_channels": [16, 12, 8, 8, 4]},
    "MAnet": {"decoder_channels": [16, 12, 8, 8, 4], "decoder_pab_channels": 4},
    "FPN": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
    "PSPNet": {"psp_out_channels": 16},
    "PAN": {"decoder_channels": 8},
    "DeepLabV3": {"decoder_channels": 16},
    "DeepLabV3Plus": {"decoder_channels": 16},
    "UPerNet": {"decoder_channels": 16},
    "Segformer": {"decoder_segmentation_channels": 16},
}
WITHOUT_RES5 = {name: SHAPES[name] for name in ("res2", "res3", "res4")}


def shapes_of(decoder):
    return WITHOUT_RES5 if decoder == "DeepLabV3Plus" else SHAPES


def build(decoder, shapes=None, **arguments):
    torch.manual_seed(0)
    return SMPDecoderHead(
        shapes or shapes_of(decoder), num_classes=NUM_CLASSES, decoder=decoder,
        arguments=NARROW.get(decoder, {}) | arguments,
    )  # fmt: skip


class SMPSuite(SemSegHeadSuite):
    """The suite at sides that all strides divide, as FusionSemanticSegmentor pads to."""

    stride = 1

    def features(self, size=(64, 96), *args, **options):
        coarsest = max(shape.stride for shape in self.shapes.values())
        size = tuple(-(-side // coarsest) * coarsest for side in size)
        return super().features(size, *args, **options)

    @pytest.mark.parametrize("size", [(64, 96), (96, 128), (32, 64)])
    def test_scores_have_one_channel_a_class_and_the_declared_stride(self, size):
        super().test_scores_have_one_channel_a_class_and_the_declared_stride(size)


class TestUnet(SMPSuite):
    overrides = (*NAME, "MODEL.SMP.ARGS", [NARROW["Unet"]])


class TestUnetPlusPlus(SMPSuite):
    overrides = (
        *NAME, "MODEL.SMP.DECODER", "UnetPlusPlus", "MODEL.SMP.ARGS", [NARROW["UnetPlusPlus"]],
    )  # fmt: skip


class TestUPerNet(SMPSuite):
    overrides = (*NAME, "MODEL.SMP.DECODER", "UPerNet", "MODEL.SMP.ARGS", [NARROW["UPerNet"]])


class TestDeepLabV3Plus(SMPSuite):
    overrides = (
        *NAME, "MODEL.SMP.DECODER", "DeepLabV3Plus", "MODEL.SMP.ARGS", [NARROW["DeepLabV3Plus"]],
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res4"],
    )  # fmt: skip
    shapes = {name: SHAPES[name] for name in ("res2", "res4")}  # noqa: RUF012
    is_random_in_training = True


# --- smp's own models ---------------------------------------------------------------------------


def randomised(module):
    """Weights and statistics away from where they start."""
    generator = torch.Generator().manual_seed(5)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if name.endswith("var") else value + 0.2 * (noise - 0.5))
    return module.eval()


def shapes_of_maps(maps, image):
    """Names and shapes of an encoder's maps of channels, and the maps by name."""
    named = {f"f{i}": x for i, x in enumerate(maps[1:], start=1) if x.shape[1]}
    shapes = {
        name: ShapeSpec(channels=x.shape[1], stride=image.shape[2] // x.shape[2])
        for name, x in named.items()
    }
    return shapes, named


def taken_over(model, maps, image, decoder):
    """Our head on an encoder's maps, with the weights of smp's model."""
    shapes, named = shapes_of_maps(maps, image)
    head = SMPDecoderHead(shapes, num_classes=NUM_CLASSES, decoder=decoder).eval()
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    head.load_state_dict(weights, strict=True)
    return head, named


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_every_decoder_gives_what_smps_model_gives(decoder):
    model = getattr(smp, decoder)("resnet18", encoder_weights=None, classes=NUM_CLASSES)
    randomised(model)
    image = torch.randn(2, 3, 128, 160)
    head, named = taken_over(model, model.encoder(image), image, decoder)
    expected = model(image)
    assert expected.shape == (2, NUM_CLASSES, 128, 160)
    torch.testing.assert_close(head(named)["sem_seg"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_so_it_does_where_the_encoder_has_no_map_of_stride_2(decoder):
    # smp refuses the first for two of its models, and the second for those that are dilated
    encoder = "tu-convnext_atto" if decoder in ("UnetPlusPlus", "Linknet") else "mit_b0"
    model = getattr(smp, decoder)(encoder, encoder_weights=None, classes=NUM_CLASSES)
    randomised(model)
    image = torch.randn(1, 3, 128, 160)
    maps = model.encoder(image)
    assert maps[1].shape[1] == 0
    head, named = taken_over(model, maps, image, decoder)
    torch.testing.assert_close(head(named)["sem_seg"], model(image), rtol=1e-5, atol=1e-5)


# --- every decoder ------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_of_every_decoder_learns(decoder):
    shapes = shapes_of(decoder)
    if decoder == "MAnet":
        # it squeezes maps to a sixteenth of their channels; all of a few rectified ones may be 0
        shapes = {
            n: ShapeSpec(channels=16 * s.channels, stride=s.stride) for n, s in shapes.items()
        }
    head = build(decoder, shapes).train()
    # eight positions of the coarsest map a side, which PAN halves three times
    features = random_features((256, 256), shapes=shapes)
    scores = head(features)["sem_seg"]
    (scores * torch.randn_like(scores)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # a bias before a batch norm is taken out again: its gradient is 0 but for rounding
        if parameter.ndim > 1:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_a_trace_of_every_decoder_serves_other_sizes(decoder):
    head = build(decoder).eval()
    shapes = shapes_of(decoder)
    traced = torch.jit.trace(head, (random_features((256, 320), 1, shapes),), strict=False)
    for size in ((256, 320), (320, 288)):
        features = random_features(size, 2, shapes)
        torch.testing.assert_close(
            traced(features)["sem_seg"], head(features)["sem_seg"], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_scores_are_as_large_as_the_image(decoder):
    head = build(decoder).eval()
    scores = head(random_features((256, 320), shapes=shapes_of(decoder)))["sem_seg"]
    assert scores.shape[2:] == (256, 320)
    assert head.auxiliary_weights == {}


@torch.no_grad()
def test_dilated_stages_take_the_places_behind():
    shapes = SHAPES | {"res5": ShapeSpec(channels=20, stride=16)}
    for decoder in ("Unet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer"):
        head = build(decoder, shapes).eval()
        assert head.places == (None, None, "res2", "res3", "res4", "res5")
        scores = head(random_features((128, 160), shapes=shapes))["sem_seg"]
        assert scores.shape == (2, NUM_CLASSES, 128, 160)


@torch.no_grad()
def test_arguments_are_those_of_smp():
    widths = {"decoder_channels": [32, 32, 16, 16, 16]}
    plain, attentive = build("Unet"), build("Unet", decoder_attention_type="scse", **widths)
    more = set(attentive.state_dict()) - set(plain.state_dict())
    assert more
    assert all("attention" in name for name in more)
    by_config = build_head(*NAME, "MODEL.SMP.ARGS", [{"decoder_attention_type": "scse"}, widths])
    assert set(by_config.state_dict()) == set(attentive.state_dict())


# --- in a model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["Unet", "Linknet"])
def test_the_segmentor_trains_and_predicts_images_of_any_size(repository, decoder):
    file = repository / "configs" / "CamVid" / "sem_seg_R_18_SMP_Unet.yaml"
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.SMP.DECODER", decoder]
    torch.manual_seed(0)
    model = build_model(load_config(str(file), opts)).train()
    assert model.size_divisibility == 32
    labels = torch.randint(0, 12, (90, 121))
    batch = [
        {"image": torch.randint(0, 256, (3, 90, 121)).float(), "sem_seg": labels} for _ in range(2)
    ]
    losses = model(batch)
    assert set(losses) == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    with torch.no_grad():
        (found,) = model.eval()(batch[:1])
    assert found["sem_seg"].shape == (11, 90, 121)


def test_the_rows_of_the_plan_build_their_decoders(repository):
    from deepfuse_d2.ablation.plan import load_plan

    plan = load_plan(repository / "configs" / "ablations" / "heads_camvid.yaml")
    found = []
    for name, options in plan.settings.items():
        if "SMPDecoderHead" in options:
            cfg = load_config(str(plan.base), ["MODEL.DEVICE", "cpu", *options])
            with torch.device("meta"):
                model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
            found.append(cfg.MODEL.SMP.DECODER)
            assert type(model.sem_seg_head) is SMPDecoderHead, name
    assert set(found) == set(DECODERS) - {"DeepLabV3"}


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.SMP.DECODER", "unet"), r'DECODER = "unet" is unknown; choose one of: .*Unet'),
        (("MODEL.SMP.DECODER", "DPT"), r'DECODER = "DPT" is unknown'),
        (
            ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res5"]),
            r'"Unet" also reads features of the strides \[8, 16\]; .*\[\'res2\', \'res5\'\]',
        ),
        (
            ("MODEL.SMP.DECODER", "FPN", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res3", "res5"]),
            r'"FPN" also reads features of the strides \[4, 16\]',
        ),
        (
            ("MODEL.SMP.DECODER", "DeepLabV3Plus"),
            r"coarsest feature of one of the strides \[8, 16\]; .*has the strides \[4, 8, 16, 32\]",
        ),
        (
            ("MODEL.SMP.ARGS", [{"decoder_chanels": [8, 8, 8, 8, 8]}]),
            r"ARGS has \['decoder_chanels'\]; Unet of .* takes \['decoder_use_norm', 'decoder_ch",
        ),
        (
            ("MODEL.SMP.ARGS", [{"encoder_name": "resnet50"}]),
            r"ARGS has \['encoder_name'\]; Unet of",
        ),
        (("MODEL.SMP.ARGS", ["scse"]), r"MODEL.SMP.ARGS = \['scse'\] must be a list of mappings"),
        (
            ("MODEL.SMP.ARGS", [{"decoder_channels": [8, 8]}]),
            r"refuses to build its Unet with .* for 5 levels \(MODEL.SMP.ARGS\): Model depth is 5",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(options, message):
    with pytest.raises(ConfigError, match=message):
        build_head(*NAME, *options)


def test_strides_that_make_no_list_are_refused():
    for strides in ([4, 8, 8, 16], [4, 12], [1, 2, 4]):
        shapes = {f"f{i}": ShapeSpec(channels=8, stride=s) for i, s in enumerate(strides)}
        with pytest.raises(ConfigError, match=r"powers of two from 2 on, each once, but for dilat"):
            SMPDecoderHead(shapes, num_classes=3, decoder="PSPNet")
    dilated = SHAPES | {"res5": ShapeSpec(channels=20, stride=16)}
    with pytest.raises(ConfigError, match=r'"MAnet" doubles maps.*\[4, 8, 16, 16\]'):
        SMPDecoderHead(dilated, num_classes=3, decoder="MAnet")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepfuse-d2\[smp\]'"):
        build_head(*NAME)


def test_smps_table_of_encoders_is_left_as_it_was():
    before = dict(smp.encoders.encoders)
    build("Unet")
    with pytest.raises(ConfigError):
        build("Unet", decoder_channels=[8])
    assert smp.encoders.encoders == before
