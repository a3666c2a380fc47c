"""The row type of the table of quantized modules."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import FunctionType

from torch import nn

__all__ = ["ModuleSpec"]


@dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """Says how a module class is quantized; one row of the table.

    Args:
        module_class: The floating-point module.
        op: Name of the op in the kernel registry; torch.nn.functional's name where it has one.
        inputs: Names of the arguments of ``forward`` that get an input quantizer each, in order.
        outputs: Number of output quantizers.
        variadic_inputs: ``forward`` takes any number of tensors. Input quantizer *i* is for tensor *i*; a lone input
            quantizer is for all of them.
        variadic_outputs: ``forward`` returns any number of tensors. Output quantizer *i* is for tensor *i*; a lone
            output quantizer is for all of them.
        parameters: Parameters that a kernel takes as operands, after the inputs. The first is required to be
            quantized for a kernel to run, the others (biases) are passed as they are unless they have a quantizer.
        attributes: Attributes of the module that a kernel takes as keyword arguments.
        fresh_output: Whether ``forward`` always returns newly allocated memory (unless ``module.inplace``), which the
            output quantizer may then overwrite when autograd is off.
        becomes: For a lazy module, the class it turns into in its first forward.
        behaviour: First base of the generated classes, for modules that need more than this row says.

    Example:
        >>> ModuleSpec(
        ...     module_class=nn.Linear, op="linear", inputs=("input",), parameters=("weight", "bias")
        ... ).outputs
        1
    """

    module_class: type[nn.Module]
    op: str
    inputs: tuple[str, ...] = ()
    outputs: int = 1
    variadic_inputs: bool = False
    variadic_outputs: bool = False
    parameters: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    fresh_output: bool = False
    becomes: type[nn.Module] | None = None
    behaviour: type[nn.Module] | None = None

    @property
    def input_count(self) -> int:
        """Number of input quantizers of a new quantized module."""
        return 1 if self.variadic_inputs else len(self.inputs)

    @classmethod
    def derive(
        cls,
        module_class: type[nn.Module],
        op: str,
        inputs: int | Sequence[str] | None = None,
        *,
        parameters: str = "",
        attributes: str = "",
        **settings: int | bool | type[nn.Module] | None,
    ) -> ModuleSpec:
        """Makes a row, taking names of inputs from the signature of the module's ``forward``.

        Args:
            module_class: The floating-point module.
            op: Name of the op.
            inputs: Names; or how many leading arguments of ``forward`` are inputs (default 1).
            parameters: Names, separated by blanks.
            attributes: Names, separated by blanks.
            settings: Other fields of the row.

        Example:
            >>> ModuleSpec.derive(nn.Bilinear, "bilinear", 2, parameters="weight bias").inputs
            ('input1', 'input2')
        """
        if inputs is None or isinstance(inputs, int):
            names = forward_arguments(module_class)[: 1 if inputs is None else inputs]
        else:
            names = tuple(inputs)
        return cls(
            module_class=module_class,
            op=op,
            inputs=names,
            parameters=tuple(parameters.split()),
            attributes=tuple(attributes.split()),
            **settings,  # pyright: ignore[reportArgumentType]
        )


@cache
def forward_arguments(module_class: type[nn.Module]) -> tuple[str, ...]:
    """Names of the positional arguments of ``module_class.forward``, in order, without ``self``.

    Example:
        >>> forward_arguments(nn.LSTM)
        ('input', 'hx')
    """
    forward = module_class.forward
    if (
        isinstance(forward, FunctionType)
        and not hasattr(forward, "__signature__")
        and not hasattr(forward, "__wrapped__")
    ):
        code = forward.__code__  # what inspect.signature would find, 20 times as fast: this runs for each row at import
        return code.co_varnames[1 : code.co_argcount]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)
