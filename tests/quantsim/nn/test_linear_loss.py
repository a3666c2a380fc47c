from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.nn import FakeQuantizationMixin, FakeQuantizedLinear, QuantizationMixin, QuantizedLinear
from quantsim.quantization import affine

pytestmark = pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="torch before 2.13")

X, TARGET = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])


def loss(mixin: Any = QuantizationMixin, **options: Any) -> Any:
    torch.manual_seed(1)
    return mixin.from_module(nn.LinearCrossEntropyLoss(4, 3, **options))


def low_bits() -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((3, 1), 3, True)


@pytest.mark.parametrize(
    ("mixin", "linear"), [(QuantizationMixin, QuantizedLinear), (FakeQuantizationMixin, FakeQuantizedLinear)]
)
def test_the_weight_of_the_inner_linear_is_quantized(mixin: Any, linear: Any) -> None:
    module = loss(mixin, bias=True)
    assert type(module.linear) is linear
    weight, bias = module.linear.weight, module.linear.bias
    quantizer = module.linear.param_quantizers["weight"] = low_bits()
    got = module(X, TARGET)  # calibrates the weight when it is first used
    logits = nn.functional.linear(X, quantizer(weight), bias)
    torch.testing.assert_close(got, nn.functional.cross_entropy(logits, TARGET))
    assert not torch.allclose(got, nn.functional.cross_entropy(nn.functional.linear(X, weight, bias), TARGET))
    assert module.linear.weight is weight  # visible again


def test_gradients_reach_the_weight_and_its_range() -> None:
    module = loss()
    module.linear.param_quantizers["weight"] = low_bits()
    module(X, TARGET).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_the_float_module_comes_back_whole() -> None:
    module = loss()
    expected = module(X, TARGET)
    module.linear.param_quantizers["weight"] = low_bits()
    for each in (module, copy.deepcopy(module)):
        original = each.get_original_module()
        assert (type(original), type(original.linear)) == (nn.LinearCrossEntropyLoss, nn.Linear)
        assert original.linear.weight is each.linear.weight
        assert torch.equal(original(X, TARGET), expected)
        assert isinstance(each.linear, QuantizedLinear)  # the quantized module keeps its own
