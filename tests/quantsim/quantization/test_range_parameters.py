"""How ranges are kept: state_dict, deep copy, pickle, devices, dtypes, direct assignment."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.quantization import QuantizerBase, affine
from quantsim.quantization import float as float_quantization

MAKERS = {
    "per_tensor": lambda: affine.QuantizeDequantize((), 8, False),
    "per_channel": lambda: affine.QuantizeDequantize((4, 1), 8, True),
    "block": lambda: affine.QuantizeDequantize((4, 2), 4, True, block_size=(1, 8)),
    "quantize": lambda: affine.Quantize((), -7, 7, True),
    "shifted": lambda: affine.QuantizeDequantize((), 4, True, zero_point_shift=0.5),
    "grouped": lambda: affine.GroupedBlockQuantizeDequantize(
        (4, 2), 4, True, 8, block_size=(1, 8), block_grouping=(1, -1)
    ),
    "float8": lambda: float_quantization.FloatQuantizeDequantize(dtype=torch.float8_e5m2),
    "float_channel": lambda: float_quantization.FloatQuantizeDequantize(2, 1, finite=True, shape=(4, 1)),
    "bfloat16": lambda: float_quantization.FloatQuantizeDequantize(dtype=torch.bfloat16),
    "dynamic": lambda: affine.DynamicQuantizeDequantize(8, False),
    "dynamic_float": lambda: float_quantization.DynamicFloatQuantizeDequantize(dtype=torch.float8_e4m3fn),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 16)


def calibrated(make, x) -> QuantizerBase:
    quantizer = make()
    if quantizer.encoding_analyzer is not None:
        with quantizer.compute_encodings():
            quantizer(x)
    return quantizer


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda quantizer: pickle.loads(pickle.dumps(quantizer)),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_are_equal_and_independent(make, x, duplicate):
    fresh = duplicate(make())
    assert fresh.is_initialized() is make().is_initialized()
    quantizer = calibrated(make, x)
    expected = quantizer(x).detach()
    twin = duplicate(quantizer)
    assert twin.is_initialized()
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(4)
    assert torch.equal(quantizer(x), expected)


def test_copy_taken_while_observing_does_not_observe(x):
    quantizer = affine.QuantizeDequantize((), 8, False)
    with quantizer.compute_encodings():
        quantizer(x)
        twin = copy.deepcopy(quantizer)
    assert not twin.is_observing
    assert not twin.is_initialized()


def test_state_dict_into_an_uninitialised_quantizer(make, x):
    quantizer = calibrated(make, x)
    other = make()
    result = other.load_state_dict(quantizer.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert other.is_initialized()
    assert torch.equal(other(x), quantizer(x))


def test_uninitialised_state_makes_uninitialised(x):
    quantizer = calibrated(MAKERS["per_tensor"], x)
    quantizer.load_state_dict(MAKERS["per_tensor"]().state_dict())
    assert not quantizer.is_initialized()


def test_state_dict_restores_grid_and_freezing(x):
    quantizer = affine.QuantizeDequantize((), 4, True)
    quantizer.set_range(-1, 1)
    quantizer.allow_overwrite(False)
    other = affine.QuantizeDequantize((), 8, False)
    other.load_state_dict(quantizer.state_dict())
    assert (other.qmin, other.qmax, other.symmetric) == (-8, 7, True)
    assert not other.is_overwrite_allowed
    assert torch.equal(other(x), quantizer(x))


def test_state_dict_holds_tensors_only(make, x):
    state = nn.Sequential(calibrated(make, x)).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    path_safe = {key: value.contiguous() for key, value in state.items()}
    from safetensors.torch import load, save

    other = nn.Sequential(make())
    other.load_state_dict(load(save(path_safe)))
    assert other[0].is_initialized()


def test_state_without_settings_loads(x):
    quantizer = calibrated(MAKERS["per_channel"], x)
    state = {key: value for key, value in quantizer.state_dict().items() if "extra" not in key}
    other = MAKERS["per_channel"]()
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(x), quantizer(x))


def test_aimet_style_settings_are_understood(x):
    quantizer = affine.QuantizeDequantize((), 8, False)
    state = {
        "min": torch.tensor(-1.0),
        "max": torch.tensor(1.0),
        "_extra_state": {
            "qmin": torch.tensor(-8),
            "qmax": torch.tensor(7),
            "symmetric": torch.tensor(True),
            "block_size": torch.tensor(()),
            "zero_point_shift": torch.tensor(0.0),
        },
    }
    quantizer.load_state_dict(state)
    assert (quantizer.qmin, quantizer.qmax, quantizer.symmetric) == (-8, 7, True)
    assert quantizer.is_initialized()


def test_unreadable_settings_are_refused():
    with pytest.raises(ConfigurationError, match="_extra_state"):
        affine.QuantizeDequantize((), 8, False).set_extra_state(3)


def test_wrong_shape_is_an_error_and_changes_nothing(x):
    quantizer = calibrated(MAKERS["per_tensor"], x)
    before = quantizer.min.clone()
    with pytest.raises(RuntimeError, match="size mismatch"):
        quantizer.load_state_dict(calibrated(MAKERS["per_channel"], x).state_dict())
    assert torch.equal(quantizer.min, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_ranges_stay_float32(make, x, dtype):
    quantizer = calibrated(make, x)
    expected = quantizer(x)
    nn.Sequential(quantizer).to(dtype)
    assert all(value.dtype is torch.float32 for value in quantizer.parameters())
    assert torch.equal(quantizer(x), expected)
    assert quantizer(x.to(dtype)).dtype is dtype


def test_meta_device(make, x):
    quantizer = calibrated(make, x)
    quantizer.to("meta")
    assert all(value.is_meta for value in quantizer.parameters())
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            assert quantizer(x.to("meta")).shape == x.shape
    fresh = make().to("meta")
    if fresh.needs_calibration and fresh.encoding_analyzer is not None:
        assert not fresh.is_initialized()


def test_memory_after_meta_is_no_range(x):
    for quantizer in (MAKERS["per_channel"](), calibrated(MAKERS["per_channel"], x)):
        quantizer.to("meta").to_empty(device="cpu")
        assert not quantizer.is_initialized()


def test_loading_onto_meta_with_assign(x):
    quantizer = calibrated(MAKERS["per_channel"], x)
    other = MAKERS["per_channel"]().to("meta")
    other.load_state_dict(quantizer.state_dict(), assign=True)
    assert other.is_initialized()
    assert torch.equal(other(x), quantizer(x))


def test_assigning_parameters_initialises(x):
    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.min = nn.Parameter(-torch.ones_like(quantizer.min))
    assert not quantizer.is_initialized()
    quantizer.max = nn.Parameter(torch.ones_like(quantizer.max))
    assert quantizer.is_initialized()
    expected = affine.QuantizeDequantize((), 8, True)
    expected.set_range(-1, 1)
    assert torch.equal(quantizer(x), expected(x))


def test_writing_in_place_initialises():
    quantizer = affine.QuantizeDequantize((2, 1), 8, True)
    with torch.no_grad():
        quantizer.min.fill_(-1)
        quantizer.max[0] = 1
        assert not quantizer.is_initialized()
        quantizer.max.fill_(1)
    assert quantizer.is_initialized()


def test_register_range_parameter_as_buffer():
    class Clip(QuantizerBase):
        def __init__(self):
            super().__init__()
            self.register_range_parameter("limit", (2,), learnable=False)

        def map_to_grid(self, x, *, owned=False):
            return x.clamp(max=self.limit)

    quantizer = Clip()
    assert not list(quantizer.parameters())
    assert not quantizer.is_initialized()
    quantizer.assign_range_parameters(limit=torch.tensor([1.0, 2.0]))
    assert quantizer.is_initialized()
    assert quantizer(torch.full((2,), 5.0)).tolist() == [1.0, 2.0]
    other = Clip()
    other.load_state_dict(quantizer.state_dict())
    assert other.is_initialized()


def test_assigning_all_or_nothing():
    quantizer = affine.QuantizeDequantize((2, 1), 8, True)
    with pytest.raises(ConfigurationError, match="must be finite"):
        quantizer.assign_range_parameters(min=torch.zeros(2, 1), max=torch.full((2, 1), float("inf")))
    with pytest.raises(ConfigurationError, match="does not fit"):
        quantizer.assign_range_parameters(min=torch.zeros(2, 1), max=torch.ones(3, 1))
    assert torch.isnan(quantizer.min).all()
    with pytest.raises(AttributeError, match="no range parameter"):
        quantizer.assign_range_parameters(scale=torch.ones(()))


def test_a_range_that_was_set_can_be_compiled_at_once() -> None:
    """A compiled forward cannot look at the values to see that there is a range: setting it must note that."""
    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.set_range(-1.0, 1.0)
    compiled = torch.compile(quantizer, fullgraph=True, backend="eager")
    x = torch.randn(8)
    assert torch.equal(compiled(x), quantizer(x))


def test_a_parameter_put_in_place_again_is_read_again() -> None:
    """FSDP2 refills the memory of the same parameter without counting that as a change."""
    quantizer = affine.QuantizeDequantize((), 8, False)
    quantizer.set_range(0.0, 255.0)
    assert float(quantizer(torch.tensor(300.0))) == 255.0
    parameter, version = quantizer.max, quantizer.max._version
    parameter.data.fill_(127.5)
    assert parameter._version == version
    quantizer.max = parameter
    assert float(quantizer(torch.tensor(300.0))) == 127.5


def test_ranges_get_a_dimension_and_lose_nothing() -> None:
    quantizer, plain = affine.QuantizeDequantize((), 8, False), affine.QuantizeDequantize((), 8, False)
    quantizer.set_range(-1.0, 3.0)
    plain.load_state_dict(quantizer.state_dict())
    x, before = torch.linspace(-2, 4, 50), quantizer(torch.linspace(-2, 4, 50))
    quantizer.min.requires_grad_(False)
    quantizer.give_dimension()
    assert quantizer.min.shape == quantizer.max.shape == quantizer.shape == (1,)
    assert quantizer.max.requires_grad
    assert not quantizer.min.requires_grad
    assert torch.equal(quantizer(x), before)
    for state, into in ((plain.state_dict(), quantizer), (quantizer.state_dict(), plain)):
        into.load_state_dict(state)
        assert torch.equal(into(x), before)
    assert plain.min.shape == ()
    with quantizer.compute_encodings():
        quantizer(torch.tensor([-4.0, 4.0]))
    assert float(quantizer.get_max()) > 3.9
