from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NotCalibratedError, UnknownModuleError
from quantsim.nn import (
    FakeQuantizationMixin,
    QuantizationMixin,
    QuantizedLinear,
)
from quantsim.quantization import affine

MIXINS = [QuantizationMixin, FakeQuantizationMixin]


# ---------------------------------------------------------------- construction


def test_quant_init_makes_one_entry_per_own_parameter() -> None:
    assert list(QuantizedLinear(2, 3).param_quantizers) == ["weight", "bias"]
    assert list(QuantizedLinear(2, 3, bias=False).param_quantizers) == ["weight"]
    linear = QuantizedLinear(2, 3)
    assert [*linear.input_quantizers, *linear.output_quantizers, *linear.param_quantizers.values()] == [None] * 4


def test_custom_class_sets_its_own_counts() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    class QuantizedSum(QuantizationMixin, Sum):
        def __quant_init__(self) -> None:
            super().__quant_init__()
            self.input_quantizers = nn.ModuleList([None, None])

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            a = self.input_quantizers[0](a) if self.input_quantizers[0] else a
            y = super().forward(a, b)
            return self.output_quantizers[0](y) if self.output_quantizers[0] else y

    module = QuantizedSum()
    assert len(module.input_quantizers) == 2
    assert float(module(torch.ones(()), torch.ones(()))) == 2
    module.input_quantizers[0] = affine.QuantizeDequantize((), 2, True)
    with module.compute_encodings():
        module(torch.ones(()), torch.ones(()))
    assert module.input_quantizers[0].is_initialized()


@pytest.mark.parametrize("mixin", MIXINS)
def test_from_module_shares_everything(mixin: Any) -> None:
    module = nn.BatchNorm2d(3)
    calls: list[int] = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    quantized = mixin.from_module(module)
    assert isinstance(quantized, nn.BatchNorm2d)
    assert quantized.weight is module.weight
    assert quantized.running_mean is module.running_mean
    assert not hasattr(module, "input_quantizers")
    quantized(torch.randn(2, 3, 4, 4))
    assert calls == [1]
    assert int(module.num_batches_tracked) == 1
    handle.remove()
    quantized(torch.randn(2, 3, 4, 4))
    assert calls == [1]


def test_from_module_returns_a_quantized_module_as_it_is() -> None:
    linear = QuantizedLinear(2, 2)
    assert QuantizationMixin.from_module(linear) is linear


def test_from_module_of_a_concrete_class() -> None:
    assert type(QuantizedLinear.from_module(nn.Linear(2, 2))) is QuantizedLinear
    with pytest.raises(ConfigurationError, match="QuantizedLinear implements"):
        QuantizedLinear.from_module(nn.ReLU())


@pytest.mark.parametrize("mixin", MIXINS)
def test_subclasses_are_types_of_their_own(mixin: Any) -> None:
    class MyLinear(nn.Linear):
        pass

    with pytest.raises(UnknownModuleError, match="MyLinear"):
        mixin.from_module(MyLinear(2, 2))


def test_original_module_shares_parameters_and_has_no_trace() -> None:
    module = nn.Linear(3, 2)
    state = set(vars(module))
    quantized = QuantizationMixin.from_module(module)
    quantized.param_quantizers["weight"] = affine.QuantizeDequantize((), 4, True)
    quantized.set_kernel(lambda *_, **__: None)
    quantized(torch.randn(2, 3))
    original = quantized.get_original_module()
    assert type(original) is nn.Linear
    assert original.weight is module.weight
    assert set(vars(original)) == state
    assert list(original._modules) == []
    assert "param_quantizers" in quantized._modules
    x = torch.randn(2, 3)
    assert torch.equal(original(x), module(x))


# ---------------------------------------------------------------- implements and wrap


def scale_class() -> type[nn.Module]:
    class Scale(nn.Module):
        def __init__(self, factor: float = 2.0) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x: Tensor, times: int = 1) -> Tensor:
            return x * self.factor * times

    return Scale


def test_implements_registers_both_directions() -> None:
    scale = scale_class()

    @QuantizationMixin.implements(scale)
    class QuantizedScale(QuantizationMixin, scale):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor, times: int = 1) -> Tensor:
            with self._patch_quantized_parameters():
                return super().forward(x, times)

    assert QuantizationMixin.cls_to_qcls[scale] is QuantizedScale
    assert QuantizationMixin.qcls_to_cls[QuantizedScale] is scale
    module = QuantizationMixin.from_module(scale(0.8))
    assert type(module) is QuantizedScale
    assert type(module.get_original_module()) is scale
    module.param_quantizers["factor"] = quantizer = affine.QuantizeDequantize((), 2, True)
    quantizer.set_range(-1.0, 0.5)
    assert float(module(torch.tensor(1.0), times=3)) == 1.5
    assert float(module.factor) == pytest.approx(0.8)
    assert "implements" in str(module.explain_dispatch()) or "its own forward" in str(module.explain_dispatch())


