"""Chooses what computes a quantized module: a kernel of instance, class or registry, or fake-quantization."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim.nn.containers import quantizers_of
from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim_encodings.formats import (
    FixedPointFormat,
    FloatFormat,
    Format,
    IntFormat,
    MXFormat,
    NVFP4Format,
    OpticalFormat,
)
from quantsim_kernels import float_matmul
from quantsim_kernels.affine import affine_quantize
from quantsim_kernels.operands import DeferredOperand, OperandCast, QuantizedOperand
from quantsim_kernels.registry import Decision, Scheme, forced_backend, registry

if TYPE_CHECKING:
    from quantsim.nn.kernel_quant import SpecifiedQuantizedModule

__all__ = [
    "DispatchReport",
    "DispatchSource",
    "OutputGrid",
    "accumulates",
    "choose",
    "explain",
    "may_choose_kernel",
    "run",
    "run_accumulated",
]

_SCHEMES: dict[type[Format], Scheme] = {
    IntFormat: Scheme.AFFINE,
    FloatFormat: Scheme.FLOAT,
    MXFormat: Scheme.MX,
    NVFP4Format: Scheme.MX,
    OpticalFormat: Scheme.OPTICAL,
    FixedPointFormat: Scheme.FIXED_POINT,
}


class DispatchSource(StrEnum):
    """Where what computes a module comes from."""

    INSTANCE = "kernel of the instance"
    CLASS = "kernel of the class"
    REGISTRY = "kernel of the registry"
    FAKE_QUANTIZATION = "fake-quantization"


@dataclass(frozen=True, kw_only=True)
class OutputGrid:
    """The grid that a kernel's result is to lie on.

    Args:
        scale: Scale in the output quantizer's shape.
        offset: Offset in the same shape: real number = (code + offset) * scale.
        format: How codes are represented.
        block_size: Elements of a block in each dimension, or ``None``.
    """

    scale: Tensor | None
    offset: Tensor | None
    format: Format
    block_size: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DispatchReport:
    """What computes a module, and why.

    Args:
        op: Name of the op.
        source: Where it comes from.
        reason: Why this and nothing that ranks higher.
        kernel: The kernel, ``None`` for fake-quantization.
        candidates: The registry's decision about each of its kernels.
    """

    op: str
    source: DispatchSource
    reason: str
    kernel: Callable[..., Any] | None = None
    candidates: tuple[Decision, ...] = ()

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.op}: {self.source}, because {self.reason}", *(f"  {item}" for item in self.candidates)]
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A report and what the kernel is called with."""

    report: DispatchReport
    operands: tuple[Any, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def kernel(self) -> Callable[..., Any] | None:
        """The kernel to call, ``None`` for fake-quantization."""
        return self.report.kernel


def may_choose_kernel(module: SpecifiedQuantizedModule, args: tuple[Any, ...]) -> bool:
    """Whether `choose` could find a kernel in the registry; cheap enough to ask in each forward.

    Looks at the first quantizer only, and asks what kernels say of the unquantized inputs.
    """
    spec = module._spec
    schemes = registry.schemes(spec.op)
    if not schemes:
        return False
    quantizer = None
    for entry in quantizers_of(module, "input_quantizers").values():
        if entry is not None:
            quantizer = entry
            break
    if quantizer is None:
        # Floating-point inputs need quantizers, so only ops without any are left.
        return not spec.inputs
    # The first test spares the common case the making of a format.
    scheme = Scheme.AFFINE if isinstance(quantizer, AffineQuantizerBase) else _SCHEMES.get(type(quantizer.format))
    return scheme in schemes and registry.may_select(spec.op, scheme, *args)  # pyright: ignore[reportArgumentType]


def run(module: SpecifiedQuantizedModule, choice: Choice) -> Any:
    """Calls the chosen kernel."""
    assert choice.kernel is not None
    return choice.kernel(*choice.operands, **choice.arguments)


def accumulates(module: Any) -> bool:
    """Whether the partial sums of ``module`` may be kept in a format of choice (``set_accumulation``)."""
    spec = getattr(type(module), "_spec", None)
    return (
        spec is not None and spec.op in float_matmul.ACCUMULATING_OPS and type(module).forward is _dispatching_forward()
    )


def run_accumulated(module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Computes a module whose partial sums are kept in a format, from its quantized inputs and parameters.

    Unlike other kernels this takes what has no quantizer as it is, and runs during calibration too: it stands for
    torch's forward.
    """
    operands, attributes = _real_numbers(module, args, kwargs)
    op, accumulation = module._spec.op, module._accumulation
    if torch.compiler.is_compiling():
        return float_matmul.ACCUMULATING_OPS[op](*operands, **attributes, accumulation=accumulation, compute=None)
    kernel = registry.require(op, _scheme_of_sums(module), *operands, **attributes, accumulation=accumulation)
    return kernel.function(*operands, **attributes, accumulation=accumulation)


def _real_numbers(
    module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Quantized inputs and parameters as tensors of real numbers, and the attributes."""
    args, kwargs = module._quantize_inputs(args, kwargs)
    operands = _inputs_by_slot(module, args, kwargs)
    attributes = _attributes(module, args, kwargs)
    quantizers = quantizers_of(module, "param_quantizers")
    for name in module._spec.parameters:
        parameter, quantizer = _own_parameter(module, name), quantizers.get(name)
        if parameter is not None and quantizer is not None:
            parameter = _quantized_parameter(module, name, quantizer, parameter)
        operands.append(parameter)
    mode = module.__dict__.get("padding_mode", "zeros")
    if mode != "zeros":
        operands[0] = F.pad(operands[0], module.__dict__["_reversed_padding_repeated_twice"], mode=mode)
        attributes["padding"] = 0
    return tuple(operands), attributes


def _scheme_of_sums(module: SpecifiedQuantizedModule) -> Scheme:
    """Operands are real numbers, whatever grid they lie on; only block formats are told apart."""
    return Scheme.MX if _scheme(module) is Scheme.MX else Scheme.FLOAT


def explain(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DispatchReport:
    """Says what computes ``module``; inputs are optional, see `choose`."""
    spec = getattr(type(module), "_spec", None)
    if spec is None:
        return DispatchReport(
            op=type(module).__name__,
            source=DispatchSource.FAKE_QUANTIZATION,
            reason="the class defines its own forward and has no row in the table",
        )
    if type(module).forward is not _dispatching_forward():
        return DispatchReport(
            op=spec.op, source=DispatchSource.FAKE_QUANTIZATION, reason="the class defines its own forward"
        )
    if module._accumulation is not None and module.get_kernel() is None:
        return _explain_accumulation(module)
    return choose(module, args, kwargs).report  # with autograd on or off as it is: kernels may have no backward


def _explain_accumulation(module: SpecifiedQuantizedModule) -> DispatchReport:
    op, scheme, accumulation = module._spec.op, _scheme_of_sums(module), module._accumulation
    candidates = registry.explain(op, scheme, accumulation=accumulation)
    chosen = next((decision.kernel for decision in candidates if decision.chosen), None)
    return DispatchReport(
        op=op,
        source=DispatchSource.REGISTRY,
        reason=f"set_accumulation() was called with {accumulation!r}",
        kernel=None if chosen is None else chosen.function,
        candidates=candidates,
    )


def _dispatching_forward() -> Callable[..., Any]:
    from quantsim.nn.kernel_quant import SpecifiedQuantizedModule

    return SpecifiedQuantizedModule.forward


def choose(module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Choice:
    """Decides what computes a module for these inputs, and prepares the kernel's operands.

    Args:
        module: The quantized module.
        args: Inputs; if there are none, operands are not prepared and predicates not asked.
        kwargs: Keyword inputs.
    """
    spec = module._spec
    own, of_class = module._kernel, type(module)._default_kernel
    named = own or of_class

    def fake_quantization(reason: str, candidates: tuple[Decision, ...] = ()) -> Choice:
        report = DispatchReport(
            op=spec.op, source=DispatchSource.FAKE_QUANTIZATION, reason=reason, candidates=candidates
        )
        return Choice(report=report)

    if named is None and not registry.schemes(spec.op):
        return fake_quantization(f"there is no kernel for op {spec.op!r}")
    module._calibrate_parameters(overwrite=False)
    obstacle = _obstacle(module, args, kwargs, named)
    if obstacle is not None:
        return fake_quantization(obstacle)
    arguments: dict[str, Any] = {"output_encodings": output_grids(module), **_attributes(module, args, kwargs)}
    if named is not None and module._accumulation is not None:
        arguments["accumulation"] = module._accumulation
    scheme = _scheme(module)
    if not (args or kwargs):
        if named is None:
            return _without_inputs(spec.op, scheme, fake_quantization)
        operands: tuple[Any, ...] = ()
    else:
        operands = _operands(module, args, kwargs)
    if named is not None:
        source = DispatchSource.INSTANCE if own is not None else DispatchSource.CLASS
        reason = "set_kernel() was called" if own is not None else "set_default_kernel() was called on the class"
        report = DispatchReport(op=spec.op, source=source, reason=reason, kernel=named)
        return Choice(report=report, operands=operands, arguments=arguments)
    if scheme is None:
        return fake_quantization("the operands' formats belong to no single scheme")
    if not registry.has_kernels(spec.op, scheme):
        return fake_quantization(f"there is no kernel for op {spec.op!r} on {scheme} operands")
    selected = registry.select(spec.op, scheme, *operands, **arguments)
    candidates = registry.explain(spec.op, scheme, *operands, **arguments)
    if selected is None:
        return fake_quantization("every kernel of the registry declines these operands", candidates)
    report = DispatchReport(
        op=spec.op,
        source=DispatchSource.REGISTRY,
        reason=f"the registry selects the {selected.backend} backend for {scheme} operands",
        kernel=selected.function,
        candidates=candidates,
    )
    return Choice(report=report, operands=operands, arguments=arguments)


def _without_inputs(op: str, scheme: Scheme | None, fake_quantization: Callable[[str], Choice]) -> Choice:
    known = () if scheme is None else registry.candidates(op, scheme)
    if not known:
        return fake_quantization(f"there is no kernel for op {op!r} on {scheme} operands")
    candidates = [kernel for kernel in known if not kernel.waits_for(forced_backend())]
    if not candidates:
        backends = ", ".join(f"force_backend({kernel.backend.value!r})" for kernel in known)
        return fake_quantization(f"the registry's kernels run on request only: {backends}")
    report = DispatchReport(
        op=op,
        source=DispatchSource.REGISTRY,
        reason="it is the first candidate; pass inputs to explain_dispatch to have the predicates asked",
        kernel=candidates[0].function,
    )
    return Choice(report=report)


def _obstacle(
    module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any], kernel: Callable[..., Any] | None
) -> str | None:
    """Why no kernel can be called, or ``None``."""
    spec = module._spec
    if module.__dict__.get("padding_mode", "zeros") != "zeros":
        return f"kernels pad with zeros only, and padding_mode is {module.__dict__['padding_mode']!r}"
    if len(args) > len(module._argument_names) and not spec.variadic_inputs:
        return f"forward got {len(args)} positional arguments, and only {len(module._argument_names)} have a name"
    values = _inputs_by_slot(module, args, kwargs)
    quantizers = list(module.input_quantizers)
    for slot in range(len(values) if values else len(quantizers)):
        value = values[slot] if values else None
        if value is not None and not (isinstance(value, Tensor) and value.is_floating_point()):
            continue
        if value is None and values:
            continue
        name = spec.inputs[slot] if slot < len(spec.inputs) else str(slot)
        quantizer = quantizers[slot] if slot < len(quantizers) else None
        if spec.variadic_inputs and len(quantizers) == 1:
            quantizer = quantizers[0]
        reason = _unusable(quantizer)
        if reason is not None:
            return f"input {slot} ({name!r}) {reason}"
    for name in spec.parameters[:1]:
        if _own_parameter(module, name) is not None:
            reason = _unusable(quantizers_of(module, "param_quantizers").get(name))
            if reason is not None:
                return f"parameter {name!r} {reason}"
    for index, quantizer in enumerate(module.output_quantizers):
        reason = _unusable(quantizer)
        if reason is not None and (quantizer is not None or (kernel is not None and _needs_output_grid(kernel))):
            return f"output {index} {reason}"
    return None


def _unusable(quantizer: Any) -> str | None:
    if quantizer is None:
        return "has no quantizer"
    if quantizer.is_observing:
        return "is being calibrated"
    if not quantizer.is_initialized():
        return "has a quantizer that is not calibrated"
    return None


def _needs_output_grid(kernel: Callable[..., Any]) -> bool:
    try:
        parameter = inspect.signature(kernel).parameters.get("output_encodings")
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _inputs_by_slot(module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The inputs in the order of their quantizers; empty if none are given."""
    if not (args or kwargs):
        return []
    if module._spec.variadic_inputs:
        return list(args)
    by_name = {**dict(zip(module._argument_names, args, strict=False)), **kwargs}
    return [by_name.get(name) for name in module._spec.inputs]


def _attributes(module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a kernel takes by name: attributes of the module, and arguments of its forward that are no inputs."""
    spec = module._spec
    given = {} if spec.variadic_inputs else dict(zip(module._argument_names, args, strict=False))
    given.update(kwargs)
    attributes = {name: getattr(module, name) for name in spec.attributes}
    attributes.update({name: value for name, value in given.items() if name not in spec.inputs})
    return attributes


def _own_parameter(module: SpecifiedQuantizedModule, name: str) -> Tensor | None:
    return module._own_parameter(name) if name in module._parameters else None


def _operands(module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Inputs, then parameters, as kernels take them."""
    spec = module._spec
    quantizers = list(module.input_quantizers)
    operands: list[Any] = []
    for slot, value in enumerate(_inputs_by_slot(module, args, kwargs)):
        quantizer: Any = quantizers[slot] if slot < len(quantizers) else None
        if spec.variadic_inputs and len(quantizers) == 1:
            quantizer = quantizers[0]
        operands.append(
            to_operand(quantizer, value, partial(module._quantize_tensor, "input_quantizers", slot, quantizer))
        )
    for name in spec.parameters:
        quantizer = quantizers_of(module, "param_quantizers").get(name)
        quantize = partial(_quantized_parameter, module, name, quantizer)
        operands.append(to_operand(quantizer, _own_parameter(module, name), quantize))
    return tuple(operands)


def _quantized_parameter(module: SpecifiedQuantizedModule, name: str, quantizer: Any, parameter: Tensor) -> Tensor:
    """The quantized parameter, from the module's cache where that is safe."""
    quantized = module._quantized_parameter(name, quantizer)
    return parameter if quantized is None else quantized


def to_operand(quantizer: Any, value: Any, quantize: Callable[[Tensor], Tensor] | None = None) -> Any:
    """Quantizes a tensor for a kernel: integer codes for affine quantizers, numbers on the grid for all others.

    The others are quantized when the kernel reads them, so that nothing is quantized in vain or twice. Values without
    a quantizer, and what is no floating-point tensor, stay as they are.

    Args:
        quantizer: The quantizer, or ``None``.
        value: What to quantize.
        quantize: What gives the quantizer's numbers, the quantizer itself by default.
    """
    if not isinstance(quantizer, QuantizerBase) or not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if isinstance(quantizer, AffineQuantizerBase):
        scale, offset = quantizer.get_scale(), quantizer.get_offset()
        assert scale is not None
        if not quantizer.rounds_to_nearest:
            value = quantizer(value)  # on the grid, where the nearest point is the same one
        codes = affine_quantize(value, scale, offset, quantizer.qmin, quantizer.qmax, quantizer.block_size)
        return QuantizedOperand(
            values=codes, scale=scale, offset=offset, format=quantizer.format, block_size=quantizer.block_size
        )
    return DeferredOperand(value, quantizer if quantize is None else quantize, quantizer.format, _cast_of(quantizer))


def _cast_of(quantizer: QuantizerBase) -> OperandCast | None:
    """What a quantizer computes, if that is a cast which a kernel may do in its place."""
    if quantizer.is_stochastic or quantizer._forward_hooks or quantizer._forward_pre_hooks:
        return None
    if isinstance(quantizer, FloatQuantizeDequantize):
        if type(quantizer).map_to_grid is not FloatQuantizeDequantize.map_to_grid:
            return None
        return OperandCast(
            format=quantizer.format,
            rounding=quantizer.rounding,
            saturate=quantizer.saturate,
            scale=quantizer.get_scale() if quantizer.is_scaled else None,
            block_size=quantizer.block_size,
        )
    if isinstance(quantizer, MXQuantizeDequantize):
        if type(quantizer).map_to_grid is not MXQuantizeDequantize.map_to_grid:
            return None
        return OperandCast(format=quantizer.format, rounding=quantizer.rounding, axis=quantizer.axis)
    return None


def output_grids(module: SpecifiedQuantizedModule) -> OutputGrid | tuple[OutputGrid | None, ...] | None:
    """The output grids of a module: one, or a tuple if the module has several outputs."""
    grids = tuple(_grid(quantizer) for quantizer in module.output_quantizers)
    return grids[0] if len(grids) == 1 else grids


def _grid(quantizer: Any) -> OutputGrid | None:
    if not isinstance(quantizer, QuantizerBase):
        return None
    if isinstance(quantizer, AffineQuantizerBase):
        return OutputGrid(
            scale=quantizer.get_scale(),
            offset=quantizer.get_offset(),
            format=quantizer.format,
            block_size=quantizer.block_size,
        )
    return OutputGrid(scale=None, offset=None, format=quantizer.format)


def _scheme(module: SpecifiedQuantizedModule) -> Scheme | None:
    """The scheme that the formats of the module's inputs and first parameter share, ``None`` if they do not."""
    required = [*module.input_quantizers]
    required += [
        module.param_quantizers[name] for name in module._spec.parameters[:1] if name in module.param_quantizers
    ]
    schemes = {_SCHEMES.get(type(quantizer.format)) for quantizer in required if isinstance(quantizer, QuantizerBase)}
    return schemes.pop() if len(schemes) == 1 else None
