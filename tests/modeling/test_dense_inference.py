"""Inference of dense predictions: bands, tiles, scales and mirrored images, in little memory."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.meta_arch import DenseInference
from deepfuse_d2.modeling.meta_arch.dense_inference import to_size
from deepfuse_d2.modeling.postprocessing import row_bands
from deepfuse_d2.modeling.postprocessing.tiling import blend_weights, predict_in_tiles, tile_starts

CLASSES = 4


def in_bands(whole, heights):
    assert sum(heights) == whole.shape[-2]
    return iter(whole.split(heights, dim=-2))


@pytest.mark.parametrize("heights", [(11,), (1,) * 11, (4, 1, 6)], ids=["whole", "rows", "mixed"])
@pytest.mark.parametrize("size", [(44, 52), (29, 31), (11, 13), (7, 5), (1, 1), (12, 13)])
def test_resizing_a_stream_is_resizing_the_map(size, heights):
    whole = torch.randn(CLASSES, 11, 13, dtype=torch.float64)
    bands = list(row_bands.resize(in_bands(whole, heights), 11, size, rows=5))
    expected = F.interpolate(whole[None], size, mode="bilinear", align_corners=False)[0]
    assert len(heights) == 1 or all(band.shape[-2] <= 6 for band in bands)
    torch.testing.assert_close(torch.cat(bands, dim=-2), expected, rtol=1e-9, atol=1e-9)


def test_resizing_a_stream_reads_no_band_before_it_is_needed():
    read = []

    def bands():
        for number in range(10):
            read.append(number)
            yield torch.zeros(1, 1, 3)

    stream = row_bands.resize(bands(), 10, (20, 6), rows=4)
    next(stream)
    assert read == [0, 1]


def test_cropping_a_stream_stops_reading_where_the_content_ends():
    read = []

    def bands():
        for number in range(5):
            read.append(number)
            yield torch.full((2, 3, 8), float(number))

    cropped = torch.cat(list(row_bands.crop(bands(), (7, 5))), dim=-2)
    assert cropped.shape == (2, 7, 5)
    assert cropped[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert read == [0, 1, 2]


@pytest.mark.parametrize(("classes", "dtype"), [(256, torch.uint8), (257, torch.int32)])
def test_labels_are_the_best_class_in_the_smallest_type_that_holds_them(classes, dtype):
    whole = torch.randn(classes, 6, 5)
    labels = row_bands.labels_of(in_bands(whole, (2, 4)))
    assert labels.dtype == dtype
    assert torch.equal(labels.long(), whole.argmax(dim=0))


@pytest.mark.parametrize(("length", "tile", "overlap"), [(64, 64, 16), (96, 32, 8), (100, 40, 30)])
def test_tiles_cover_everything_and_overlap_enough(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile == length
    for a, b in itertools.pairwise(starts):
        assert a < b <= a + tile - overlap


@pytest.mark.parametrize("overlap", [0, 8, 12, 24])
def test_blend_weights_sum_to_1_and_leave_the_ends_of_tiles_out(overlap):
    length, tile = 104, 32
    starts = tile_starts(length, tile, overlap)
    weights = blend_weights(starts, length, tile)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(length, dtype=torch.float64))
    assert weights.min() >= 0
    for number, start in enumerate(starts):
        margin = overlap // 4
        first = start + (margin if number else 0)
        last = start + tile - (margin if number + 1 < len(starts) else 0)
        assert weights[number, :first].sum() == 0
        assert weights[number, last:].sum() == 0


class Network(torch.nn.Module):
    """Stride 4 and a receptive field of +-6 pixels around a cell: two 3x3 convolutions and a mean.

    With biases and padding by zeros, the border of a tile gives other values than its inside.
    """

    def __init__(self, stride=4):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.stride = stride
        self.first = torch.randn(6, 3, 3, 3, generator=generator, dtype=torch.float64)
        self.second = torch.randn(CLASSES, 6, 3, 3, generator=generator, dtype=torch.float64)
        self.bias = torch.randn(6, generator=generator, dtype=torch.float64)
        self.batches = []

    def forward(self, images):
        self.batches.append(tuple(images.shape))
        x = F.conv2d(images.double(), self.first, self.bias, padding=1)
        x = F.conv2d(x.relu(), self.second, padding=1)
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


def pad_to_16(image):
    height, width = image.shape[-2:]
    return F.pad(image.float(), (0, -width % 16, 0, -height % 16))


def predict(inference, image, size, network=None):
    return inference(network or Network(), pad_to_16, image, size, divisor=16)


def reference(image, size, network=None):
    """The whole image through the network, resized in two steps as detectron2 does."""
    padded = pad_to_16(image)
    logits = (network or Network())(padded[None]).float()
    logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=False)
    logits = logits[..., : image.shape[-2], : image.shape[-1]]
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[0]


IMAGE = torch.randint(0, 256, (3, 90, 150), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(90, 150), (60, 211)])
@pytest.mark.parametrize("tile", [(48, 64), (64, 96), (200, 64)])
def test_tiles_give_the_whole_images_logits_everywhere_if_they_overlap_enough(tile, size, batch):
    # a quarter of 32 pixels is more than the network looks around a cell
    inference = DenseInference(tile=tile, tile_overlap=32, tile_batch=batch)
    network = Network()
    found = predict(inference, IMAGE, size, network)
    torch.testing.assert_close(found, reference(IMAGE, size), rtol=1e-4, atol=1e-2)
    assert found.dtype == torch.float32
    assert max(shape[0] for shape in network.batches) <= batch
    assert {shape[2:] for shape in network.batches} == {(min(tile[0], 96), tile[1])}


def test_tiles_that_overlap_too_little_differ_at_their_seams_alone():
    tile, overlap = (32, 32), 0
    inference = DenseInference(tile=tile, tile_overlap=overlap)
    found = predict(inference, IMAGE, (90, 150))
    difference = (found - reference(IMAGE, (90, 150))).abs().amax(dim=0)
    assert difference.max() > 1
    # the inside of a tile: 2 pixels of the convolutions, then a cell, then a neighbour's share
    assert difference[8:24, 8:24].max() < 1e-2
    assert difference[40:56, 72:88].max() < 1e-2


@pytest.mark.parametrize("stride", [1, 4])
def test_every_row_of_tiles_is_yielded_as_soon_as_nothing_below_adds_to_it(stride):
    network = Network(stride)
    stream = predict_in_tiles(network, pad_to_16(IMAGE), tile=(32, 160), overlap=16, divisor=16)
    rows, calls = [], []
    for band in stream:
        rows.append(band.shape[-2] * stride)
        calls.append(len(network.batches))
    assert rows == [16, 16, 16, 16, 32]
    assert calls == [1, 2, 3, 4, 5]


VIEWS = {
    "whole": {},
    "tiles": {"tile": (48, 64), "tile_overlap": 32},
    "scales": {"scales": (0.5, 1.0, 1.5)},
    "flip": {"flip": True},
    "all": {"tile": (48, 64), "tile_overlap": 32, "scales": (0.75, 1.25), "flip": True},
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_labels_are_the_best_class_of_the_logits(views):
    size = (120, 201)
    logits = predict(DenseInference(**views), IMAGE, size)
    labels = predict(DenseInference(output="labels", **views), IMAGE, size)
    assert logits.shape == (CLASSES, *size)
    assert labels.shape == size
    assert torch.equal(labels.long(), logits.argmax(dim=0))


def test_several_views_are_averaged_as_probabilities():
    size = (90, 150)
    inference = DenseInference(scales=(0.5, 1.0), flip=True)
    expected = torch.zeros(CLASSES, *size)
    for scale in (0.5, 1.0):
        image = IMAGE
        if scale != 1:
            image = F.interpolate(IMAGE[None], (45, 75), mode="bilinear", antialias=True)[0]
        expected += reference(image, size).softmax(dim=0) / 4
        expected += reference(image.flip(-1), size).softmax(dim=0).flip(-1) / 4
    found = predict(inference, IMAGE, size)
    torch.testing.assert_close(found.softmax(dim=0), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.exp(), found.softmax(dim=0), rtol=1e-4, atol=1e-6)


def test_a_mirrored_image_is_mirrored_back():
    """Of an image whose width needs padding, with a network that sees one pixel at a time."""

    def pointwise(images):
        return images[:, :, ::2, ::2]

    image = torch.randn(3, 30, 45)
    inference = DenseInference(flip=True)
    found = inference(pointwise, pad_to_16, image, (30, 45), 16).softmax(dim=0)
    mirrored = inference(pointwise, pad_to_16, image.flip(-1), (30, 45), 16).softmax(dim=0)
    torch.testing.assert_close(found, mirrored.flip(-1))


def test_views_take_no_batches():
    assert DenseInference().takes_batches
    assert DenseInference(scales=[1.0]).takes_batches
    for name, views in VIEWS.items():
        assert DenseInference(**views).takes_batches == (name == "whole")


def peak_memory(call):
    """Largest number of bytes that tensors held at one time during a call."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = [x for x in profile.profiler.kineto_results.events() if x.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda x: x.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


