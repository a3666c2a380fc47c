"""What a pass is going to do: all replacements are made before the first is put in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from quantsim.nn import disable_fused_paths
from quantsim.sim.replacement import swap_modules

__all__ = ["ModuleReplacement", "TransformPlan"]


@dataclass(frozen=True)
class ModuleReplacement:
    """One module and what takes its place.

    Attributes:
        path: Where it is; of a module that is used in several places, the first.
        old: The module.
        new: Its replacement, which shares its parameters.
        key: The key of the pass's arguments that matched.
        label: What the replacement does to numbers, in short words.
        aliases: Its other places.
    """

    path: str
    old: nn.Module
    new: nn.Module
    key: str
    label: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class TransformPlan:
    """Replacements in a model; nothing is changed before `apply`.

    Attributes:
        network: The model.
        replacements: What is replaced.
        left_alone: Paths of modules with parameters of their own that are not replaced.
    """

    network: nn.Module
    replacements: tuple[ModuleReplacement, ...]
    left_alone: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: nn.Module, replacements: Sequence[ModuleReplacement]) -> TransformPlan:
        """A plan, with the list of what it leaves alone."""
        replaced = {id(replacement.old) for replacement in replacements}
        return cls(network, tuple(replacements), tuple(_computing(network, replaced)))

    def apply(self) -> nn.Module:
        """Puts the replacements in place.

        Returns:
            The model, which is changed in place; or its replacement, if it is itself replaced.
        """
        network = swap_modules(self.network, {item.old: item.new for item in self.replacements})
        disable_fused_paths(network)
        return network


def _computing(network: nn.Module, replaced: set[int]) -> Iterator[str]:
    """Paths of modules with own parameters outside of those that are replaced."""
    inside: tuple[str, ...] = ()
    for path, module in network.named_modules():
        if inside and path.startswith(inside):
            continue
        if id(module) in replaced:
            if path == "":
                return
            inside = (*inside, f"{path}.")
        elif next(module.parameters(recurse=False), None) is not None:
            yield path
