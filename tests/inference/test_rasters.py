"""Maps of rasters: windows make no difference, maps lie where the scene lies, the command works."""

import numpy as np
import pytest
import rasterio
import torch
from detectron2.modeling import build_model
from PIL import Image

from deepfuse_d2.cli.main import main
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data.datasets.formats.raster import open_rasters
from deepfuse_d2.data.minifields import draw_scene
from deepfuse_d2.data.scenes import Window
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.inference.map_picture import class_colors, draw_map
from deepfuse_d2.inference.rasters import NO_DATA, predict_raster, predict_window

CONFIG = "configs/MiniFields/m3fusion_quick.yaml"
TINY = ["MODEL.DEVICE", "cpu", "MODEL.M3FUSION.SERIES_DIM", "8", "MODEL.M3FUSION.IMAGE_DIM", "8"]
LEFT, TOP = 600_000.0, 5_000_000.0


def _write(path, values, pixel, **profile):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values[None] if values.ndim == 2 else values
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1],
        width=values.shape[2], dtype=values.dtype, crs="EPSG:32631",
        transform=rasterio.transform.from_origin(LEFT, TOP, pixel, pixel), **profile,
    ) as file:  # fmt: skip
        file.write(values)
    return str(path)


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """A scene of MiniFields as rasters of one's own; the top left corner holds no data."""
    root = tmp_path_factory.mktemp("scene")
    scene = draw_scene(0, size=18)
    series, image = scene.series.copy(), scene.image.transpose(2, 0, 1).copy()
    series[:, :, :3, :4] = -9999
    image[:, :15, :20] = 0
    dates = [f"2019{1 + day // 31:02d}{1 + day % 28:02d}" for day in scene.days]
    keep = [i for i, date in enumerate(dates) if date not in dates[:i]]
    for i in keep:
        _write(root / f"s2/{dates[i]}.tif", series[i], 10.0, nodata=-9999)
        _write(root / f"clouds/{dates[i]}.tif", scene.clouds[i].astype(np.uint8), 10.0)
    return {
        "IMAGE": _write(root / "spot.tif", image, 2.0, nodata=0),
        "SERIES": str(root / "s2"),
        "CLOUDS": str(root / "clouds"),
    }


def _model(*opts):
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, [*TINY, *opts]))
    # a network that was not trained has features of one sign and picks one class
    with torch.no_grad():
        for head in (model.series_head, model.image_head):
            head.weight.normal_(std=2)
        weight = model.fusion.classifier.weight.normal_(std=1)
        weight -= weight.mean(dim=1, keepdim=True)
    return model.eval()


@pytest.mark.parametrize("grid", ["series", "image"])
@pytest.mark.parametrize("fusion", ["linear", "deepfuse"])
def test_windows_make_no_difference_and_the_map_lies_where_the_scene_lies(
    entry, tmp_path, grid, fusion
):
    model = _model("MODEL.M3FUSION.OUTPUT_GRID", grid, "MODEL.M3FUSION.FUSION", fusion)
    scene = open_rasters(entry)
    whole = predict_window(model, scene, Window(0, 0, 18, 18))
    assert len(np.unique(whole)) > 2
    summary = predict_raster(model, scene, tmp_path / "map.tif", window=7)
    with rasterio.open(tmp_path / "map.tif") as file:
        found = file.read(1)
        assert file.crs.to_epsg() == 32631
        assert (file.bounds.left, file.bounds.top) == (LEFT, TOP)
        assert file.res == ((2.0, 2.0) if grid == "image" else (10.0, 10.0))
        assert file.nodata == NO_DATA
    # sums of other shapes may round a tie the other way
    assert (found != whole).mean() < 0.01
    scale = 5 if grid == "image" else 1
    assert (found[: 3 * scale, : 4 * scale] == NO_DATA).all()
    assert summary.no_data == 12 * scale**2
    assert sum(summary.pixels) + summary.no_data == found.size
    assert summary.windows == 9


def test_either_source_may_be_left_out(entry):
    model = _model()
    place = Window(4, 4, 9, 9)
    both = predict_window(model, open_rasters(entry), place)
    no_image = {k: v for k, v in entry.items() if k != "IMAGE"}
    of_series = predict_window(model, open_rasters({**no_image, "RATIO": 5}), place)
    of_image = predict_window(model, open_rasters({"IMAGE": entry["IMAGE"], "RATIO": 5}), place)
    assert both.shape == of_series.shape == of_image.shape == (9, 9)
    assert (both != of_series).any()
    assert (of_image != of_series).any()


def test_the_command_maps_a_scene_and_draws_it(entry, tmp_path, capsys):
    torch.save({"model": _model().state_dict()}, tmp_path / "model.pth")
    code = main(
        ["map", "--config-file", CONFIG, "--weights", str(tmp_path / "model.pth"),
         "--image", entry["IMAGE"], "--series", entry["SERIES"], "--clouds", entry["CLOUDS"],
         "--window", "10", "--output", str(tmp_path / "map.tif"),
         "--picture", str(tmp_path / "map.png"), "--opts", *TINY]
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "18 x 18 pixels in 4 windows" in printed.out
    assert "forest:" in printed.out
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.colormap(1)[0][:3] == (32, 96, 48)
        assert "vineyard" in file.tags()["CLASSES"]
        labels = file.read(1)
    with Image.open(tmp_path / "map.png") as picture:
        factor = 600 // 18
        colors = {picture.getpixel((x * factor, 9 * factor)) for x in range(18)}
    expected = class_colors(8, [[32, 96, 48]] + [[0, 0, 0]] * 7)[0]
    assert (tuple(expected.tolist()) in colors) == (0 in labels[9])


def test_what_cannot_be_mapped_is_named(entry, tmp_path, capsys):
    arguments = ["map", "--config-file", CONFIG, "--weights", str(tmp_path / "none.pth"),
                 "--output", str(tmp_path / "map.tif")]  # fmt: skip
    assert main([*arguments, "--image", entry["IMAGE"]]) == 2
    assert "none.pth" in capsys.readouterr().err
    torch.save({"model": _model().state_dict()}, tmp_path / "none.pth")
    assert main([*arguments, "--opts", *TINY]) == 2
    assert "Give --image, --series, or both" in capsys.readouterr().err
    assert not (tmp_path / "map.tif").exists()
    with pytest.raises(ConfigError, match="window of 0 pixels"):
        predict_raster(_model(), open_rasters(entry), tmp_path / "map.tif", window=0)


def test_a_large_map_is_drawn_small(tmp_path):
    labels = np.zeros((2500, 3000), dtype=np.uint8)
    labels[:, 1500:] = 1
    _write(tmp_path / "map.tif", labels, 1.0)
    draw_map(tmp_path / "map.tif", tmp_path / "map.png", ["a", "b"], [[255, 0, 0], [0, 0, 255]])
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width < 2300
        assert picture.getpixel((10, 10)) == (255, 0, 0)
        assert picture.getpixel((1990, 1000)) == (0, 0, 255)
