"""Scenes on disk: PASTIS's layout, rasters of one's own, windows, clouds, no data, samples."""

import datetime
import json

import numpy as np
import pytest
import rasterio
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from deepfuse_d2.data.check import check_dataset
from deepfuse_d2.data.datasets.extra import register_extra
from deepfuse_d2.data.datasets.formats.raster import open_rasters
from deepfuse_d2.data.datasets.pastis import PASTIS_METADATA, load_pastis, pastis_statistics
from deepfuse_d2.data.mappers.series_mapper import SeriesMapper
from deepfuse_d2.data.object_split import keep_objects, train_objects
from deepfuse_d2.data.scenes import Scene, Window, date_in_name, days_of, read_scene
from deepfuse_d2.errors import ConfigError, DatasetError
from deepfuse_d2.randomness import seeded

LEFT, TOP, CRS = 500_000.0, 6_600_000.0, "EPSG:2154"
SIZE, RATIO, DATES = (12, 10), 5, ("2020-01-05", "2020-03-10", "2020-07-20")


def write_raster(path, values, pixel=10.0, *, left=LEFT, top=TOP, crs=CRS, **profile):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values[None] if values.ndim == 2 else values
    transform = rasterio.transform.from_origin(left, top, pixel, pixel)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1],
        width=values.shape[2], dtype=values.dtype, crs=crs, transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(values)
    return str(path)


