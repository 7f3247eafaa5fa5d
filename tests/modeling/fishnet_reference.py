"""A second FishNet, as plain as it gets: functions over a state dict with the authors' names.

Written from the published stage table alone; nothing of the package is used. Slow, in float64.
"""

import torch
import torch.nn.functional as F

PLANES = [64, 128, 256, 512, 512, 512, 384, 256, 320, 832, 1600]
BLOCKS = {
    99: [2, 2, 6, 2, 1, 1, 1, 1, 2, 2],
    150: [2, 4, 8, 4, 2, 2, 2, 2, 2, 4],
    201: [3, 4, 12, 4, 2, 2, 2, 2, 3, 10],
}
TRANSFER_BLOCKS = {99: [1, 1, 1, 1, 1, 4], 150: [2, 2, 2, 2, 2, 4], 201: [2, 2, 2, 2, 2, 9]}
# stage -> the feature beside its main path, and how many channels that has
BESIDE = {4: (2, 256), 5: (1, 128), 6: (0, 64), 7: (6, 512), 8: (5, 768), 9: (4, 512)}
INPUTS = [64, 128, 256, 1024, 512, 768, 512, 320, 832, 1600]


def random_state(depth, seed=0):
    """Every tensor of the authors' checkpoint of that depth: name -> random values."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def uniform(size, low, high):
        return torch.rand(size, generator=generator, dtype=torch.float64) * (high - low) + low

    def bn(name, channels):
        state[f"{name}.weight"] = uniform(channels, 0.5, 1.5)
        state[f"{name}.bias"] = uniform(channels, -0.3, 0.3)
        state[f"{name}.running_mean"] = uniform(channels, -0.3, 0.3)
        state[f"{name}.running_var"] = uniform(channels, 0.5, 1.5)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def conv(name, cout, cin, k, bias=False, gain=2.0):
        size = (cout, cin, k, k)
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        state[f"{name}.weight"] = values * (gain / (k * k * cout)) ** 0.5
        if bias:
            state[f"{name}.bias"] = uniform(cout, -0.3, 0.3)

    def block(name, cin, cout, projection):
        m = cout // 4
        bn(f"{name}.bn1", cin)
        conv(f"{name}.conv1", m, cin, 1)
        bn(f"{name}.bn2", m)
        conv(f"{name}.conv2", m, m, 3)
        bn(f"{name}.bn3", m)
        # small steps: sums of up to sixty blocks then stay near 1, and so do absolute differences
        conv(f"{name}.conv3", cout, m, 1, gain=0.1)
        if projection:
            bn(f"{name}.shortcut.0", cin)
            conv(f"{name}.shortcut.2", cout, cin, 1)

    for i, (cin, cout) in enumerate([(3, 32), (32, 32), (32, 64)], start=1):
        conv(f"conv{i}.0", cout, cin, 3)
        bn(f"conv{i}.1", cout)
    for stage in range(10):
        name = f"fish.fish.{stage}"
        cin, cout = INPUTS[stage], PLANES[stage + 1]
        if stage == 3:
            bn(f"{name}.0.0", 512)
            conv(f"{name}.0.2", 256, 512, 1)
            bn(f"{name}.0.3", 256)
            conv(f"{name}.1", 1024, 256, 1, bias=True)
            bn(f"{name}.3.0.0", 1024)
            conv(f"{name}.3.0.3", 32, 1024, 1, bias=True)
            conv(f"{name}.3.0.5", 512, 32, 1, bias=True)
            cout = 512
        elif stage >= 7:
            cout = cin
        for j in range(BLOCKS[depth][stage]):
            slot = 2 if stage == 3 else 0
            first = j == 0
            block(f"{name}.{slot}.{j}", cin if first else cout, cout, first and stage < 4)
        if stage in BESIDE:
            channels = BESIDE[stage][1]
            for j in range(TRANSFER_BLOCKS[depth][stage - 4]):
                block(f"{name}.1.{j}", channels, channels, False)
    bn("fish.fish.9.3.0", 2112)
    conv("fish.fish.9.3.2", 1056, 2112, 1)
    bn("fish.fish.9.3.3", 1056)
    conv("fish.fish.9.4.1", 1000, 1056, 1, bias=True)
    return state


def reference(image, state, depth):
    """[f0, ..., f10] and the logits, in evaluation."""

    def bn_relu(x, name):
        def value(kind):
            return state[f"{name}.{kind}"].reshape(1, -1, 1, 1)

        x = (x - value("running_mean")) / (value("running_var") + 1e-5).sqrt()
        return (x * value("weight") + value("bias")).clamp(min=0)

    def conv(x, name, stride=1, dilation=1):
        weight = state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, dilation)

    def block(x, name, k=None, dilation=1):
        out = conv(bn_relu(x, f"{name}.bn1"), f"{name}.conv1")
        out = conv(bn_relu(out, f"{name}.bn2"), f"{name}.conv2", dilation=dilation)
        out = conv(bn_relu(out, f"{name}.bn3"), f"{name}.conv3")
        if k is not None:
            groups = [x[:, c : c + k] for c in range(0, x.shape[1], k)]
            return out + torch.cat([sum(g.split(1, dim=1)) for g in groups], dim=1)
        if f"{name}.shortcut.2.weight" in state:
            return out + conv(bn_relu(x, f"{name}.shortcut.0"), f"{name}.shortcut.2")
        return out + x

    def blocks(x, name, number, k=None, dilation=1):
        for j in range(number):
            x = block(x, f"{name}.{j}", k if j == 0 or k is None else 1, dilation)
        return x

    def pool(x):
        """Largest of 2 x 2; the border of a map of odd size has less to choose from."""
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), value=float("-inf"))
        corners = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return torch.stack(corners).amax(dim=0)

    def up(x, like):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return x[:, :, : like.shape[2], : like.shape[3]]

    x = image
    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = bn_relu(conv(x, f"conv{i}.0", stride), f"conv{i}.1")
    f = [F.max_pool2d(x, 3, 2, 1)]
    number, transfers = BLOCKS[depth], TRANSFER_BLOCKS[depth]
    for stage in range(3):
        f.append(pool(blocks(f[-1], f"fish.fish.{stage}.0", number[stage])))
    # bridge
    score = conv(bn_relu(f[3], "fish.fish.3.0.0"), "fish.fish.3.0.2")
    score = conv(bn_relu(score, "fish.fish.3.0.3"), "fish.fish.3.1")
    mean = bn_relu(score, "fish.fish.3.3.0.0").mean(dim=(2, 3), keepdim=True)
    gate = conv(conv(mean, "fish.fish.3.3.0.3").clamp(min=0), "fish.fish.3.3.0.5")
    gate = 1 / (1 + torch.exp(-gate))
    f.append(blocks(score, "fish.fish.3.2", number[3]) * gate + gate)
    # body
    for stage, k, dilation in ((4, 1, 1), (5, 2, 2), (6, 2, 4)):
        other = f[BESIDE[stage][0]]
        main = blocks(f[-1], f"fish.fish.{stage}.0", number[stage], k, dilation)
        transfer = blocks(other, f"fish.fish.{stage}.1", transfers[stage - 4])
        f.append(torch.cat([up(main, other), transfer], dim=1))
    # head
    for stage in (7, 8, 9):
        other = f[BESIDE[stage][0]]
        main = blocks(f[-1], f"fish.fish.{stage}.0", number[stage])
        transfer = blocks(other, f"fish.fish.{stage}.1", transfers[stage - 4])
        f.append(torch.cat([pool(main), transfer], dim=1))
    x = conv(bn_relu(f[10], "fish.fish.9.3.0"), "fish.fish.9.3.2")
    x = bn_relu(x, "fish.fish.9.3.3").mean(dim=(2, 3), keepdim=True)
    return f, conv(x, "fish.fish.9.4.1").flatten(1)
