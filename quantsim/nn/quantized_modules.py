"""All classes made from the tables, as attributes of this module and of `quantsim.nn`."""

from __future__ import annotations

from quantsim.nn.fake_quant import SpecifiedFakeQuantizedModule
from quantsim.nn.functional_modules import FUNCTIONAL_MODULES
from quantsim.nn.generation import generate_classes
from quantsim.nn.kernel_quant import SpecifiedQuantizedModule
from quantsim.nn.table import TORCH_MODULES

_MADE = {
    **generate_classes((*TORCH_MODULES, *FUNCTIONAL_MODULES), SpecifiedQuantizedModule, "Quantized"),
    **generate_classes((*TORCH_MODULES, *FUNCTIONAL_MODULES), SpecifiedFakeQuantizedModule, "FakeQuantized"),
}
globals().update(_MADE)

__all__ = sorted(_MADE)  # pyright: ignore[reportUnsupportedDunderAll]