@pytest.fixture
def rasters(tmp_path):
    """A scene of three dates with four bands, an image, clouds, labels and objects."""
    rng = np.random.default_rng(0)
    series = rng.integers(1, 5000, (3, 4, *SIZE)).astype(np.int16)
    image = rng.integers(0, 255, (3, SIZE[0] * RATIO, SIZE[1] * RATIO)).astype(np.uint8)
    clouds = np.zeros((3, *SIZE), dtype=np.uint8)
    clouds[1, 2:5, 3:6] = 1
    labels = rng.integers(0, 3, SIZE).astype(np.uint8)
    labels[0, 0] = 255
    objects = np.arange(1, SIZE[0] * SIZE[1] + 1).reshape(SIZE).astype(np.int32) // 4 + 1
    for date, values, mask in zip(DATES, series, clouds, strict=True):
        write_raster(tmp_path / f"series/S2_{date.replace('-', '')}_T31.tif", values)
        write_raster(tmp_path / f"clouds/mask_{date}.tif", mask)
    write_raster(tmp_path / "image.tif", image, 2.0)
    write_raster(tmp_path / "labels.tif", labels)
    write_raster(tmp_path / "objects.tif", objects)
    entry = {
        "NAME": "scenes_test", "FORMAT": "raster", "IMAGE": str(tmp_path / "image.tif"),
        "SERIES": str(tmp_path / "series"), "CLOUDS": str(tmp_path / "clouds"),
        "LABELS": str(tmp_path / "labels.tif"), "CLASSES": ["a", "b", "c"], "WINDOW": 6,
    }  # fmt: skip
    yield tmp_path, entry, series, image, clouds, labels
    for name in ("scenes_test", "scenes_test_other"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_dates_are_found_in_names_and_counted_from_the_first_year():
    assert date_in_name("S2A_MSIL2A_20190704T105031.tif") == datetime.date(2019, 7, 4)
    assert date_in_name("spot_2019-07-04_v2.tif") == datetime.date(2019, 7, 4)
    assert date_in_name("tile_31TGL.tif") is None
    assert date_in_name("20190704_to_20190801.tif") is None
    assert days_of([datetime.date(2019, 1, 2), datetime.date(2020, 1, 1)]) == (1, 365)
    assert days_of([]) == ()


def test_a_window_reads_the_same_part_of_every_file(rasters):
    _, entry, series, image, clouds, _ = rasters
    scene = open_rasters(entry)
    assert scene.size == SIZE
    assert scene.ratio == RATIO
    assert scene.days == (4, 69, 201)
    found = read_scene(scene, Window(2, 3, 5, 4))
    assert np.array_equal(found["time_series"], series[:, :, 2:7, 3:7])
    assert np.array_equal(found["usable"], clouds[:, 2:7, 3:7] == 0)
    assert np.array_equal(found["image"], image[:, 10:35, 15:35])
    assert found["image_valid"].all()
    assert "image" not in read_scene(scene, Window(0, 0, 2, 2), with_image=False)


def test_windows_become_records_with_labels_of_their_own(rasters):
    _, entry, _, _, _, labels = rasters
    register_extra([entry])
    records = DatasetCatalog.get("scenes_test")
    assert [r["window"] for r in records] == [
        (0, 0, 6, 6), (0, 6, 6, 4), (6, 0, 6, 6), (6, 6, 6, 4),
    ]  # fmt: skip
    assert len({r["file_name"] for r in records}) == 4
    entry = SeriesMapper("validate")(records[3])
    assert np.array_equal(entry["sem_seg"], labels[6:, 6:])
    assert entry["image"].shape == (3, 30, 20)
    assert entry["time_series"].dtype == torch.float32
    assert MetadataCatalog.get("scenes_test").stuff_classes == ["a", "b", "c"]


def test_a_stack_is_read_in_either_order(rasters):
    root, entry, series, *_ = rasters
    dates_first = series.reshape(12, *SIZE)
    bands_first = series.swapaxes(0, 1).reshape(12, *SIZE)
    for order, stack in (("dates_first", dates_first), ("bands_first", bands_first)):
        path = write_raster(root / f"{order}.tif", stack)
        one = {**entry, "SERIES": path, "DATES": list(DATES), "ORDER": order}
        found = read_scene(open_rasters(one), Window(0, 0, *SIZE))
        assert np.array_equal(found["time_series"], series)


def test_no_data_and_numbers_that_are_none_cannot_be_used(rasters):
    root, entry, series, *_ = rasters
    values = series.astype(np.float32)
    values[0, :, 1, 1] = -1
    values[2, 3, 4, 4] = np.nan
    for date, one in zip(DATES, values, strict=True):
        write_raster(root / f"float/{date}.tif", one)
    one = {**entry, "SERIES": str(root / "float"), "NO_DATA": -1.0}
    del one["CLOUDS"]
    usable = read_scene(open_rasters(one), Window(0, 0, *SIZE))["usable"]
    expected = np.ones((3, *SIZE), dtype=bool)
    expected[0, 1, 1] = expected[2, 4, 4] = False
    assert np.array_equal(usable, expected)


def test_rasters_off_the_grid_are_refused_with_the_reason_or_brought_there(rasters):
    root, entry, _, image, *_ = rasters
    shifted = write_raster(root / "shifted.tif", image, 2.0, left=LEFT - 20)
    elsewhere = write_raster(root / "elsewhere.tif", image, 2.0, crs="EPSG:32631")
    coarse = write_raster(root / "coarse.tif", image[:, ::2, ::2].copy(), 4.0)
    with pytest.raises(DatasetError, match=r"transform.*Set REPROJECT True"):
        open_rasters({**entry, "IMAGE": shifted})
    with pytest.raises(DatasetError, match="has the CRS EPSG:32631"):
        open_rasters({**entry, "IMAGE": elsewhere})
    with pytest.raises(DatasetError, match=r"2\.5000 times the side"):
        open_rasters({**entry, "IMAGE": coarse})
    scene = open_rasters({**entry, "IMAGE": shifted, "REPROJECT": True, "RATIO": RATIO})
    found = read_scene(scene, Window(0, 0, *SIZE))
    # two pixels of the series to the left: those at the right have no data
    assert np.array_equal(found["image"][:, :, :40], image[:, :, 10:])
    assert found["image_valid"][:, :40].all()
    assert not found["image_valid"][:, 40:].any()


def test_labels_may_lie_on_the_grid_of_the_image(rasters):
    root, entry, *_ = rasters
    fine = np.random.default_rng(1).integers(0, 3, (60, 50)).astype(np.uint8)
    path = write_raster(root / "fine.tif", fine, 2.0)
    register_extra([{**entry, "LABELS": path, "WINDOW": 64}])
    record = DatasetCatalog.get("scenes_test")[0]
    assert (record["height"], record["width"]) == (60, 50)
    assert np.array_equal(SeriesMapper("validate")(record)["sem_seg"], fine)


def test_objects_are_on_one_side_of_a_split(rasters):
    root, entry, *_, labels = rasters
    split = {"OBJECTS": str(root / "objects.tif"), "TRAIN_SHARE": 0.5, "WINDOW": 5}
    parts = [{**entry, **split, "SPLIT": "train"},
             {**entry, **split, "SPLIT": "test", "NAME": "scenes_test_other"}]  # fmt: skip
    register_extra(parts)
    kept = []
    for part in parts:
        whole = np.full(SIZE, 255, dtype=np.int64)
        for record in DatasetCatalog.get(part["NAME"]):
            top, left, height, width = record["window"]
            sample = SeriesMapper("validate")(record)
            whole[top : top + height, left : left + width] = sample["sem_seg"]
        kept.append(whole != 255)
    labelled = labels != 255
    assert np.array_equal(kept[0] ^ kept[1], labelled)
    assert 0.2 < kept[0].sum() / labelled.sum() < 0.8


def test_the_share_of_objects_is_as_asked_for():
    numbers = np.arange(1, 20_001)
    for share in (0.3, 0.7):
        assert train_objects(numbers, share).mean() == pytest.approx(share, abs=0.02)
    assert not np.array_equal(train_objects(numbers, 0.3, 1), train_objects(numbers, 0.3, 2))
    assert not keep_objects(np.zeros(3, dtype=int), "test", 0.3).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"IMAGE": None, "SERIES": None}, "give IMAGE, SERIES, or both"),
        ({"CLASSES": None}, "LABELS needs CLASSES"),
        ({"ORDER": "random"}, 'ORDER = "random"'),
        ({"SPLIT": "train"}, "needs OBJECTS"),
        ({"TRAIN_SHARE": 1.5}, "TRAIN_SHARE = 1.5"),
        ({"WINDOW": 0}, "WINDOW and RATIO are 1 or more"),
    ],
)
def test_wrong_entries_are_named(rasters, change, message):
    _, entry, *_ = rasters
    changed = {k: v for k, v in {**entry, **change}.items() if v is not None}
    with pytest.raises(ConfigError, match=message):
        register_extra([changed])


