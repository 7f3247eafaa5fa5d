"""Merges of the DeepFuse operation: maps of one size and width -> one map.

Every merge takes a list whose first entry is the target. The plain sum is where all of them start
(`concat` on request), so that a network fused by sums keeps its function when another merge takes
their place, and learns from there.
"""

from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import nn

__all__ = [
    "MERGES",
    "AttentionMerge",
    "ChannelGatedMerge",
    "ConcatMerge",
    "GatedMerge",
    "SumMerge",
    "WeightedSumMerge",
]


class SumMerge(nn.Module):
    """``x_0 + x_1 + ...``: what FPN does."""

    def __init__(self, channels: int, num_inputs: int, start_as_sum: bool = True):
        super().__init__()

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """List of (N, C, H, W) -> (N, C, H, W)."""
        merged = xs[0]
        for x in xs[1:]:
            merged = merged + x
        return merged


class WeightedSumMerge(nn.Module):
    """``sum_i w_i x_i`` with learned ``w = n * softmax(logits)``: non-negative, summing to n.

    A weight per input as in BiFPN (arXiv 1911.09070, section 3.3, "softmax-based fusion"); scaled
    by the number n of inputs, so that equal weights are the plain sum rather than the mean.
    """

    def __init__(self, channels: int, num_inputs: int, start_as_sum: bool = True):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_inputs))

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """List of (N, C, H, W) -> (N, C, H, W)."""
        weights = len(xs) * torch.softmax(self.logits, dim=0).to(xs[0].dtype)
        merged = weights[0] * xs[0]
        for i in range(1, len(xs)):
            merged = merged + weights[i] * xs[i]
        return merged


class GatedMerge(nn.Module):
    """``x_0 + sum_i g_i * x_i`` with ``g_i = 2 sigmoid(conv_i(x_0 + x_i))``, one gate a position.

    The target decides, where it stands, how much of a source it takes: from nothing to twice. The
    gates are 1 at the start. They have one channel: a gate per channel costs C times as much.
    """

    def __init__(self, channels: int, num_inputs: int, start_as_sum: bool = True):
        super().__init__()
        gates = [Conv2d(channels, 1, kernel_size=1) for _ in range(num_inputs - 1)]
        self.gates = nn.ModuleList(gates)
        for gate in gates:
            nn.init.zeros_(gate.weight)
            nn.init.zeros_(gate.bias)

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """List of (N, C, H, W) -> (N, C, H, W)."""
        merged = xs[0]
        for i, gate in enumerate(self.gates):
            x = xs[i + 1]
            merged = merged + 2 * torch.sigmoid(gate(xs[0] + x)) * x
        return merged


class ChannelGatedMerge(nn.Module):
    """``x_0 + sum_i g_i * e_i * x_i``: :class:`GatedMerge`, whose gates also weigh channels.

    ``e_i = 2 sigmoid(W2 relu(W1 [mean(x_0), mean(x_i)]))``, one factor a channel, from the means of
    target and source over all positions: squeeze and excitation (arXiv 1709.01507, equation 3) of
    both. All factors are 1 at the start.
    """

    # of the hidden layer: C / 16 as in the paper, and not too few
    reduction = 16
    least = 4

    def __init__(self, channels: int, num_inputs: int, start_as_sum: bool = True):
        super().__init__()
        self.positions = GatedMerge(channels, num_inputs, start_as_sum)
        hidden = max(channels // self.reduction, self.least)
        self.excitations = nn.ModuleList(
            nn.Sequential(
                Conv2d(2 * channels, hidden, kernel_size=1),
                nn.ReLU(),
                Conv2d(hidden, channels, kernel_size=1),
            )
            for _ in range(num_inputs - 1)
        )
        for excite in self.excitations:
            *_, last = excite.children()
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """List of (N, C, H, W) -> (N, C, H, W)."""
        means = [x.mean(dim=(2, 3), keepdim=True) for x in xs]
        weighed = [xs[0]]
        for i, excite in enumerate(self.excitations):
            factors = 2 * torch.sigmoid(excite(torch.cat([means[0], means[i + 1]], dim=1)))
            weighed.append(factors * xs[i + 1])
        return self.positions(weighed)


class AttentionMerge(nn.Module):
    """``sum_i w_i x_i``, with ``w = n * softmax(logits)`` over the inputs at each position.

    Adaptively spatial feature fusion (ASFF, arXiv 1911.09516, equations 1 and 2): each map is
    compressed to a few channels, and the logits of all maps are read off all of these. Scaled by
    the number n of inputs, so that equal weights are the plain sum rather than the mean.
    """

    # channels that a map is compressed to, as in the authors' code
    compressed = 16

    def __init__(self, channels: int, num_inputs: int, start_as_sum: bool = True):
        super().__init__()
        self.compress = nn.ModuleList(
            Conv2d(channels, self.compressed, kernel_size=1) for _ in range(num_inputs)
        )
        self.logits = Conv2d(num_inputs * self.compressed, num_inputs, kernel_size=1)
        for conv in self.compress:
            weight_init.c2_msra_fill(conv)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """List of (N, C, H, W) -> (N, C, H, W)."""
        seen = [torch.relu(compress(xs[i])) for i, compress in enumerate(self.compress)]
        logits = self.logits(torch.cat(seen, dim=1))
        weights = (len(xs) * torch.softmax(logits, dim=1)).to(xs[0].dtype)
        merged = weights[:, :1] * xs[0]
        for i in range(1, len(xs)):
            merged = merged + weights[:, i : i + 1] * xs[i]
        return merged


class ConcatMerge(nn.Module):
    """``conv1x1(concat(x_0, x_1, ...))``.

    Args:
        start_as_sum: begin with identity matrices side by side, which is the plain sum; otherwise
            with Xavier's initialisation.
    """

    def __init__(self, channels: int, num_inputs: int, start_as_sum: bool = True):
        super().__init__()
        self.conv = Conv2d(num_inputs * channels, channels, kernel_size=1)
        if start_as_sum:
            identities = torch.eye(channels).repeat(1, num_inputs)
            self.conv.weight.data.copy_(identities[:, :, None, None])
            nn.init.zeros_(self.conv.bias)
        else:
            weight_init.c2_xavier_fill(self.conv)

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """List of (N, C, H, W) -> (N, C, H, W)."""
        return self.conv(torch.cat(xs, dim=1))


# Merge name (MODEL.DEEPFUSE.MERGE) -> builder(channels, num_inputs, start_as_sum)
MERGES: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "sum": SumMerge,
    "weighted_sum": WeightedSumMerge,
    "gated": GatedMerge,
    "channel_gated": ChannelGatedMerge,
    "attention": AttentionMerge,
    "concat": ConcatMerge,
}
