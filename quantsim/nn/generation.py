"""Makes quantized classes from rows of the table."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from quantsim.nn.base import BaseQuantizationMixin
from quantsim.nn.specification import ModuleSpec, forward_arguments

__all__ = ["generate_class", "generate_classes", "generate_wrapper"]

PUBLIC_MODULE = "quantsim.nn"
"""Where generated classes are found, by people and by pickle."""


def generate_class(
    spec: ModuleSpec, base: type[BaseQuantizationMixin], prefix: str, *, module: str = PUBLIC_MODULE
) -> type[BaseQuantizationMixin]:
    """Makes the class ``<prefix><Name>`` from a base that knows rows and the module class of a row.

    Args:
        spec: The row.
        base: `SpecifiedQuantizedModule` or `SpecifiedFakeQuantizedModule`.
        prefix: ``"Quantized"`` or ``"FakeQuantized"``.
        module: ``__module__`` of the class, where it can be imported from.
    """
    name = prefix + spec.module_class.__name__
    arguments = forward_arguments(spec.module_class)
    namespace: dict[str, Any] = {
        "__module__": module,
        "__qualname__": name,
        "__doc__": f"`{spec.module_class.__module__}.{spec.module_class.__qualname__}` with quantizers.",
        "_spec": spec,
        "_float_forward": spec.module_class.forward,
        "_input_slots": {argument: slot for slot, argument in enumerate(spec.inputs)},
        "_argument_names": arguments,
        "_first_argument_is_input": spec.variadic_inputs or spec.inputs[:1] == arguments[:1] != (),
        "_wrapped_class": spec.module_class,
    }
    if spec.becomes is not None:
        namespace["cls_to_become"] = base.cls_to_qcls[spec.becomes]
    bases = (base, spec.module_class) if spec.behaviour is None else (spec.behaviour, base, spec.module_class)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deriving from a deprecated class (NLLLoss2d) warns
        return type(name, bases, namespace)


def generate_classes(
    specs: Iterable[ModuleSpec], base: type[BaseQuantizationMixin], prefix: str
) -> dict[str, type[BaseQuantizationMixin]]:
    """Makes and registers a class for each row; lazy modules last, since they become another row's class."""
    mixin = base._family()
    made: dict[str, type[BaseQuantizationMixin]] = {}
    for spec in sorted(specs, key=lambda spec: spec.becomes is not None):
        quantized_class = generate_class(spec, base, prefix)
        made[quantized_class.__name__] = mixin.implements(spec.module_class)(quantized_class)
    return made


def generate_wrapper(
    module_class: type[nn.Module], base: type[BaseQuantizationMixin], prefix: str
) -> type[BaseQuantizationMixin]:
    """Makes a class for a module class that has no row.

    A subclass of a class that has one is quantized as that is if it keeps its ``forward``; if it has a ``forward`` of
    its own, no kernel of the base class's op applies. All other classes get one input, one output, and all own
    parameters. Instances pickle by the module class, since no module holds the class itself.
    """
    wrapper: Any = generate_class(
        _derived_row(module_class, base._family()), base, prefix, module=module_class.__module__
    )
    mixin = base._family()

    def reduce(self: nn.Module, protocol: Any) -> str | tuple[Any, ...]:
        if type(self) is not wrapper:  # a subclass that a module holds
            return super(wrapper, self).__reduce_ex__(protocol)
        return _empty_wrapper, (mixin, module_class), self.__getstate__()  # pyright: ignore[reportAttributeAccessIssue]

    wrapper.__reduce_ex__ = reduce
    return wrapper


def _derived_row(module_class: type[nn.Module], mixin: type[BaseQuantizationMixin]) -> ModuleSpec:
    """The row of the nearest base class that has one, adapted; or a plain one."""
    arguments = forward_arguments(module_class)
    for ancestor in module_class.__mro__[1:]:
        row: ModuleSpec | None = getattr(mixin.cls_to_qcls.get(ancestor), "_spec", None)
        if row is None:
            continue
        if module_class.forward is ancestor.forward:
            return replace(row, module_class=module_class)
        recurrent = row.behaviour is not None and ancestor.__module__ == "torch.nn.modules.rnn"
        return replace(
            row,
            module_class=module_class,
            op=module_class.__qualname__,
            inputs=row.inputs if recurrent else arguments[: max(1, len(row.inputs))],
            outputs=max(1, row.outputs),
            behaviour=row.behaviour if recurrent else None,
            fresh_output=False,
            attributes=(),
        )
    return ModuleSpec(module_class=module_class, op=module_class.__qualname__, inputs=arguments[:1])


def _empty_wrapper(mixin: type[BaseQuantizationMixin], module_class: type[nn.Module]) -> nn.Module:
    wrapper = mixin.wrap(module_class)
    return wrapper.__new__(wrapper)
