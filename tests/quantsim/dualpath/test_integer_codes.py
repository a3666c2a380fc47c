"""Integers read off quantizers of any kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantsim.dualpath import QBase, dequantize
from quantsim.dualpath.integer_codes import activation_codes, activation_grid, integer_dtype, weight_codes
from quantsim.dualpath.integer_graph import Grid
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.quantization import affine
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.quantization.softmax import UnnormalizedSoftmaxQuantizeDequantize


def calibrated(quantizer, x):
    with quantizer.compute_encodings():
        quantizer(x)
    return quantizer


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 1, "uint8"), (-1, 127, "int8"), (-1, 128, "int16"), (0, 2**16 - 1, "int32"), (0, 2**32 - 1, "int64")],
)
def test_the_narrowest_type_is_taken(low: int, high: int, dtype: str) -> None:
    assert str(integer_dtype(low, high)) == f"torch.{dtype}"


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("kind", [affine.QuantizeDequantize, affine.Quantize])
def test_activations_of_all_affine_quantizers(kind, bits: int) -> None:
    x = torch.randn(500) * 2 + 1
    quantizer = calibrated(kind((), bitwidth=bits, symmetric=False), x)
    grid = activation_grid(quantizer, "here")
    codes = activation_codes(x, quantizer, grid, "here")
    expected = np.rint(x.numpy() / np.float32(grid.scale)).astype(np.int64) + grid.zero_point
    assert np.array_equal(codes.numpy().astype(np.int64), np.clip(expected, 0, 2**bits - 1))
    real = affine.QuantizeDequantize((), bitwidth=bits, symmetric=False)
    real.set_encodings(quantizer.get_encodings())
    torch.testing.assert_close(dequantize(codes, grid), real(x).detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(), (6, 1)])
def test_weights_are_codes_around_zero(shape: tuple[int, ...]) -> None:
    weight = torch.randn(6, 30)
    for quantizer in (
        QBase(4, unsigned=False, shape=shape),
        QBase(4, unsigned=False, shape=shape, train_flag=False),
        affine.QuantizeDequantize(shape, bitwidth=4, symmetric=True),
        affine.Quantize(shape, bitwidth=4, symmetric=True),
    ):
        calibrated(quantizer, weight)
        codes, scales = weight_codes(weight, quantizer, "w")
        assert codes.dtype == torch.int8
        assert scales.shape == (6 if shape else 1,)
        expected = np.clip(np.rint(weight.numpy() / scales.astype(np.float32).reshape(-1, 1)), -8, 7)
        assert np.array_equal(codes.numpy(), expected)


def test_asymmetric_weights_are_moved_around_zero() -> None:
    weight = torch.rand(3, 20)
    quantizer = calibrated(QBase(4, unsigned=True), weight - 0.5)
    codes, scales = weight_codes(weight - 0.5, quantizer, "w")
    torch.testing.assert_close(codes * float(scales[0]), quantizer(weight - 0.5))
    wide = calibrated(QBase(8, unsigned=True), weight)
    with pytest.raises(ConfigurationError, match="8 bits at most"):
        weight_codes(weight, wide, "w")


def test_what_has_no_integers_is_refused() -> None:
    with pytest.raises(NotCalibratedError, match="w"):
        weight_codes(torch.ones(2, 2), QBase(8), "w")
    with pytest.raises(ConfigurationError, match="no integers"):
        activation_grid(FloatQuantizeDequantize(exponent_bits=4, mantissa_bits=3, scaled=False), "x")
    with pytest.raises(ConfigurationError, match="no fixed grid"):
        activation_grid(UnnormalizedSoftmaxQuantizeDequantize(), "x")
    with pytest.raises(ConfigurationError, match="one scale"):
        activation_grid(calibrated(QBase(8, shape=(3, 1)), torch.randn(3, 2)), "x")
    with pytest.raises(ConfigurationError, match="output channel"):
        weight_codes(torch.ones(2, 3), calibrated(QBase(8, unsigned=False, shape=(1, 3)), torch.ones(2, 3)), "w")


def test_sums_with_a_scale_for_each_channel_are_dequantized() -> None:
    grid = Grid(np.array([0.5, 2.0]), 0, -(2**31), 2**31 - 1, 1)
    sums = torch.tensor([[[2**30 + 1, 3]], [[5, 7]]], dtype=torch.int32).transpose(1, 2)
    real = dequantize(sums, grid)
    assert real.tolist() == [[[2.0**29], [6.0]], [[2.5], [14.0]]]


def test_what_a_quantizer_does_only_in_training_does_not_reach_integers() -> None:
    class Dropping(QBase):
        def q(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.37 if self.training else super().q(x)

    x = torch.randn(4, 5)
    quantizer, plain = (calibrated(kind(8, unsigned=False), x) for kind in (Dropping, QBase))
    assert torch.equal(weight_codes(x, quantizer, "w")[0], weight_codes(x, plain, "w")[0])
    grid = activation_grid(quantizer, "x")
    assert torch.equal(activation_codes(x, quantizer, grid, "x"), activation_codes(x, plain, grid, "x"))
    assert quantizer.training
