"""United statistics of two processes against those of one process that saw all data, for every analyzer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from quantsim.nn import QuantizedReLU, compute_encodings
from quantsim.quantization import affine
from quantsim.quantization.analyzers import (
    EncodingAnalyzer,
    EntropyEncodingAnalyzer,
    ExactMseEncodingAnalyzer,
    MinMaxEncodingAnalyzer,
    MseEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
    TokenMseEncodingAnalyzer,
)
from quantsim.quantization.analyzers.bin_grid import Histogram
from quantsim.quantization.analyzers.histogram import HistogramEncodingAnalyzer
from quantsim.quantization.ranks import Ranks
from quantsim_encodings.formats import IntFormat

RANKS = 2
TwoRanks = Callable[..., list[Any]]
"""Runs a function below on two ranks: the fixture of conftest.py."""


# ---------------------------------------------------------------- analyzers

ANALYZERS: dict[str, Callable[[int], EncodingAnalyzer]] = {
    "min-max": MinMaxEncodingAnalyzer,
    "percentile": lambda channels: PercentileEncodingAnalyzer(channels, percentile=99.5),
    "widest percentile": lambda channels: PercentileEncodingAnalyzer(channels, percentile=100),
    "sqnr": SqnrEncodingAnalyzer,
    "mse": MseEncodingAnalyzer,
    "entropy": EntropyEncodingAnalyzer,
    "token mse": lambda channels: TokenMseEncodingAnalyzer(()),
    "exact mse": lambda channels: ExactMseEncodingAnalyzer(channels, IntFormat.from_bits(8, signed=False)),
}


def batches_of(size: int, channels: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    scales = torch.tensor([0.3, 5.0, 1.0, 2.0])  # of batches: ranges grow on one rank and not on the other
    return [scale * torch.randn(size, channels, generator=generator) + 0.5 for scale in scales]


def scenario_analyzer(name: str, size: int, channels: int) -> tuple[Any, ...]:
    alone, together = ANALYZERS[name](channels), ANALYZERS[name](channels)
    batches = batches_of(size, channels)
    for batch in batches:
        alone.update_stats(batch)
    for batch in batches[dist.get_rank() :: RANKS]:
        together.update_stats(batch)
    ranks = Ranks.of("all")
    assert ranks is not None
    together.reduce_over(ranks)
    found = [each.compute_encodings(255, False) for each in (alone, together)]
    histograms = [
        list(each._histograms())
        for each in (alone, together)
        if isinstance(each, HistogramEncodingAnalyzer) and name != "token mse"
    ]
    return found, torch.stack(batches), histograms


def within_one_bin(expected: Histogram, got: Histogram) -> bool:
    """Whether no count lies further from its place than one bin."""
    for group in range(len(expected.counts)):
        width = float(torch.maximum(expected.step[group], got.step[group])) * 1.001
        theirs = torch.cat([torch.zeros(1), got.counts[group].double().cumsum(0)])
        at_edge = torch.cat([torch.zeros(1), expected.counts[group].double().cumsum(0)])
        edges, other_edges = expected.edges[group].contiguous(), got.edges[group].contiguous()
        below = theirs[torch.searchsorted(other_edges, edges - width, right=True).sub(1).clamp(min=0)]
        above = theirs[torch.searchsorted(other_edges, edges + width).clamp(max=len(theirs) - 1)]
        if not bool(((below <= at_edge) & (at_edge <= above)).all()) or theirs[-1] != at_edge[-1]:
            return False
    return True


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [100, 60_000])
@pytest.mark.parametrize("name", ANALYZERS)
def test_united_statistics_are_those_of_all_data(two_ranks: TwoRanks, name: str, size: int, channels: int) -> None:
    first, second = two_ranks(scenario_analyzer, name, size, channels)
    (alone, together), data, histograms = first
    assert all(torch.equal(a, b) for a, b in zip(together, second[0][1], strict=True)), "the ranks differ"
    if name == "min-max" or (size == 100 and name not in ("token mse", "exact mse")):
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    if histograms:
        assert all(within_one_bin(*pair) for pair in zip(*histograms, strict=True))
    if name == "entropy" and size > 100:
        return  # its optimum is flat: histograms that differ by half a bin may have it elsewhere
    bin_width = (data.amax() - data.amin()) / 2048
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=float(bin_width))


def scenario_lone_values() -> Any:
    alone, together = MseEncodingAnalyzer(()), MseEncodingAnalyzer(())
    parts = torch.full((70_000,), 0.001), torch.linspace(-0.002, 0.002, 70_000)
    together.update_stats(parts[dist.get_rank()])
    for part in parts:
        alone.update_stats(part)
    ranks = Ranks.of("all")
    assert ranks is not None
    together.reduce_over(ranks)
    assert together._grid is not None
    grid = together._grid
    position = int(grid.counts[0].argmax())
    return float(grid.lower[0] + (position + 0.5) * grid.step[0]), int(grid.counts.sum())


def test_a_rank_that_saw_one_value_only(two_ranks: TwoRanks) -> None:
    for value, count in two_ranks(scenario_lone_values):
        assert value == pytest.approx(0.001, abs=2e-6)
        assert count == 140_000


class Own(EncodingAnalyzer):
    """A user's analyzer, with nothing about ranks: the mean of the absolute values, times two."""

    total, count = 0.0, 0

    def update_stats(self, x: Tensor) -> None:
        self.total, self.count = self.total + float(x.abs().sum()), self.count + x.numel()

    def reset_stats(self) -> None:
        self.total, self.count = 0.0, 0

    @property
    def has_stats(self) -> bool:
        return self.count > 0

    def merge(self, other: EncodingAnalyzer) -> None:
        assert isinstance(other, Own)
        self.total, self.count = self.total + other.total, self.count + other.count

    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        high = torch.tensor([2 * self.total / self.count])
        return -high, high


def scenario_own_analyzer(rank_with_data: int | None) -> Any:
    quantizer = affine.QuantizeDequantize((), 8, True, encoding_analyzer=Own(()))
    relu = QuantizedReLU()
    relu.input_quantizers[0] = quantizer
    with compute_encodings(relu):
        if rank_with_data in (None, dist.get_rank()):
            relu(torch.full((3,), 1.0 + 2.0 * dist.get_rank()))
    return float(quantizer.max)


def test_analyzers_that_know_nothing_of_ranks(two_ranks: TwoRanks) -> None:
    assert two_ranks(scenario_own_analyzer, None) == [4.0, 4.0]
    assert two_ranks(scenario_own_analyzer, 1) == [6.0, 6.0]
