from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import NonFiniteError, NotCalibratedError
from quantsim.nn import (
    BaseQuantizationMixin,
    FakeQuantizationMixin,
    FakeQuantizedLinear,
    QuantizationMixin,
    QuantizedConv2d,
    QuantizedLinear,
)
from quantsim.quantization import affine

MIXINS = [QuantizationMixin, FakeQuantizationMixin]


def activation(bitwidth: int = 8) -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((), bitwidth, False)


def calibrated(in_features: int = 6, out_features: int = 4, *, bitwidth: int = 4) -> QuantizedLinear:
    """A quantized Linear with all kinds of quantizers, calibrated."""
    torch.manual_seed(0)
    linear = QuantizedLinear(in_features, out_features)
    linear.input_quantizers[0] = activation(bitwidth)
    linear.output_quantizers[0] = activation(bitwidth)
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((out_features, 1), bitwidth, True)
    with linear.compute_encodings(), torch.no_grad():
        linear(torch.randn(16, in_features))
    return linear


def by_hand(linear: Any, x: Tensor) -> Tensor:
    weight = linear.param_quantizers["weight"](linear._parameters["weight"])
    y = nn.functional.linear(linear.input_quantizers[0](x), weight, linear._parameters["bias"])
    return linear.output_quantizers[0](y)


# ---------------------------------------------------------------- forward


@pytest.mark.parametrize("cls", [QuantizedLinear, FakeQuantizedLinear])
@pytest.mark.parametrize("grad", [True, False])
def test_forward_is_quantize_compute_quantize(cls: Any, grad: bool) -> None:
    source = calibrated()
    linear = cls.from_module(source.get_original_module())
    linear.input_quantizers, linear.output_quantizers = source.input_quantizers, source.output_quantizers
    linear.param_quantizers = source.param_quantizers
    x = torch.randn(5, 6)
    with torch.set_grad_enabled(grad):
        expected = by_hand(linear, x)
        assert torch.equal(linear(x), expected)
        assert torch.equal(linear(input=x), expected)
    kept = x.clone()
    linear(x)
    assert torch.equal(x, kept)


def test_parameter_is_visible_again_after_forward_and_after_an_error() -> None:
    linear = calibrated()
    parameter = linear._parameters["weight"]
    linear(torch.randn(2, 6))
    assert linear.weight is parameter
    with pytest.raises(RuntimeError):
        linear(torch.randn(2, 7))
    assert linear.weight is parameter
    assert "weight" not in vars(linear)


def test_integer_and_bool_inputs_are_skipped() -> None:
    module = QuantizationMixin.from_module(nn.Identity())
    module.input_quantizers[0] = activation()
    module.output_quantizers[0] = activation()
    for x in (torch.tensor([1, 2]), torch.tensor([True])):
        assert module(x) is x


def test_uncalibrated_use_names_module_and_quantizer() -> None:
    linear = QuantizedLinear(2, 2)
    linear.output_quantizers[0] = activation()
    linear.module_path = "encoder.fc"
    with pytest.raises(NotCalibratedError, match=r"encoder\.fc\.output_quantizers\[0\]"):
        linear(torch.randn(2, 2))


def test_quantizer_of_the_wrong_shape_names_module_and_quantizer() -> None:
    linear = QuantizedLinear(2, 2)
    linear.input_quantizers[0] = quantizer = affine.QuantizeDequantize((5, 1), 8, False)
    quantizer.set_range(-torch.ones(5, 1), torch.ones(5, 1))
    with pytest.raises(ValueError, match=r"QuantizedLinear\.input_quantizers\[0\]"):
        linear(torch.randn(3, 2))


def test_codes_of_a_quantize_are_mapped_back() -> None:
    linear = QuantizedLinear(6, 4)
    other = copy.deepcopy(linear)
    linear.input_quantizers[0] = affine.Quantize((), 8, False)
    other.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    for module in (linear, other):
        module.input_quantizers[0].set_range(-1.0, 2.0)
    x = torch.randn(5, 6)
    assert torch.equal(linear(x), other(x))


def test_patch_quantized_parameters_selects_names() -> None:
    linear = calibrated()
    linear.param_quantizers["bias"] = affine.QuantizeDequantize((), 2, True)
    linear.compute_param_encodings()
    with linear._patch_quantized_parameters(["bias"]):
        assert linear.weight is linear._parameters["weight"]
        assert torch.equal(linear.bias, linear.param_quantizers["bias"](linear._parameters["bias"]))
    assert linear.bias is linear._parameters["bias"]


