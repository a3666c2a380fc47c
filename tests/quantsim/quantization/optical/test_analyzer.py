"""Ranges that follow the data, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsim.errors import ConfigurationError, NonFiniteError
from quantsim.quantization.optical.analyzer import OpticalRangeAnalyzer, batch_range, smoothed


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.floats(0.0, 0.5), st.floats(0.5, 1.0), st.integers(0, 10**6))
def test_quantiles_are_numpys(count: int, low: float, high: float, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    expected = np.quantile(values.astype(np.float64), [low, high])
    np.testing.assert_allclose(
        batch_range(torch.from_numpy(values), (low, high)).numpy(), expected, rtol=1e-5, atol=1e-6
    )


def test_quantiles_of_more_than_2_to_the_24_elements_are_exact() -> None:
    """torch.quantile refuses such tensors."""
    count = 2**24 + 3
    values = torch.arange(count, dtype=torch.int32).mul_(7919).remainder_(65521).to(torch.float32).reshape(1, -1)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values, 0.5)
    expected = np.quantile(values.numpy(), [0.001, 0.999])
    np.testing.assert_allclose(batch_range(values, (0.001, 0.999)).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_range_is_float32_for_every_dtype_and_stride(dtype: torch.dtype) -> None:
    values = torch.tensor([[-3.0, 1.0, 8.0], [5.0, -0.5, 2.0]], dtype=dtype).t()
    assert torch.equal(batch_range(values), torch.tensor([-3.0, 8.0]))
    assert torch.equal(batch_range(values, (0.0, 1.0)), torch.tensor([-3.0, 8.0]))
    assert batch_range(values).dtype == torch.float32


def test_range_has_no_gradient() -> None:
    assert not batch_range(torch.randn(4, requires_grad=True), (0.1, 0.9)).requires_grad


def test_first_batch_sets_and_later_ones_move() -> None:
    old = torch.full((2,), math.nan)
    expected = None
    for lo, hi in [(-1.0, 2.0), (-3.0, 5.0), (0.0, 1.0)]:
        old = smoothed(old, torch.tensor([lo, hi]), 0.75)
        batch = np.array([lo, hi])
        expected = batch if expected is None else 0.75 * expected + 0.25 * batch
        np.testing.assert_allclose(old.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_batch_that_is_not_finite_changes_nothing(bad: float) -> None:
    old = torch.tensor([-1.0, 1.0])
    assert torch.equal(smoothed(old, torch.tensor([-1.0, bad]), 0.9), old)
    assert torch.isnan(smoothed(torch.full((2,), math.nan), torch.tensor([bad, 1.0]), 0.9)).all()


def test_analyzer_averages_batches_and_forgets() -> None:
    analyzer = OpticalRangeAnalyzer(0.5)
    with pytest.raises(ConfigurationError, match="nothing was observed"):
        analyzer.compute_encodings(255, is_symmetric=False)
    analyzer.update_stats(torch.tensor([0.0, 4.0]))
    analyzer.update_stats(torch.tensor([-2.0, 0.0]))
    assert [float(end) for end in analyzer.compute_encodings(255, is_symmetric=False)] == [-1.0, 2.0]
    analyzer.reset_stats()
    assert not analyzer.has_stats


def test_analyzer_on_values_that_are_not_finite() -> None:
    strict, lenient = OpticalRangeAnalyzer(), OpticalRangeAnalyzer(nonfinite="ignore")
    values = torch.tensor([-1.0, math.nan, 3.0, math.inf])
    with pytest.raises(NonFiniteError, match="1 NaN and 1 infinities"):
        strict.update_stats(values)
    assert not strict.has_stats
    lenient.update_stats(values)
    assert torch.equal(lenient.running_range, torch.tensor([-1.0, 3.0]))
    lenient.update_stats(torch.full((3,), math.nan))
    assert torch.equal(lenient.running_range, torch.tensor([-1.0, 3.0]))


def test_merged_analyzers_cover_both() -> None:
    one, other = OpticalRangeAnalyzer(), OpticalRangeAnalyzer()
    one.merge(other)
    assert not one.has_stats
    other.update_stats(torch.tensor([-1.0, 5.0]))
    one.merge(other)
    third = OpticalRangeAnalyzer()
    third.update_stats(torch.tensor([-4.0, 2.0]))
    one.merge(third)
    assert torch.equal(one.running_range, torch.tensor([-4.0, 5.0]))
