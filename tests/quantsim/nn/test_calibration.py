from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import NonFiniteError
from quantsim.nn import (
    QuantizationMixin,
    QuantizedLinear,
    QuantizedReLU,
    compute_encodings,
    compute_param_encodings,
    named_quantized_modules,
)
from quantsim.quantization import affine


def activation() -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((), 8, False)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(QuantizedLinear(4, 8), QuantizedReLU(), nn.Sequential(QuantizedLinear(8, 2)))
    for linear in (net[0], net[2][0]):
        linear.param_quantizers["weight"] = affine.QuantizeDequantize((), 8, True)
    net[0].input_quantizers[0] = activation()
    net[1].output_quantizers[0] = activation()
    net[2][0].output_quantizers[0] = activation()
    return net


def test_names_of_modules() -> None:
    net: Any = model()
    net[1].module_path = "given"
    assert [name for name, _ in named_quantized_modules(net)] == ["0", "given", "2.0"]
    assert [name for name, _ in named_quantized_modules(QuantizedReLU())] == ["QuantizedReLU"]


def test_whole_model() -> None:
    net: Any = model()
    with compute_encodings(net) as report:
        net(torch.randn(16, 4))
        assert not net[1].output_quantizers[0].is_initialized()
        assert net[0].param_quantizers["weight"].is_initialized()
    assert report.calibrated == [
        "0.input_quantizers[0]",
        "1.output_quantizers[0]",
        "2.0.output_quantizers[0]",
    ]
    net(torch.randn(3, 4))


def test_parts_that_are_not_reached_are_reported_and_the_rest_is_calibrated() -> None:
    net: Any = model()
    with pytest.warns(UserWarning, match=r"2\.0\.output_quantizers\[0\]"), compute_encodings(net) as report:
        net[1](net[0](torch.randn(16, 4)))
    assert report.unobserved == ["2.0.output_quantizers[0]"]
    assert len(report.calibrated) == 2


def test_one_bad_quantizer_and_none_is_changed() -> None:
    net: Any = model()
    with compute_encodings(net):
        net(torch.randn(16, 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(NonFiniteError, match=r"2\.0\.output_quantizers\[0\]"), compute_encodings(net):
        net[0](torch.randn(16, 4) * 9)
        net[1](torch.randn(16, 8) * 9)
        net[2](torch.full((1, 8), torch.nan))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_shared_quantizer_is_calibrated_over_all_its_places() -> None:
    net: Any = model()
    shared = activation()
    net[0].input_quantizers[0] = net[1].output_quantizers[0] = shared
    with compute_encodings(net) as report:
        net[0](torch.full((1, 4), 5.0))
        net[1](torch.full((1, 8), 2.0))
        net[2](torch.zeros(1, 8))
    assert float(shared.get_max()) == pytest.approx(5.0)
    assert report.calibrated == ["0.input_quantizers[0]", "2.0.output_quantizers[0]"]


def test_a_quantizer_shared_by_parameters_is_calibrated_over_all_of_them() -> None:
    net: Any = nn.Sequential(QuantizedLinear(2, 2), QuantizedLinear(2, 2))
    net[0].param_quantizers["weight"] = net[1].param_quantizers["weight"] = affine.QuantizeDequantize((), 8, True)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.3], [0.1, 0.2]]))
        net[1].weight.copy_(torch.tensor([[2.54, 0.3], [0.1, 0.2]]))
    compute_param_encodings(net)
    assert float(net[0].param_quantizers["weight"].get_max()) == pytest.approx(2.54)


def test_nested_blocks() -> None:
    net: Any = model()
    with compute_encodings(net):
        with pytest.raises(KeyError), compute_encodings(net):
            net(torch.randn(4, 4))
            raise KeyError
        assert net[0].input_quantizers[0].is_observing
        net(torch.full((1, 4), 3.0))
    assert not net[0].input_quantizers[0].is_observing
    assert net[0].input_quantizers[0].is_initialized()


def test_param_encodings_with_and_without_overwriting() -> None:
    net: Any = model()
    net[0].param_quantizers["weight"].set_range(-9.0, 9.0)
    net[2][0].param_quantizers["weight"].set_range(-9.0, 9.0)
    net[2][0].param_quantizers["weight"].freeze()
    compute_param_encodings(net, overwrite=False)
    assert float(net[0].param_quantizers["weight"].max) == 9.0
    compute_param_encodings(net)
    assert float(net[0].param_quantizers["weight"].max) < 1.0
    assert float(net[2][0].param_quantizers["weight"].max) == 9.0


def test_dynamic_quantizers_need_nothing() -> None:
    linear = QuantizationMixin.from_module(nn.Linear(4, 2))
    linear.input_quantizers[0] = affine.DynamicQuantizeDequantize(8, False)
    linear.param_quantizers["weight"] = affine.DynamicQuantizeDequantize(8, True)
    with compute_encodings(linear) as report:
        pass
    assert report.unobserved == []
    linear(torch.randn(3, 4))
