from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization import float as float_quantization
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer
from quantsim_encodings.encoding import FloatEncoding
from quantsim_encodings.formats import RoundingMode, float_format
from quantsim_kernels import float_cast

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


def test_a_name_is_a_format():
    assert Q(format="e4m3fn").format == float_format("e4m3fn")
    assert Q(format="e5m10").is_float16()
    assert Q(format="e6m9").bitwidth == 16
    with pytest.raises(ConfigurationError, match=r"FloatQuantizeDequantize\(format\).*e4m3fn"):
        Q(format="float8")
    with pytest.raises(ConfigurationError, match="exactly one format"):
        Q(format="e4m3fn", dtype=torch.float16)


@pytest.mark.parametrize("rounding", list(RoundingMode))
@pytest.mark.parametrize(
    ("name", "saturate", "subnormal"),
    [
        ("e4m3fn", True, True),
        ("e4m3fn", False, False),
        ("e5m2", False, True),
        ("e5m2", None, False),
        ("e2m1", None, True),
    ],
)
def test_a_plain_cast_is_the_kernels(name, saturate, subnormal, rounding):
    x = torch.cat([torch.randn(500) * 100, torch.tensor([0.0, -0.0, 1e9, -1e9, float("inf"), float("nan")])])
    quantizer = Q(format=name, scaled=False, rounding=rounding, saturate=saturate, subnormal=subnormal, seed=3)
    assert quantizer.is_initialized()
    assert not list(quantizer.parameters())
    expected = float_cast(x, name, rounding, saturate=saturate, subnormal=subnormal, seed=3)
    assert torch.equal(quantizer(x).view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("name", ["e4m3fn", "e4m3", "fp16", "e8m23"])
@pytest.mark.parametrize("saturate", [True, False, None])
def test_encodings_hold_rounding_saturation_and_subnormals(name, saturate):
    x = torch.cat([torch.randn(300), torch.tensor([1e6, -1e6, 1e-7])])
    quantizer = Q(format=name, scaled=False, rounding="odd", saturate=saturate, subnormal=False)
    encoding = quantizer.get_encodings()
    assert (encoding.rounding, encoding.scale) == (RoundingMode.ODD, None)
    other = Q(format="fp16")
    other.set_encodings(encoding)
    for twin in (Q.from_encodings(encoding), other):
        assert twin.get_encodings() == encoding
        assert torch.equal(twin(x), quantizer(x))


def test_a_scaled_quantizer_rounds_as_asked_and_says_so():
    x = torch.randn(4, 64)
    quantizer = Q(format="e2m1", shape=(4, 1), rounding="toward_zero", subnormal=False)
    with quantizer.compute_encodings():
        quantizer(x)
    scale = quantizer.get_scale().detach()
    expected = float_cast(x / scale, "e2m1", "toward_zero", saturate=True, subnormal=False) * scale
    assert torch.equal(quantizer(x).detach(), expected)
    encoding = quantizer.get_encodings()
    assert encoding.rounding is RoundingMode.TOWARD_ZERO
    assert not encoding.format.has_subnormals
    assert torch.equal(Q.from_encodings(encoding)(x), quantizer(x))
    assert "subnormal=False" in repr(quantizer)
    assert "toward_zero" in repr(quantizer)


def test_wide_formats_may_be_scaled():
    quantizer = Q(format="fp16", scaled=True)
    assert isinstance(quantizer.encoding_analyzer, MinMaxEncodingAnalyzer)
    assert not quantizer.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "e2m1", "scaled": False, "saturate": False}, "neither infinities nor NaN"),
        ({"format": "e4m3fn", "saturate": False}, "a scaled quantizer saturates"),
        ({"format": "e4m3fn", "clip_gradient": False}, "clips the gradient"),
        ({"format": "e4m3fn", "scaled": False, "encoding_analyzer": MinMaxEncodingAnalyzer(())}, "no range"),
        ({"format": "e4m3fn", "scaled": False, "shape": (1, 2), "block_size": (1, 2)}, "no range"),
    ],
)
def test_contradictions_are_refused(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        Q(**arguments)


@pytest.mark.parametrize(
    ("arguments", "clipped"),
    [
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.float16, "clip_gradient": False}, False),
        ({"format": "e5m10", "scaled": False}, False),
        ({"format": "e5m10", "scaled": False, "clip_gradient": True}, True),
    ],
)
def test_the_gradient_beyond_the_range(arguments, clipped):
    x = torch.tensor([1.0, 1e6, -1e6], requires_grad=True)
    quantizer = Q(**arguments)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == ([1.0, 0.0, 0.0] if clipped else [1.0, 1.0, 1.0])
    twin = Q(**{**arguments, "clip_gradient": not clipped})
    twin.load_state_dict(quantizer.state_dict())
    y = x.detach().clone().requires_grad_()
    twin(y).sum().backward()
    assert torch.equal(y.grad, x.grad)


def test_settings_in_a_state_dict():
    quantizer = Q(format="e5m2", scaled=False, saturate=False, subnormal=False)
    twin = Q(format="e4m3fn", scaled=False)
    twin.load_state_dict(quantizer.state_dict())
    x = torch.tensor([1e9, 1e-7, 3.3])
    assert torch.equal(twin(x), quantizer(x))
    assert twin(x)[0] == torch.inf
    assert not twin.saturate


def test_encodings_that_do_not_fit_change_nothing():
    scaled, plain = Q(dtype=torch.float8_e4m3fn), Q(format="e4m3fn", scaled=False, rounding="up")
    scaled.set_range(2.0)
    before = scaled.get_encodings(), plain.get_encodings()
    with pytest.raises(ConfigurationError, match="saturates"):
        scaled.set_encodings(FloatEncoding(float_format("e5m2"), 1.0, saturate=False))
    with pytest.raises(ConfigurationError, match="neither infinities nor NaN"):
        plain.set_encodings(FloatEncoding(float_format("e2m1"), saturate=False))
    assert (scaled.get_encodings(), plain.get_encodings()) == before


def test_a_replacement_takes_training_choices_over():
    old = Q(format="e4m3fn", scaled=False, rounding="stochastic", seed=3, clip_gradient=True)
    x = torch.randn(64)
    old(x)
    new = Q(format="e4m3fn", scaled=False, rounding="stochastic")
    new.take_training_choices(old)
    assert torch.equal(new(x), old(x))
    big = torch.tensor([1e6], requires_grad=True)
    new(big).sum().backward()
    assert big.grad.item() == 0
    nearest = Q(format="e4m3fn", scaled=False)
    nearest.take_training_choices(old)
    assert not nearest.is_stochastic


def test_float64_formats_on_float64():
    quantizer, x = Q(format="e11m30", scaled=False), torch.randn(64, dtype=torch.float64)
    assert torch.equal(quantizer(x), float_cast(x, "e11m30"))
    assert Q(format="e11m52", scaled=False)(x).equal(x)
