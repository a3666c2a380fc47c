"""Runs a simulation with some of its quantizers only, and puts all back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from quantsim.quantization import QuantizerBase
from quantsim.sim import QuantizationSimModel
from quantsim.sim.summary import iterate_quantizers
from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["ModuleGroup", "QuantizerPlace", "QuantizerSwitch", "group_modules"]


@dataclass(frozen=True)
class QuantizerPlace:
    """Where a quantizer sits.

    Attributes:
        tensor: The tensor that it quantizes.
        quantizer: The quantizer; one that is shared has several places.
    """

    tensor: TensorReference
    quantizer: QuantizerBase

    @property
    def is_parameter(self) -> bool:
        """Whether it quantizes a parameter, not an activation."""
        return self.tensor.role is TensorRole.PARAM

    @property
    def tensor_name(self) -> str:
        """Name of the tensor within its module: ``input 0``, ``output 0``, or the parameter's name."""
        return self.tensor.key if self.is_parameter else f"{self.tensor.role.value} {self.tensor.key}"


@dataclass(frozen=True)
class ModuleGroup:
    """Modules whose quantizers are switched together.

    Attributes:
        name: The module's path, or what the paths have in common.
        modules: The paths.
    """

    name: str
    modules: tuple[str, ...]


class QuantizerSwitch:
    """The quantizers of a simulation.

    Args:
        sim: The simulation.

    Attributes:
        places: All places with a quantizer, in the order of the model.

    Example:
        >>> import torch
        >>> sim = QuantizationSimModel(nn.Linear(2, 2), torch.zeros(1, 2), config="w8a8")
        >>> with QuantizerSwitch(sim).replaced(lambda place: place.quantizer if place.is_parameter else None):
        ...     [name for name, _ in sim.quantizers()]
        ["param_quantizers['weight']"]
        >>> len(list(sim.quantizers()))
        2
    """

    def __init__(self, sim: QuantizationSimModel) -> None:
        modules = dict(sim.quantized_modules())
        self.places = tuple(QuantizerPlace(tensor, quantizer) for tensor, quantizer in iterate_quantizers(modules))
        containers = {
            TensorRole.INPUT: "input_quantizers",
            TensorRole.OUTPUT: "output_quantizers",
            TensorRole.PARAM: "param_quantizers",
        }
        self._entries: list[dict[str, nn.Module | None]] = []
        for place in self.places:
            container: Any = getattr(modules[place.tensor.module], containers[place.tensor.role])
            self._entries.append(cast("dict[str, nn.Module | None]", container._modules))

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules with a quantizer."""
        return tuple(dict.fromkeys(place.tensor.module for place in self.places))

    @contextmanager
    def replaced(self, by: Callable[[QuantizerPlace], QuantizerBase | None]) -> Iterator[None]:
        """Inside, each place holds what ``by`` gives for it.

        Args:
            by: The quantizer itself, another one, or None for none.
        """
        try:
            for place, entries in zip(self.places, self._entries, strict=True):
                entries[place.tensor.key] = by(place)
            yield
        finally:
            for place, entries in zip(self.places, self._entries, strict=True):
                entries[place.tensor.key] = place.quantizer

    @contextmanager
    def without_any(self) -> Iterator[None]:
        """Inside, the model computes in floating point."""
        with self.replaced(lambda place: None):
            yield


def group_modules(paths: Sequence[str], limit: int) -> tuple[ModuleGroup, ...]:
    """Each module on its own; above a limit, those that have the longest beginnings of their paths in common together.

    Args:
        paths: Paths of modules.
        limit: Most groups wanted.

    Example:
        >>> [group.name for group in group_modules(["a.0.x", "a.0.y", "a.1.x", "b"], limit=3)]
        ['a.0', 'a.1.x', 'b']
    """
    limit = max(limit, 1)
    for depth in range(max((path.count(".") + 1 for path in paths), default=1), 0, -1):
        groups = _by_prefix(paths, depth)
        if len(groups) <= limit:
            return tuple(
                ModuleGroup(name if len(members) > 1 else next(iter(members)), tuple(members))
                for name, members in groups.items()
            )
    size = -(-len(paths) // limit)
    chunks = [tuple(paths[start : start + size]) for start in range(0, len(paths), size)]
    return tuple(ModuleGroup(" … ".join(dict.fromkeys((chunk[0], chunk[-1]))), chunk) for chunk in chunks)


def _by_prefix(paths: Sequence[str], depth: int) -> Mapping[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(".".join(path.split(".")[:depth]), []).append(path)
    return groups
