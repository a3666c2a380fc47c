"""Modules that can hold quantizers: which they are in a model, and which of their arguments are inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantsim.nn import BaseQuantizationMixin, ModuleSpec, QuantizationMixin, ignored_module_classes
from quantsim.sim.module_kinds import ModuleKind, kind_of

__all__ = ["Leaf", "find_leaves"]


@dataclass(frozen=True)
class Leaf:
    """A module that can hold quantizers.

    Attributes:
        path: Where it is in the model; of a module that is used in several places, the first.
        module: The module: float, or already quantized.
        quantized_class: The class that it is to become an instance of.
        spec: Its row in the table of quantized modules, or that of the class it derives from; None if there is none.
    """

    path: str
    module: nn.Module
    quantized_class: type[BaseQuantizationMixin]
    spec: ModuleSpec | None

    @property
    def op(self) -> str | None:
        """Name of its op; None if it has no row in the table."""
        return None if self.spec is None else self.spec.op

    @property
    def kind(self) -> ModuleKind:
        """What it does to numbers."""
        return kind_of(self.op, self.module)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Arguments of ``forward`` that have an input quantizer each; empty if they go by position only."""
        return () if self.spec is None or self.spec.variadic_inputs else self.spec.inputs

    @property
    def input_count(self) -> int:
        """Number of input quantizers."""
        if isinstance(self.module, BaseQuantizationMixin):
            return len(self.module.input_quantizers)
        return 1 if self.spec is None else self.spec.input_count

    @property
    def output_count(self) -> int:
        """Number of output quantizers."""
        if isinstance(self.module, BaseQuantizationMixin):
            return len(self.module.output_quantizers)
        return 1 if self.spec is None else self.spec.outputs

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Its own floating-point parameters."""
        own = self.module.named_parameters(recurse=False)
        return {name: values for name, values in own if values.is_floating_point()}

    def bind_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[int, Tensor]]:
        """Tensors of one call by the input quantizer they belong to.

        Args:
            args: Positional arguments of ``forward``.
            kwargs: Keyword arguments of ``forward``.
        """
        if not self.input_names:
            tensors = [value for value in pytree.tree_leaves((args, dict(kwargs))) if isinstance(value, Tensor)]
            last = max(self.input_count - 1, 0)
            return [(min(position, last), tensor) for position, tensor in enumerate(tensors)] if self.input_count else []
        names = list(inspect.signature(type(self.module).forward).parameters)[1:]
        bound = {**dict(zip(names, args, strict=False)), **kwargs}
        states = bound.get("hx")
        if "hx" not in self.input_names and isinstance(states, (tuple, list)):
            bound.update(zip(self.input_names[1:], states, strict=False))  # an LSTM's (h, c)
        return [
            (position, value)
            for position, name in enumerate(self.input_names)
            if isinstance(value := bound.get(name), Tensor)
        ]


def find_leaves(model: nn.Module, excluded: frozenset[str] = frozenset()) -> list[Leaf]:
    """All modules that can hold quantizers, outermost first; what is inside of one is its own business.

    A module qualifies if its exact class has a quantized class, or if it derives from a class in the table of quantized modules (a
    subclass of ``nn.Linear``, say). Classes that are ignored here and now (``QuantizationMixin.ignore``) are left out.

    Args:
        model: The model; may be a leaf itself.
        excluded: Paths of modules to leave out.
    """
    result: list[Leaf] = []
    ignored = ignored_module_classes()
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path in excluded or path.startswith(inside or ("\0",)):
            continue
        quantized_class = None if type(module) in ignored else _quantized_class(module)
        if quantized_class is None:
            continue
        result.append(Leaf(path, module, quantized_class, _spec_of(type(module))))
        if path == "":
            break
        if not isinstance(module, BaseQuantizationMixin):
            inside = (*inside, f"{path}.")
    return result


def _quantized_class(module: nn.Module) -> type[BaseQuantizationMixin] | None:
    if isinstance(module, BaseQuantizationMixin):
        return type(module)
    known = QuantizationMixin.cls_to_qcls.get(type(module))
    if known is not None:
        return known
    if any(base in QuantizationMixin.cls_to_qcls for base in type(module).__mro__[1:]):
        return QuantizationMixin.wrap(type(module))
    return None


def _spec_of(module_class: type[nn.Module]) -> ModuleSpec | None:
    """The row of the nearest class in the table; None if there is none, as for custom modules."""
    if issubclass(module_class, BaseQuantizationMixin):
        return getattr(module_class, "_spec", None)
    for base in module_class.__mro__:
        quantized_class = QuantizationMixin.cls_to_qcls.get(base)
        if quantized_class is not None:
            return getattr(quantized_class, "_spec", None)
    return None