class Classes(torch.nn.Module):
    """19 logits of each cell of `stride` pixels, from one value."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, images):
        return images[:, :1, :: self.stride, :: self.stride].expand(-1, 19, -1, -1).contiguous()


# Of 19 float maps of the full size: what may be held at one time, copies of the image included.
@pytest.mark.parametrize(
    ("views", "stride", "most"),
    [
        ({}, 4, 0.3),
        ({"tile": (512, 1024), "tile_overlap": 128}, 4, 0.5),
        ({"tile": (512, 1024), "tile_overlap": 128}, 1, 1.2),
        ({"scales": (0.5, 1.0), "flip": True}, 4, 1.5),
        ({"scales": (0.5, 1.0), "flip": True, "tile": (256, 512), "tile_overlap": 64}, 1, 1.8),
    ],
    ids=["whole", "tiles", "tiles of stride 1", "scales and flip", "all of stride 1"],
)
def test_labels_of_2048_x_1024_never_hold_19_full_size_maps_twice(views, stride, most):
    size = (1024, 2048)
    image = torch.rand(3, *size)
    inference = DenseInference(output="labels", **views)
    full = 19 * 4 * size[0] * size[1]
    peak = peak_memory(lambda: predict(inference, image, size, Classes(stride)))
    # the least that several views need; less would mean that nothing was measured
    assert (1.0 if len(views) > 1 and "scales" in views else 0.05) * full < peak < most * full


def test_logits_of_the_head_are_resized_in_two_steps_as_detectron2_does():
    from detectron2.modeling.postprocessing import sem_seg_postprocess

    logits = torch.randn(CLASSES, 8, 12)
    upsampled = F.interpolate(logits[None], (32, 48), mode="bilinear", align_corners=False)[0]
    expected = sem_seg_postprocess(upsampled, (27, 41), 50, 77)
    found = torch.cat(list(to_size(iter([logits]), (32, 48), (27, 41), (50, 77))), dim=-2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "classes"}, r'OUTPUT = "classes" is unknown; choose one of .*labels'),
        ({"tile": (64,)}, r"TILE is \[64\]; give height and width"),
        ({"tile": (64, 0)}, r"TILE is \[64, 0\]"),
        ({"tile": (64, 96), "tile_overlap": 64}, "TILE_OVERLAP is 64 pixels; it must be 0 or more"),
        ({"scales": ()}, r"SCALES is \[\]"),
        ({"scales": (0.0,)}, "all above 0"),
        ({"tile_batch": 0}, "a batch of 1 or more"),
    ],
)
def test_a_wrong_setting_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DenseInference(**arguments)


def test_tiles_that_cannot_advance_on_the_networks_grid_are_named():
    inference = DenseInference(tile=(40, 40), tile_overlap=35)
    with pytest.raises(ConfigError, match=r"\[48, 48\] and 48 as multiples of 16"):
        predict(inference, IMAGE, (90, 150))
