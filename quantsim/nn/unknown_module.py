"""The error for a module class without a quantized class: its text holds the code that defines one."""

from __future__ import annotations

import inspect

from torch import nn

from quantsim.errors import UnknownModuleError

__all__ = ["quantized_definition", "unknown_module_error"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def unknown_module_error(module_class: type, mixin: type) -> UnknownModuleError:
    """Makes the error, with ready-to-paste code for a quantized definition of ``module_class``.

    Args:
        module_class: The class without a quantized definition.
        mixin: `QuantizationMixin` or `FakeQuantizationMixin`.
    """
    name = module_class.__qualname__
    return UnknownModuleError(
        f"there is no quantized class for {module_class.__module__}.{name}",
        where=f"{mixin.__name__}.from_module",
        got=f"a module of type {name}",
        expected="a type in the table of quantsim.nn, or one registered with implements()",
        fix=(
            "paste this definition beside your model, check which arguments are to be quantized, and try again:\n\n"
            f"{quantized_definition(module_class, mixin)}\n"
            f"or make one without a custom forward, `{mixin.__name__}.implements({name})"
            f"({mixin.__name__}.wrap({name}))`,\n"
            f"or leave the type in floating point: `with {mixin.__name__}.ignore({name}): ...` around the simulation"
        ),
    )


def quantized_definition(module_class: type[nn.Module], mixin: type) -> str:
    """Writes the source of a quantized class for ``module_class`` with its signature of ``forward``.

    Tensor-like positional arguments (those without a default) get an input quantizer; the code needs only the
    module class, torch and the mixin in scope.

    Example:
        >>> class Scale(nn.Module):
        ...     def forward(self, x, factor=2.0):
        ...         return x * factor
        >>> from quantsim.nn import QuantizationMixin
        >>> print(quantized_definition(Scale, QuantizationMixin).splitlines()[7])
        class QuantizedScale(QuantizationMixin, Scale):
    """
    name = module_class.__name__
    signature, call, inputs = _describe_forward(module_class)
    own = mixin.__name__.removesuffix("izationMixin") + "ized"  # Quantized, FakeQuantized
    lines = [
        *(["import inspect", ""] if "inspect." in signature else []),
        "import torch",
        f"from quantsim.nn import {mixin.__name__}",
        "",
        f"# {name} is {module_class.__module__}.{module_class.__qualname__}",
        "",
        "",
        f"@{mixin.__name__}.implements({name})",
        f"class {own}{name}({mixin.__name__}, {name}):",
        "    def __quant_init__(self):",
        "        super().__quant_init__()",
        f"        self.input_quantizers = torch.nn.ModuleList({[None] * len(inputs)})  # {', '.join(inputs) or 'none'}",
        "        self.output_quantizers = torch.nn.ModuleList([None])",
        "",
        f"    def forward({signature}):",
    ]
    for index, argument in enumerate(inputs):
        lines += [
            f"        if self.input_quantizers[{index}] is not None and torch.is_floating_point({argument}):",
            f"            {argument} = self.input_quantizers[{index}]({argument})",
        ]
    lines += [
        "        with self._patch_quantized_parameters():",
        f"            output = super().forward({call})",
        "        if self.output_quantizers[0] is not None:",
        "            output = self.output_quantizers[0](output)",
        "        return output",
        "",
    ]
    return "\n".join(lines)


def _describe_forward(module_class: type[nn.Module]) -> tuple[str, str, list[str]]:
    """Returns the arguments of the definition, those of the call, and the names of the tensor inputs."""
    parameters = list(inspect.signature(module_class.forward).parameters.values())
    definition: list[str] = []
    call: list[str] = []
    inputs: list[str] = []
    defaults: list[inspect.Parameter] = []
    for position, parameter in enumerate(parameters):
        bare = parameter.replace(
            annotation=inspect.Parameter.empty, default=_default_source(module_class.__name__, parameter)
        )
        defaults.append(bare)
        if position == 0:
            continue
        name = parameter.name
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            call.append(f"*{name}")
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            call.append(f"**{name}")
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            call.append(f"{name}={name}")
        else:
            call.append(name)
        if parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIADIC:
            inputs.append(name)
    definition.append(str(inspect.Signature(defaults))[1:-1])
    return ", ".join(definition), ", ".join(call), inputs


def _default_source(module_name: str, parameter: inspect.Parameter) -> object:
    """The default if its text is source code that means the same, else code that looks it up."""
    default = parameter.default
    if default is inspect.Parameter.empty or default is None or isinstance(default, (bool, int, str, bytes)):
        return default
    if isinstance(default, float) and default == default and abs(default) != float("inf"):
        return default
    if isinstance(default, (tuple, list)) and all(isinstance(item, (bool, int, str)) for item in default):
        return default
    return _Source(f"inspect.signature({module_name}.forward).parameters[{parameter.name!r}].default")


class _Source:
    """Source code that stands where a value is printed."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text
