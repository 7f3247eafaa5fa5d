"""Parts of necks in plain loops, which the published formulas are written with."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone


class GivenMaps(Backbone):
    """A bottom-up network that gives the same maps whatever the image."""

    def __init__(self, sizes, channels):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.maps = {
            f"res{level}": torch.randn(
                2, channels[level], *size, generator=generator, dtype=torch.float64
            )
            for level, size in sizes.items()
        }

    def forward(self, image):
        return self.maps

    def output_shape(self):
        return {
            name: ShapeSpec(channels=x.shape[1], stride=2 ** int(name[3:]))
            for name, x in self.maps.items()
        }


SIZES = {
    "even": {2: (16, 24), 3: (8, 12), 4: (4, 6), 5: (2, 3)},
    "odd": {2: (18, 26), 3: (9, 13), 4: (5, 7), 5: (3, 4)},
}
CHANNELS = {2: 3, 3: 5, 4: 4, 5: 6}
IMAGE = torch.zeros(2, 3, 64, 64)


def randomised(neck):
    """In float64, every parameter and statistic away from its initial value."""
    generator = torch.Generator().manual_seed(4)
    for name, value in neck.double().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        value.copy_(noise + 0.5 if name.endswith(("var", "merge.weight")) else noise - 0.4)
    return neck.eval()


# --- plain loops --------------------------------------------------------------------------------


def plain_conv(x, weight, bias=None, stride=1):
    """Convolution by its sum; depthwise where the weight has one input channel and x has more."""
    out, inner, k, _ = weight.shape
    depthwise = inner == 1 and x.shape[1] > 1
    rows, columns = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
    padded = torch.zeros(*x.shape[:2], x.shape[2] + k, x.shape[3] + k, dtype=x.dtype)
    start = k // 2
    padded[:, :, start : start + x.shape[2], start : start + x.shape[3]] = x
    result = torch.zeros(x.shape[0], out, rows, columns, dtype=x.dtype)
    for o in range(out):
        if bias is not None:
            result[:, o] += bias[o]
        for c in range(inner):
            source = padded[:, o if depthwise else c]
            for i in range(k):
                for j in range(k):
                    seen = source[
                        :, i : i + stride * rows : stride, j : j + stride * columns : stride
                    ]
                    result[:, o] += weight[o, c, i, j] * seen[:, :rows, :columns]
    return result


def plain_norm(x, state, name):
    """Batch norm at test time, from its definition."""
    result = torch.empty_like(x)
    for c in range(x.shape[1]):
        mean, var = state[f"{name}.running_mean"][c], state[f"{name}.running_var"][c]
        scaled = (x[:, c] - mean) / (var + 1e-5) ** 0.5
        result[:, c] = scaled * state[f"{name}.weight"][c] + state[f"{name}.bias"][c]
    return result


def plain_up(x, rows, columns):
    """Nearest neighbour to (rows, columns)."""
    result = torch.empty(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            result[:, :, i, j] = x[:, :, i * x.shape[2] // rows, j * x.shape[3] // columns]
    return result


def plain_max_down(x):
    """Maximum of windows of 2 x 2, which at the border have what there is."""
    rows, columns = -(-x.shape[2] // 2), -(-x.shape[3] // 2)
    result = torch.empty(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            result[:, :, i, j] = window.flatten(2).max(dim=2).values
    return result


def layer(state, name, x, stride=1, activation=None):
    """The convolution `name` with its norm, where it has one."""
    x = plain_conv(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride)
    if f"{name}.norm.weight" in state:
        x = plain_norm(x, state, f"{name}.norm")
    if activation == "relu":
        x = x * (x > 0)
    if activation == "swish":
        x = x / (1 + torch.exp(-x))
    return x


def plain_mean_down(x, side):
    """Mean of windows of side x side, which at the border have what there is."""
    rows, columns = -(-x.shape[2] // side), -(-x.shape[3] // side)
    result = torch.empty(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, side * i : side * (i + 1), side * j : side * (j + 1)]
            result[:, :, i, j] = window.flatten(2).mean(dim=2)
    return result


def plain_bilinear(x, rows, columns):
    """To (rows, columns), by areas: a pixel's centre lies at its number and a half."""
    height, width = x.shape[2:]
    result = torch.empty(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(rows):
        y = max((i + 0.5) * height / rows - 0.5, 0)
        top, bottom = int(y), min(int(y) + 1, height - 1)
        for j in range(columns):
            z = max((j + 0.5) * width / columns - 0.5, 0)
            left, right = int(z), min(int(z) + 1, width - 1)
            dy, dz = y - top, z - left
            result[:, :, i, j] = (
                (1 - dy) * (1 - dz) * x[:, :, top, left]
                + (1 - dy) * dz * x[:, :, top, right]
                + dy * (1 - dz) * x[:, :, bottom, left]
                + dy * dz * x[:, :, bottom, right]
            )
    return result


def plain_fpn(state, maps, sizes):
    """P_2, P_3, ... of an FPN under detectron2's names; level -> map."""
    merged, outputs = {}, {}
    for level in sorted(sizes, reverse=True):
        merged[level] = layer(state, f"fpn_lateral{level}", maps[f"res{level}"])
        if level + 1 in merged:
            merged[level] = merged[level] + plain_up(merged[level + 1], *sizes[level])
        outputs[level] = layer(state, f"fpn_output{level}", merged[level])
    return dict(sorted(outputs.items()))
