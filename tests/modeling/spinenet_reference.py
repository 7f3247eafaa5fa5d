"""SpineNet a second time, in NumPy and float64, from the published description alone.

Nothing of the package is used but the names of the tensors. Convolutions are sums over kernel
positions, pools and space to depth loops over windows, norms the formula.
"""

import numpy as np

EPS = 1e-3
# index: level, kind, inputs, what is added, where the two stem groups are 0 and 1
SPINENET = {
    2: (2, "bottleneck", (0, 1), ()),
    3: (4, "residual", (0, 1), ()),
    4: (3, "bottleneck", (2, 3), ()),
    5: (4, "bottleneck", (2, 4), ()),
    6: (6, "residual", (3, 5), ()),
    7: (4, "bottleneck", (3, 5), ()),
    8: (5, "residual", (6, 7), ()),
    9: (7, "residual", (6, 8), ()),
    10: (5, "bottleneck", (8, 9), ()),
    11: (5, "bottleneck", (8, 10), ()),
    12: (4, "bottleneck", (5, 10), ()),
    13: (3, "bottleneck", (4, 10), ()),
    14: (5, "bottleneck", (7, 12), (11,)),
    15: (7, "bottleneck", (5, 14), ()),
    16: (6, "bottleneck", (12, 14), ()),
    17: (2, "bottleneck", (2, 13), ()),
}
SPINENET_OUTPUTS = {"p3": 13, "p4": 12, "p5": 14, "p6": 16, "p7": 15}
MBCONV = {
    2: (2, "mbconv", (0, 1), ()),
    3: (2, "mbconv", (1, 2), ()),
    4: (4, "mbconv", (1, 2), ()),
    5: (3, "mbconv", (3, 4), ()),
    6: (4, "mbconv", (3, 5), ()),
    7: (6, "mbconv", (4, 6), ()),
    8: (4, "mbconv", (4, 6), ()),
    9: (5, "mbconv", (7, 8), ()),
    10: (7, "mbconv", (7, 9), ()),
    11: (5, "mbconv", (9, 10), ()),
    12: (5, "mbconv", (9, 11), ()),
    13: (4, "mbconv", (6, 11), ()),
    14: (3, "mbconv", (5, 11), ()),
    15: (5, "mbconv", (8, 13), (12,)),
    16: (7, "mbconv", (6, 15), ()),
    17: (6, "mbconv", (13, 15), ()),
}
MBCONV_OUTPUTS = {"p3": 14, "p4": 13, "p5": 15, "p6": 17, "p7": 16}
SCALED = {
    index: (level, "mbconv", inputs, added)
    for index, (level, _, inputs, added) in SPINENET.items()
    if index < 17
}


def relu(x):
    return np.maximum(x, 0)


def swish(x):
    return x / (1 + np.exp(-x))


