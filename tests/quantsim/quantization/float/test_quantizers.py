from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization import float as float_quantization
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer
from quantsim_encodings.encoding import FloatEncoding
from quantsim_encodings.formats import float_format

Q = float_quantization.FloatQuantizeDequantize


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_wide_formats_cast_without_a_scale(dtype):
    quantizer, x = Q(dtype=dtype), torch.randn(1000) * 100
    assert quantizer.is_initialized()
    assert not quantizer.is_scaled
    assert quantizer.encoding_analyzer is None
    assert torch.equal(quantizer(x), x.to(dtype).float())
    assert quantizer.get_scale() == 1
    assert quantizer.maxval == quantizer.format.max
    assert not list(quantizer.parameters())
    with quantizer.compute_encodings():
        quantizer(x)
    assert quantizer.get_encodings() == FloatEncoding(quantizer.format)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(("shape", "block_size"), [((), None), ((4, 1), None), ((4, 2), (1, 32))])
def test_narrow_formats_are_scaled_to_the_largest_magnitude(dtype, shape, block_size):
    x = torch.randn(4, 64) * 3
    quantizer = Q(dtype=dtype, shape=shape, block_size=block_size)
    with quantizer.compute_encodings():
        quantizer(x)
    blocks = x.reshape(4, 2, 32) if block_size else x
    largest = (
        blocks.abs().amax(-1) if block_size else (x.abs().amax() if shape == () else x.abs().amax(1, keepdim=True))
    )
    torch.testing.assert_close(quantizer.maxval.detach(), largest)
    scale = quantizer.get_scale().detach()
    assert torch.equal(scale, quantizer.maxval.detach() / torch.finfo(dtype).max)
    wide = scale.repeat_interleave(32, 1) if block_size else scale
    limit = torch.finfo(dtype).max
    expected = (x / wide).clamp(-limit, limit).to(dtype).float() * wide
    assert torch.equal(quantizer(x), expected)


def test_flags():
    assert Q(dtype=torch.float16).is_float16()
    assert Q(5, 10).is_float16()
    assert not Q(5, 10).is_bfloat16()
    assert Q(8, 7).is_bfloat16()
    quantizer = Q(4, 3, finite=True)
    assert (quantizer.exponent_bits, quantizer.mantissa_bits, quantizer.bitwidth) == (4, 3, 8)
    assert isinstance(float_quantization.QuantizeDequantize(4, 3), Q)


def test_analyzer_makes_wide_formats_scaled_and_gives_the_shape():
    quantizer = Q(dtype=torch.float16, encoding_analyzer=MinMaxEncodingAnalyzer((4, 1)))
    assert quantizer.shape == (4, 1)
    assert not quantizer.is_initialized()
    with quantizer.compute_encodings():
        quantizer(torch.randn(4, 8))
    assert quantizer.is_initialized()


def test_scale_is_learnable_and_never_stale():
    quantizer, x = Q(dtype=torch.float8_e4m3fn), torch.randn(256, requires_grad=True)
    quantizer.set_range(1.0)
    quantizer(x).sum().backward()
    assert quantizer.maxval.grad is not None
    assert x.grad is not None
    with torch.no_grad():
        before = quantizer(x)
        assert torch.equal(quantizer(x), before)
        quantizer.set_range(0.1)
        assert quantizer(x).abs().max() <= 0.1001
        quantizer.maxval.mul_(2)
        assert quantizer(x).abs().max() > 0.15


def test_integers_pass():
    quantizer = Q(dtype=torch.bfloat16)
    x = torch.arange(4)
    assert quantizer(x) is x


@pytest.mark.parametrize("format_name", ["e4m3fn", "e5m2", "e2m1", "e3m2", "fp16", "bf16"])
@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_encodings_round_trip(format_name, shape):
    x = torch.randn(4, 64)
    quantizer = Q(format=float_format(format_name), shape=shape, encoding_analyzer=MinMaxEncodingAnalyzer(shape))
    assert quantizer.get_encodings() is None
    with quantizer.compute_encodings():
        quantizer(x)
    encoding = quantizer.get_encodings()
    other = Q(dtype=torch.float8_e4m3fn, shape=shape)
    other.set_encodings(encoding)
    for twin in (Q.from_encodings(encoding), other):
        assert twin.get_encodings() == encoding
        assert torch.equal(twin(x), quantizer(x))


def test_unscaled_round_trip():
    encoding = FloatEncoding(float_format("bf16"))
    quantizer = Q.from_encodings(encoding)
    assert quantizer.get_encodings() == encoding
    quantizer.set_encodings(FloatEncoding(float_format("fp16")))
    assert quantizer.is_float16()
    assert quantizer.maxval == 65504


def test_legacy():
    quantizer = Q(dtype=torch.float16)
    assert quantizer.get_legacy_encodings() == [{"bitwidth": 16, "dtype": "float"}]
    other = Q(dtype=torch.bfloat16)
    other.set_legacy_encodings(quantizer.get_legacy_encodings())
    assert other.is_float16()
    assert Q(dtype=torch.float8_e5m2).get_legacy_encodings() is None
    for wrong in ([], [{"bitwidth": 8, "dtype": "float"}], [{"bitwidth": 16, "dtype": "int"}]):
        with pytest.raises(ConfigurationError, match="only float16"):
            other.set_legacy_encodings(wrong)


def test_what_does_not_fit_changes_nothing():
    scaled, plain = Q(dtype=torch.float8_e4m3fn, shape=(4, 1)), Q(dtype=torch.float16)
    scaled.set_range(2.0)
    before = scaled.get_encodings()
    with pytest.raises(ShapeError):
        scaled.set_encodings(FloatEncoding(float_format("e5m2"), 0.5))
    with pytest.raises(TypeError, match="FloatEncoding"):
        scaled.set_encodings("nonsense")
    with pytest.raises(ConfigurationError, match="finite"):
        scaled.set_range(float("nan"))
    assert scaled.get_encodings() == before
    with pytest.raises(ConfigurationError, match="without a scale"):
        plain.set_range(1.0)
    with pytest.raises(ConfigurationError, match="without a scale"):
        plain.set_encodings(FloatEncoding(float_format("e5m2"), 0.5))
    with pytest.raises(ConfigurationError, match="one size for each"):
        Q(dtype=torch.float16, shape=(4, 2), block_size=(32,))
    with pytest.raises(TypeError, match="FloatEncoding"):
        Q.from_encodings(float_quantization.DynamicFloatQuantizeDequantize(dtype=torch.float16).get_encodings())


def test_all_zero_data():
    quantizer, x = Q(dtype=torch.float8_e4m3fn), torch.zeros(8)
    with quantizer.compute_encodings():
        quantizer(x)
    assert torch.equal(quantizer(x), x)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"dtype": torch.float8_e4m3fn}, {"dtype": torch.bfloat16}])
def test_compiled_and_exported_equal_eager(arguments):
    quantizer, x = Q(**arguments), torch.randn(8, 64)
    with quantizer.compute_encodings():
        quantizer(x)
    expected = quantizer(x).detach()
    assert torch.equal(torch.compile(quantizer, fullgraph=True, backend="aot_eager")(x).detach(), expected)
    assert torch.equal(torch.export.export(quantizer, (x,), strict=False).module()(x).detach(), expected)
    torch._dynamo.reset()