def test_files_that_do_not_fit_are_named(rasters):
    root, entry, *_ = rasters
    write_raster(root / "bad/nodate.tif", np.zeros(SIZE, dtype=np.uint8))
    wrong = write_raster(root / "wrong.tif", np.full(SIZE, 7, dtype=np.uint8))
    with pytest.raises(DatasetError, match="no single date"):
        open_rasters({**entry, "SERIES": str(root / "bad")})
    with pytest.raises(DatasetError, match="does not exist"):
        open_rasters({**entry, "SERIES": str(root / "nowhere")})
    register_extra([{**entry, "LABELS": wrong}])
    with pytest.raises(DatasetError, match="holds the id 7"):
        DatasetCatalog.get("scenes_test")
    with pytest.raises(DatasetError, match="reaches beyond"):
        read_scene(open_rasters(entry), Window(8, 0, 9, 4))


def _pastis(root, *, number=10_000, fold=1, dates=4, sensor="S2", channels=10):
    rng = np.random.default_rng(number)
    for folder in (f"DATA_{sensor}", "ANNOTATIONS"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    series = rng.integers(0, 9000, (dates, channels, 16, 16)).astype(np.int16)
    np.save(root / f"DATA_{sensor}/{sensor}_{number}.npy", series)
    labels = rng.integers(0, 20, (3, 16, 16)).astype(np.uint8)
    np.save(root / f"ANNOTATIONS/TARGET_{number}.npy", labels)
    named = {str(i): 20180917 + i for i in range(dates)}
    return {"properties": {"ID_PATCH": number, "Fold": fold, f"dates-{sensor}": named}}, labels


def test_pastis_gives_the_patches_of_its_folds_with_void_to_ignore(tmp_path):
    features = [_pastis(tmp_path, number=n, fold=f) for n, f in ((10_000, 1), (10_001, 2))]
    (tmp_path / "metadata.geojson").write_text(
        json.dumps({"features": [feature for feature, _ in features]})
    )
    records = load_pastis(tmp_path, (2,))
    assert [r["image_id"] for r in records] == ["10001"]
    assert records[0]["scene"].days == tuple(range(259, 263))
    assert records[0]["scene"].image == ""
    entry = SeriesMapper("validate")(records[0])
    assert np.array_equal(entry["sem_seg"], features[1][1][0])
    assert entry["time_series"].shape == (4, 10, 16, 16)
    assert PASTIS_METADATA["ignore_label"] == 19
    assert len(PASTIS_METADATA["stuff_classes"]) == 19


def test_pastis_hd_brings_its_image_and_pastis_r_its_radar(tmp_path):
    feature, _ = _pastis(tmp_path)
    radar, _ = _pastis(tmp_path, sensor="S1A", dates=6, channels=3)
    feature["properties"] |= {"dates-S1A": radar["properties"]["dates-S1A"]}
    (tmp_path / "metadata.geojson").write_text(json.dumps({"features": [feature]}))
    image = np.zeros((3, 160, 160), dtype=np.uint8)
    path = tmp_path / "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019/SPOT6_RVB_1M00_2019_10000.tif"
    write_raster(path, image, 1.0)
    optical = SeriesMapper()(load_pastis(tmp_path, (1,))[0])
    assert optical["image"].shape == (3, 160, 160)
    assert optical["time_series"].shape == (4, 10, 16, 16)
    assert SeriesMapper()(load_pastis(tmp_path, (1,), sensor="S1A")[0])["time_series"].shape == (
        6, 3, 16, 16,
    )  # fmt: skip


def test_statistics_are_the_mean_of_the_folds(tmp_path):
    norms = {f"Fold_{k}": {"mean": [k, 2 * k], "std": [1.0, k]} for k in (1, 2, 3)}
    (tmp_path / "NORM_S2_patch.json").write_text(json.dumps(norms))
    assert pastis_statistics(tmp_path, (1, 3)) == ([2.0, 4.0], [1.0, 2.0])
    with pytest.raises(DatasetError, match="Fold_5"):
        pastis_statistics(tmp_path, (5,))


def test_what_is_missing_of_pastis_is_named_with_the_next_step(tmp_path):
    with pytest.raises(DatasetError, match=r"metadata\.geojson is missing.*Unpack PASTIS"):
        load_pastis(tmp_path, (1,))
    feature, _ = _pastis(tmp_path)
    (tmp_path / "metadata.geojson").write_text(json.dumps({"features": [feature]}))
    with pytest.raises(DatasetError, match=r"no patch in the folds \[3\]"):
        load_pastis(tmp_path, (3,))
    with pytest.raises(DatasetError, match=r"holds the id 1?[0-9]"):
        load_pastis(tmp_path, (1,), num_classes=3)
    feature["properties"]["dates-S2"].pop("3")
    (tmp_path / "metadata.geojson").write_text(json.dumps({"features": [feature]}))
    with pytest.raises(DatasetError, match=r"has 4 dates, metadata\.geojson names 3"):
        load_pastis(tmp_path, (1,))


def test_samples_of_a_training_are_turned_with_everything_they_hold(rasters):
    _, entry, series, image, clouds, labels = rasters
    register_extra([{**entry, "WINDOW": 64}])
    record = DatasetCatalog.get("scenes_test")[0]
    mapper = SeriesMapper("train", crop=(4, 4), dihedral=True, drop_dates=0.3)
    seen = set()
    for seed in range(30):
        with seeded(seed):
            sample = mapper(record)
        assert sample["time_series"].shape[1:] == (4, 4, 4)
        assert sample["image"].shape == (3, 20, 20)
        places = np.argwhere(series[0, 0] == int(sample["time_series"][0, 0, 0, 0]))
        kept = [[4, 69, 201].index(day) for day in sample["dates"].tolist()]
        seen.add(tuple(kept))
        if kept[0] != 0 or len(places) != 1:
            continue
        y, x = places[0]
        assert sample["sem_seg"][0, 0] == labels[y, x]
        assert sample["usable"][0, 0, 0] == (clouds[kept[0], y, x] == 0)
        block = image[:, y * 5 : y * 5 + 5, x * 5 : x * 5 + 5].astype(np.float32)
        found = sample["image"][:, :5, :5].numpy()
        turned = [np.rot90(block, k, (1, 2)) for k in range(4)]
        assert any(np.array_equal(found, t) or np.array_equal(found, t[..., ::-1]) for t in turned)
    assert len(seen) > 2
    with seeded(5):
        again = mapper(record)
    with seeded(5):
        assert torch.equal(mapper(record)["image"], again["image"])


def test_numpy_files_are_read_by_windows(tmp_path):
    series = np.arange(3 * 2 * 8 * 8, dtype=np.int16).reshape(3, 2, 8, 8)
    np.save(tmp_path / "s.npy", series)
    scene = Scene((8, 8), 2, series=(str(tmp_path / "s.npy"),), days=(1, 2, 3))
    found = read_scene(scene, Window(1, 2, 3, 4))
    assert np.array_equal(found["time_series"], series[:, :, 1:4, 2:6])
    assert found["usable"].all()
    with pytest.raises(DatasetError, match="holds 3 dates; 2 are known"):
        read_scene(scene._replace(days=(1, 2)), Window(0, 0, 2, 2))


def test_crops_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"DROP_DATES 1\.0"):
        SeriesMapper("train", drop_dates=1.0)


def test_a_check_of_the_data_reads_scenes_and_names_what_is_wrong(rasters):
    root, entry, *_ = rasters
    register_extra([entry])
    report = check_dataset("scenes_test", workers=0)
    assert not report.errors
    clouds = root / "clouds"
    for date in DATES:
        write_raster(clouds / f"mask_{date}.tif", np.ones(SIZE, dtype=np.uint8))
    (root / "image.tif").write_bytes(b"no raster")
    found = " ".join(problem.text for problem in check_dataset("scenes_test", workers=0).errors)
    assert "image.tif" in found