class Reference:
    """Forward pass on the tensors of a network.

    Args:
        state: names of ours -> float64 arrays.
        activation: :func:`relu` or :func:`swish`.
        same_pooling: pad pools at the end alone.
        endpoint_activation: activate the outputs.
    """

    def __init__(self, state, activation, *, same_pooling=False, endpoint_activation=True):
        self.state = state
        self.act = activation
        self.same_pooling = same_pooling
        self.endpoint_activation = endpoint_activation

    def has(self, name):
        return f"{name}.weight" in self.state

    def norm(self, x, name):
        shape = (1, -1, 1, 1)
        get = lambda tensor: self.state[f"{name}.{tensor}"].reshape(shape)  # noqa: E731
        x = (x - get("running_mean")) / np.sqrt(get("running_var") + EPS)
        return x * get("weight") + get("bias")

    def conv(self, x, name, stride=1):
        weight = self.state[f"{name}.weight"]
        k, per_group = weight.shape[-1], weight.shape[1]
        padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        height, width = x.shape[2] // stride, x.shape[3] // stride
        out = np.zeros((x.shape[0], weight.shape[0], height, width))
        for i in range(k):
            for j in range(k):
                window = padded[:, :, i : i + stride * height : stride][
                    ..., j : j + stride * width : stride
                ]
                if per_group == 1 and x.shape[1] > 1:
                    out += window * weight[:, 0, i, j].reshape(1, -1, 1, 1)
                else:
                    out += np.einsum("nchw,oc->nohw", window, weight[:, :, i, j])
        if f"{name}.bias" in self.state:
            out += self.state[f"{name}.bias"].reshape(1, -1, 1, 1)
        return self.norm(out, f"{name}.norm") if self.has(f"{name}.norm") else out

    def max_pool(self, x, size, stride):
        before = 0 if self.same_pooling else size // 2
        height, width = x.shape[2] // stride, x.shape[3] // stride
        out = np.empty((*x.shape[:2], height, width))
        for row in range(height):
            for column in range(width):
                top, left = row * stride - before, column * stride - before
                out[:, :, row, column] = x[
                    :, :, max(top, 0) : top + size, max(left, 0) : left + size
                ].max(axis=(2, 3))
        return out

    def up(self, x, factor):
        rows = np.arange(x.shape[2] * factor) // factor
        columns = np.arange(x.shape[3] * factor) // factor
        return x[:, :, rows][..., columns]

    def space_to_depth(self, x):
        # torch's order: the four of a channel stand together
        out = np.empty((x.shape[0], 4 * x.shape[1], x.shape[2] // 2, x.shape[3] // 2))
        for channel in range(x.shape[1]):
            for k in range(4):
                out[:, 4 * channel + k] = x[:, channel, k // 2 :: 2, k % 2 :: 2]
        return out

    def resample(self, x, name, steps, kind):
        if kind == "alpha_conv":
            x = self.act(self.conv(x, f"{name}.squeeze"))
        if steps < 0:
            x = self.up(x, 2**-steps)
        elif steps > 0 and kind == "alpha_conv":
            x = self.act(self.conv(x, f"{name}.downsample", 2))
            if steps > 1:
                x = self.max_pool(x, {2: 3, 3: 5}[steps], {2: 2, 3: 4}[steps])
        elif steps > 0 and kind == "depthwise_chain":
            for step in range(steps):
                x = self.act(self.conv(x, f"{name}.downsamples.{step}", 2))
        elif steps > 0:
            x = self.act(self.norm(self.space_to_depth(x), f"{name}.norm"))
            if steps > 1:
                x = self.act(self.conv(x, f"{name}.downsample", {2: 2, 3: 4}[steps]))
        return self.conv(x, f"{name}.expand")

    def block(self, x, name, kind, stride=1):
        if kind == "mbconv":
            y = self.act(self.conv(x, f"{name}.conv1"))
            y = self.act(self.conv(y, f"{name}.conv2", stride))
            means = y.mean(axis=(2, 3), keepdims=True)
            gate = self.act(self.conv(means, f"{name}.squeeze_excitation.reduce"))
            y = y / (1 + np.exp(-self.conv(gate, f"{name}.squeeze_excitation.expand")))
            y = self.conv(y, f"{name}.conv3")
            return x + y if y.shape == x.shape else y
        y = self.act(self.conv(x, f"{name}.conv1"))
        y = self.conv(y, f"{name}.conv2")
        if kind == "bottleneck":
            y = self.conv(self.act(y), f"{name}.conv3")
        shortcut = self.conv(x, f"{name}.shortcut") if self.has(f"{name}.shortcut") else x
        return self.act(shortcut + y)

    def group(self, x, name, kind, stride=1):
        repeat = 0
        while self.has(f"{name}.{repeat}.conv1"):
            x = self.block(x, f"{name}.{repeat}", kind, stride if repeat == 0 else 1)
            repeat += 1
        return x

    def run(self, image, table, outputs, resampling, stem):
        """(1, 3, H, W) -> {"p3": ...}.

        Args:
            stem: "conv7" (two level-2 bottlenecks), "conv3" (levels 1 and 2) or "conv3_three"
                (levels 1, 2, 2, of which the last two count).
        """
        x = self.act(self.conv(image, "stem.conv1", 2))
        if stem == "conv7":
            x = self.max_pool(x, 3, 2)
            maps = {0: self.group(x, "block0", "bottleneck")}
            maps[1] = self.group(maps[0], "block1", "bottleneck")
            levels = {0: 2, 1: 2}
        elif stem == "conv3":
            maps = {0: self.group(x, "block0", "mbconv")}
            maps[1] = self.group(maps[0], "block1", "mbconv", 2)
            levels = {0: 1, 1: 2}
        else:
            x = self.group(x, "stem.groups.0", "mbconv")
            maps = {0: self.group(x, "block0", "mbconv", 2)}
            maps[1] = self.group(maps[0], "block1", "mbconv")
            levels = {0: 2, 1: 2}
        for index, (level, kind, inputs, added) in table.items():
            if not any(name.startswith(f"block{index}.") for name in self.state):
                continue
            levels[index] = level
            total = sum(
                self.resample(maps[i], f"block{index}.resamples.{j}", level - levels[i], resampling)
                for j, i in enumerate(inputs)
            )
            total = total + sum(maps[i] for i in added)
            maps[index] = self.group(self.act(total), f"block{index}.group", kind)
        found = {}
        for name, index in outputs.items():
            found[name] = self.conv(maps[index], f"endpoints.{name}")
            if self.endpoint_activation:
                found[name] = self.act(found[name])
        return found
