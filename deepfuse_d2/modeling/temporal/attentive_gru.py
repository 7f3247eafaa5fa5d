"""AttentiveGRU: the time-series branch of M3Fusion (arXiv 1803.01945).

A recurrent network reads the dates of a pixel in order; attention weighs all its states:

    h_t = GRU(x_t, h_(t-1))        v_t = tanh(W_a h_t + b_a)        s_t = v_t . u_a
    lambda = softmax of s over the dates                           feature = sum_t lambda_t h_t

Only the beginning of the paper could be read; layer sizes and attention are those of the public
patch-based code of one of its authors (in the repository remicres/otbtf). We differ: torch's GRU,
which applies the reset gate after the matrix product; and dates that cannot be used are skipped
(the state stays, the weight is 0) where that code needs gaps to be filled first.
"""

import torch
from torch import Tensor, nn

from .dates import check_date_encoding, encode_dates, usable_dates_first

__all__ = ["AttentiveGRU"]


class AttentiveGRU(nn.Module):
    """(P, T, C) series of single pixels -> (P, dim).

    Args:
        in_channels: values of a date, C.
        dim: of the state and of the feature; 1024 in the paper.
        date_encoding: "none" (the paper: the order of the dates alone), "doy_sincos" or "delta".

    Example:
        >>> encoder = AttentiveGRU(6, 64)
        >>> days, usable = torch.arange(0, 120, 10).expand(5, 12), torch.ones(5, 12, dtype=torch.bool)
        >>> encoder(torch.rand(5, 12, 6), days, usable).shape
        torch.Size([5, 64])
    """  # noqa: E501

    def __init__(self, in_channels: int, dim: int = 1024, date_encoding: str = "none"):
        super().__init__()
        self.date_encoding = date_encoding
        self.in_channels, self.out_channels = in_channels, dim
        self.gru = nn.GRU(in_channels + check_date_encoding(date_encoding), dim, batch_first=True)
        self.attention = nn.Linear(dim, dim)
        self.query = nn.Parameter(torch.empty(dim))
        # scores of about 1, whatever the width: no date is preferred at the start
        nn.init.normal_(self.attention.weight, std=dim**-0.5)
        nn.init.zeros_(self.attention.bias)
        nn.init.normal_(self.query, std=dim**-0.5)

    def forward(self, series: Tensor, dates: Tensor, usable: Tensor) -> Tensor:
        """Args: see :meth:`with_weights`. Returns: (P, dim); 0 where no date is usable."""
        return self.with_weights(series, dates, usable)[0]

    def with_weights(self, series: Tensor, dates: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the weight of each date.

        Args:
            series: (P, T, C), the dates in any order.
            dates: (P, T) days.
            usable: (P, T) bool.

        Returns:
            (P, dim), and (P, T) weights that add up to 1 over the usable dates and are 0 elsewhere.
        """
        length = series.shape[1]
        series, dates, usable, places = usable_dates_first(series, dates, usable)
        values = torch.cat([series, encode_dates(dates, self.date_encoding, series.dtype)], dim=2)
        states = self.gru(values)[0]
        scores = torch.tanh(self.attention(states)) @ self.query.to(states.dtype)
        weights = masked_softmax(scores.float(), usable).to(states.dtype)
        features = (weights[:, None] @ states)[:, 0]
        everywhere = weights.new_zeros(len(weights), length).scatter(1, places, weights)
        return features, everywhere


def masked_softmax(scores: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the last axis; 0 where not usable, and all 0 where nothing is."""
    lowest = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~usable, lowest)
    exponentials = (scores - scores.amax(-1, keepdim=True)).exp() * usable
    return exponentials / exponentials.sum(-1, keepdim=True).clamp(
        min=torch.finfo(scores.dtype).tiny
    )
