"""Windows of rasters: NumPy files, GeoTIFFs by rasterio (extra "geo"), other images by Pillow."""

import functools
from types import ModuleType

import numpy as np
from PIL import Image

from ..errors import DatasetError

__all__ = ["RasterGrid", "grid_of", "rasterio_or_explain", "read_raster"]


class RasterGrid(tuple):
    """((height, width), (six numbers of the affine transform), CRS) of a file."""

    __slots__ = ()


def rasterio_or_explain(why: str) -> ModuleType:
    """rasterio, or the error that says what needs it.

    Raises: DatasetError.
    """
    try:
        import rasterio
    except ImportError as error:
        raise DatasetError(
            f'{why} needs rasterio; install it with pip install "deepfuse-d2[geo]".'
        ) from error
    return rasterio


def grid_of(path: str) -> RasterGrid:
    """Size and place of a raster. Reads no pixel.

    Raises: DatasetError: no raster, or one that does not say where it lies.
    """
    rasterio = rasterio_or_explain(f"{path}, a raster with a place on the ground,")
    try:
        with rasterio.open(path) as file:
            return RasterGrid((file.shape, tuple(file.transform)[:6], file.crs))
    except (rasterio.errors.RasterioError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a raster: {error}.") from error


def read_raster(
    path: str,
    window: tuple[int, int, int, int],
    grid: tuple = (),
    no_data: float | None = None,
    *,
    nearest: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Read a part of a raster.

    Args:
        window: (top, left, height, width) in pixels of `grid`, or of the file.
        grid: (transform, CRS) to bring the raster to; () takes the file's own.
        no_data: value of pixels that hold nothing; None for what the file says.
        nearest: reproject by the nearest pixel, as labels and masks need; otherwise bilinear.

    Returns:
        (..., C, h, w) of the file's type, and (h, w) bool where there is data ((T, h, w) of a NumPy
        file of four axes).

    Raises: DatasetError: the file is missing or damaged, or the window lies outside of it.
    """
    if path.endswith(".npy"):
        return _read_numpy(path, window, no_data)
    try:
        import rasterio
    except ImportError:
        if grid:
            rasterio_or_explain(f"Bringing {path} to another grid")
        return _read_pillow(path, window)
    try:
        with rasterio.open(path) as file:
            return _read_rasterio(file, path, window, grid, no_data, nearest)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def _read_numpy(
    path: str, window: tuple[int, int, int, int], no_data: float | None
) -> tuple[np.ndarray, np.ndarray]:
    top, left, height, width = window
    try:
        # of a file larger than memory only the window is read
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read as a NumPy file: {error}.") from error
    _check_inside(path, window, values.shape[-2:])
    values = np.array(values[..., top : top + height, left : left + width])
    values = values[None] if values.ndim == 2 else values
    return values, _has_data(values, no_data)


def _read_rasterio(file, path, window, grid, no_data, nearest) -> tuple[np.ndarray, np.ndarray]:
    import rasterio
    from rasterio.vrt import WarpedVRT

    top, left, height, width = window
    place = rasterio.windows.Window(left, top, width, height)
    if not grid or _same_place(file, grid):
        _check_inside(path, window, file.shape)
        values = file.read(window=place)
        missing = file.nodata if no_data is None else no_data
        return values, _has_data(values, missing)
    transform = rasterio.Affine(*grid[0])
    how = rasterio.enums.Resampling.nearest if nearest else rasterio.enums.Resampling.bilinear
    options = {} if no_data is None else {"src_nodata": no_data}
    with WarpedVRT(
        file, crs=grid[1], transform=transform, width=left + width, height=top + height,
        resampling=how, add_alpha=file.nodata is None and no_data is None, **options,
    ) as warped:  # fmt: skip
        values = warped.read(window=place)
    if file.nodata is None and no_data is None:
        # outside of the file is no data, which the alpha channel tells
        return values[: file.count], values[-1] != 0
    return values, _has_data(values, file.nodata if no_data is None else no_data)


def _read_pillow(path: str, window: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    top, left, height, width = window
    try:
        with Image.open(path) as image:
            _check_inside(path, window, (image.height, image.width))
            values = np.asarray(image.crop((left, top, left + width, top + height)))
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read by Pillow ({error}). If it is a GeoTIFF of bands that are no "
            'colours, install rasterio: pip install "deepfuse-d2[geo]".'
        ) from error
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return values, np.ones(values.shape[-2:], dtype=bool)


@functools.lru_cache(maxsize=64)
def _crs(text: str):
    from rasterio.crs import CRS

    return CRS.from_user_input(text)


def _same_place(file, grid: tuple) -> bool:
    transform, crs = grid
    pixel = abs(transform[0]) + abs(transform[1])
    # a hundredth of a pixel, also far from the origin
    near = np.allclose(tuple(file.transform)[:6], transform, rtol=0, atol=pixel * 1e-2)
    return near and (file.crs is None or file.crs == _crs(crs))


def _has_data(values: np.ndarray, no_data: float | None) -> np.ndarray:
    if no_data is None:
        return np.ones((*values.shape[:-3], *values.shape[-2:]), dtype=bool)
    if np.isnan(no_data):
        return ~np.isnan(values).any(axis=-3)
    return (values != no_data).any(axis=-3)


def _check_inside(path: str, window: tuple[int, int, int, int], size: tuple[int, ...]) -> None:
    top, left, height, width = window
    if top < 0 or left < 0 or top + height > size[0] or left + width > size[1]:
        raise DatasetError(
            f"{path} has {size[0]} x {size[1]} pixels (height, width); the part at ({top}, {left}) "
            f"of {height} x {width} reaches beyond. Do image and series belong together?"
        )
