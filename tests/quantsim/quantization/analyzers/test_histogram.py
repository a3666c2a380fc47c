from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers import PercentileEncodingAnalyzer, SqnrEncodingAnalyzer
from quantsim.quantization.analyzers.histogram import HistogramEncodingAnalyzer


def histogram_of(analyzer: HistogramEncodingAnalyzer):
    return next(iter(analyzer._histograms()))


def test_one_batch_equals_torchs_histogram():
    x = torch.randn(100_000)
    analyzer = PercentileEncodingAnalyzer(())
    analyzer.update_stats(x)
    histogram = histogram_of(analyzer)
    assert torch.equal(histogram.counts[0], torch.histc(x, 2048, x.min().item(), x.max().item()))
    assert histogram.edges.shape == (1, 2049)
    assert histogram.midpoints.shape == (1, 2048)
    assert (histogram.edges[0, :-1] < histogram.midpoints[0]).all()


def test_large_batches_stream():
    generator = torch.Generator().manual_seed(0)
    analyzer, union = (PercentileEncodingAnalyzer((2, 1), percentile=99) for _ in range(2))
    batches = [torch.randn(2, 70_000, generator=generator) * scale for scale in (1, 4, 0.5)]
    for batch in batches:
        analyzer.update_stats(batch)
    union.update_stats(torch.cat(batches, 1))
    assert not analyzer._samples
    for a, b in zip(analyzer.compute_encodings(255, False), union.compute_encodings(255, False), strict=True):
        torch.testing.assert_close(a, b, rtol=0.005, atol=0.005)


def test_second_batch_lands_in_its_own_channel():
    # The channel is not the first dimension: the reference library mixes channels up here.
    analyzer = PercentileEncodingAnalyzer((1, 3, 1, 1))
    scales = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    for _ in range(3):
        analyzer.update_stats(torch.rand(20, 3, 40, 40) * scales)
    _, high = analyzer.compute_encodings(255, False)
    torch.testing.assert_close(high, scales, rtol=0.01, atol=0)


def test_many_blocks_are_searched_some_at_a_time():
    x = torch.randn(1300, 64)
    analyzer = SqnrEncodingAnalyzer((1300, 2), block_size=(1, 32))
    analyzer.update_stats(x)
    low, high = analyzer.compute_encodings(15, True)
    few = SqnrEncodingAnalyzer((2, 2), block_size=(1, 32))
    few.update_stats(x[1298:])
    assert torch.equal(few.compute_encodings(15, True)[1], high[1298:])
    assert low.shape == (1300, 2)


def test_needs_bins():
    with pytest.raises(ConfigurationError, match="num_bins"):
        PercentileEncodingAnalyzer((), num_bins=0)
