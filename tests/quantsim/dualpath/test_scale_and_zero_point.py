"""Ranges and encodings of quantizers that keep scale and zero point."""

from __future__ import annotations

import pytest
import torch

from quantsim.dualpath import QBase
from quantsim.dualpath.scale_and_zero_point import ScaleAndZeroPoint
from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization import affine


def test_encodings_of_affine_quantizers_are_taken_over_exactly() -> None:
    other = affine.QuantizeDequantize((4, 1), bitwidth=4, symmetric=True)
    x = torch.randn(4, 100)
    with other.compute_encodings():
        other(x)
    quantizer = QBase(8, unsigned=False, shape=(4, 1))
    assert isinstance(quantizer, ScaleAndZeroPoint)
    quantizer.set_encodings(other.get_encodings())
    assert quantizer.nbit == 4
    assert torch.equal(quantizer(x), other(x).detach())
    assert quantizer.get_encodings() == other.get_encodings()


def test_an_encoding_that_does_not_fit_changes_nothing() -> None:
    other = affine.QuantizeDequantize((4, 1), bitwidth=4, symmetric=True)
    other.set_range(-1, 1)
    quantizer = QBase(8)
    with pytest.raises(ShapeError, match="does not fit"):
        quantizer.set_encodings(other.get_encodings())
    assert (quantizer.nbit, quantizer.is_initialized()) == (8, False)
    shifted = affine.QuantizeDequantize((), bitwidth=4, symmetric=True, zero_point_shift=0.5)
    shifted.set_range(-1, 1)
    with pytest.raises(ConfigurationError, match="half a step"):
        quantizer.set_encodings(shifted.get_encodings())
    assert quantizer.nbit == 8


def test_the_ends_of_the_grid() -> None:
    quantizer = QBase(8)
    assert quantizer.get_scale() is None
    assert quantizer.get_min() is None
    quantizer.set_qparams(0.5, 100)
    assert (float(quantizer.get_min()), float(quantizer.get_max())) == (-50.0, 77.5)
    assert float(quantizer.get_offset()) == -100.0


def test_a_range_of_one_value_has_a_scale() -> None:
    quantizer = QBase(8)
    quantizer.set_range(0.0, 0.0)
    assert float(quantizer.scale) > 0
    assert quantizer(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("scale", [float("inf"), torch.ones(3)])
def test_a_refused_scale_leaves_the_grid_symmetric(scale) -> None:
    quantizer = QBase(8, unsigned=False)
    quantizer.set_range(-1.0, 1.0)
    with pytest.raises(ConfigurationError):
        quantizer.set_qparams(scale, 3.0)
    assert quantizer.symmetric
    assert quantizer.has_zero_offset
