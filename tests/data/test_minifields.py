"""MiniFields: what is drawn, what its sources tell, and its files."""

import json

import numpy as np
import pytest
from PIL import Image

from deepfuse_d2.data.minifields import (
    MODES,
    Manifest,
    best_accuracies,
    draw_scene,
    ensure_minifields,
    generate_minifields,
)
from deepfuse_d2.data.minifields.kinds import PHENOLOGIES, TEXTURES
from deepfuse_d2.data.minifields.manifest import is_complete, scene_paths
from deepfuse_d2.data.minifields.phenology import draw_curve, draw_dates
from deepfuse_d2.data.minifields.textures import draw_texture

SMALL = Manifest(num_train=5, num_val=2, size=16, ratio=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("fields") / "minifields"
    generate_minifields(root, SMALL)
    return root


def test_a_scene_is_a_function_of_its_seed():
    first, second, other = draw_scene(3), draw_scene(3), draw_scene(4)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(first.labels, other.labels)


def test_the_parts_of_a_scene_fit():
    scene = draw_scene(0)
    dates = len(scene.days)
    assert 12 <= dates <= 20
    assert scene.series.shape == (dates, 10, 40, 40)
    assert scene.clouds.shape == (dates, 40, 40)
    assert scene.image.shape == (200, 200, 3)
    assert scene.labels.shape == scene.fields.shape == (40, 40)
    assert 20 <= scene.fields.max() <= 40
    labels = [kind.label for kind in MODES["mixed"].kinds]
    assert np.array_equal(scene.labels, np.array(labels)[scene.kinds[scene.fields - 1]])


def test_dates_are_sorted_and_five_days_apart():
    for seed in range(20):
        days = draw_dates(np.random.default_rng(seed), 20)
        assert np.diff(days).min() >= 5
        assert 0 <= days[0] <= days[-1] <= 364


@pytest.mark.parametrize("phenology", PHENOLOGIES)
def test_seasons_are_told_apart_by_when_it_is_green(phenology):
    days = np.arange(0, 365, 5)
    green = {
        "evergreen": (True, True), "early": (True, False), "late": (False, True),
        "flat": (False, False),
    }[phenology]  # fmt: skip
    for seed in range(10):
        curve = draw_curve(np.random.default_rng(seed), phenology, days)
        assert (curve[(days > 90) & (days < 150)].mean() > 0.5) == green[0]
        assert (curve[(days > 200) & (days < 300)].max() > 0.5) == green[1]


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_have_one_mean_and_one_deviation(texture):
    field = np.zeros((40, 50), dtype=bool)
    field[5:30, 10:45] = True
    pattern = draw_texture(np.random.default_rng(0), texture, field)
    assert pattern.shape == field.shape
    assert abs(pattern[field].mean()) < 1e-9
    assert pattern[field].std() == pytest.approx(1)


def test_clouds_are_bright_and_masked():
    scene = draw_scene(1, cloud_probability=1.0)
    blue = scene.series[:, 0].astype(float)
    assert scene.clouds.any(axis=(1, 2)).all()
    assert blue[scene.clouds].mean() > 5000
    assert blue[~scene.clouds].mean() < 1500
    assert not draw_scene(1, cloud_probability=0.0).clouds.any()


def test_colours_of_the_image_say_nothing_of_the_class():
    # the mean colour of a field against that of all fields of its class, over many scenes
    means = {}
    for seed in range(12):
        scene = draw_scene(seed, size=24)
        fine = scene.fields.repeat(5, axis=0).repeat(5, axis=1)
        for number, kind in enumerate(scene.kinds, start=1):
            means.setdefault(int(kind), []).append(scene.image[fine == number].mean())
    between = np.std([np.mean(values) for values in means.values()])
    within = np.mean([np.std(values) for values in means.values()])
    assert between < 0.6 * within


def test_either_source_alone_leaves_half_of_mixed_open_and_all_of_xor():
    for mode, best in (("mixed", 0.5), ("xor", 1 / 3)):
        kinds = MODES[mode].kinds
        for attribute in ("phenology", "texture"):
            groups = {}
            for kind in kinds:
                groups.setdefault(getattr(kind, attribute), []).append(kind.label)
            right = sum(max(x.count(label) for label in x) for x in groups.values())
            assert right / len(kinds) == pytest.approx(best)
        assert len({(kind.phenology, kind.texture) for kind in kinds}) == len(kinds)


def test_files_are_laid_out_as_in_pastis_hd(folder):
    features = json.loads((folder / "metadata.geojson").read_text())["features"]
    assert [f["properties"]["Fold"] for f in features] == [1, 2, 3, 4, 1, 5, 5]
    properties = features[0]["properties"]
    paths = scene_paths(folder, properties["ID_PATCH"])
    series = np.load(paths["series"])
    assert series.dtype == np.int16
    assert len(series) == len(properties["dates-S2"])
    assert all(20190101 <= date <= 20191231 for date in properties["dates-S2"].values())
    assert np.load(paths["labels"]).shape == (1, 16, 16)
    with Image.open(paths["image"]) as image:
        assert image.size == (64, 64)
    norms = json.loads((folder / "NORM_S2_patch.json").read_text())
    assert list(norms) == ["Fold_1", "Fold_2", "Fold_3", "Fold_4", "Fold_5"]
    assert len(norms["Fold_1"]["mean"]) == 10


def test_images_say_where_they_lie(folder):
    import rasterio

    number = next(SMALL.scenes())[0]
    with rasterio.open(scene_paths(folder, number)["image"]) as file:
        assert file.crs.to_epsg() == 2154
        assert file.res == (2.5, 2.5)
        outline = json.loads((folder / "metadata.geojson").read_text())["features"][0]
        left, top = outline["geometry"]["coordinates"][0][0]
        assert (file.bounds.left, file.bounds.top) == (left, top)


def test_scenes_of_train_and_val_are_disjoint(folder):
    train = {number for number, fold in SMALL.scenes() if fold < 5}
    val = {number for number, fold in SMALL.scenes() if fold == 5}
    assert not train & val
    drawn = {np.load(scene_paths(folder, n)["labels"]).tobytes() for n in train | val}
    assert len(drawn) == 7


def test_the_best_accuracies_are_those_of_the_scenes_as_drawn(folder):
    best = best_accuracies(folder, (5,))
    # who knows the texture of each pixel: by hand over the two scenes
    counts = np.zeros(8)
    for number, fold in SMALL.scenes():
        if fold == 5:
            labels = np.load(scene_paths(folder, number)["labels"])
            counts += np.bincount(labels.ravel(), minlength=8)
    names = dict(zip(MODES["mixed"].classes, counts, strict=True))
    smooth = max(names[k] for k in ("meadow", "cereal", "summer_crop", "bare_soil"))
    rows = max(names["orchard"], names["vineyard"])
    expected = 100 * (smooth + rows + names["forest"] + names["urban"]) / counts.sum()
    assert best["image"] == pytest.approx(expected)
    assert best["both"] == 100


def test_a_whole_set_stays_and_an_incomplete_one_is_made_again(folder, tmp_path):
    root = tmp_path / "minifields"
    generate_minifields(root, SMALL)
    path = scene_paths(root, 10_001)["series"]
    content, made = path.read_bytes(), path.stat().st_mtime_ns
    ensure_minifields(root)
    assert path.stat().st_mtime_ns == made
    path.unlink()
    assert not is_complete(root)
    ensure_minifields(root)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["minifields"]


def test_files_of_others_are_never_touched(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FileExistsError, match=r"no minifields\.json"):
        generate_minifields(tmp_path, SMALL)
    root = tmp_path / "set"
    generate_minifields(root, SMALL)
    with pytest.raises(FileExistsError, match="--overwrite"):
        generate_minifields(root, Manifest(num_train=1, num_val=1, size=16, ratio=4))
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "all"}, 'mode = "all"'),
        ({"ratio": 1}, "ratio = 1; give a whole number from 2 to 20"),
        ({"num_train": 0, "num_val": 0}, "at least one scene"),
        ({"cloud_probability": 2}, "cloud_probability = 2; give 0 to 1"),
    ],
)
def test_parameters_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        Manifest(**values)
