"""The lifecycle that all quantizers share."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from quantsim.errors import NonFiniteError, NotCalibratedError
from quantsim.quantization import NonFinitePolicy, QuantizerBase, affine
from quantsim.quantization import float as float_quantization
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer, PercentileEncodingAnalyzer, SqnrEncodingAnalyzer

CALIBRATED = {
    "affine": lambda: affine.QuantizeDequantize((), 8, False),
    "quantize": lambda: affine.Quantize((), 8, False),
    "grouped": lambda: affine.GroupedBlockQuantizeDequantize(
        (4, 2), 4, True, 8, block_size=(1, 8), block_grouping=(1, -1)
    ),
    "float": lambda: float_quantization.FloatQuantizeDequantize(dtype=torch.float8_e4m3fn),
}


@pytest.fixture(params=CALIBRATED)
def quantizer(request) -> QuantizerBase:
    return CALIBRATED[request.param]()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 16)


def state(quantizer: QuantizerBase) -> list[torch.Tensor]:
    return [value.clone() for value in quantizer.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(left.nan_to_num(7.0), right.nan_to_num(7.0)) for left, right in zip(a, b, strict=True))


def test_uncalibrated_use_says_what_to_do(quantizer, x):
    assert not quantizer.is_initialized()
    with pytest.raises(NotCalibratedError, match=r"compute_encodings.*set_range"):
        quantizer(x)
    with torch.no_grad(), pytest.raises(NotCalibratedError):
        quantizer.quantize_owned(x)


def test_empty_input_needs_no_range(quantizer):
    assert quantizer(torch.empty(0, 16)).shape == (0, 16)


def test_observing_passes_the_input_through(quantizer, x):
    with quantizer.compute_encodings():
        assert quantizer.is_observing
        assert quantizer(x) is x
        with torch.no_grad():
            assert quantizer.quantize_owned(x) is x
        assert not quantizer.is_initialized()
    assert not quantizer.is_observing
    assert quantizer.is_initialized()
    assert quantizer.samples_seen == 2 * x.numel()
    assert not torch.equal(quantizer(x), x)


def test_exception_leaves_everything_unchanged(quantizer, x):
    for fresh in (True, False):
        before = state(quantizer)
        with pytest.raises(KeyError), quantizer.compute_encodings():
            quantizer(x * 100)
            raise KeyError
        assert same(before, state(quantizer))
        assert quantizer.is_initialized() is not fresh
        assert not quantizer.is_observing
        assert not quantizer.encoding_analyzer.has_stats
        with quantizer.compute_encodings():
            quantizer(x)


def test_recalibration_forgets_the_old_data(quantizer, x):
    with quantizer.compute_encodings():
        quantizer(x * 100)
    with quantizer.compute_encodings():
        quantizer(x)
    once = state(quantizer)
    with quantizer.compute_encodings():
        quantizer(x)
    assert same(once, state(quantizer))


def test_no_data_is_reported_and_changes_nothing(quantizer, x):
    with pytest.warns(UserWarning, match="no data was seen"), quantizer.compute_encodings():
        quantizer(torch.empty(0, 16))
    assert not quantizer.is_initialized()
    with quantizer.compute_encodings():
        quantizer(x)
    before = state(quantizer)
    quantizer.begin_observation()
    assert quantizer.finish_observation() is False
    assert same(before, state(quantizer))


def test_nested_contexts_set_the_range_at_the_outermost_end(x):
    quantizer = affine.QuantizeDequantize((), 8, False)
    with quantizer.compute_encodings():
        quantizer(torch.tensor([0.0, 1.0]))
        with quantizer.compute_encodings():
            quantizer(torch.tensor([-4.0]))
        assert quantizer.is_observing
        assert not quantizer.is_initialized()
        quantizer(torch.tensor([2.0]))
    assert quantizer.min.item() == -4.0
    assert quantizer.max.item() == 2.0


def test_inner_failure_does_not_end_the_outer_observation():
    quantizer = affine.QuantizeDequantize((), 8, False)
    with quantizer.compute_encodings():
        quantizer(torch.tensor([-1.0, 1.0]))
        with pytest.raises(KeyError), quantizer.compute_encodings():
            raise KeyError
    assert quantizer.max.item() == 1.0


def test_one_quantizer_in_two_places_sees_both(x):
    shared = affine.QuantizeDequantize((), 8, False)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(nn.Identity(), shared)})
    places = list(model.values())
    for _ in places:
        shared.begin_observation()
    model["a"](torch.tensor([-1.0, 0.5]))
    model["b"](torch.tensor([0.0, 3.0]))
    results = [shared.finish_observation() for _ in places]
    assert results == [True, True]
    assert (shared.min.item(), shared.max.item()) == (-1.0, 3.0)
    assert len(list(model.parameters())) == 2


def test_frozen_quantizer_keeps_quantizing(quantizer, x):
    with quantizer.compute_encodings():
        quantizer(x)
    before, expected = state(quantizer)[:-1], quantizer(x).detach()
    quantizer.freeze()
    assert quantizer.is_frozen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quantizer.compute_encodings():
            assert not quantizer.is_observing
            assert torch.equal(quantizer(x * 1), expected)
    assert same(before, state(quantizer)[:-1])
    assert not any(parameter.requires_grad for parameter in quantizer.parameters())
    quantizer.unfreeze()
    assert not quantizer.is_frozen
    with quantizer.compute_encodings():
        quantizer(x * 2)
    assert not same(before, state(quantizer)[:-1])


def test_allow_overwrite_is_not_freezing(x):
    quantizer = affine.QuantizeDequantize((), 8, False)
    quantizer.set_range(-1, 1)
    quantizer.allow_overwrite(False)
    with quantizer.compute_encodings():
        quantizer(x * 100)
    assert quantizer.max.item() == 1.0
    assert quantizer.min.requires_grad
    assert not quantizer.is_frozen
    assert not quantizer.is_overwrite_allowed


@pytest.mark.parametrize("analyzer", [MinMaxEncodingAnalyzer, PercentileEncodingAnalyzer, SqnrEncodingAnalyzer])
def test_nonfinite_data_raises_with_counts_and_changes_nothing(analyzer):
    quantizer = affine.QuantizeDequantize((), 8, False, encoding_analyzer=analyzer(()))
    quantizer.set_range(-1, 1)
    bad = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 2.0])
    with pytest.raises(NonFiniteError, match="1 NaN and 2 infinities among 5 elements") as caught:
        with quantizer.compute_encodings():
            quantizer(torch.tensor([5.0]))
            quantizer(bad)
    assert (caught.value.nan_count, caught.value.infinity_count) == (1, 2)
    assert quantizer.max.item() == 1.0
    quantizer.nonfinite = "ignore"
    assert quantizer.nonfinite is NonFinitePolicy.IGNORE
    assert quantizer.encoding_analyzer.nonfinite is NonFinitePolicy.IGNORE
    with quantizer.compute_encodings():
        quantizer(bad)
    assert quantizer.max.item() == pytest.approx(2.0, rel=0.05)


def test_quantize_owned_overwrites_only_without_gradients():
    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.set_range(-1, 1)
    x = torch.randn(64, 64)
    expected = quantizer(x).detach()
    kept = x.clone()
    result = quantizer.quantize_owned(kept)
    assert result.requires_grad
    assert torch.equal(kept, x)
    with torch.no_grad():
        result = quantizer.quantize_owned(kept)
    assert torch.equal(result, expected)
    assert result.data_ptr() == kept.data_ptr()


def test_base_class_names_what_a_subclass_must_define():
    class Unfinished(QuantizerBase):
        pass

    quantizer = Unfinished(encoding_analyzer=MinMaxEncodingAnalyzer(()))
    for member in ("format", "granularity", "bitwidth"):
        with pytest.raises(NotImplementedError, match=f"Unfinished must define {member}"):
            getattr(quantizer, member)
    for call in (quantizer.get_encodings, quantizer.get_legacy_encodings):
        with pytest.raises(NotImplementedError, match="Unfinished"):
            call()
    with pytest.raises(NotImplementedError, match="map_to_grid"):
        quantizer(torch.ones(1))
    with pytest.raises(NotImplementedError, match="set_range_from_statistics"), quantizer.compute_encodings():
        quantizer(torch.ones(1))
    assert not quantizer.is_observing
