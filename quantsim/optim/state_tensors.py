"""The tensors in an optimizer's state of one parameter, wherever they are nested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["map_state_tensors", "state_names"]


def map_state_tensors(entry: dict[str, Any], function: Callable[[str, Tensor], Tensor]) -> None:
    """Replaces each floating-point tensor of one dimension or more by what a function returns for it.

    Lists and tuples, in which LBFGS keeps its history, are gone through; scalars are step counts and the like.

    Args:
        entry: State by name; changed in place.
        function: Of the name and the tensor.

    Example:
        >>> import torch
        >>> entry = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "old": [torch.ones(1)]}
        >>> map_state_tensors(entry, lambda name, values: 2 * values)
        >>> entry
        {'step': tensor(3.), 'exp_avg': tensor([2., 2.]), 'old': [tensor([2.])]}
    """
    for name, value in entry.items():
        entry[name] = _mapped(name, value, function)


def state_names(entry: dict[str, Any]) -> set[str]:
    """Names under which there are tensors that `map_state_tensors` goes through.

    Example:
        >>> import torch
        >>> state_names({"step": torch.tensor(3.0), "exp_avg": torch.ones(2)})
        {'exp_avg'}
    """
    names: set[str] = set()

    def seen(name: str, values: Tensor) -> Tensor:
        names.add(name)
        return values

    map_state_tensors(dict(entry), seen)
    return names


def _mapped(name: str, value: Any, function: Callable[[str, Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(name, value) if value.dim() > 0 and value.is_floating_point() else value
    if isinstance(value, list):
        value[:] = [_mapped(name, item, function) for item in value]
    elif type(value) is tuple:
        return tuple(_mapped(name, item, function) for item in value)
    return value
