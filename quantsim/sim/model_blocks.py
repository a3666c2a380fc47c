"""The blocks of a model: the large parts that run one after the other, such as the layers of a transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from quantsim.errors import ConfigurationError, UnknownModuleError
from quantsim.nn import BaseQuantizationMixin
from quantsim.sim.slots import nearest_names

__all__ = ["BlockChoice", "find_blocks"]

BlockChoice = str | Sequence[str | nn.Module] | None
"""Which modules are blocks: see `find_blocks`."""


def find_blocks(model: nn.Module, choice: BlockChoice = None) -> dict[str, nn.Module]:
    """The blocks of a model by path, in the order of the model.

    Args:
        model: The model, simulated or not.
        choice: Path of the ``ModuleList`` or ``Sequential`` that holds the blocks; paths of the blocks, or the modules
            themselves; or None for the elements of every ``ModuleList`` that has several, outermost ones only (in a
            model without any, of every such ``Sequential``).

    Raises:
        UnknownModuleError: There is no module at a path, or a module is not the model's.
        ConfigurationError: No blocks were found, or one lies inside of another.

    Example:
        >>> model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
        >>> list(find_blocks(model)), list(find_blocks(model, ["layers.1"]))
        (['layers.0', 'layers.1'], ['layers.1'])
    """
    modules = dict(model.named_modules())
    if choice is None:
        found = _elements(modules, nn.ModuleList) or _elements(modules, nn.Sequential)
    elif isinstance(choice, str):
        holder = _at(modules, choice)
        found = {f"{choice}.{name}".lstrip("."): child for name, child in holder.named_children()}
    else:
        paths = {id(module): path for path, module in modules.items()}
        found = {}
        for each in choice:
            path = each if isinstance(each, str) else paths.get(id(each))
            if path is None:
                raise UnknownModuleError(
                    "this module is no part of the model",
                    where="blocks",
                    got=type(each).__name__,
                    expected="modules of the simulated model, or their paths",
                    fix="take them from sim.model: the float model's own were copied or replaced",
                )
            found[path] = _at(modules, path)
    if not found:
        raise ConfigurationError(
            "the model has no blocks",
            where="blocks",
            got="no ModuleList or Sequential of several modules" if choice is None else f"nothing in {choice!r}",
            expected="modules that run one after the other",
            fix="name them: blocks=['encoder', 'decoder']",
        )
    order = {path: position for position, path in enumerate(modules)}
    found = dict(sorted(found.items(), key=lambda item: order[item[0]]))
    outer: str | None = None
    for path in found:
        if outer is not None and path.startswith(f"{outer}." if outer else ""):
            raise ConfigurationError(
                "a block lies inside of another",
                where="blocks",
                got=f"{path!r} in {outer!r}",
                expected="blocks beside each other",
                fix="leave one of them out",
            )
        outer = path
    return found


def _elements(modules: dict[str, nn.Module], kind: type[nn.Module]) -> dict[str, nn.Module]:
    """Elements of the outermost containers of a kind; those inside of quantized modules hold quantizers."""
    found: dict[str, nn.Module] = {}
    closed: tuple[str, ...] = ()
    for path, module in modules.items():
        if path.startswith(closed) and closed:
            continue
        if isinstance(module, BaseQuantizationMixin):
            closed = (*closed, f"{path}.")
        elif isinstance(module, kind) and len(module._modules) > 1:
            closed = (*closed, f"{path}." if path else "")
            found.update({f"{path}.{name}".lstrip("."): child for name, child in module.named_children()})
    return found


def _at(modules: dict[str, nn.Module], path: str) -> nn.Module:
    if path in modules:
        return modules[path]
    near = nearest_names(path, modules)
    raise UnknownModuleError(
        "the model has no such module",
        where="blocks",
        got=repr(path),
        expected="paths of modules",
        fix=f"did you mean {' or '.join(map(repr, near))}?" if near else "see model.named_modules()",
    )
