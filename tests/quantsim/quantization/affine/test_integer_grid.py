from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim_encodings.formats import IntFormat


def test_bitwidth_and_signedness():
    quantizer = affine.QuantizeDequantize((), 8, True)
    assert (quantizer.bitwidth, quantizer.signed, quantizer.format) == (8, True, IntFormat(-128, 127))
    quantizer.bitwidth = 4
    assert (quantizer.qmin, quantizer.qmax) == (-8, 7)
    quantizer.signed = False
    assert (quantizer.qmin, quantizer.qmax) == (0, 15)
    quantizer.bitwidth = 8
    assert (quantizer.qmin, quantizer.qmax) == (0, 255)
    assert affine.QuantizeDequantize((), -7, 7, True).bitwidth == 4


def test_changes_take_effect_at_once():
    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.set_range(-1, 1)
    x = torch.linspace(-1, 1, 1000)
    assert len(quantizer(x).unique()) > 200
    quantizer.bitwidth = 2
    assert len(quantizer(x).unique()) == 4
    quantizer.qmin, quantizer.qmax = -1, 1
    assert len(quantizer(x).unique()) == 3
    quantizer.qmin, quantizer.symmetric = 0, False
    assert quantizer(x).min() == 0 or quantizer(x).max() == 0
    quantizer.qmax = 3
    quantizer.zero_point_shift = 0.5
    assert 0.0 not in quantizer(x).tolist()


def test_impossible_grids_are_refused_and_change_nothing():
    quantizer = affine.QuantizeDequantize((), 8, True)
    with pytest.raises(ConfigurationError):
        quantizer.qmin = 127
    with pytest.raises(ConfigurationError):
        quantizer.bitwidth = 0
    with pytest.raises(ConfigurationError):
        quantizer.zero_point_shift = 0.3
    assert (quantizer.qmin, quantizer.qmax) == (-128, 127)
    assert quantizer.zero_point_shift == 0.0


@pytest.mark.parametrize("kind", [affine.Quantize, affine.Dequantize])
def test_shifted_grids_have_no_codes(kind):
    with pytest.raises(ConfigurationError, match="no integer codes"):
        kind((), 8, True, zero_point_shift=0.5)
    quantizer = kind((), 8, True)
    assert quantizer.zero_point_shift == 0.0
