from __future__ import annotations

import math
from enum import Enum
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import UnknownModuleError
from quantsim.nn import FakeQuantizationMixin, QuantizationMixin
from quantsim.nn.unknown_module import quantized_definition
from quantsim.quantization import affine


class Mode(Enum):
    LOUD = 2.0
    SOFT = 0.5


def masked_add() -> type[nn.Module]:
    class MaskedAdd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.3, 0.9]))

        def forward(
            self,
            x: Tensor,
            mask: Tensor,
            bias: Tensor | None = None,
            *,
            limit: float = math.inf,
            dims: tuple[int, ...] = (1, 2),
            mode: Mode = Mode.LOUD,
            name: str = "it's",
        ) -> Tensor:
            assert dims == (1, 2)
            assert name == "it's"
            y = x * self.weight * mask * mode.value
            return (y if bias is None else y + bias).clamp(max=limit)

    return MaskedAdd


def variadic() -> type[nn.Module]:
    class Variadic(nn.Module):
        def forward(self, first: Tensor, *others: Tensor, **factors: float) -> Tensor:
            total = first
            for other in others:
                total = total + other
            return total * factors.get("factor", 1.0)

    return Variadic


def definition_in(error: UnknownModuleError) -> str:
    """The code in the error's text, as a user would cut it out."""
    lines = str(error).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("import "))
    end = next(index for index in range(start, len(lines)) if lines[index].startswith("or make one"))
    return "\n".join(lines[start:end])


@pytest.mark.parametrize("mixin", [QuantizationMixin, FakeQuantizationMixin])
def test_the_text_holds_code_that_works_when_pasted(mixin: Any) -> None:
    cls = masked_add()
    with pytest.raises(UnknownModuleError) as caught:
        mixin.from_module(cls())
    namespace: dict[str, Any] = {"MaskedAdd": cls}
    exec(definition_in(caught.value), namespace)
    module = mixin.from_module(cls())
    assert len(module.input_quantizers) == 2
    x, mask = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    assert torch.equal(module(x, mask), cls()(x, mask))
    assert float(module(x, mask, limit=0.1)[0]) == pytest.approx(0.1)
    assert torch.equal(module(x, mask, torch.ones(2), mode=Mode.SOFT), cls()(x, mask, torch.ones(2), mode=Mode.SOFT))
    module.input_quantizers[0] = affine.QuantizeDequantize((), 2, False)
    module.input_quantizers[1] = affine.QuantizeDequantize((), 2, False)  # for a mask of floats; skipped here
    module.input_quantizers[1].set_range(0.0, 3.0)
    module.output_quantizers[0] = affine.QuantizeDequantize((), 2, False)
    module.param_quantizers["weight"] = affine.QuantizeDequantize((), 2, True)
    with module.compute_encodings() as report:
        module(x, mask.float())
    assert len(report.calibrated) == 3
    assert module(x, mask).unique().numel() <= 4


def test_variadic_signatures_are_passed_on() -> None:
    cls = variadic()
    with pytest.raises(UnknownModuleError) as caught:
        QuantizationMixin.from_module(cls())
    exec(definition_in(caught.value), {"Variadic": cls})
    module: Any = QuantizationMixin.from_module(cls())
    assert float(module(torch.tensor(1.0), torch.tensor(2.0), factor=3.0)) == 9.0


def test_one_line_alternative_works_too() -> None:
    cls = variadic()
    QuantizationMixin.implements(cls)(QuantizationMixin.wrap(cls))
    assert type(QuantizationMixin.from_module(cls())).__name__ == "QuantizedVariadic"


def test_modules_without_inputs() -> None:
    class Constant(nn.Module):
        def forward(self) -> Tensor:
            return torch.ones(1)

    exec(quantized_definition(Constant, QuantizationMixin), {"Constant": Constant})
    assert len(QuantizationMixin.from_module(Constant()).input_quantizers) == 0


def test_the_error_says_where_what_and_how() -> None:
    with pytest.raises(UnknownModuleError, match="MaskedAdd") as caught:
        QuantizationMixin.from_module(masked_add()())
    text = str(caught.value)
    for part in ("QuantizationMixin.from_module", "got a module of type", "expected", "to fix", "ignore("):
        assert part in text