def test_fold_of_the_output_memory_leaves_results_alone() -> None:
    """The output quantizer overwrites only what forward has just made."""
    linear = calibrated()
    x = torch.randn(5, 6)
    seen: list[Tensor] = []
    with torch.no_grad():
        first = linear(x)
        kept = first.clone()
        linear.output_quantizers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        assert torch.equal(linear(x), kept)
        assert len(seen) == 1
        assert torch.equal(first, kept)
    relu = QuantizationMixin.from_module(nn.ReLU(inplace=True))
    relu.output_quantizers[0] = affine.QuantizeDequantize((), 2, False)
    relu.output_quantizers[0].set_range(0.0, 3.0)
    with torch.no_grad():
        y = torch.tensor([-1.0, 1.4])
        assert relu(y).tolist() == [0.0, 1.0]
        assert y.tolist() == pytest.approx([0.0, 1.4])  # what the float module leaves there


# ---------------------------------------------------------------- calibration


def test_compute_encodings_passes_activations_through() -> None:
    linear = calibrated()
    x = torch.randn(8, 6) * 3
    with linear.compute_encodings() as report:
        y = linear(x)
        weight = linear.param_quantizers["weight"](linear.weight)
        assert torch.equal(y, nn.functional.linear(x, weight, linear.bias))
    assert report.unobserved == []
    assert float(linear.input_quantizers[0].get_max()) == pytest.approx(float(x.max()), abs=0.5)


def test_frozen_quantizers_keep_quantizing_during_calibration() -> None:
    linear = calibrated()
    linear.input_quantizers[0].freeze()
    before = linear.input_quantizers[0].get_max()
    x = torch.randn(8, 6) * 3
    with linear.compute_encodings():
        y = linear(x)
    weight = linear.param_quantizers["weight"](linear.weight)
    assert torch.equal(y, nn.functional.linear(linear.input_quantizers[0](x), weight, linear.bias))
    assert torch.equal(linear.input_quantizers[0].get_max(), before)


@pytest.mark.parametrize("initialized", [True, False])
def test_an_exception_leaves_every_quantizer_as_it_was(initialized: bool) -> None:
    linear = calibrated()
    if not initialized:
        linear.param_quantizers["weight"] = affine.QuantizeDequantize((4, 1), 8, True)
        linear.input_quantizers[0] = activation()
    state = {name: value.clone() for name, value in linear.state_dict().items()}
    with torch.no_grad():
        linear.weight.mul_(3)
        state["weight"] = linear.weight.clone()
    with pytest.raises(RuntimeError), linear.compute_encodings():
        linear(torch.randn(3, 6) * 10)
        linear(torch.randn(3, 7))
    for name, value in linear.state_dict().items():
        assert torch.equal(value.nan_to_num(7), state[name].nan_to_num(7)), name
    assert linear.input_quantizers[0].is_initialized() is initialized
    assert not linear.input_quantizers[0].is_observing


def test_nonfinite_data_names_the_quantizer_and_changes_nothing() -> None:
    linear = calibrated()
    before = linear.input_quantizers[0].get_max()
    linear.module_path = "fc"
    with pytest.raises(NonFiniteError, match=r"fc\.(in|out)put_quantizers\[0\]"), linear.compute_encodings():
        linear(torch.full((2, 6), torch.nan))
    assert torch.equal(linear.input_quantizers[0].get_max(), before)
    with torch.no_grad():
        linear.weight[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"fc\.param_quantizers\['weight'\]"):
        linear.compute_param_encodings()


def test_quantizers_that_saw_nothing_are_reported() -> None:
    linear = calibrated()
    before = linear.output_quantizers[0].get_max()
    with pytest.warns(UserWarning, match="saw no data"), linear.compute_encodings() as report:
        pass
    assert report.unobserved == ["QuantizedLinear.input_quantizers[0]", "QuantizedLinear.output_quantizers[0]"]
    assert torch.equal(linear.output_quantizers[0].get_max(), before)


# ---------------------------------------------------------------- fold


def test_fold_is_exact_and_reversible() -> None:
    linear = calibrated()
    parameter, quantizer = linear.weight, linear.param_quantizers["weight"]
    x = torch.randn(5, 6)
    expected = linear(x)
    values = parameter.detach().clone()
    handle = linear.fold_param_quantizers()
    assert linear.param_quantizers["weight"] is None
    assert torch.equal(linear.weight, quantizer(parameter))
    assert torch.equal(linear(x), expected)
    assert linear.get_original_module().weight is parameter
    assert linear.export_param_encodings()["weight"] is not None
    copied = copy.deepcopy(linear)
    copied.unfold_param_quantizers()
    assert torch.equal(copied.weight, values)
    handle.restore()
    handle.restore()
    assert linear.weight is parameter
    assert torch.equal(parameter, values)
    assert linear.param_quantizers["weight"] is quantizer
    assert torch.equal(linear(x), expected)


