"""The fast search finds what the defining formula, tried on every candidate, finds."""

from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers import MseEncodingAnalyzer, SqnrEncodingAnalyzer


def brute_force(analyzer: SqnrEncodingAnalyzer, steps: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Every candidate on every bin, in float64, with nothing left out."""
    histogram = next(iter(analyzer._histograms()))
    low, high = histogram.minimum.clamp(max=0), histogram.maximum.clamp(min=0)
    make = analyzer._symmetric_candidates if symmetric else analyzer._asymmetric_candidates
    candidates = make(low, high, steps)
    x, counts = histogram.midpoints.double(), histogram.counts.double()
    results = []
    for group in range(len(x)):
        errors = []
        for delta, offset in zip(
            candidates.delta[group], candidates.offset.expand_as(candidates.delta)[group], strict=True
        ):
            code = (x[group] / delta.double()).round() - offset
            clipped = (code < 0) | (code > steps)
            error = ((code.clamp(0, steps) + offset) * delta.double() - x[group]).abs() ** analyzer.p
            errors.append((error * counts[group] * torch.where(clipped, analyzer.gamma, 1.0)).sum())
        results.append(torch.stack(errors))
    return candidates, torch.stack(results)


DATA = {
    "normal": lambda: torch.randn(3, 900),
    "heavy": lambda: torch.randn(3, 900) ** 3,
    "positive": lambda: torch.rand(3, 900) + 0.2,
    "outlier": lambda: torch.cat([torch.randn(3, 900), torch.full((3, 1), 40.0)], 1),
    "sparse": lambda: torch.randn(3, 5),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("steps", [3, 14, 15, 255])
@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_equals_brute_force(data, symmetric, steps, gamma):
    analyzer = SqnrEncodingAnalyzer((3, 1), num_bins=256, gamma=gamma)
    analyzer.update_stats(data())
    low, high = (end.flatten() for end in analyzer.compute_encodings(steps, symmetric))
    candidates, errors = brute_force(analyzer, steps, symmetric)
    offsets = candidates.offset.expand_as(candidates.delta)
    starts = offsets * candidates.delta
    ends = starts + steps * candidates.delta
    for group in range(3):
        chosen = (starts[group] == low[group]) & (ends[group] == high[group])
        assert chosen.any()
        assert errors[group][chosen].min() <= errors[group].min() * (1 + 1e-3)


@pytest.mark.parametrize("p", [1, 3.5])
@pytest.mark.parametrize("symmetric", [True, False])
def test_other_exponents(p, symmetric):
    analyzer = SqnrEncodingAnalyzer((2, 1), num_bins=128, p=p, gamma=2.0)
    analyzer.update_stats(torch.randn(2, 500) ** 3)
    low, _ = (end.flatten() for end in analyzer.compute_encodings(15, symmetric))
    candidates, errors = brute_force(analyzer, 15, symmetric)
    starts = candidates.offset * candidates.delta
    for group in range(2):
        assert errors[group][starts[group] == low[group]].min() <= errors[group].min() * (1 + 1e-3)


def test_gamma_keeps_the_range_wide():
    x = torch.randn(20_000)
    widths = []
    for analyzer in (MseEncodingAnalyzer(()), SqnrEncodingAnalyzer(()), SqnrEncodingAnalyzer((), gamma=100.0)):
        analyzer.update_stats(x)
        low, high = analyzer.compute_encodings(15, True)
        widths.append((high - low).item())
    assert widths[0] <= widths[1] < widths[2]
    assert MseEncodingAnalyzer(()).gamma == 1.0


def test_lowers_the_error_of_few_bits():
    x = torch.randn(20_000)
    analyzer = MseEncodingAnalyzer(())
    analyzer.update_stats(x)
    low, high = analyzer.compute_encodings(15, True)
    delta = (high - low) / 15
    error = ((x / delta).round().clamp(-8, 7) * delta - x).square().mean()
    whole = 2 * x.abs().max() / 15
    assert error < 0.7 * ((x / whole).round().clamp(-8, 7) * whole - x).square().mean()


@pytest.mark.parametrize(
    "arguments",
    [
        {"asymmetric_delta_candidates": 1},
        {"symmetric_delta_candidates": 1},
        {"offset_candidates": 2},
        {"gamma": -1.0},
        {"p": 0.5},
        {"gamma": float("nan")},
    ],
)
def test_impossible_arguments(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        SqnrEncodingAnalyzer((), **arguments)
