"""Which quantized class stands for which module class, and which classes a simulation leaves alone."""

from __future__ import annotations

import contextvars
import inspect
import warnings
from types import TracebackType
from typing import Self

from torch import nn

__all__ = ["IgnoredModules", "ignored_module_classes"]

_IGNORED: contextvars.ContextVar[frozenset[type[nn.Module]]] = contextvars.ContextVar(
    "quantsim_ignored_module_classes", default=frozenset()
)


def ignored_module_classes() -> frozenset[type[nn.Module]]:
    """Module classes that a simulation built here and now leaves in floating point.

    Example:
        >>> with IgnoredModules(nn.Dropout):
        ...     sorted(cls.__name__ for cls in ignored_module_classes())
        ['Dropout']
        >>> ignored_module_classes()
        frozenset()
    """
    return _IGNORED.get()


class IgnoredModules:
    """Leaves module classes in floating point in the simulations built inside its ``with`` block.

    It holds for those simulations only: nothing is changed for the process, nor for a simulation built elsewhere.

    Args:
        module_classes: The classes; subclasses are not included.

    Raises:
        ValueError: If one is not a subclass of torch.nn.Module.
    """

    def __init__(self, *module_classes: type[nn.Module]) -> None:
        for module_class in module_classes:
            require_module_class(module_class, "ignore")
        self.module_classes = frozenset(module_classes)
        self._tokens: list[contextvars.Token[frozenset[type[nn.Module]]]] = []
        self._entered = False

    def __enter__(self) -> Self:
        self._entered = True
        self._tokens.append(_IGNORED.set(_IGNORED.get() | self.module_classes))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _IGNORED.reset(self._tokens.pop())

    def __del__(self) -> None:
        if not getattr(self, "_entered", True):
            names = ", ".join(sorted(cls.__name__ for cls in self.module_classes))
            warnings.warn(
                f"ignore({names}) had no effect: it holds for simulations built inside its block. Write "
                f"`with QuantizationMixin.ignore({names}): sim = QuantizationSimModel(...)`.",
                stacklevel=2,
            )


def require_module_class(module_class: object, where: str) -> None:
    """Raises unless ``module_class`` is a class of modules.

    Raises:
        ValueError: If it is not.
    """
    if not (inspect.isclass(module_class) and issubclass(module_class, nn.Module)):
        raise ValueError(
            f"{where}: got {module_class!r}, expected a subclass of torch.nn.Module; pass the class itself"
        )
