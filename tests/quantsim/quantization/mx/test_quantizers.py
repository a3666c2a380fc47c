from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.granularity import PerBlock, PerChannel
from quantsim.quantization.mx import MXQuantizeDequantize, NVFP4QuantizeDequantize
from quantsim_encodings.encoding import DynamicEncoding, MXEncoding
from quantsim_encodings.formats import (
    NAMED_BLOCK_FORMATS,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NVFP4Format,
    RoundingMode,
    float_format,
    mx_format,
)
from quantsim_kernels.mx import mx_dequantize, mx_quantize_dequantize


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("name", NAMED_BLOCK_FORMATS)
def test_quantizer_is_the_kernel(name, axis):
    x = torch.randn(40, 70)
    quantizer = MXQuantizeDequantize(name, axis)
    assert quantizer.is_initialized()
    assert torch.equal(quantizer(x), mx_quantize_dequantize(x, name, axis))
    assert torch.equal(mx_dequantize(quantizer.quantize(x)), quantizer(x))
    assert quantizer.format == NAMED_BLOCK_FORMATS[name]
    assert quantizer.granularity == PerBlock(axis, quantizer.format.block_size)
    assert quantizer.bitwidth == quantizer.format.element.bits
    assert name in repr(quantizer)
    with torch.no_grad():
        assert torch.equal(quantizer.quantize_owned(x.clone()), quantizer(x))


def test_nvfp4_is_one_of_them():
    x = torch.randn(4, 40)
    assert torch.equal(NVFP4QuantizeDequantize()(x), MXQuantizeDequantize("nvfp4")(x))
    one = NVFP4QuantizeDequantize(0, two_level=False, block_size=8, rounding="up")
    assert torch.equal(one(x), mx_quantize_dequantize(x, NVFP4Format(8, False), 0, "up"))
    made = NVFP4QuantizeDequantize.from_encodings(one.get_encodings())
    assert torch.equal(made(x), one(x))
    with pytest.raises(TypeError, match="expected one in NVFP4"):
        NVFP4QuantizeDequantize.from_encodings(MXQuantizeDequantize("mxfp4").get_encodings())
    with pytest.raises(ConfigurationError, match="block_size"):
        NVFP4QuantizeDequantize(block_size=0)


def test_gradient_passes_straight_through():
    x = torch.randn(4, 40, requires_grad=True)
    MXQuantizeDequantize("mxfp4")(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(4, 40))


@pytest.mark.parametrize(
    "quantizer",
    [
        MXQuantizeDequantize(),
        MXQuantizeDequantize("nvfp4", 1, rounding="toward_zero"),
        MXQuantizeDequantize(MXFormat(IntFormat(-7, 7), 4, MXScaleRule.RCEIL), 0, rounding="stochastic"),
    ],
    ids=repr,
)
def test_encodings_and_state_dict_round_trip(quantizer):
    encoding = quantizer.get_encodings()
    assert isinstance(encoding, MXEncoding)
    assert MXQuantizeDequantize.from_encodings(encoding).get_encodings() == encoding
    x = torch.randn(9, 70)
    for other in (MXQuantizeDequantize("mxfp6_e2m3"), MXQuantizeDequantize("mxfp4", rounding="stochastic")):
        other.load_state_dict(quantizer.state_dict())
        assert other.get_encodings() == encoding
        assert torch.equal(other(x), copy.deepcopy(quantizer)(x))
        other.set_encodings(MXQuantizeDequantize("mxfp4").get_encodings())
        assert torch.equal(other(x), mx_quantize_dequantize(x, "mxfp4"))
    for copied in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer)), saved_and_loaded(quantizer)):
        assert torch.equal(copied(x), copy.deepcopy(quantizer)(x))
        assert repr(copied) == repr(quantizer)


def saved_and_loaded(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_a_stochastic_quantizer_moves_on():
    quantizer, x = MXQuantizeDequantize("mxfp4", rounding="stochastic", seed=3), torch.randn(4, 64)
    state = torch.get_rng_state()
    first, second = quantizer(x), quantizer(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    assert quantizer.is_stochastic
    again = MXQuantizeDequantize("mxfp4", rounding=RoundingMode.STOCHASTIC, seed=3)
    assert torch.equal(mx_dequantize(again.quantize(x)), first)
    assert torch.equal(again(x), first)
    assert torch.equal(again(x), second)


def test_integers_pass_and_a_missing_axis_is_named():
    quantizer, x = MXQuantizeDequantize("mxfp4", 1), torch.arange(4)
    assert quantizer(x) is x
    with pytest.raises(ShapeError, match=r"shape \(3,\) for blocks along axis 1"):
        quantizer(torch.ones(3))
    assert quantizer(torch.empty(0, 32)).shape == (0, 32)


def test_compiled_and_on_meta():
    torch.compiler.reset()
    quantizer, x = MXQuantizeDequantize("mxfp8_e4m3", 0), torch.randn(40, 6)
    assert torch.equal(torch.compile(quantizer, fullgraph=True, backend="aot_eager")(x), quantizer(x))
    stochastic = MXQuantizeDequantize("mxfp4", rounding="stochastic", seed=1)
    expected = [copy.deepcopy(stochastic)(x)]
    compiled = torch.compile(stochastic, fullgraph=True, backend="aot_eager")
    first, second = compiled(x), compiled(x)
    assert torch.equal(first, expected[0])
    assert not torch.equal(first, second)
    assert quantizer.to("meta")(x.to("meta")).is_meta


def test_impossible_arguments():
    with pytest.raises(ConfigurationError, match="expected one of mxfp8_e4m3"):
        MXQuantizeDequantize("int8")
    with pytest.raises(ConfigurationError, match="axis"):
        MXQuantizeDequantize("mxfp4", 1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="9 odd"):
        MXQuantizeDequantize("mxfp4", rounding="sideways")
    with pytest.raises(ConfigurationError, match="has no zero"):
        MXQuantizeDequantize(MXFormat(float_format("e8m0")))
    with pytest.raises(TypeError, match="expected an MXEncoding"):
        MXQuantizeDequantize.from_encodings(DynamicEncoding(IntFormat(-8, 7), PerBlock(-1, 4), True))
    quantizer = MXQuantizeDequantize("mxfp4")
    before = quantizer.get_encodings()
    for encoding, reason in (
        (MXEncoding(mx_format("mxfp4"), PerBlock(0, 32), np.ones(1)), "fixes the scales"),
        (MXEncoding(NVFP4Format(), PerBlock(0, 16), None, 0.5), "fixes the scales"),
        (MXEncoding(mx_format("mxfp4"), PerChannel(0)), "one axis"),
        (MXEncoding(mx_format("mxfp4"), PerBlock(0, 16)), r"PerBlock\(axis, 32\)"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            quantizer.set_encodings(encoding)
        assert quantizer.get_encodings() == before
