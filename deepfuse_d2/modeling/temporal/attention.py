"""TemporalAttention: self-attention over dates with one learned query a head.

The encoder of L-TAE ("Lightweight Temporal Self-Attention for Classifying Satellite Image Time
Series", arXiv 2007.00586) that U-TAE (arXiv 2107.07933) uses at each pixel: each of G heads has a
query of its own, looks at all channels for its keys, and averages its own part of the channels:

    e_t = W_in x_t                      k_t^g = W_k^g (e_t + p(day_t))
    a^g = softmax_t(q^g . k_t^g / sqrt(d_k))        o = concat_g sum_t a_t^g (e_t + p(day_t))^g
    feature = MLP(o)

p is the sinusoid of the Transformer over days, repeated for each head. We differ: LayerNorm in
place of GroupNorm over dates and BatchNorm, so that no other date and no other pixel changes a
pixel's feature.
"""

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .attentive_gru import masked_softmax
from .dates import usable_dates_first

__all__ = ["TemporalAttention"]

# Longest period of the sinusoids, over 2 pi, in days: L-TAE's.
_PERIOD = 1000.0


class TemporalAttention(nn.Module):
    """(P, T, C) series of single pixels -> (P, dim).

    Args:
        in_channels: values of a date, C.
        dim: of the embedding and of the feature, a multiple of `heads` whose quotient is even.
        heads: G; 16 in L-TAE with 256 channels.
        key_dim: d_k.

    Example:
        >>> encoder = TemporalAttention(10, 64, heads=4)
        >>> days, usable = torch.arange(0, 120, 10).expand(5, 12), torch.ones(5, 12, dtype=torch.bool)
        >>> encoder(torch.rand(5, 12, 10), days, usable).shape
        torch.Size([5, 64])
    """  # noqa: E501

    def __init__(self, in_channels: int, dim: int = 128, heads: int = 16, key_dim: int = 4):
        super().__init__()
        if heads < 1 or dim % (2 * heads):
            raise ConfigError(
                f"TemporalAttention has {dim} channels and {heads} heads; channels "
                "(MODEL.M3FUSION.SERIES_DIM) must be a multiple of twice the heads "
                "(MODEL.M3FUSION.ATTENTION_HEADS)."
            )
        self.heads, self.key_dim = heads, key_dim
        self.in_channels, self.out_channels = in_channels, dim
        self.embed = nn.Sequential(nn.Linear(in_channels, dim), nn.LayerNorm(dim))
        self.keys = nn.Linear(dim, heads * key_dim)
        self.queries = nn.Parameter(torch.empty(heads, key_dim))
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU())
        nn.init.normal_(self.queries, std=(2.0 / key_dim) ** 0.5)
        nn.init.normal_(self.keys.weight, std=(2.0 / key_dim) ** 0.5 / dim**0.5)
        nn.init.zeros_(self.keys.bias)

    def forward(self, series: Tensor, dates: Tensor, usable: Tensor) -> Tensor:
        """Args: see :meth:`with_weights`. Returns: (P, dim); 0 where no date is usable."""
        return self.with_weights(series, dates, usable)[0]

    def with_weights(self, series: Tensor, dates: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the weight of each date in each head.

        Args:
            series: (P, T, C), the dates in any order.
            dates: (P, T) days.
            usable: (P, T) bool.

        Returns:
            (P, dim), and (P, T, heads) weights that add up to 1 over the usable dates.
        """
        length = series.shape[1]
        series, dates, usable, places = usable_dates_first(series, dates, usable)
        embedded = self.embed(series) + self._positions(dates, series.dtype)
        keys = self.keys(embedded).unflatten(-1, (self.heads, self.key_dim))
        scores = (keys * self.queries.to(keys.dtype)).sum(-1) / self.key_dim**0.5
        weights = masked_softmax(scores.transpose(1, 2).float(), usable[:, None])
        weights = weights.to(embedded.dtype)
        parts = embedded.unflatten(-1, (self.heads, -1))
        gathered = torch.einsum("pgt,ptgc->pgc", weights, parts).flatten(1)
        features = self.mlp(gathered) * usable[:, :1].to(gathered.dtype)
        everywhere = weights.new_zeros(len(weights), self.heads, length)
        places = places[:, None].expand(-1, self.heads, -1)
        return features, everywhere.scatter(2, places, weights).transpose(1, 2)

    def _positions(self, dates: Tensor, dtype: torch.dtype) -> Tensor:
        """(P, T) days -> (P, T, dim) sinusoids."""
        size = self.out_channels // self.heads
        exponents = torch.arange(0, size, 2, device=dates.device, dtype=torch.float64) / size
        angles = dates.to(torch.float64)[..., None] / _PERIOD**exponents
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return waves.repeat(1, 1, self.heads).to(dtype)
