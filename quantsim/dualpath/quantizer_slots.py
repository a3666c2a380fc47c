"""Short names of quantizers: attributes such as ``aq`` that stand for entries of quantized modules' containers."""

from __future__ import annotations

from typing import Any, Final, Self, overload

from torch import nn

from quantsim.dualpath.quantizer_base import QBase
from quantsim.quantization.base import QuantizerBase

__all__ = ["WIDEST", "QuantizerSlot", "QuantizerSlots"]

WIDEST: Final = 32
"""Bits that mean "not quantized"."""

_Frozen = tuple[QuantizerBase, bool, list[nn.Parameter]]
"""A quantizer that inference froze, whether calibration might change it before, and what training might."""


class QuantizerSlot:
    """An attribute that reads and writes one quantizer of a module, or of a module inside it.

    Where there is none it reads as `torch.nn.Identity`, and assigning one, or ``None``, removes the quantizer.

    Args:
        module: Name of the module inside, empty for the owner itself.
        container: Name of its container.
        key: Index, as text, or parameter name.
    """

    def __init__(self, module: str, container: str, key: str) -> None:
        self.module, self.container, self.key = module, container, key

    @overload
    def __get__(self, instance: None, owner: type[nn.Module]) -> Self: ...

    @overload
    def __get__(self, instance: nn.Module, owner: type[nn.Module]) -> nn.Module: ...

    def __get__(self, instance: nn.Module | None, owner: type[nn.Module]) -> Self | nn.Module:
        if instance is None:
            return self
        return self.quantizer(instance) or nn.Identity()

    def __set__(self, instance: nn.Module, value: nn.Module | None) -> None:
        setattr(self._entries(instance), self.key, None if isinstance(value, nn.Identity) else value)

    def quantizer(self, instance: nn.Module) -> QuantizerBase | None:
        """The quantizer of a module, ``None`` if there is none."""
        return self._entries(instance)._modules[self.key]  # pyright: ignore[reportReturnType]

    def _entries(self, instance: nn.Module) -> nn.Module:
        home = instance.get_submodule(self.module)
        return home._modules[self.container]  # pyright: ignore[reportReturnType]


class QuantizerSlots(nn.Module):
    """A module with attributes that are `QuantizerSlot`."""

    def __setattr__(self, name: str, value: Any) -> None:
        # torch would make a submodule of every module that is assigned, and never ask the descriptor.
        slot = getattr(type(self), name, None)
        if isinstance(slot, QuantizerSlot):
            slot.__set__(self, value)
        else:
            super().__setattr__(name, value)

    def quantizer(self, name: str) -> QuantizerBase | None:
        """The quantizer of a slot, ``None`` if there is none.

        Args:
            name: The attribute, such as ``"aq"``.
        """
        return getattr(type(self), name).quantizer(self)

    @classmethod
    def quantizer_names(cls) -> tuple[str, ...]:
        """Names of all slots."""
        return tuple(name for name in dir(cls) if isinstance(getattr(cls, name, None), QuantizerSlot))

    def _set_quantizer_paths(self, inference: bool) -> None:
        """Switches all quantizers of the slots; those without two paths are frozen, so that their ranges stay.

        On the way back these are as they were before: what was trained is trained again.
        """
        frozen: list[_Frozen] = self.__dict__.setdefault("_frozen_for_inference", [])
        for name in self.quantizer_names():
            quantizer = self.quantizer(name)
            if isinstance(quantizer, QBase):
                quantizer.inference(inference)
            elif quantizer is not None and inference and not quantizer.is_frozen:
                trained = [values for values in quantizer.parameters() if values.requires_grad]
                frozen.append((quantizer, quantizer.is_overwrite_allowed, trained))
                quantizer.freeze()
        if not inference:
            for quantizer, is_overwrite_allowed, trained in frozen:
                quantizer.allow_overwrite(is_overwrite_allowed)
                for values in trained:
                    values.requires_grad_(True)
            frozen.clear()
