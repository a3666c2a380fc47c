from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.quantization.granularity import PerChannel, PerTensor, PerToken
from quantsim_encodings.encoding import AffineEncoding


@pytest.mark.parametrize("symmetric", [True, False])
def test_each_token_has_the_range_of_its_own_calibration(symmetric):
    x = torch.randn(2, 5, 16) * torch.rand(2, 5, 1).mul(6).exp()
    result = affine.DynamicQuantizeDequantize(8, symmetric)(x)
    for batch in range(2):
        for token in range(5):
            row = x[batch, token]
            static = affine.QuantizeDequantize((), 8, symmetric)
            with static.compute_encodings():
                static(row)
            assert torch.equal(result[batch, token], static(row).detach())


def test_per_tensor():
    x = torch.randn(2, 5, 16)
    static = affine.QuantizeDequantize((), 8, False)
    with static.compute_encodings():
        static(x)
    assert torch.equal(affine.DynamicQuantizeDequantize(8, False, PerTensor())(x), static(x))


def test_needs_no_calibration_and_ignores_it():
    quantizer = affine.DynamicQuantizeDequantize(8, False)
    assert quantizer.is_initialized()
    assert not quantizer.needs_calibration
    quantizer.begin_observation()
    assert not quantizer.is_observing
    assert quantizer.finish_observation()
    assert not list(quantizer.parameters())


def test_gradient_is_the_identity():
    x = torch.randn(4, 16, requires_grad=True)
    affine.DynamicQuantizeDequantize(8, True)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("granularity", [PerToken(), PerTensor()])
def test_encodings_round_trip(granularity):
    quantizer = affine.DynamicQuantizeDequantize(qmin=-7, qmax=7, symmetric=True, granularity=granularity)
    encoding = quantizer.get_encodings()
    twin = affine.DynamicQuantizeDequantize.from_encodings(encoding)
    assert twin.get_encodings() == encoding
    other = affine.DynamicQuantizeDequantize(8, False)
    other.set_encodings(encoding)
    x = torch.randn(4, 16)
    assert torch.equal(other(x), quantizer(x))
    assert other.bitwidth == 4


def test_owned_tensors_are_overwritten():
    quantizer, x = affine.DynamicQuantizeDequantize(8, False), torch.randn(64, 64)
    expected = quantizer(x)
    with torch.no_grad():
        assert torch.equal(quantizer.quantize_owned(x), expected)


def test_impossible_arguments():
    with pytest.raises(ConfigurationError, match="either bitwidth"):
        affine.DynamicQuantizeDequantize(8, True, qmin=0)
    with pytest.raises(ConfigurationError, match="qmin < qmax"):
        affine.DynamicQuantizeDequantize()
    with pytest.raises(ConfigurationError, match="PerToken"):
        affine.DynamicQuantizeDequantize(8, True, PerChannel(0))
    encoding = AffineEncoding(affine.QuantizeDequantize((), 8, True).format, 1.0, 0, True, PerTensor())
    with pytest.raises(TypeError, match="DynamicEncoding"):
        affine.DynamicQuantizeDequantize.from_encodings(encoding)
