"""Modules that can hold quantizers: which they are in a model, and which of their arguments are inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from quantsim.nn import BaseQuantizationMixin, ModuleSpec, QuantizationMixin, ignored_module_classes
from quantsim.sim.module_kinds import ModuleKind, kind_of
from quantsim.sim.rms_norm import is_rms_norm, is_rms_norm_name

__all__ = ["Leaf", "find_leaves", "quantizable_modules"]


@dataclass(frozen=True)
class Leaf:
    """A quantized module in a model.

    Attributes:
        path: Where it is; of a module that is used in several places, the first.
        module: The quantized module.
    """

    path: str
    module: BaseQuantizationMixin

    @cached_property
    def spec(self) -> ModuleSpec | None:
        """Its row in the table of quantized modules, or that of a class it derives from; None if there is none."""
        float_class = getattr(type(self.module), "_wrapped_class", None) or type(self.module)
        for base in float_class.__mro__:
            quantized_class = (
                base if issubclass(base, BaseQuantizationMixin) else QuantizationMixin.cls_to_qcls.get(base)
            )
            spec = getattr(quantized_class, "_spec", None)
            if isinstance(spec, ModuleSpec):
                return spec
        return None

    @property
    def op(self) -> str | None:
        """Name of its op; None if it has no row in the table."""
        if self.spec is not None:
            return self.spec.op
        float_class = getattr(type(self.module), "_wrapped_class", None) or type(self.module)
        return "rms_norm" if is_rms_norm_name(float_class.__name__) else None

    @cached_property
    def kind(self) -> ModuleKind:
        """What it does to numbers."""
        return kind_of(self.op, self.module, self.parameters)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Arguments of ``forward`` that have an input quantizer each; empty if they go by position only."""
        return () if self.spec is None or self.spec.variadic_inputs else self.spec.inputs

    @property
    def input_count(self) -> int:
        """Number of input quantizers."""
        return len(self.module.input_quantizers)

    @property
    def output_count(self) -> int:
        """Number of output quantizers."""
        return len(self.module.output_quantizers)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Its floating-point parameters that can be quantized, by name."""
        own = {name: self.module._own_parameter(name) for name in self.module.param_quantizers}
        return {name: values for name, values in own.items() if values is not None and values.is_floating_point()}

    def bind_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[int, Tensor]]:
        """Tensors of one call by the input quantizer they belong to.

        Args:
            args: Positional arguments of ``forward``.
            kwargs: Keyword arguments of ``forward``.
        """
        names: tuple[str, ...] | None = getattr(type(self.module), "_argument_names", None)
        if names is None or self.spec is None or self.spec.variadic_inputs:
            tensors = [value for value in pytree.tree_leaves((args, dict(kwargs))) if isinstance(value, Tensor)]
            last = self.input_count - 1
            return [(min(position, last), tensor) for position, tensor in enumerate(tensors)] if last >= 0 else []
        slots: dict[str, int] = dict(type(self.module)._input_slots)  # pyright: ignore[reportAttributeAccessIssue]
        bound = {**dict(zip(names, args, strict=False)), **kwargs}
        states = bound.get("hx")
        if "hx" not in slots and isinstance(states, (tuple, list)):
            bound.update(zip(self.input_names[1:], states, strict=False))  # an LSTM's (h, c)
        result: list[tuple[int, Tensor]] = []
        for name, slot in slots.items():
            value = bound.get(name)
            if isinstance(value, PackedSequence):
                value = value.data
            if isinstance(value, Tensor) and slot < self.input_count:
                result.append((slot, value))
        return result


def quantizable_modules(model: nn.Module, excluded: frozenset[str] = frozenset()) -> dict[str, nn.Module]:
    """The outermost modules for which there is a quantized class, by path; what is inside of one is its own business.

    A module qualifies if its exact class has a quantized class, if it derives from a class that has one (a subclass of
    ``nn.Linear``, say), if it is a root-mean-square norm of the model's own, or if it is quantized already. Classes
    that are ignored here and now (``QuantizationMixin.ignore``) are left out.

    Args:
        model: The model; may qualify itself.
        excluded: Paths of modules to leave out.
    """
    result: dict[str, nn.Module] = {}
    ignored = ignored_module_classes()
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path in excluded or (inside and path.startswith(inside)) or type(module) in ignored:
            continue
        if not (
            any(base in QuantizationMixin.cls_to_qcls for base in type(module).__mro__)
            or isinstance(module, BaseQuantizationMixin)
            or is_rms_norm(module)
        ):
            continue
        result[path] = module
        if path == "":
            break
        inside = (*inside, f"{path}.")
    return result


def find_leaves(model: nn.Module, excluded: frozenset[str] = frozenset()) -> list[Leaf]:
    """All quantized modules in a model, those inside of others (the projections of attention) included.

    Args:
        model: The model; may be a quantized module itself.
        excluded: Paths of modules to leave out.
    """
    return [
        Leaf(path, module)
        for path, module in model.named_modules()
        if isinstance(module, BaseQuantizationMixin) and path not in excluded
    ]
