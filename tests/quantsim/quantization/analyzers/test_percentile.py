from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers import PercentileEncodingAnalyzer


@pytest.mark.parametrize("percentile", [100, 99.9, 99, 90, 60])
def test_matches_quantiles(percentile):
    x = torch.randn(50_000)
    analyzer = PercentileEncodingAnalyzer((), percentile=percentile)
    analyzer.update_stats(x)
    low, high = analyzer.compute_encodings(255, False)
    width = (x.max() - x.min()) / 2048
    assert abs(low - torch.quantile(x, 1 - percentile / 100)) <= 2 * width
    assert abs(high - torch.quantile(x, percentile / 100)) <= 2 * width


def test_hundred_is_the_whole_range_however_it_grew():
    batches = [torch.randn(70_000) * scale for scale in (1, 3, 10)]
    analyzer = PercentileEncodingAnalyzer(())
    for batch in batches:
        analyzer.update_stats(batch)
    low, high = analyzer.compute_encodings(255, False)
    assert low == torch.cat(batches).min()
    assert high == torch.cat(batches).max()


def test_can_be_set_later_and_is_checked():
    analyzer = PercentileEncodingAnalyzer(())
    analyzer.update_stats(torch.randn(10_000))
    whole = analyzer.compute_encodings(255, False)[1]
    analyzer.set_percentile(95)
    assert analyzer.compute_encodings(255, False)[1] < whole
    for wrong in (49, 101, float("nan")):
        with pytest.raises(ConfigurationError, match="50 to 100"):
            analyzer.set_percentile(wrong)


def test_two_bit_symmetric_grids_are_not_clipped_further():
    analyzer = PercentileEncodingAnalyzer(())
    analyzer.update_stats(torch.linspace(-1, 1, 1000))
    low, high = analyzer.compute_encodings(3, True)
    assert high == pytest.approx(1.0, rel=1e-5)
    assert low == pytest.approx(-2.0, rel=1e-5)
