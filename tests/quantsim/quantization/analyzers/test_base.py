"""What holds for every analyzer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from quantsim.errors import ConfigurationError, NonFiniteError, ShapeError
from quantsim.quantization.analyzers import (
    EncodingAnalyzer,
    EntropyEncodingAnalyzer,
    MinMaxEncodingAnalyzer,
    MseEncodingAnalyzer,
    NonFinitePolicy,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
)
from quantsim.quantization.analyzers.grouping import flatten_groups

ANALYZERS = [
    MinMaxEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
    MseEncodingAnalyzer,
    EntropyEncodingAnalyzer,
]
LAYOUTS = [((), None), ((4, 1), None), ((1, 16), None), ((4, 2), (1, 8))]


@pytest.fixture(params=ANALYZERS, ids=lambda kind: kind.__name__)
def kind(request) -> type[EncodingAnalyzer]:
    return request.param


def computed(analyzer: EncodingAnalyzer, symmetric=False, steps=255) -> torch.Tensor:
    return torch.stack(analyzer.compute_encodings(steps, symmetric))


@pytest.mark.parametrize(("shape", "block_size"), LAYOUTS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_each_group_is_calibrated_on_its_own(kind, shape, block_size, symmetric):
    x = torch.randn(4, 16) * torch.rand(4, 16).mul(3).exp()
    together = kind(shape, block_size=block_size)
    together.update_stats(x)
    result = computed(together, symmetric)
    assert result.shape == (2, *shape)
    assert result.dtype is torch.float32
    assert (result[0] <= 0).all()
    assert (result[1] >= 0).all()
    for number, group in enumerate(flatten_groups(x, shape, block_size)):
        alone = kind(())
        alone.update_stats(group)
        assert torch.equal(computed(alone, symmetric), result.reshape(2, -1)[:, number])


@pytest.mark.parametrize(("shape", "block_size"), LAYOUTS)
def test_several_batches_are_their_union(kind, shape, block_size):
    batches = [torch.randn(4, 16) * scale + shift for scale, shift in ((1, 0), (3, 1), (0.1, -2))]
    streamed = kind(shape, block_size=block_size)
    for batch in batches:
        streamed.update_stats(batch)
    union = kind(shape, block_size=None if block_size is None else (1, 24))
    # Put side by side such that each group keeps its elements.
    if block_size is not None:
        x = torch.stack([batch.view(4, 2, 8) for batch in batches], dim=2).reshape(4, 48)
    else:
        x = torch.cat(batches, dim=0 if shape == (1, 16) else 1)
    union.update_stats(x)
    assert torch.equal(computed(streamed), computed(union))


def test_order_and_dtype_of_data_do_not_matter(kind):
    x = torch.randn(4, 512).to(torch.bfloat16)
    results = []
    for data in (x, x.float(), x.double(), x.flip(1), x.t().contiguous().t()):
        analyzer = kind((4, 1))
        analyzer.update_stats(data)
        results.append(computed(analyzer))
    assert all(torch.equal(result, results[0]) for result in results)


def test_later_changes_of_the_data_do_not_matter(kind):
    x = torch.randn(4, 16)
    analyzer = kind((4, 1))
    analyzer.update_stats(x)
    before = computed(analyzer)
    x.zero_()
    assert torch.equal(computed(analyzer), before)


def test_reset(kind):
    analyzer = kind(())
    assert not analyzer.has_stats
    with pytest.raises(ConfigurationError, match="nothing was observed"):
        analyzer.compute_encodings(255, True)
    analyzer.update_stats(torch.randn(100) * 50)
    assert analyzer.has_stats
    analyzer.reset_stats()
    assert not analyzer.has_stats
    analyzer.update_stats(torch.tensor([-1.0, 1.0]))
    assert computed(analyzer).abs().max() <= 1.6


@pytest.mark.parametrize("steps", [0, -1])
def test_grid_needs_steps(kind, steps):
    analyzer = kind(())
    analyzer.update_stats(torch.randn(10))
    with pytest.raises(ConfigurationError, match="at least one step"):
        analyzer.compute_encodings(steps, True)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5, 1e-12])
@pytest.mark.parametrize("symmetric", [True, False])
def test_constant_data(kind, value, symmetric):
    analyzer = kind((2, 1))
    analyzer.update_stats(torch.full((2, 10), value))
    low, high = analyzer.compute_encodings(255, symmetric)
    assert torch.isfinite(low).all()
    assert torch.isfinite(high).all()
    assert (high > low).all()
    assert (low - 0.02 <= value).all()
    assert (high + 0.02 >= value).all()


def test_nonfinite_raises_and_keeps_the_statistics(kind):
    analyzer = kind((2, 1))
    analyzer.update_stats(torch.randn(2, 100))
    before = computed(analyzer)
    bad = torch.randn(2, 100)
    bad[0, 3], bad[1, 4], bad[1, 5] = float("nan"), float("inf"), -float("inf")
    with pytest.raises(NonFiniteError, match=f"{kind.__name__}.*1 NaN and 2 infinities"):
        analyzer.update_stats(bad)
    assert torch.equal(computed(analyzer), before)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_nonfinite_ignored(kind, shape):
    clean = torch.randn(2, 100)
    dirty = torch.cat([clean, torch.tensor([[float("nan"), float("inf")], [-float("inf"), float("nan")]])], dim=1)
    expected, analyzer = kind(shape), kind(shape, nonfinite="ignore")
    expected.update_stats(clean)
    analyzer.update_stats(dirty)
    assert torch.equal(computed(analyzer), computed(expected))
    assert analyzer.nonfinite is NonFinitePolicy.IGNORE


def test_group_without_finite_values_gets_the_smallest_range(kind):
    analyzer = kind((2, 1), nonfinite="ignore")
    analyzer.update_stats(torch.tensor([[float("nan")] * 4, [-1.0, 0.0, 0.5, 1.0]]))
    low, high = analyzer.compute_encodings(255, False)
    assert torch.isfinite(low).all()
    assert high[0] <= 0.6
    assert high[1] > 0.9


def test_unknown_policy(kind):
    with pytest.raises(ConfigurationError, match="'raise' or 'ignore'"):
        kind((), nonfinite="skip")


def test_wrong_shape_keeps_the_statistics(kind):
    analyzer = kind((4, 1))
    with pytest.raises(ShapeError):
        analyzer.update_stats(torch.randn(5, 3))
    assert not analyzer.has_stats


@pytest.mark.parametrize(("shape", "block_size"), LAYOUTS)
def test_merge_of_small_data_is_the_union(kind, shape, block_size):
    first, second = torch.randn(4, 16), torch.randn(4, 16) * 3
    one, two, both = (kind(shape, block_size=block_size) for _ in range(3))
    one.update_stats(first)
    two.update_stats(second)
    both.update_stats(first)
    both.update_stats(second)
    one.merge(two)
    assert torch.equal(computed(one), computed(both))
    empty = kind(shape, block_size=block_size)
    one.merge(empty)
    empty.merge(both)
    assert torch.equal(computed(one), computed(both))
    assert torch.equal(computed(empty), computed(both))


def test_merge_of_large_data(kind):
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(120_000, generator=generator) * scale for scale in (1.0, 2.5)]
    one, two, both = kind(()), kind(()), kind(())
    one.update_stats(parts[0])
    two.update_stats(parts[1])
    both.update_stats(torch.cat(parts))
    one.merge(two)
    # The divergence is nearly flat over several candidates, so a few moved counts may choose a neighbour.
    tolerance = 0.1 if kind is EntropyEncodingAnalyzer else 0.02
    torch.testing.assert_close(computed(one), computed(both), rtol=tolerance, atol=0.02)


def test_merge_only_with_its_like(kind):
    with pytest.raises(ConfigurationError, match="only with their like"):
        kind(()).merge(kind((4, 1)))
    other = PercentileEncodingAnalyzer if kind is MinMaxEncodingAnalyzer else MinMaxEncodingAnalyzer
    with pytest.raises(ConfigurationError, match=other.__name__):
        kind(()).merge(other(()))


def test_copies(kind):
    analyzer = kind((4, 2), block_size=(1, 8))
    analyzer.update_stats(torch.randn(4, 16))
    for twin in (copy.deepcopy(analyzer), pickle.loads(pickle.dumps(analyzer))):
        assert torch.equal(computed(twin), computed(analyzer))
    assert repr(analyzer) == f"{kind.__name__}(shape=(4, 2), block_size=(1, 8))"
