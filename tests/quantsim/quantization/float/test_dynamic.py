from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization import affine
from quantsim.quantization import float as float_quantization
from quantsim.quantization.granularity import PerBlock, PerChannel, PerTensor, PerToken
from quantsim_encodings.formats import RoundingMode
from quantsim_kernels import float_cast

D = float_quantization.DynamicFloatQuantizeDequantize


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_each_token_is_calibrated_on_its_own(dtype):
    x = torch.randn(3, 4, 16) * torch.rand(3, 4, 1).mul(6).exp()
    result = D(dtype=dtype)(x)
    for batch in range(3):
        for token in range(4):
            static = float_quantization.FloatQuantizeDequantize(dtype=dtype)
            with static.compute_encodings():
                static(x[batch, token])
            torch.testing.assert_close(result[batch, token], static(x[batch, token]).detach(), rtol=1e-6, atol=0)


def test_per_tensor():
    x = torch.randn(4, 16)
    static = float_quantization.FloatQuantizeDequantize(dtype=torch.float8_e4m3fn)
    with static.compute_encodings():
        static(x)
    result = D(dtype=torch.float8_e4m3fn, granularity=PerTensor())(x)
    torch.testing.assert_close(result, static(x).detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("granularity", [PerToken(), PerTensor()])
def test_encodings_round_trip(granularity):
    quantizer = D(4, 3, finite=True, granularity=granularity)
    encoding = quantizer.get_encodings()
    assert D.from_encodings(encoding).get_encodings() == encoding
    other = D(dtype=torch.float8_e5m2)
    other.set_encodings(encoding)
    x = torch.randn(4, 16)
    assert torch.equal(other(x), quantizer(x))
    assert other.bitwidth == 8
    assert "e4m3fn" in repr(other)


def test_integers_pass_and_zeros_stay():
    quantizer, x = D(dtype=torch.float8_e4m3fn), torch.arange(4)
    assert quantizer(x) is x
    assert torch.equal(quantizer(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_owned():
    quantizer, x = D(dtype=torch.float8_e4m3fn), torch.randn(8, 16)
    expected = quantizer(x)
    with torch.no_grad():
        assert torch.equal(quantizer.quantize_owned(x), expected)


def test_impossible_arguments():
    with pytest.raises(ConfigurationError, match="PerToken"):
        D(dtype=torch.float8_e4m3fn, granularity=PerChannel(0))
    with pytest.raises(TypeError, match="FloatFormat"):
        D.from_encodings(affine.DynamicQuantizeDequantize(8, True).get_encodings())


@pytest.mark.parametrize(
    ("shape", "axis", "size"), [((4, 48), -1, 16), ((5, 7), 0, 3), ((2, 9, 4), 1, -1), ((7,), -1, 32)]
)
@pytest.mark.parametrize("rounding", ["nearest_even", "up"])
def test_each_block_has_its_own_scale(shape, axis, size, rounding):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = D(format="e2m1", granularity=PerBlock(axis, size), rounding=rounding)(x)
    length = x.shape[axis] if size == -1 else size
    for block, cast in zip(x.split(length, axis), result.split(length, axis), strict=True):
        scale = block.abs().amax(axis, keepdim=True) / 6.0
        expected = float_cast(block / scale, "e2m1", rounding, saturate=True) * scale
        torch.testing.assert_close(cast, expected, rtol=1e-6, atol=0)


def test_blocks_of_zeros_and_gradients():
    x = torch.zeros(2, 5, requires_grad=True)
    result = D(format="e4m3fn", granularity=PerBlock(-1, 2))(x)
    assert torch.equal(result, torch.zeros(2, 5))
    result.sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 5))


@pytest.mark.parametrize("granularity", [PerBlock(0, 4), PerBlock(-1, -1), PerTensor()])
def test_encodings_hold_blocks_and_rounding(granularity):
    quantizer, x = D(format="e3m4", granularity=granularity, rounding="odd"), torch.randn(6, 10)
    encoding = quantizer.get_encodings()
    assert encoding.rounding is RoundingMode.ODD
    other = D(dtype=torch.float8_e5m2)
    other.set_encodings(encoding)
    for twin in (D.from_encodings(encoding), other):
        assert twin.get_encodings() == encoding
        assert torch.equal(twin(x), quantizer(x))


def test_an_axis_that_is_not_there():
    with pytest.raises(ShapeError, match=r"no such dimension.*PerBlock\(axis=2"):
        D(format="e2m1", granularity=PerBlock(2, 4))(torch.zeros(3, 3))
