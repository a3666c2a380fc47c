from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizedLinear
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


@pytest.mark.parametrize("version", [None, "0.6.1"])
def test_encodings_round_trip(version: str | None) -> None:
    source, target = calibrated(), QuantizedLinear(6, 4)
    target.load_state_dict({name: value for name, value in source.state_dict().items() if "quantizers" not in name})
    target.input_quantizers[0], target.output_quantizers[0] = activation(), activation()
    target.param_quantizers["weight"] = affine.QuantizeDequantize((4, 1), 4, True)
    target.import_input_encodings(source.export_input_encodings(version))
    target.import_output_encodings({"0": source.export_output_encodings(version)[0]}, requires_grad=False)
    target.import_param_encodings(source.export_param_encodings(version), allow_overwrite=False)
    x = torch.randn(7, 6)
    assert torch.equal(target(x), source(x))
    assert not any(parameter.requires_grad for parameter in target.output_quantizers.parameters())
    assert not target.param_quantizers["weight"].is_overwrite_allowed


def test_export_of_nothing_is_none() -> None:
    linear = QuantizedLinear(2, 2)
    linear.input_quantizers[0] = activation()
    assert linear.export_input_encodings() == [None]
    assert linear.export_param_encodings() == {"weight": None, "bias": None}
    with pytest.raises(ConfigurationError, match="save_encodings"):
        linear.export_output_encodings("3.0")


def test_import_strict_and_partial() -> None:
    source = calibrated()
    target = QuantizedLinear(6, 4)
    target.output_quantizers[0] = activation()
    encodings = source.export_input_encodings()
    with pytest.raises(ConfigurationError, match="without a quantizer"):
        target.import_input_encodings(encodings)
    target.import_input_encodings(encodings, strict=False)
    assert target.input_quantizers[0] is None
    target.import_output_encodings({}, partial=True)
    assert target.output_quantizers[0] is not None
    target.import_output_encodings({})
    assert target.output_quantizers[0] is None


def test_import_of_something_wrong_changes_nothing() -> None:
    linear = calibrated()
    linear.param_quantizers["bias"] = affine.QuantizeDequantize((), 8, True)
    good = linear.export_param_encodings()
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    other = calibrated(bitwidth=8)
    with pytest.raises(ConfigurationError, match="bias"):
        linear.import_param_encodings({"weight": other.export_param_encodings()["weight"], "bias": object()})
    with pytest.raises(ConfigurationError, match="list of encodings"):
        linear.import_param_encodings("weight")  # type: ignore[arg-type]
    for name, value in linear.state_dict().items():
        assert torch.equal(value.nan_to_num(7), before[name].nan_to_num(7)), name
    assert linear.export_param_encodings()["weight"] == good["weight"]
