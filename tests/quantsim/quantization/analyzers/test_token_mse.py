from __future__ import annotations

import math

import pytest
import torch

from quantsim.errors import ConfigurationError, NonFiniteError
from quantsim.quantization import affine
from quantsim.quantization.analyzers.token_mse import TokenMseEncodingAnalyzer


def tokens(seed: int = 0, count: int = 200, features: int = 64) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def token_error(x: torch.Tensor, low: float, high: float, bits: int = 8) -> float:
    """What the analyzer is to minimise, by its definition."""
    quantizer = affine.QuantizeDequantize((), bits, False)
    quantizer.set_range(torch.tensor(low), torch.tensor(high))
    with torch.no_grad():
        error = (quantizer(x) - x).square().sum(1) / x.square().sum(1)
    return float(error.mean())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("outlier", [0.0, 8.0, 60.0])
def test_no_shrunken_range_is_clearly_better(bits: int, outlier: float) -> None:
    x = tokens()
    x[3, 5] += outlier
    analyzer = TokenMseEncodingAnalyzer()
    analyzer.update_stats(x)
    low, high = (float(end) for end in analyzer.compute_encodings(2**bits - 1, False))
    found = token_error(x, low, high, bits)
    tried = [
        token_error(x, float(x.min()) * a, float(x.max()) * b, bits)
        for a in torch.linspace(0.3, 1, 8).tolist()
        for b in torch.linspace(0.1, 1, 19).tolist()
    ]
    assert found <= min(tried) * 1.03


def test_each_token_counts_alike_whatever_its_size() -> None:
    x = tokens()
    alone, with_copies = TokenMseEncodingAnalyzer(), TokenMseEncodingAnalyzer()
    alone.update_stats(x)
    with_copies.update_stats(torch.cat([x, x]))
    assert torch.equal(
        torch.stack(alone.compute_encodings(255, False)), torch.stack(with_copies.compute_encodings(255, False))
    )
    # One token a hundred times as large takes the grid of plain squared error, not of this one.
    x[0] *= 100
    analyzer = TokenMseEncodingAnalyzer()
    analyzer.update_stats(x)
    assert float(analyzer.compute_encodings(255, False)[1]) < 0.5 * float(x.max())


def test_batches_are_as_good_as_their_union_in_any_order_and_when_merged() -> None:
    x = tokens()
    x[150:] *= 37  # the range grows by powers of two on the way
    whole = TokenMseEncodingAnalyzer()
    whole.update_stats(x)
    expected = whole.compute_encodings(255, False)
    parts = TokenMseEncodingAnalyzer()
    for part in x.split(7):
        parts.update_stats(part)
    first, second = TokenMseEncodingAnalyzer(), TokenMseEncodingAnalyzer()
    first.update_stats(x[:100])
    second.update_stats(x[100:])
    first.merge(second)
    reverse = TokenMseEncodingAnalyzer()
    reverse.update_stats(x[100:])
    reverse.update_stats(x[:100])
    for analyzer in (parts, first, reverse):
        low, high = analyzer.compute_encodings(255, False)
        torch.testing.assert_close(low, expected[0], rtol=1e-4, atol=0)
        torch.testing.assert_close(high, expected[1], rtol=1e-4, atol=0)


def test_symmetric_grids_lie_around_zero() -> None:
    analyzer = TokenMseEncodingAnalyzer()
    analyzer.update_stats(tokens().abs())
    low, high = analyzer.compute_encodings(255, True)
    assert float(low) == pytest.approx(-float(high) * 128 / 127, rel=1e-5)


def test_images_count_by_sample() -> None:
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images[0] *= 50
    by_sample, by_row = TokenMseEncodingAnalyzer(token_dims=3), TokenMseEncodingAnalyzer()
    flat = TokenMseEncodingAnalyzer()
    for analyzer, values in ((by_sample, images), (by_row, images), (flat, images.flatten(1))):
        analyzer.update_stats(values)
    assert torch.equal(by_sample.compute_encodings(255, False)[1], flat.compute_encodings(255, False)[1])
    assert not torch.equal(by_sample.compute_encodings(255, False)[1], by_row.compute_encodings(255, False)[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_raises_or_is_left_out(value: float) -> None:
    x = tokens()
    bad = x.clone()
    bad[0, 0] = value
    analyzer = TokenMseEncodingAnalyzer()
    analyzer.update_stats(x)
    before = analyzer.compute_encodings(255, False)
    with pytest.raises(NonFiniteError, match="1 "):
        analyzer.update_stats(bad)
    assert analyzer.compute_encodings(255, False) == before
    ignoring = TokenMseEncodingAnalyzer(nonfinite="ignore")
    ignoring.update_stats(bad)
    clean = TokenMseEncodingAnalyzer()
    clean.update_stats(bad.nan_to_num(0.0, 0.0, 0.0))
    assert ignoring.compute_encodings(255, False) == clean.compute_encodings(255, False)


@pytest.mark.parametrize(
    "x", [torch.zeros(3, 4), torch.full((3, 4), 1e-30), torch.full((3, 4), -1e30), torch.tensor(2.0)], ids=str
)
def test_odd_tensors_give_a_range(x: torch.Tensor) -> None:
    analyzer = TokenMseEncodingAnalyzer(token_dims=min(1, x.dim()))
    analyzer.update_stats(x)
    low, high = analyzer.compute_encodings(255, False)
    assert torch.isfinite(low)
    assert torch.isfinite(high)
    assert low <= 0 <= high


def test_it_serves_one_range_only() -> None:
    with pytest.raises(ConfigurationError, match=r"\(4, 1\)"):
        TokenMseEncodingAnalyzer((4, 1))
    assert not TokenMseEncodingAnalyzer((1,)).has_stats
