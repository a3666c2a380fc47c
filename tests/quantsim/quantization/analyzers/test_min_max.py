from __future__ import annotations

import torch

from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer


def test_asymmetric_is_the_observed_range_with_zero():
    analyzer = MinMaxEncodingAnalyzer((3, 1))
    analyzer.update_stats(torch.tensor([[-1.0, 2.0], [1.0, 3.0], [-3.0, -1.0]]))
    low, high = analyzer.compute_encodings(255, False)
    assert low.flatten().tolist() == [-1.0, 0.0, -3.0]
    assert high.flatten().tolist() == [2.0, 3.0, 0.0]


def test_symmetric_clips_nothing_and_uses_all_codes():
    analyzer = MinMaxEncodingAnalyzer(())
    analyzer.update_stats(torch.tensor([-0.5, 1.0]))
    low, high = analyzer.compute_encodings(255, True)
    assert torch.isclose(low, torch.tensor(-128 / 127))
    assert high == 1.0


def test_two_bits_clip_half_a_step():
    analyzer = MinMaxEncodingAnalyzer(())
    analyzer.update_stats(torch.tensor([-1.0, 1.0]))
    low, high = analyzer.compute_encodings(3, True)
    assert (low.item(), high.item()) == (-1.0, 0.5)


def test_range_grows_with_each_batch():
    analyzer = MinMaxEncodingAnalyzer((2, 1))
    for batch in (torch.tensor([[0.0], [1.0]]), torch.tensor([[-2.0], [0.5]]), torch.tensor([[1.0], [4.0]])):
        analyzer.update_stats(batch)
    low, high = analyzer.compute_encodings(255, False)
    assert low.flatten().tolist() == [-2.0, 0.0]
    assert high.flatten().tolist() == [1.0, 4.0]
