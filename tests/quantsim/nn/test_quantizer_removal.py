from __future__ import annotations

import pytest
import torch

from quantsim.nn import QuantizedLinear
from quantsim.nn.quantizer_removal import RestoreOnExit
from quantsim.quantization import affine


def activation(bitwidth: int = 4) -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((), bitwidth, False)


def calibrated(*, bitwidth: int = 4) -> QuantizedLinear:
    """A quantized Linear with all kinds of quantizers, calibrated."""
    torch.manual_seed(0)
    linear = QuantizedLinear(6, 4)
    linear.input_quantizers[0] = activation(bitwidth)
    linear.output_quantizers[0] = activation(bitwidth)
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((4, 1), bitwidth, True)
    with linear.compute_encodings(), torch.no_grad():
        linear(torch.randn(16, 6))
    return linear


def test_removal_at_once_and_as_a_context() -> None:
    linear = calibrated()
    quantizer, weight = linear.input_quantizers[0], linear.param_quantizers["weight"]
    with linear._remove_all_quantizers():
        assert linear.input_quantizers[0] is None
        assert linear.param_quantizers["weight"] is None
        assert linear.output_quantizers[0] is None
    assert linear.input_quantizers[0] is quantizer
    with pytest.raises(KeyError), linear._remove_activation_quantizers():
        assert linear.output_quantizers[0] is None
        assert linear.param_quantizers["weight"] is weight
        raise KeyError
    assert linear.input_quantizers[0] is quantizer
    with linear._remove_param_quantizers("weight"), linear._remove_output_quantizers([-1]):
        assert linear.param_quantizers["weight"] is None
        assert linear.output_quantizers[0] is None
    linear._remove_input_quantizers(0)
    assert linear.input_quantizers[0] is None
    with pytest.raises(IndexError):
        linear._remove_input_quantizers(1)
    with pytest.raises(KeyError):
        linear._remove_param_quantizers(["weight", "wait"])
    assert linear.param_quantizers["weight"] is weight


def test_wrong_keys_name_what_there_is_and_remove_nothing() -> None:
    linear = calibrated()
    with pytest.raises(IndexError, match="got 1, expected an integer from -1 to 0"):
        linear._remove_output_quantizers([0, 1])
    with pytest.raises(KeyError, match=r"got 'wait', expected one of \['weight', 'bias'\]"):
        linear._remove_param_quantizers("wait")
    assert None not in (linear.output_quantizers[0], linear.param_quantizers["weight"])


def test_a_removal_is_undone_once() -> None:
    linear = calibrated()
    first, second = linear.input_quantizers[0], activation()
    removal = linear._remove_input_quantizers()
    removal.restore()
    assert linear.input_quantizers[0] is first
    linear.input_quantizers[0] = second
    removal.restore()
    with removal:
        pass
    assert linear.input_quantizers[0] is second


def test_undone_by_an_exception_too() -> None:
    calls: list[str] = []
    with pytest.raises(KeyError), RestoreOnExit(lambda: calls.append("undone")):
        raise KeyError
    assert calls == ["undone"]