def test_implements_refuses_wrong_classes() -> None:
    scale = scale_class()
    with pytest.raises(ValueError, match=r"torch\.nn\.Module"):
        QuantizationMixin.implements(int)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in this order"):
        QuantizationMixin.implements(scale)(nn.Linear)
    with pytest.raises(ValueError, match="in this order"):
        QuantizationMixin.implements(scale)(type("Wrong", (scale, QuantizationMixin), {}))
    assert scale not in QuantizationMixin.cls_to_qcls


def test_original_of_a_class_that_is_not_registered() -> None:
    scale = scale_class()

    class QuantizedScale(QuantizationMixin, scale):  # type: ignore[misc, valid-type]
        pass

    module = QuantizedScale(0.5)
    original = module.get_original_module()
    assert type(original) is scale
    assert original.factor is module.factor


@pytest.mark.parametrize("mixin", MIXINS)
def test_wrap(mixin: Any) -> None:
    scale = scale_class()
    wrapped = mixin.wrap(scale)
    assert wrapped.__name__ == f"{'Fake' if mixin is FakeQuantizationMixin else ''}QuantizedScale"
    assert mixin.wrap(scale) is wrapped
    assert mixin.wrap(nn.Linear) is mixin.cls_to_qcls[nn.Linear]
    assert scale not in mixin.cls_to_qcls
    module = wrapped(0.8)
    module.param_quantizers["factor"] = affine.QuantizeDequantize((), 2, True)
    module.param_quantizers["factor"].set_range(-1.0, 0.5)
    module.output_quantizers[0] = affine.QuantizeDequantize((), 2, False)
    module.output_quantizers[0].set_range(0.0, 3.0)
    assert float(module(torch.tensor(1.7))) == 1.0
    assert float(module(x=torch.tensor(1.7), times=4)) == 3.0
    with pytest.raises(ValueError, match=r"torch\.nn\.Module"):
        mixin.wrap(int)


class PicklableScale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_wrapped_modules_copy_and_pickle() -> None:
    module: Any = QuantizationMixin.wrap(PicklableScale)()
    module.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    module.output_quantizers[0].set_range(-1.0, 1.0)
    x = torch.randn(5)
    for other in (copy.deepcopy(module), copy.copy(module)):
        assert type(other) is type(module)
        assert torch.equal(other(x), module(x))


def test_wrap_of_a_subclass_keeps_the_row_of_its_base() -> None:
    class Padded(nn.Conv2d):
        pass

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    padded: Any = QuantizationMixin.wrap(Padded)
    assert padded._spec.op == "conv2d"
    module: Any = QuantizationMixin.wrap(Padded).from_module(Padded(2, 3, 1))
    assert type(module.get_original_module()) is Padded
    doubled: Any = QuantizationMixin.wrap(Doubled)
    assert doubled._spec.op != "linear"  # no kernel of linear computes it
    quantized = doubled.from_module(Doubled(2, 2))
    quantized.param_quantizers["weight"] = affine.QuantizeDequantize((), 2, True)
    x = torch.randn(3, 2)
    quantized(x)  # calibrates the weight
    expected = 2 * nn.functional.linear(x, quantized.param_quantizers["weight"](quantized.weight), quantized.bias)
    assert torch.equal(quantized(x), expected)


def test_wrapped_lstm_subclass_quantizes_its_weights() -> None:
    class Mine(nn.LSTM):
        def forward(self, input: Tensor, hx: Any = None) -> Any:
            return super().forward(input, hx)

    module: Any = QuantizationMixin.wrap(Mine).from_module(Mine(2, 3))
    x = torch.randn(4, 1, 2)
    before = module(x)[0]
    module.param_quantizers["weight_hh_l0"] = affine.QuantizeDequantize((), 2, True)
    assert not torch.equal(module(x)[0], before)


def test_weights_are_calibrated_when_first_used() -> None:
    for cls in (QuantizedLinear, QuantizationMixin.wrap(scale_class())):
        module: Any = cls(2, 2) if cls is QuantizedLinear else cls()
        name = next(iter(module.param_quantizers))
        module.param_quantizers[name] = affine.QuantizeDequantize((), 8, True)
        module(torch.randn(2, 2))
        assert module.param_quantizers[name].is_initialized()
    linear = QuantizedLinear(2, 2)
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((), 8, True)
    linear.param_quantizers["weight"].allow_overwrite(False)
    with pytest.raises(NotCalibratedError, match=r"QuantizedLinear\.param_quantizers\['weight'\]"):
        linear(torch.randn(2, 2))