def test_fold_does_not_touch_the_module_it_shares_parameters_with() -> None:
    module = nn.Linear(6, 4)
    values = module.weight.detach().clone()
    quantized = QuantizationMixin.from_module(module)
    quantized.param_quantizers["weight"] = affine.QuantizeDequantize((), 2, True)
    with quantized.fold_param_quantizers():
        assert torch.equal(module.weight, values)
        assert not torch.equal(quantized.weight, values)
    assert quantized.weight is module.weight


def test_unfold_follows_the_dtype_of_the_module() -> None:
    linear = calibrated()
    linear.fold_param_quantizers()
    linear.double()
    linear.unfold_param_quantizers()
    assert linear.weight.dtype == torch.float64
    linear(torch.randn(2, 6, dtype=torch.float64))


# ---------------------------------------------------------------- life as a module


def test_copies_pickles_and_state_dict() -> None:
    linear = calibrated(128, 128)
    x = torch.randn(5, 128)
    with torch.no_grad():
        expected = linear(x)  # fills the cache
        assert "_quantized_parameter_cache" in vars(linear)
        buffer = io.BytesIO()
        torch.save(linear, buffer)
        buffer.seek(0)
        others = (
            copy.deepcopy(linear),
            pickle.loads(pickle.dumps(linear)),
            torch.load(buffer, weights_only=False),
        )
        for other in others:
            assert "_quantized_parameter_cache" not in vars(other)
            assert other.weight is not linear.weight
            assert torch.equal(other(x), expected)
        fresh = QuantizedLinear(128, 128)
        fresh.input_quantizers[0], fresh.output_quantizers[0] = activation(4), activation(4)
        fresh.param_quantizers["weight"] = affine.QuantizeDequantize((128, 1), 4, True)
        fresh.load_state_dict(linear.state_dict())
        assert torch.equal(fresh(x), expected)


def test_no_buffers_beyond_the_float_modules() -> None:
    """DDP broadcasts buffers and FSDP manages them: there are none that training would not expect."""
    assert list(calibrated().buffers()) == []
    names = {name for name, _ in calibrated().named_parameters()}
    assert {"weight", "bias"} < names
    assert all(name in ("weight", "bias") or "quantizers" in name for name in names)


def test_meta_device() -> None:
    with torch.device("meta"):
        linear = QuantizedLinear(6, 4)
        y = linear(torch.randn(2, 6))
    assert y.is_meta
    assert y.shape == (2, 4)
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((), 8, True)
    linear.compute_param_encodings()  # nothing to see yet
    linear.to_empty(device="cpu")
    with torch.no_grad():
        linear.weight.normal_()
        linear.bias.zero_()
        linear(torch.randn(2, 6))
    assert linear.param_quantizers["weight"].is_initialized()


def test_moves_dtype() -> None:
    linear = calibrated().double()
    assert linear(torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64
    assert linear.bfloat16()(torch.randn(2, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_training_moves_weights_and_ranges() -> None:
    linear = calibrated()
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.05)
    x, goal = torch.randn(32, 6), torch.randn(32, 4)
    before = {name: parameter.detach().clone() for name, parameter in linear.named_parameters()}
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(linear(x), goal)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(not torch.equal(before[name], parameter) for name, parameter in linear.named_parameters())


def test_mixin_itself_has_no_classes() -> None:
    with pytest.raises(TypeError, match="QuantizationMixin"):
        BaseQuantizationMixin.from_module(nn.Linear(1, 1))
    with pytest.raises(NotImplementedError):
        BaseQuantizationMixin.wrap(nn.Linear)


def test_functional_call_replaces_parameters() -> None:
    linear = QuantizedConv2d(1, 2, 3)
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((), 4, True)
    x = torch.randn(1, 1, 5, 5)
    linear(x)
    weight = torch.randn_like(linear.weight)
    got = torch.func.functional_call(linear, {"weight": weight}, (x,))
    expected = nn.functional.conv2d(x, linear.param_quantizers["weight"](weight), linear.bias)
    assert torch.equal(got, expected)
