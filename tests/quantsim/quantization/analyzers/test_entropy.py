from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers import EntropyEncodingAnalyzer


def normal(count: int) -> torch.Tensor:
    return torch.special.ndtri((torch.arange(count) + 0.5) / count)


@pytest.mark.parametrize("symmetric", [True, False])
def test_cuts_outliers_off(symmetric):
    analyzer = EntropyEncodingAnalyzer((2, 1))
    x = torch.stack([normal(20_000), normal(20_000) * 5])
    x[:, 0] = 300.0
    analyzer.update_stats(x)
    _, high = analyzer.compute_encodings(255, symmetric)
    assert (high < 50).all()
    assert high[0] > 2


def test_keeps_a_range_without_outliers():
    analyzer = EntropyEncodingAnalyzer(())
    analyzer.update_stats(torch.linspace(-1, 1, 50_000))
    low, high = analyzer.compute_encodings(255, False)
    assert high > 0.9
    assert low < -0.9


def test_range_is_one_of_the_candidates():
    analyzer = EntropyEncodingAnalyzer((), range_candidates=4)
    analyzer.update_stats(normal(10_000))
    low, high = analyzer.compute_encodings(255, False)
    whole = normal(10_000).max()
    assert min(abs(high - whole * k / 4) for k in (1, 2, 3, 4)) < 1e-4
    with pytest.raises(ConfigurationError, match="range_candidates"):
        EntropyEncodingAnalyzer((), range_candidates=0)
    assert low < 0
