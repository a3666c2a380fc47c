"""Removal of quantizers from their containers that can be undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, cast

from torch import nn

__all__ = ["QuantizerRemoval", "RestoreOnExit"]


class RestoreOnExit:
    """Something that has been done and can be undone: by `restore`, or by the end of a ``with`` block."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    def restore(self) -> None:
        """Undoes it; a second time does nothing."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()


class QuantizerRemoval(nn.Module):
    """The part of a quantized module that takes quantizers out, for good or for a while."""

    input_quantizers: nn.ModuleList
    param_quantizers: nn.ModuleDict
    output_quantizers: nn.ModuleList

    def _remove_input_quantizers(self, indices: int | Iterable[int] | None = None) -> AbstractContextManager[Any]:
        """Sets input quantizers (all by default) to ``None`` at once; as a context manager restores them on exit."""
        return remove_entries((self.input_quantizers, indices))

    def _remove_param_quantizers(self, keys: str | Iterable[str] | None = None) -> AbstractContextManager[Any]:
        """Sets parameter quantizers (all by default) to ``None`` at once; see `_remove_input_quantizers`."""
        return remove_entries((self.param_quantizers, keys))

    def _remove_output_quantizers(self, indices: int | Iterable[int] | None = None) -> AbstractContextManager[Any]:
        """Sets output quantizers (all by default) to ``None`` at once; see `_remove_input_quantizers`."""
        return remove_entries((self.output_quantizers, indices))

    def _remove_activation_quantizers(self) -> AbstractContextManager[Any]:
        """Sets input and output quantizers to ``None`` at once; see `_remove_input_quantizers`."""
        return remove_entries((self.input_quantizers, None), (self.output_quantizers, None))

    def _remove_all_quantizers(self) -> AbstractContextManager[Any]:
        """Sets all quantizers to ``None`` at once; see `_remove_input_quantizers`."""
        return remove_entries(
            (self.input_quantizers, None), (self.param_quantizers, None), (self.output_quantizers, None)
        )


def remove_entries(*selections: tuple[nn.ModuleList | nn.ModuleDict, Any]) -> RestoreOnExit:
    """Sets entries of containers to ``None``; the result puts back what was there.

    Args:
        selections: Containers, each with a key, an iterable of keys, or ``None`` for all keys.

    Raises:
        IndexError, KeyError: If a key is not in the container; nothing is removed then.
    """
    removed: list[tuple[dict[str, nn.Module | None], str, nn.Module | None]] = []
    for container, keys in selections:
        entries = cast(dict[str, nn.Module | None], container._modules)
        removed.extend((entries, name, entries[name]) for name in _names(container, keys))
    for entries, name, _ in removed:
        entries[name] = None

    def put_back() -> None:
        for entries, name, quantizer in removed:
            entries[name] = quantizer

    return RestoreOnExit(put_back)


def _names(container: nn.ModuleList | nn.ModuleDict, keys: int | str | Iterable[int | str] | None) -> list[str]:
    if keys is None:
        return list(container._modules)
    selected = [keys] if isinstance(keys, (int, str)) else list(keys)
    if isinstance(container, nn.ModuleList):
        count = len(container)
        for index in selected:
            if not (isinstance(index, int) and -count <= index < count):
                raise IndexError(f"quantizer index: got {index!r}, expected an integer from {-count} to {count - 1}")
        return [str(int(index) % count) for index in selected]
    for name in selected:
        if name not in container._modules:
            raise KeyError(f"parameter name: got {name!r}, expected one of {list(container._modules)}")
    return [str(name) for name in selected]
