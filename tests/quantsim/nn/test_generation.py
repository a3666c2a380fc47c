from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from quantsim.nn import FakeQuantizationMixin, QuantizationMixin, QuantizedConv2d, QuantizedLinear
from quantsim.nn.fake_quant import SpecifiedFakeQuantizedModule
from quantsim.nn.generation import generate_class, generate_classes, generate_wrapper
from quantsim.nn.kernel_quant import SpecifiedQuantizedModule
from quantsim.nn.specification import ModuleSpec
from quantsim.quantization import affine

BASES = [SpecifiedQuantizedModule, SpecifiedFakeQuantizedModule]


class Blend(nn.Module):
    def forward(self, weight: float, a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a, b, weight)


@pytest.fixture
def registered():
    """Takes classes of the test out of the registration again."""
    mixins = (QuantizationMixin, FakeQuantizationMixin)
    before = [(dict(mixin.cls_to_qcls), dict(mixin.qcls_to_cls)) for mixin in mixins]
    yield
    for mixin, (forth, back) in zip(mixins, before, strict=True):
        for table, kept in ((mixin.cls_to_qcls, forth), (mixin.qcls_to_cls, back)):
            table.clear()
            table.update(kept)


@pytest.mark.parametrize("base", BASES)
def test_a_row_says_which_argument_has_which_quantizer(base) -> None:
    row = ModuleSpec(module_class=Blend, op="lerp", inputs=("b", "a"), outputs=1)
    made = generate_class(row, base, "My", module="somewhere")
    assert (made.__name__, made.__module__, made.__bases__) == ("MyBlend", "somewhere", (base, Blend))
    module = made()
    called: list[str] = []
    for slot, name in enumerate(row.inputs):
        module.input_quantizers[slot] = affine.QuantizeDequantize((), 8, True)
        module.input_quantizers[slot].set_range(-4.0, 4.0)
        module.input_quantizers[slot].register_forward_pre_hook(
            lambda _, inputs, name=name: called.append(f"{name}={inputs[0].item():g}")
        )
    module(0.5, torch.tensor(1.0), b=torch.tensor(2.0))
    assert sorted(called) == ["a=1", "b=2"]


@pytest.mark.usefixtures("registered")
def test_classes_are_registered_lazy_ones_last() -> None:
    class Eager(nn.Linear):
        pass

    class Lazy(nn.LazyLinear):
        cls_to_become = Eager

    rows = [
        ModuleSpec(module_class=Lazy, op="linear", inputs=("input",), becomes=Eager),
        ModuleSpec(module_class=Eager, op="linear", inputs=("input",)),
    ]
    made = generate_classes(rows, SpecifiedQuantizedModule, "Quantized")
    assert set(made) == {"QuantizedEager", "QuantizedLazy"}
    lazy = QuantizationMixin.from_module(Lazy(3))
    assert type(lazy) is made["QuantizedLazy"]
    lazy(torch.randn(2, 5))
    assert type(lazy) is made["QuantizedEager"]
    assert QuantizationMixin.qcls_to_cls[made["QuantizedEager"]] is Eager


def test_deprecated_module_classes_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate_class(ModuleSpec(module_class=nn.NLLLoss2d, op="nll_loss", inputs=("input",)), BASES[0], "Quantized")


def test_a_subclass_keeps_the_row_of_its_base_only_with_its_forward() -> None:
    class Named(nn.Linear):
        """Only the name is new."""

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    named, doubled = (generate_wrapper(cls, SpecifiedQuantizedModule, "Quantized") for cls in (Named, Doubled))
    assert named._spec.op == QuantizedLinear._spec.op == "linear"
    assert named._spec.fresh_output
    assert doubled._spec.op.endswith("Doubled")  # no kernel of a Linear computes it
    assert not doubled._spec.fresh_output
    x = torch.randn(3, 2)
    module = doubled.from_module(Doubled(2, 2))
    assert torch.equal(module(x), 2 * nn.functional.linear(x, module.weight, module.bias))


def test_a_class_without_a_row_gets_its_first_argument() -> None:
    made = generate_wrapper(Blend, SpecifiedFakeQuantizedModule, "FakeQuantized")
    assert (made._spec.inputs, made.__module__) == (("weight",), Blend.__module__)
    assert len(made().output_quantizers) == 1


def test_generated_classes_are_documented_by_their_origin() -> None:
    assert QuantizedConv2d.__module__ == "quantsim.nn"
    assert "torch.nn.modules.conv.Conv2d" in (QuantizedConv2d.__doc__ or "")
