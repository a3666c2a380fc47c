from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from quantsim.nn import (
    FakeQuantizationMixin,
    FakeQuantizedLinear,
    QuantizationMixin,
    QuantizedLinear,
    UnknownModuleError,
)
from quantsim.quantization import affine


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.3, 0.7, -1.0]))

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return x * self.scale + shift


def test_the_two_families_are_registered_apart() -> None:
    linear = nn.Linear(2, 2)
    assert type(FakeQuantizationMixin.from_module(linear)) is FakeQuantizedLinear
    assert type(QuantizationMixin.from_module(linear)) is QuantizedLinear
    assert not issubclass(FakeQuantizedLinear, QuantizationMixin)
    assert FakeQuantizationMixin.cls_to_qcls is not QuantizationMixin.cls_to_qcls
    assert FakeQuantizationMixin.qcls_to_cls[FakeQuantizedLinear] is nn.Linear


def test_no_kernel_can_be_set() -> None:
    assert hasattr(QuantizedLinear, "set_kernel")
    assert not hasattr(FakeQuantizedLinear, "set_kernel")


def test_wrap_is_made_once_and_not_registered() -> None:
    wrapped = FakeQuantizationMixin.wrap(Affine)
    assert FakeQuantizationMixin.wrap(Affine) is wrapped
    assert wrapped.__name__ == "FakeQuantizedAffine"
    assert QuantizationMixin.wrap(Affine) is not wrapped
    with pytest.raises(UnknownModuleError):
        FakeQuantizationMixin.from_module(Affine())
    assert FakeQuantizationMixin.wrap(nn.Linear) is FakeQuantizedLinear
    with pytest.raises(ValueError, match=r"FakeQuantizationMixin\.wrap"):
        FakeQuantizationMixin.wrap(int)  # type: ignore[arg-type]


def test_a_wrapped_class_quantizes_first_input_parameters_and_output() -> None:
    module = FakeQuantizationMixin.wrap(Affine).from_module(Affine())
    quantizers = [affine.QuantizeDequantize((), 3, True) for _ in range(3)]
    module.input_quantizers[0], module.param_quantizers["scale"], module.output_quantizers[0] = quantizers
    for quantizer in quantizers:
        quantizer.set_range(-1.0, 0.75)
    x = torch.tensor([0.9, -0.4, 0.33])
    expected = quantizers[2](quantizers[0](x) * quantizers[1](module.scale) + 0.1)
    assert not torch.equal(expected, x * module.scale + 0.1)
    for each in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(each(x, shift=0.1), expected)
