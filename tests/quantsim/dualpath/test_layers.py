"""Layers on both paths: against their own fake quantization, and against NumPy's integers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from quantsim.dualpath import QBase, QBaseConv2d, QBaseLinear, dequantize
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import QuantizedLinear, compute_encodings
from quantsim.quantization import affine
from quantsim.quantization.methods import LSQQuantizeDequantize
from quantsim_kernels.reference import integer as reference

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "uneven": {"kernel_size": (3, 2), "padding": (1, 0), "dilation": (1, 2)},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
    "same": {"kernel_size": 4, "padding": "same"},
}


def linear(wbit: int = 8, *, output: bool = True, **settings) -> tuple[QBaseLinear, torch.Tensor]:
    layer, x = QBaseLinear(40, 12, wbit=wbit, abit=8, **settings), torch.randn(30, 40) + 0.7
    return calibrated(layer, x, output=output), x


def calibrated(layer, x, *, output: bool = True):
    if output:
        layer.yq = QBase(8)
    with compute_encodings(layer):
        layer(x)
    return layer


@pytest.mark.parametrize("wbit", [2, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_within_one_step_of_fake_quantization(wbit: int, bias: bool) -> None:
    layer, x = linear(wbit, bias=bias)
    real = layer(x).detach()
    codes = layer.inference()(x)
    assert codes.dtype == torch.uint8
    assert float((dequantize(codes, layer.output_grid) - real).abs().max()) <= 1.001 * layer.output_grid.scale


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_is_within_one_step_of_fake_quantization(name: str) -> None:
    layer, x = QBaseConv2d(4, 8, wbit=8, abit=8, **CONVOLUTIONS[name]), torch.rand(2, 4, 11, 9) - 0.3
    calibrated(layer, x)
    assert int(layer.aq.zero_point) > 0  # so that padding with 0 would show
    real = layer(x).detach()
    codes = layer.inference()(x)
    assert float((dequantize(codes, layer.output_grid) - real).abs().max()) <= 1.001 * layer.output_grid.scale


def test_integers_are_those_of_the_reference() -> None:
    layer, x = linear()
    codes = layer.inference()(x)
    weight, rescaler = layer.qweight.numpy(), layer.rescaler
    quantized = np.clip(np.rint(x.numpy() / np.float32(layer.aq.scale)) + int(layer.aq.zero_point), 0, 255)
    steps = layer.wq.scale.numpy().astype(np.float64).reshape(-1) * float(layer.aq.scale)
    bias = np.rint(layer.bias.detach().numpy() / steps) - int(layer.aq.zero_point) * weight.sum(1, dtype=np.int64)
    assert np.array_equal(rescaler.bias.numpy(), bias)
    expected = reference.linear(
        quantized.astype(np.int64),
        weight=weight,
        bias=bias.astype(np.int64),
        multiplier=rescaler.multiplier.numpy(),
        shift=rescaler.shift.numpy(),
        zero_point=int(layer.yq.zero_point),
        low=0,
        high=255,
    )
    assert np.array_equal(codes.numpy(), expected)


def test_without_an_output_quantizer_the_sums_come_out() -> None:
    layer, x = linear(output=False)
    real = layer(x).detach()
    sums = layer.inference()(x)
    assert sums.dtype == torch.int32
    torch.testing.assert_close(dequantize(sums, layer.output_grid), real, rtol=1e-4, atol=1e-3)


def test_a_whole_network_gives_other_results_than_zero() -> None:
    """The published fuser skipped the last layer, which then gave zeros."""
    layer, x = linear(output=False)
    assert int(layer.inference()(x).abs().min()) > 0


def test_integer_weights_exist_only_on_the_inference_path() -> None:
    layer, x = linear()
    before = set(layer.state_dict())
    real = layer(x)
    assert not hasattr(layer, "qweight")
    layer.inference()
    assert layer.qweight.dtype == torch.int8
    assert "qweight" in layer.state_dict()
    assert not any(getattr(layer, name).train_flag for name in ("wq", "aq", "yq"))
    layer.inference(False)
    assert set(layer.state_dict()) == before
    assert torch.equal(layer(x), real)


@pytest.mark.parametrize("kind", ["QBase", "affine"])
def test_any_affine_quantizer_will_do(kind: str) -> None:
    layer, x = QBaseLinear(16, 8), torch.randn(64, 16)
    if kind == "QBase":
        layer.wq, layer.aq, layer.yq = QBase(8, unsigned=False), QBase(8), QBase(8, unsigned=False)
    else:
        layer.wq = affine.QuantizeDequantize((8, 1), bitwidth=8, symmetric=True)
        layer.aq = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
        layer.yq = affine.QuantizeDequantize((), bitwidth=8, symmetric=True)
    with compute_encodings(layer):
        layer(x)
    real = layer(x).detach()
    codes = layer.inference()(x)
    assert codes.dtype == torch.int8
    assert float((dequantize(codes, layer.output_grid) - real).abs().max()) <= 1.001 * layer.output_grid.scale
    assert all(getattr(layer, name).is_frozen for name in ("wq", "aq", "yq"))


def test_codes_of_the_layer_before_are_taken_as_they_are() -> None:
    first, x = linear()
    second = QBaseLinear(12, 5, wbit=8)
    real = second(first(x)).detach()
    second.wq = QBase(8, unsigned=False, shape=(5, 1))
    with pytest.raises(ConfigurationError, match="does not know the grid of its input"):
        second.inference()
    second.inference(input_quantizer=first.yq)
    sums = second(first.inference()(x))
    torch.testing.assert_close(dequantize(sums, second.output_grid), real, rtol=0.02, atol=0.02)
    with pytest.raises(ConfigurationError, match="not on this grid"):
        second(sums)


def test_missing_quantizers_are_named() -> None:
    layer = QBaseLinear(4, 2, abit=8)
    layer.aq.set_range(-1.0, 1.0)
    with pytest.raises(ConfigurationError, match=r"wq.*got no quantizer"):
        layer.inference()
    layer = QBaseLinear(4, 2, wbit=8, abit=8)
    with pytest.raises(NotCalibratedError, match="aq"):
        layer.inference()
    assert layer.train_flag
    assert layer.wq.train_flag


def test_sums_that_could_leave_32_bits_are_refused_with_layer_bound_and_fixes() -> None:
    layer = QBaseLinear(80000, 1, bias=False, wbit=8)
    nn.init.uniform_(layer.weight, 0.9, 1.0)
    layer.aq = QBase(8)
    layer.aq.set_range(0.0, 1.0)
    with pytest.raises(
        ConfigurationError, match=r"(?s)QBaseLinear\.inference.*which may reach 2[0-9]{9} = 2\^31.*\(1\).*\(2\).*\(3\)"
    ):
        layer.inference()
    assert layer.train_flag


def test_the_flag_of_the_constructor_starts_on_the_inference_path() -> None:
    layer, x = linear()
    other = QBaseLinear(40, 12, wbit=8, abit=8, train_flag=False)
    other.yq = QBase(8)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer.inference()(x))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict", "from training", "to training"])
def test_copies_compute_the_same(way: str) -> None:
    layer, x = linear()
    real = layer(x).detach()
    trained = copy.deepcopy(layer.state_dict())
    codes = layer.inference()(x)
    if way == "deepcopy":
        assert torch.equal(copy.deepcopy(layer)(x), codes)
    elif way == "pickle":
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), codes)
    else:
        other, _ = linear()
        if way == "to training":
            other.load_state_dict(layer.state_dict())
            assert torch.equal(other(x), real)
        else:
            other.inference()
            other.load_state_dict(trained if way == "from training" else layer.state_dict())
            assert torch.equal(other(x), codes)


def test_a_new_weight_needs_a_new_switch() -> None:
    layer, x = linear()
    before = layer.inference()(x)
    with torch.no_grad():
        layer.weight.neg_()
    assert torch.equal(layer(x), before)
    assert not torch.equal(layer.inference()(x), before)


def test_it_is_a_quantized_module_of_torchs_layer() -> None:
    layer = QBaseLinear(4, 2)
    assert isinstance(layer, nn.Linear)
    assert isinstance(layer, QuantizedLinear)
    x = torch.randn(3, 4)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    original, _ = linear()
    original.inference()
    float_layer = original.get_original_module()
    assert type(float_layer) is nn.Linear
    assert set(float_layer.state_dict()) == {"weight", "bias"}


def test_float_layers_are_taken_over() -> None:
    convolution = nn.Conv2d(2, 3, 3)
    layer = QBaseConv2d.from_module(convolution, wbit=4, abit=8)
    assert layer.weight is convolution.weight
    assert (layer.wq.nbit, layer.wq.shape, layer.aq.nbit) == (4, (3, 1, 1, 1), 8)
    assert QBaseConv2d.from_module(layer) is layer
    with pytest.raises(ConfigurationError, match="expected a Linear"):
        QBaseLinear.from_module(convolution)


def test_it_trains() -> None:
    torch.manual_seed(0)
    layer, x = QBaseLinear(8, 4, wbit=4, abit=8), torch.randn(128, 8)
    target = x @ torch.randn(8, 4)
    with compute_encodings(layer):
        layer(x)
    layer.wq.set_range(-3.0, 3.0)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_bias_that_is_no_integer_of_32_bits_is_refused(value: float) -> None:
    layer, x = linear()
    with torch.no_grad():
        layer.bias[1] = value
    with pytest.raises(ConfigurationError, match=r"QBaseLinear.bias.*steps"):
        layer.inference()
    assert layer.train_flag
    assert layer(x).is_floating_point()


def test_padding_with_anything_but_zeros_is_refused() -> None:
    layer = QBaseConv2d.from_module(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), 8, 8)
    x = torch.randn(2, 2, 6, 6)
    calibrated(layer, x)
    with pytest.raises(ConfigurationError, match="'reflect'"):
        layer.inference()
    assert layer.train_flag
    assert "qweight" not in layer.state_dict()
    assert layer(x).is_floating_point()


def test_quantizers_of_another_kind_train_again_after_inference() -> None:
    layer, x = QBaseLinear(40, 12, wbit=8), torch.randn(30, 40)
    layer.aq = LSQQuantizeDequantize((), bitwidth=8, symmetric=False)
    calibrated(layer, x)
    layer.inference()
    assert layer.aq.is_frozen
    layer.inference()
    layer.inference(False)
    assert layer.aq.is_overwrite_allowed
    layer(x).sum().backward()
    assert float(layer.aq.step.grad.abs()) > 0
    layer.aq.freeze()
    layer.inference().inference(False)
    assert layer.aq.is_frozen
    assert "_frozen_for_inference" not in layer.get_original_module().__dict__


def test_a_refused_neighbour_is_forgotten() -> None:
    layer, x = QBaseLinear(4, 2, wbit=8), torch.randn(3, 4)
    known = QBase(8)
    known.set_range(-1.0, 1.0)
    expected = layer.inference(input_quantizer=known)(x)
    with pytest.raises(NotCalibratedError):
        layer.inference(input_quantizer=QBase(8))
    assert torch.equal(layer.inference()(x), expected)
