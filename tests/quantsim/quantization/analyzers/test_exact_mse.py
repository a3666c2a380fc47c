from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from quantsim.errors import NonFiniteError
from quantsim.quantization import affine
from quantsim.quantization import float as float_quantization
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer, MseEncodingAnalyzer
from quantsim.quantization.analyzers.exact_mse import ExactMseEncodingAnalyzer
from quantsim_encodings.formats import IntFormat, float_format


def weight(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 64, generator=generator) * torch.rand(16, 1, generator=generator)


def quantizer_of(
    bits: int, symmetric: bool, shape: tuple[int, ...], block: Any, analyzer: Any
) -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize(shape, bits, symmetric, encoding_analyzer=analyzer, block_size=block)


def error_of(quantizer: Any, values: torch.Tensor) -> torch.Tensor:
    with quantizer.compute_encodings():
        quantizer(values)
    with torch.no_grad():
        return (quantizer(values) - values).square().sum(1)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("shape", "block"), [((16, 1), None), ((16, 2), (1, 32)), ((), None)])
def test_it_beats_min_max_everywhere_and_histograms_on_the_whole(
    bits: int, symmetric: bool, shape: tuple[int, ...], block: tuple[int, ...] | None
) -> None:
    values = weight()
    exact = ExactMseEncodingAnalyzer(shape, IntFormat.from_bits(bits, signed=symmetric), block_size=block)
    errors = error_of(quantizer_of(bits, symmetric, shape, block, exact), values)
    min_max = MinMaxEncodingAnalyzer(shape, block)
    assert errors.sum() <= error_of(quantizer_of(bits, symmetric, shape, block, min_max), values).sum() * (1 + 1e-6)
    histogram = MseEncodingAnalyzer(shape, block_size=block)
    assert errors.sum() <= error_of(quantizer_of(bits, symmetric, shape, block, histogram), values).sum() * 1.05


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e2m1"])
@pytest.mark.parametrize(("shape", "block"), [((16, 1), None), ((16, 2), (1, 32))])
def test_floating_point_scales_are_searched_on_their_own_grid(
    name: str, shape: tuple[int, ...], block: tuple[int, ...] | None
) -> None:
    values, grid = weight(), float_format(name)

    def quantizer(analyzer: Any) -> Any:
        return float_quantization.FloatQuantizeDequantize(
            format=grid, shape=shape, block_size=block, encoding_analyzer=analyzer
        )

    exact = error_of(quantizer(ExactMseEncodingAnalyzer(shape, grid, block_size=block)), values).sum()
    plain = error_of(quantizer(MinMaxEncodingAnalyzer(shape, block)), values).sum()
    assert exact < plain


def test_groups_do_not_influence_each_other() -> None:
    values = weight()
    together = ExactMseEncodingAnalyzer((16, 1), IntFormat.from_bits(4, signed=False))
    together.update_stats(values)
    low, high = together.compute_encodings(15, False)
    for row in (0, 7, 15):
        alone = ExactMseEncodingAnalyzer((1, 1), IntFormat.from_bits(4, signed=False))
        alone.update_stats(values[row : row + 1])
        expected = alone.compute_encodings(15, False)
        assert low[row] == expected[0][0]
        assert high[row] == expected[1][0]


def test_large_weights_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = weight()
    grid = IntFormat.from_bits(4, signed=True)
    whole = ExactMseEncodingAnalyzer((16, 1), grid)
    whole.update_stats(values)
    expected = torch.cat(whole.compute_encodings(15, True))
    monkeypatch.setattr("quantsim.quantization.analyzers.exact_mse._CHUNK_ELEMENTS", 130)
    assert torch.equal(torch.cat(whole.compute_encodings(15, True)), expected)


def test_several_tensors_are_one_sample() -> None:
    values = weight()
    grid = IntFormat.from_bits(4, signed=True)
    both, first, second = (ExactMseEncodingAnalyzer((), grid) for _ in range(3))
    both.update_stats(values)
    first.update_stats(values[:8])
    second.update_stats(values[8:])
    first.merge(second)
    assert first.compute_encodings(15, True) == both.compute_encodings(15, True)
    first.reset_stats()
    assert not first.has_stats


def test_what_is_not_finite_raises_or_counts_as_zero() -> None:
    values = weight()
    values[0, 0] = math.nan
    grid = IntFormat.from_bits(8, signed=True)
    with pytest.raises(NonFiniteError):
        ExactMseEncodingAnalyzer((16, 1), grid).update_stats(values)
    ignoring = ExactMseEncodingAnalyzer((16, 1), grid, nonfinite="ignore")
    ignoring.update_stats(values)
    assert torch.isfinite(torch.cat(ignoring.compute_encodings(255, True))).all()


def test_a_channel_of_zeros_has_a_range() -> None:
    values = weight()
    values[3] = 0
    for symmetric in (True, False):
        analyzer = ExactMseEncodingAnalyzer((16, 1), IntFormat.from_bits(8, signed=symmetric))
        low, high = (analyzer.update_stats(values), analyzer.compute_encodings(255, symmetric))[1]
        assert (high - low > 0).all()
    analyzer = ExactMseEncodingAnalyzer((16, 1), float_format("e4m3fn"))
    error_of(
        float_quantization.FloatQuantizeDequantize(
            format=float_format("e4m3fn"), shape=(16, 1), encoding_analyzer=analyzer
        ),
        values,
    )
