"""M3FusionSegmentor: its parameters, losses, grids, missing sources and fusion heads."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.meta_arch.protocol import inputs_of, mapper_name_of, predictions_of
from deepfuse_d2.modeling.temporal import FUSIONS, LinearFusion, MLPFusion

RATIO, CLASSES, BANDS = 3, 5, 4


def _config(opts=(), **keys):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "M3FusionSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES
    cfg.MODEL.M3FUSION.merge_from_list(
        ["RATIO", RATIO, "SERIES_CHANNELS", BANDS, "SERIES_DIM", 8, "IMAGE_DIM", 6,
         "FUSION_DIM", 16, "DROPOUT", 0.0]
    )  # fmt: skip
    for key, value in keys.items():
        cfg.MODEL.M3FUSION[key] = value
    cfg.merge_from_list(list(opts))
    return cfg


def _model(opts=(), **keys):
    torch.manual_seed(0)
    return build_model(_config(opts, **keys))


def _entry(height=6, width=7, dates=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": 255 * torch.rand(3, height * RATIO, width * RATIO, generator=generator),
        "time_series": torch.randn(dates, BANDS, height, width, generator=generator),
        "dates": torch.arange(dates) * 30 + 5,
        "usable": torch.rand(dates, height, width, generator=generator) > 0.2,
        "sem_seg": torch.randint(0, CLASSES, (height, width), generator=generator),
    }


def _with_fine_labels(entry):
    return {
        **entry,
        "sem_seg": entry["sem_seg"].repeat_interleave(RATIO, 0).repeat_interleave(RATIO, 1),
    }


def _without(entry, *keys):
    return {key: value for key, value in entry.items() if key not in keys}


@pytest.mark.parametrize(
    ("channels", "bands", "classes", "count"), [(5, 6, 13, 8_392_231), (4, 16, 8, 8_395_032)]
)
def test_parameters_are_those_of_the_published_network(channels, bands, classes, count):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "M3FusionSegmentor"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * channels, [1.0] * channels
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes
    cfg.MODEL.M3FUSION.SERIES_CHANNELS = bands
    model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == count
    if classes == 13:
        heads = (model.series_head, model.image_head, model.fusion)
        counts = [sum(p.numel() for p in head.parameters()) for head in heads]
        assert counts == [13_325, 6_669, 19_981]


@pytest.mark.parametrize("grid", ["series", "image"])
@pytest.mark.parametrize("fusion", list(FUSIONS))
@pytest.mark.parametrize("encoder", ["attentive_gru", "temporal_attention"])
def test_every_parameter_learns_and_results_have_the_size_of_the_grid(grid, fusion, encoder):
    model = _model(
        FUSION=fusion, OUTPUT_GRID=grid, SERIES_ENCODER=encoder, ATTENTION_HEADS=2, DROPOUT=0.1,
        opts=["MODEL.DEEPFUSE.ZERO_INIT", False],
    )  # fmt: skip
    losses = model([_entry(), _entry(5, 7, 8, seed=1)])
    assert list(losses) == ["loss_sem_seg", "loss_sem_seg_series", "loss_sem_seg_image"]
    sum(losses.values()).backward()
    silent = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    # what a softmax over dates does not change, and what a norm behind it takes away
    assert silent in ([], ["series_encoder.keys.bias"])
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    scale = RATIO if grid == "image" else 1
    results = model([_entry(), _entry(5, 7, 8, seed=1)])
    assert [tuple(x["sem_seg"].shape) for x in results] == [
        (CLASSES, 6 * scale, 7 * scale), (CLASSES, 5 * scale, 7 * scale),
    ]  # fmt: skip


def test_the_loss_is_that_of_the_full_head_and_three_tenths_of_each_other():
    model = _model()
    entry = _entry()
    losses = model([entry])
    outputs = model.outputs(model.inputs([entry]))
    for name, key, weight in (
        ("sem_seg", "loss_sem_seg", 1.0),
        ("series", "loss_sem_seg_series", 0.3),
        ("image", "loss_sem_seg_image", 0.3),
    ):
        expected = weight * F.cross_entropy(outputs[name], entry["sem_seg"][None])
        assert torch.allclose(losses[key], expected, rtol=1e-5)


def test_heads_without_a_weight_learn_from_nothing():
    model = _model(AUXILIARY_WEIGHTS=[0.0, 0.0])
    losses = model([_entry()])
    assert list(losses) == ["loss_sem_seg"]
    losses["loss_sem_seg"].backward()
    assert model.series_head.weight.grad is None
    assert model.image_head.weight.grad is None
    assert model.fusion.classifier.weight.grad is not None


def test_no_loss_comes_from_ignored_pixels():
    model = _model()
    entry, other = _entry(), _entry()
    entry["sem_seg"][:3] = other["sem_seg"][:3] = 255
    other["time_series"][:, :, :3] = 7.0
    model.eval()  # statistics of BN would tell of the other pixels
    first, second = (model._train([x]) for x in (entry, other))
    assert torch.allclose(first["loss_sem_seg_series"], second["loss_sem_seg_series"])
    entry["sem_seg"][:] = 255
    assert all(value == 0 for value in model._train([entry]).values())


def test_logits_added_on_two_grids_are_those_of_the_concatenation():
    torch.manual_seed(0)
    for head in (LinearFusion(8, 6, 5), MLPFusion(8, 6, 5, hidden=7)):
        series, image = torch.randn(2, 8, 4, 5), torch.randn(2, 6, 12, 15)
        both = torch.cat([F.interpolate(series, scale_factor=3, mode="nearest"), image], dim=1)
        if isinstance(head, LinearFusion):
            expected = head.classifier(both)
        else:
            expected = head.classifier(F.relu(head.hidden(both)))
        assert torch.allclose(head(series, image), expected, atol=1e-5)


def test_the_series_of_a_pixel_reaches_its_block_of_the_image_and_nothing_else():
    model = _model(OUTPUT_GRID="image").eval()
    entry = _entry()
    entry["usable"][:] = True
    changed = {**entry, "time_series": entry["time_series"].clone()}
    changed["time_series"][:, :, 2, 4] += 3.0
    with torch.no_grad():
        difference = (model([entry])[0]["sem_seg"] - model([changed])[0]["sem_seg"]).abs().amax(0)
    block = torch.zeros_like(difference, dtype=torch.bool)
    block[2 * RATIO : 3 * RATIO, 4 * RATIO : 5 * RATIO] = True
    assert (difference[block] > 0).all()
    assert (difference[~block] == 0).all()


@pytest.mark.parametrize("grid", ["series", "image"])
def test_a_source_that_is_missing_leaves_the_head_of_the_other(grid):
    model = _model(OUTPUT_GRID=grid).eval()
    entry = _entry()
    with torch.no_grad():
        all_heads = model.predict([entry])[0]
        without_image = model([_without(entry, "image")])[0]["sem_seg"]
        without_series = model([_without(entry, "time_series", "dates", "usable")])[0]["sem_seg"]
    assert torch.allclose(without_image, all_heads["series"], atol=1e-5)
    assert torch.allclose(without_series, all_heads["image"], atol=1e-5)
    assert not torch.allclose(all_heads["sem_seg"], all_heads["series"], atol=1e-3)


@pytest.mark.parametrize(
    ("switch", "missing"), [("USE_IMAGE", "image"), ("USE_TIME_SERIES", "time_series")]
)
def test_one_source_alone_is_the_same_network_with_weights_of_the_full_one(switch, missing):
    full, alone = _model().eval(), _model(**{switch: False}).eval()
    alone.load_state_dict(full.state_dict(), strict=False)
    entry = _entry()
    with torch.no_grad():
        expected = full([_without(entry, missing)])[0]["sem_seg"]
        assert torch.allclose(alone([entry])[0]["sem_seg"], expected, atol=1e-5)
    assert list(alone.train()([entry])) == ["loss_sem_seg"]


def test_padding_in_space_and_in_time_changes_nothing():
    model = _model().eval()
    small, large = _entry(4, 5, 4), _entry(6, 8, 9, seed=3)
    with torch.no_grad():
        together = model([small, large])
        for entry, found in zip((small, large), together, strict=True):
            assert torch.allclose(model([entry])[0]["sem_seg"], found["sem_seg"], atol=1e-5)


def test_values_that_are_no_numbers_count_as_clouds():
    model = _model().eval()
    entry = _entry()
    broken = {**entry, "time_series": entry["time_series"].clone()}
    broken["time_series"][1, 2, 3, 3] = float("nan")
    masked = {**entry, "usable": entry["usable"].clone()}
    masked["usable"][1, 3, 3] = False
    with torch.no_grad():
        assert torch.equal(model([broken])[0]["sem_seg"], model([masked])[0]["sem_seg"])


def test_results_come_in_the_size_that_is_asked_for():
    entry = _entry()
    on_series, on_image = _model().eval(), _model(OUTPUT_GRID="image").eval()
    with torch.no_grad():
        fine = on_series([{**entry, "height": 18, "width": 21}])[0]["sem_seg"]
        coarse = on_image([{**entry, "height": 6, "width": 7}])[0]["sem_seg"]
        assert torch.equal(fine[:, ::RATIO, ::RATIO], on_series([entry])[0]["sem_seg"])
        means = F.avg_pool2d(on_image([entry])[0]["sem_seg"], RATIO)
    assert torch.allclose(coarse, means, atol=1e-6)


def test_labels_of_either_grid_train_either_grid():
    for grid in ("series", "image"):
        model = _model(OUTPUT_GRID=grid)
        coarse, fine = model([_entry()]), model([_with_fine_labels(_entry())])
        for key in coarse:
            assert torch.allclose(coarse[key], fine[key], rtol=1e-4)


def test_drawn_pixels_have_the_logits_of_the_whole():
    model = _model(TRAIN_PIXELS=1000)
    model.eval()
    entry = _entry()
    inputs = model.inputs([entry])
    labels = torch.arange(6 * 7).view(1, 6, 7)
    outputs, drawn = model._outputs_of_pixels(inputs, labels)
    whole = model.outputs(inputs)
    for name in whole:
        expected = whole[name][0].flatten(1)[:, drawn.flatten()].T
        assert torch.allclose(outputs[name].flatten(1), expected, atol=1e-5)
    model.train_pixels = 9
    assert len(model._outputs_of_pixels(inputs, labels)[1]) == 9


def test_a_training_without_a_source_now_and_then_teaches_to_do_without():
    model = _model(SOURCE_DROPOUT=1.0)
    entry = _entry()
    features = {"series": torch.ones(64, 8, 1, 1), "image": torch.ones(64, 6, 1, 1)}
    series, image = model._drop_sources(features)
    kept = series[:, 0, 0, 0] + image[:, 0, 0, 0]
    assert torch.equal(kept, torch.ones(64))
    assert 10 < series[:, 0].sum() < 54
    assert torch.equal(model.eval()._drop_sources(features)[0], features["series"])
    assert model.train()([entry])["loss_sem_seg"].isfinite()


def test_any_backbone_and_head_can_read_the_image():
    opts = [
        "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NORM", "BN",
        "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3"], "MODEL.BACKBONE.FREEZE_AT", 0,
        "MODEL.SEM_SEG_HEAD.NAME", "DeepFuseSemSegHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3"], "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16,
        "MODEL.SEM_SEG_HEAD.NORM", "",
    ]  # fmt: skip
    for grid in ("series", "image"):
        model = _model(opts, IMAGE_ENCODER="backbone", FUSION="deepfuse", OUTPUT_GRID=grid)
        assert model.size_divisibility == 24  # stride 8, ratio 3
        sum(model([_entry(8, 8)]).values()).backward()
        assert model.image_branch.backbone.stem.conv1.weight.grad.abs().sum() > 0
        model.eval()
        scale = RATIO if grid == "image" else 1
        assert model([_entry(9, 7)])[0]["sem_seg"].shape == (CLASSES, 9 * scale, 7 * scale)


def test_it_says_what_it_takes_and_gives():
    model = _model()
    assert mapper_name_of(model) == "series"
    assert predictions_of(model) == ("sem_seg",)
    example = model.example_input(16, 20)
    assert list(inputs_of(model, [example])) == ["image", "time_series", "dates", "usable"]
    assert example["image"].shape == (3, 18, 21)


@pytest.mark.parametrize(
    ("opts", "keys", "message"),
    [
        ((), {"USE_IMAGE": False, "USE_TIME_SERIES": False}, "are both False"),
        ((), {"FUSION": "sum"}, r'FUSION = "sum" is unknown; choose one of \[\'linear'),
        ((), {"SERIES_ENCODER": "lstm"}, 'SERIES_ENCODER = "lstm" is unknown'),
        ((), {"IMAGE_ENCODER": "vit"}, 'IMAGE_ENCODER = "vit" is unknown'),
        ((), {"OUTPUT_GRID": "both"}, 'OUTPUT_GRID = "both" is unknown'),
        ((), {"SERIES_MEAN": [1.0]}, "SERIES_MEAN has 1 numbers for 4 bands"),
        ((), {"SERIES_MEAN": [1.0] * 4}, "go together"),
        ((), {"RATIO": 0}, "RATIO is 0"),
        ((), {"TRAIN_PIXELS": 9, "FUSION": "deepfuse"}, "TRAIN_PIXELS is 9, but single pixels"),
        (("DEEPFUSE_D2.TEST.SEM_SEG.FLIP", True), {}, "inputs have two grids"),
        (("DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT", "map"), {}, 'OUTPUT = "map" is unknown'),
    ],
)
def test_wrong_values_are_named(opts, keys, message):
    with pytest.raises(ConfigError, match=message):
        _model(opts, **keys)


def test_entries_that_do_not_fit_are_named():
    model = _model()
    with pytest.raises(ConfigError, match=r"it must have \(18, 21\)"):
        model.inputs([{**_entry(), "image": torch.rand(3, 16, 21)}])
    with pytest.raises(ConfigError, match=r"SERIES_MEAN has 4 numbers.*3 channels"):
        _model(SERIES_MEAN=[0.0] * 4, SERIES_STD=[1.0] * 4).inputs(
            [{**_entry(), "time_series": torch.rand(5, 3, 6, 7)}]
        )
    with pytest.raises(ConfigError, match="needs time_series and dates, image, or both"):
        model.inputs([{"sem_seg": torch.zeros(2, 2)}])
    with pytest.raises(ConfigError, match="without labels of their pixels"):
        model([_without(_entry(), "sem_seg")])


def test_sums_of_what_sources_say_cannot_be_parity_and_a_hidden_layer_can():
    # phenology p and texture t as perfect features; the class is (p + t) mod 3
    pairs = [(p, t) for p in range(3) for t in range(3)]
    eye = torch.eye(3)
    series = torch.stack([eye[p] for p, _ in pairs])[..., None, None]
    image = torch.stack([eye[t] for _, t in pairs])[..., None, None]
    labels = torch.tensor([(p + t) % 3 for p, t in pairs])
    right = {}
    for name, head in (("linear", LinearFusion(3, 3, 3)), ("mlp", MLPFusion(3, 3, 3, hidden=32))):
        best = 0
        for seed in range(3):
            torch.manual_seed(seed)
            for parameter in head.parameters():
                torch.nn.init.normal_(parameter, std=0.7)
            optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
            for _ in range(200):
                logits = head(series, image)[..., 0, 0]
                optimizer.zero_grad()
                F.cross_entropy(logits, labels).backward()
                optimizer.step()
                best = max(best, int((logits.argmax(1) == labels).sum()))
        right[name] = best
    assert right["linear"] <= 7
    assert right["mlp"] == 9


@pytest.mark.parametrize("ratio", [50, 10])
@pytest.mark.parametrize("grid", ["series", "image"])
def test_a_tile_of_an_aerial_image_and_a_year_of_sentinel_2_fits(ratio, grid):
    # the sizes of TreeSatAI-TS: 60 m, 0.2 m and 10 m a pixel, 146 dates, half of them cloudy
    model = _model(
        ["MODEL.PIXEL_MEAN", [100.0] * 4, "MODEL.PIXEL_STD", [50.0] * 4],
        RATIO=ratio, SERIES_CHANNELS=10, OUTPUT_GRID=grid, DATE_ENCODING="doy_sincos",
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    entry = {
        "image": 255 * torch.rand(4, 6 * ratio, 6 * ratio, generator=generator),
        "time_series": torch.rand(146, 10, 6, 6, generator=generator),
        "dates": torch.arange(146) * 5 // 2,
        "usable": torch.rand(146, 6, 6, generator=generator) > 0.5,
    }
    with torch.no_grad():
        logits = model([entry])[0]["sem_seg"]
    side = 6 * ratio if grid == "image" else 6
    assert logits.shape == (CLASSES, side, side)
    assert logits.isfinite().all()
