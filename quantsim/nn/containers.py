"""The three containers of quantizers of a quantized module.

They are torch's ModuleList and ModuleDict, whose entries may be ``None``, which torch allows but does not declare.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from torch import nn

if TYPE_CHECKING:
    from quantsim.quantization.base import QuantizerBase

__all__ = ["CONTAINERS", "empty_dict", "empty_list", "quantizers_of"]

CONTAINERS = ("input_quantizers", "param_quantizers", "output_quantizers")
"""Names of the three containers."""


def empty_list(count: int) -> nn.ModuleList:
    """Returns a list of ``count`` entries without a quantizer."""
    return nn.ModuleList(cast(Any, [None] * count))


def empty_dict(names: Iterable[str]) -> nn.ModuleDict:
    """Returns a dictionary of entries without a quantizer."""
    return nn.ModuleDict(cast(Any, dict.fromkeys(names)))


def quantizers_of(module: nn.Module, container: str) -> dict[str, QuantizerBase | None]:
    """Returns the entries of a container by index (as a string) or parameter name, for reading and for changing.

    The dictionaries themselves, because ``module.input_quantizers[0]`` costs a microsecond, and this a tenth.
    """
    return module._modules[container]._modules  # pyright: ignore[reportOptionalMemberAccess, reportReturnType]
