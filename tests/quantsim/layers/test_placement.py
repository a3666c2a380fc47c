from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.layers.gradient_quantizers import FloatGradientQuantizeDequantize, MXGradientQuantizeDequantize
from quantsim.layers.placement import FloatPrecisionSettings, place_float_quantizers
from quantsim.nn import QuantizationMixin, QuantizedAdd, QuantizedMatMul, compute_encodings, named_quantized_modules
from quantsim.quantization import affine
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim_encodings.formats import float_format, mx_format

E4M3 = FloatPrecisionSettings(4, 3)


def placed(module: nn.Module, settings: FloatPrecisionSettings = E4M3) -> Any:
    quantized = module if isinstance(module, QuantizationMixin) else QuantizationMixin.from_module(module)
    place_float_quantizers(quantized, settings)
    return quantized


def all_quantizers(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, QuantizerBase)]


def axes(quantizers: Any) -> list[Any]:
    values = quantizers.values() if isinstance(quantizers, nn.ModuleDict) else quantizers
    return [None if each is None else each.axis for each in values]


@pytest.mark.parametrize(
    ("module", "casts_output"),
    [
        (nn.Linear(4, 2), False),
        (nn.Conv1d(2, 2, 1), False),
        (nn.ConvTranspose3d(2, 2, 1), False),
        (nn.Embedding(4, 2), False),
        (nn.MaxPool2d(2), False),
        (nn.ReLU(), False),
        (nn.LayerNorm(4), True),
        (nn.RMSNorm(4), True),
        (nn.BatchNorm2d(4), True),
        (nn.GELU(), True),
        (nn.Softmax(-1), True),
        (nn.AvgPool2d(2), True),
        (nn.Dropout(), True),
        (nn.GRUCell(2, 2), True),
        (QuantizedAdd(), True),
        (QuantizedMatMul(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_inputs_and_parameters_are_cast_and_outputs_by_kind(module: nn.Module, casts_output: bool) -> None:
    quantized = placed(module)
    for quantizer in (*quantized.input_quantizers, *quantized.param_quantizers.values()):
        assert type(quantizer) is FloatQuantizeDequantize
        assert quantizer.format == float_format("e4m3") and not quantizer.is_scaled and not quantizer.saturate
    for quantizer in quantized.output_quantizers:
        assert (quantizer is not None) is casts_output
    for wanted in (True, False):
        place_float_quantizers(quantized, FloatPrecisionSettings(4, 3, quantize_output=wanted))
        assert all((quantizer is not None) is wanted for quantizer in quantized.output_quantizers)


def test_nothing_needs_calibration() -> None:
    model = nn.Sequential(placed(nn.Linear(4, 4)), placed(nn.LSTM(4, 4)))
    assert all(
        quantizer.is_initialized() and quantizer.encoding_analyzer is None for quantizer in all_quantizers(model)
    )
    model(torch.randn(3, 2, 4))
    before = model.state_dict()
    with compute_encodings(model):  # harmless
        model(torch.randn(3, 2, 4))
    assert {
        key for key in before if "_extra_state" not in key and not torch.equal(before[key], model.state_dict()[key])
    } == set()


def test_settings_reach_the_quantizers() -> None:
    settings = FloatPrecisionSettings(
        format="e4m3", rounding="stochastic", saturate=True, subnormal=False, seed=9, gradient_format="e5m2"
    )
    quantizers = all_quantizers(placed(nn.LayerNorm(4), settings))
    assert len(quantizers) == 4
    for quantizer in quantizers:
        assert type(quantizer) is FloatGradientQuantizeDequantize
        assert quantizer.is_stochastic and quantizer.saturate and not quantizer.format.has_subnormals
        assert quantizer.gradient_precision is not None
        assert quantizer.gradient_precision.format == float_format("e5m2")
        assert quantizer.gradient_precision.saturate and not quantizer.gradient_precision.subnormal
    assert len({int(quantizer.seed) for quantizer in quantizers}) == 4
    again = all_quantizers(placed(nn.LayerNorm(4), settings))
    assert [int(one.seed) for one in again] == [int(one.seed) for one in quantizers]


def test_gradients_of_uncast_outputs_are_cast_all_the_same() -> None:
    linear = placed(nn.Linear(8, 4), FloatPrecisionSettings(4, 3, gradient_format="e5m2"))
    (output,) = linear.output_quantizers
    assert output.format == float_format("fp32")
    x, gradient = torch.randn(3, 8), torch.randn(3, 4)
    y = linear(x)
    plain = placed(copy.deepcopy(linear.get_original_module()), E4M3)
    assert torch.equal(y, plain(x))
    y.backward(gradient)
    on_grid = gradient.to(torch.float8_e5m2).float()
    weight_gradient = on_grid.t() @ linear.input_quantizers[0](x)
    assert torch.equal(linear.weight.grad, weight_gradient.to(torch.float8_e5m2).float())
    assert torch.equal(linear.bias.grad, on_grid.sum(0).to(torch.float8_e5m2).float())


def test_states_are_cast_at_every_step_and_the_sequence_shares_their_quantizer() -> None:
    lstm = placed(nn.LSTM(4, 3))
    assert lstm.quantize_every_step
    sequence, hidden, cell = lstm.output_quantizers
    assert sequence is hidden and hidden is not cell and cell is not None


def test_attention_casts_every_part() -> None:
    attention = placed(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        projection = getattr(attention, name)
        assert all_quantizers(projection.input_quantizers) and all(projection.param_quantizers.values())
        assert projection.output_quantizers[0] is not None
    assert set(attention.param_quantizers) == {"bias_k", "bias_v"} and all(attention.param_quantizers.values())
    assert attention.qk_matmul.output_quantizers[0] is not None
    assert attention.softmax.input_quantizers[0] is None and attention.softmax.output_quantizers[0] is not None
    # Products of numbers that are on the grid already.
    assert not all_quantizers(attention.qk_matmul.input_quantizers)
    assert not all_quantizers(attention.qkv_matmul)
    # Dropout takes probabilities off it.
    assert all_quantizers(placed(nn.MultiheadAttention(8, 2, dropout=0.5)).qkv_matmul.input_quantizers)
    without = placed(nn.MultiheadAttention(8, 2), FloatPrecisionSettings(4, 3, quantize_output=False))
    assert without.out_proj.output_quantizers[0] is None and without.q_proj.output_quantizers[0] is not None


MX = FloatPrecisionSettings(format="mxfp8_e4m3")


@pytest.mark.parametrize(
    ("module", "inputs", "parameters"),
    [
        (nn.Linear(4, 2), [-1], [-1, -1]),
        (nn.Conv1d(2, 2, 1), [-2], [1, -1]),
        (nn.Conv2d(2, 2, 1), [-3], [1, -1]),
        (nn.Conv3d(2, 2, 1), [-4], [1, -1]),
        (nn.ConvTranspose2d(2, 2, 1), [-3], [0, -1]),
        (nn.BatchNorm2d(4), [1], [-1, -1]),
        (nn.LayerNorm(4), [-1], [-1, -1]),
        (nn.MaxPool2d(2), [-3], []),
        (nn.AdaptiveAvgPool1d(1), [-2], []),
        (QuantizedMatMul(), [-1, -2], []),
        (nn.RNN(4, 4), [-1, -1], [-1] * 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_blocks_run_along_what_is_summed(module: nn.Module, inputs: list[int], parameters: list[int]) -> None:
    quantized = placed(module, MX)
    assert axes(quantized.input_quantizers) == inputs
    assert axes(quantized.param_quantizers) == parameters
    for quantizer in all_quantizers(quantized):
        assert type(quantizer) is MXQuantizeDequantize and quantizer.format == mx_format("mxfp8_e4m3")


def test_blocks_of_attention_run_along_what_its_products_sum() -> None:
    attention = placed(nn.MultiheadAttention(8, 2), MX)
    assert axes(attention.qk_matmul.input_quantizers) == axes(attention.qkv_matmul.input_quantizers) == [-1, -2]
    assert attention.k_proj.output_quantizers[0] is None
    x = torch.randn(3, 2, 8)
    assert attention(x, x, x)[0].shape == x.shape


def test_block_formats_with_gradients() -> None:
    linear = placed(nn.Linear(8, 4), FloatPrecisionSettings(format="mxfp4", gradient_format="e5m2", rounding=5, seed=1))
    assert type(linear.input_quantizers[0]) is MXGradientQuantizeDequantize
    assert type(linear.output_quantizers[0]) is FloatGradientQuantizeDequantize
    linear(torch.randn(3, 8)).sum().backward()
    assert torch.equal(linear.weight.grad.to(torch.float8_e5m2).float(), linear.weight.grad)


def test_placing_again_replaces_all() -> None:
    linear = placed(nn.Linear(4, 2))
    linear.output_quantizers[0] = affine.QuantizeDequantize((), 8, True)
    place_float_quantizers(linear, FloatPrecisionSettings(5, 10))
    assert linear.output_quantizers[0] is None
    assert all(quantizer.format == float_format("fp16") for quantizer in all_quantizers(linear))
    attention = placed(placed(nn.MultiheadAttention(8, 2), MX), E4M3)
    assert all(type(quantizer) is FloatQuantizeDequantize for quantizer in all_quantizers(attention))
    assert all(module is not None for _, module in named_quantized_modules(attention))


def test_an_error_leaves_the_module_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = placed(nn.Linear(4, 2))
    before = all_quantizers(linear)
    calls = itertools.count()

    def fail_third(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == 2:
            raise ConfigurationError("impossible")
        return FloatQuantizeDequantize(*arguments, **settings)

    monkeypatch.setattr("quantsim.layers.placement.FloatQuantizeDequantize", fail_third)
    with pytest.raises(ConfigurationError, match="impossible"):
        place_float_quantizers(linear, FloatPrecisionSettings(5, 2))
    assert all(one is other for one, other in zip(all_quantizers(linear), before, strict=True))


def test_only_quantized_modules() -> None:
    with pytest.raises(ConfigurationError, match=r"type Linear.*QuantizationMixin\.from_module"):
        place_float_quantizers(nn.Linear(2, 2), E4M3)
