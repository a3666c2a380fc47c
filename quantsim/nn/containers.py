"""The three containers of quantizers of a quantized module.

They are torch's ModuleList and ModuleDict, whose entries may be ``None``, which torch allows but does not declare, and
which refuse modules that are no quantizers. Only writing is checked: reading, as every forward does, is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.quantization.base import QuantizerBase

__all__ = [
    "CONTAINERS",
    "QuantizerDict",
    "QuantizerList",
    "check_later_entries",
    "empty_dict",
    "empty_list",
    "quantizers_of",
]

CONTAINERS = ("input_quantizers", "param_quantizers", "output_quantizers")
"""Names of the three containers."""


class QuantizerList(nn.ModuleList):
    """A ModuleList of quantizers and ``None``.

    Raises:
        ConfigurationError: If an entry is a module of another kind.
    """

    def _get_name(self) -> str:
        return "ModuleList"

    def __setattr__(self, name: str, value: Any) -> None:
        _require_quantizer(value, f"activation quantizer {name}", QuantizerBase)
        super().__setattr__(name, value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Adds an entry; ``append``, ``extend`` and the constructor come here too."""
        _require_quantizer(module, f"activation quantizer {name}", QuantizerBase)
        super().add_module(name, module)

    def insert(self, index: int, module: nn.Module) -> None:
        """Inserts an entry before ``index``."""
        _require_quantizer(module, f"activation quantizer {index}", QuantizerBase)
        super().insert(index, module)


class QuantizerDict(nn.ModuleDict):
    """A ModuleDict of quantizers and ``None``.

    Raises:
        ConfigurationError: If an entry is a module of another kind.
    """

    def _get_name(self) -> str:
        return "ModuleDict"

    def __setattr__(self, name: str, value: Any) -> None:
        _require_quantizer(value, f"param_quantizers[{name!r}]", QuantizerBase)
        super().__setattr__(name, value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Adds or replaces an entry; ``[name] =``, ``update`` and the constructor come here too."""
        _require_quantizer(module, f"param_quantizers[{name!r}]", QuantizerBase)
        super().add_module(name, module)


def _require_quantizer(value: Any, where: str, *allowed: type[nn.Module]) -> None:
    # What is no module at all is left to torch, which raises TypeError (and sets plain attributes).
    if not isinstance(value, nn.Module) or isinstance(value, allowed):
        return
    raise ConfigurationError(
        where=where,
        got=f"a module of type {type(value).__name__}",
        expected="a quantizer (an instance of a subclass of QuantizerBase) or None",
        fix="assign one of quantsim.quantization, such as affine.QuantizeDequantize((), 8, False), or None for no "
        "quantizer; modules that compute belong into the model",
    )


def empty_list(count: int) -> nn.ModuleList:
    """Returns a list of ``count`` entries without a quantizer."""
    return QuantizerList(cast(Any, [None] * count))


def empty_dict(names: Iterable[str]) -> nn.ModuleDict:
    """Returns a dictionary of entries without a quantizer."""
    return QuantizerDict(cast(Any, dict.fromkeys(names)))


def check_later_entries(module: nn.Module) -> None:
    """Makes containers that a custom class set itself, as plain ModuleList or ModuleDict, refuse wrong entries too.

    They stay the same objects.

    Raises:
        ConfigurationError: If an entry is wrong already.
    """
    for name in CONTAINERS:
        container = module._modules.get(name)
        checked = {nn.ModuleList: QuantizerList, nn.ModuleDict: QuantizerDict}.get(cast(Any, type(container)))
        if container is not None and checked is not None:
            checked(cast(Any, container))  # raises if an entry is wrong
            container.__class__ = checked


def quantizers_of(module: nn.Module, container: str) -> dict[str, QuantizerBase | None]:
    """Returns the entries of a container by index (as a string) or parameter name, for reading and for changing.

    The dictionaries themselves, because ``module.input_quantizers[0]`` costs a microsecond, and this a tenth.
    """
    return module._modules[container]._modules  # pyright: ignore[reportOptionalMemberAccess, reportReturnType]
