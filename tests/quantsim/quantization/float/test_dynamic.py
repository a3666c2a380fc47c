from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.quantization import float as float_quantization
from quantsim.quantization.granularity import PerChannel, PerTensor, PerToken

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
