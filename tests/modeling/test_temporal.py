"""Encoders of series: order, gaps and clouds; references written as loops."""

import math

import pytest
import torch

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.temporal import (
    AttentiveGRU,
    TemporalAttention,
    encode_dates,
    encode_pixels,
)


def _series(pixels=4, dates=7, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    series = torch.randn(pixels, dates, channels, generator=generator)
    days = torch.arange(10, 10 + 30 * dates, 30).expand(pixels, dates).clone()
    return series, days, torch.ones(pixels, dates, dtype=torch.bool)


def _encoder(kind, encoding="none"):
    torch.manual_seed(1)
    if kind == "gru":
        return AttentiveGRU(3, 8, encoding).eval()
    return TemporalAttention(3, 16, heads=2).eval()


both = pytest.mark.parametrize("kind", ["gru", "attention"])


def test_the_attentive_gru_is_the_formula_of_its_docstring():
    encoder = _encoder("gru").double()
    series, days, usable = _series()
    usable[0, 3] = usable[1, 0] = False
    features = encoder(series.double(), days, usable)
    w_i, w_h = encoder.gru.weight_ih_l0, encoder.gru.weight_hh_l0
    b_i, b_h = encoder.gru.bias_ih_l0, encoder.gru.bias_hh_l0
    for pixel in range(len(series)):
        state, states, scores = torch.zeros(8).double(), [], []
        for x in series[pixel, usable[pixel]].double():
            r_i, z_i, n_i = (w_i @ x + b_i).chunk(3)
            r_h, z_h, n_h = (w_h @ state + b_h).chunk(3)
            reset, update = torch.sigmoid(r_i + r_h), torch.sigmoid(z_i + z_h)
            state = (1 - update) * torch.tanh(n_i + reset * n_h) + update * state
            states.append(state)
            view = torch.tanh(encoder.attention.weight @ state + encoder.attention.bias)
            scores.append((view @ encoder.query).exp())
        expected = sum(s / sum(scores) * h for s, h in zip(scores, states, strict=True))
        assert torch.allclose(features[pixel], expected, atol=1e-12)


def test_temporal_attention_is_the_formula_of_its_docstring():
    encoder = _encoder("attention").double()
    series, days, usable = _series()
    usable[0, 3] = False
    features = encoder(series.double(), days, usable)
    for pixel in range(len(series)):
        heads = [[], []]
        for x, day in zip(series[pixel].double(), days[pixel].tolist(), strict=True):
            wave = []
            for i in range(4):  # 8 channels of a head
                angle = day / 1000 ** (2 * i / 8)
                wave += [math.sin(angle), math.cos(angle)]
            value = encoder.embed(x) + torch.tensor(wave * 2).double()
            keys = encoder.keys(value).view(2, 4)
            for g in range(2):
                score = (keys[g] @ encoder.queries[g] / 2).exp()
                heads[g].append((score, value[8 * g : 8 * g + 8]))
        gathered = []
        for g in range(2):
            kept = [one for one, ok in zip(heads[g], usable[pixel], strict=True) if ok]
            total = sum(score for score, _ in kept)
            gathered.append(sum(score / total * value for score, value in kept))
        assert torch.allclose(features[pixel], encoder.mlp(torch.cat(gathered)), atol=1e-12)


@pytest.mark.parametrize(("bands", "count"), [(6, 3_170_304), (16, 3_201_024)])
def test_parameters_are_those_of_the_published_sizes(bands, count):
    encoder = AttentiveGRU(bands)
    assert sum(p.numel() for p in encoder.gru.parameters()) == count
    assert sum(p.numel() for p in encoder.attention.parameters()) + 1024 == 1_050_624


@both
def test_weights_add_up_to_one_and_are_zero_where_nothing_can_be_seen(kind):
    encoder = _encoder(kind)
    series, days, usable = _series()
    usable[0, 2] = usable[0, 5] = usable[2, :6] = False
    _, weights = encoder.with_weights(series, days, usable)
    assert torch.allclose(weights.sum(1), torch.ones(()))
    assert (weights[~usable] == 0).all()
    assert (weights[2, 6] == 1).all()


@both
def test_dates_that_cannot_be_used_do_not_exist(kind):
    encoder = _encoder(kind)
    series, days, usable = _series()
    expected = encoder(series, days, usable)
    for garbage in (0.0, 1e30, math.nan, math.inf):
        longer = torch.cat([torch.full((4, 5, 3), garbage), series], dim=1)
        more_days = torch.cat([torch.arange(5).expand(4, 5) * 17, days], dim=1)
        seen = torch.cat([torch.zeros(4, 5, dtype=torch.bool), usable], dim=1)
        mixed = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        assert torch.equal(encoder(longer, more_days, seen), expected)
        assert torch.equal(encoder(longer[:, mixed], more_days[:, mixed], seen[:, mixed]), expected)


@both
def test_a_pixel_without_any_usable_date_gets_zeros_and_finite_gradients(kind):
    encoder = _encoder(kind)
    series, days, usable = _series()
    usable[1] = False
    features = encoder(series, days, usable)
    assert (features[1] == 0).all()
    features.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@both
def test_the_order_comes_from_the_dates(kind):
    encoder = _encoder(kind)
    series, days, usable = _series()
    expected = encoder(series, days, usable)
    order = torch.tensor([3, 0, 6, 2, 1, 5, 4])
    assert torch.equal(encoder(series[:, order], days[:, order], usable), expected)
    assert not torch.allclose(encoder(series.flip(1), days, usable), expected, atol=1e-3)


def test_one_date_alone_has_the_weight_one():
    series, days, usable = _series(dates=1)
    _, weights = _encoder("gru").with_weights(series, days, usable)
    assert torch.equal(weights, torch.ones(4, 1))


@both
def test_series_of_different_length_in_a_batch_are_as_alone(kind):
    encoder = _encoder(kind)
    short, long = _series(dates=12, seed=1), _series(dates=20, seed=2)
    padded = [torch.cat([x, x.new_zeros(4, 8, *x.shape[2:])], dim=1) for x in short]
    batch = encoder(*(torch.cat(pair) for pair in zip(padded, long, strict=True)))
    alone = torch.cat([encoder(*short), encoder(*long)])
    assert torch.allclose(batch, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("encoding", "moves"), [("none", False), ("doy_sincos", True), ("delta", False)]
)
def test_only_the_time_of_the_year_tells_a_shift_of_all_dates(encoding, moves):
    encoder = _encoder("gru", encoding)
    series, days, usable = _series()
    same = torch.allclose(encoder(series, days + 60, usable), encoder(series, days, usable))
    assert same != moves


def test_gaps_are_months_since_the_date_before():
    days = torch.tensor([[30, 60, 75]])
    assert encode_dates(days, "delta").flatten().tolist() == [0.0, 1.0, 0.5]
    assert encode_dates(days, "none").shape == (1, 3, 0)
    angle = 2 * math.pi * 75 / 365.25
    assert encode_dates(days, "doy_sincos")[0, 2].tolist() == pytest.approx(
        [math.sin(angle), math.cos(angle)]
    )


@both
def test_each_pixel_of_an_image_is_encoded_on_its_own(kind):
    encoder = _encoder(kind)
    series = torch.randn(2, 5, 3, 4, 6)
    days, usable = torch.arange(5).expand(2, 5) * 20, torch.rand(2, 5, 4, 6) > 0.3
    maps = encode_pixels(encoder, series, days, usable)
    chunked = encode_pixels(encoder, series, days, usable, chunk=7)
    assert torch.allclose(maps, chunked, atol=1e-6)
    one = encoder(series[1, :, :, 2, 5][None], days[1:], usable[1, :, 2, 5][None])
    assert torch.allclose(maps[1, :, 2, 5], one[0], atol=1e-6)


def test_unknown_choices_are_named():
    with pytest.raises(ConfigError, match='DATE_ENCODING = "week" is unknown'):
        AttentiveGRU(3, 8, "week")
    with pytest.raises(ConfigError, match="12 channels and 4 heads"):
        TemporalAttention(3, 12, heads=4)


@both
def test_bfloat16_gives_finite_features(kind):
    encoder = _encoder(kind)
    series, days, usable = _series()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(series, days, usable)
    assert features.isfinite().all()
