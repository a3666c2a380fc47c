"""Chooses what computes a quantized module: a kernel of instance, class or registry, or fake-quantization."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantsim.nn.containers import quantizers_of
from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.base import QuantizerBase
from quantsim_encodings.formats import (
    FixedPointFormat,
    FloatFormat,
    Format,
    IntFormat,
    MXFormat,
    NVFP4Format,
    OpticalFormat,
)
from quantsim_kernels.affine import affine_quantize
from quantsim_kernels.registry import Decision, Scheme, registry

if TYPE_CHECKING:
    from quantsim.nn.kernel_quant import SpecifiedQuantizedModule

__all__ = ["DispatchReport", "DispatchSource", "OutputGrid", "choose", "explain", "is_registered", "run"]

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


def is_registered(op: str) -> bool:
    """Whether the registry has any kernel for ``op``; cheap enough to ask in each forward."""
    has_kernels = registry.has_kernels
    for scheme in _ALL_SCHEMES:  # noqa: SIM110 (a generator would double the time, and this runs in each forward)
        if has_kernels(op, scheme):
            return True
    return False


_ALL_SCHEMES = tuple(Scheme)


def run(module: SpecifiedQuantizedModule, choice: Choice) -> Any:
    """Calls the chosen kernel."""
    assert choice.kernel is not None
    return choice.kernel(*choice.operands, **choice.arguments)


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
    with torch.no_grad():
        return choose(module, args, kwargs).report


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

    if named is None and not is_registered(spec.op):
        return fake_quantization(f"there is no kernel for op {spec.op!r}")
    module._calibrate_parameters(overwrite=False)
    obstacle = _obstacle(module, args, kwargs, named)
    if obstacle is not None:
        return fake_quantization(obstacle)
    arguments: dict[str, Any] = {"output_encodings": output_grids(module)}
    arguments.update({name: getattr(module, name) for name in spec.attributes})
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
    candidates = () if scheme is None else registry.candidates(op, scheme)
    if not candidates:
        return fake_quantization(f"there is no kernel for op {op!r} on {scheme} operands")
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
        if module._parameters.get(name) is not None:
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


def _operands(module: SpecifiedQuantizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Inputs, then parameters, as kernels take them."""
    spec = module._spec
    quantizers = list(module.input_quantizers)
    operands: list[Any] = []
    for slot, value in enumerate(_inputs_by_slot(module, args, kwargs)):
        quantizer = quantizers[slot] if slot < len(quantizers) else None
        if spec.variadic_inputs and len(quantizers) == 1:
            quantizer = quantizers[0]
        operands.append(to_operand(quantizer, value))
    for name in spec.parameters:
        quantizer = quantizers_of(module, "param_quantizers").get(name)
        operands.append(to_operand(quantizer, module._parameters.get(name)))
    return tuple(operands)


def to_operand(quantizer: Any, value: Any) -> Any:
    """Quantizes a tensor for a kernel: integer codes for affine quantizers, numbers on the grid for all others.

    Values without a quantizer, and what is no floating-point tensor, stay as they are.
    """
    from quantsim_kernels.operands import QuantizedOperand

    if not isinstance(quantizer, QuantizerBase) or not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if isinstance(quantizer, AffineQuantizerBase):
        scale, offset = quantizer.get_scale(), quantizer.get_offset()
        assert scale is not None
        codes = affine_quantize(value, scale, offset, quantizer.qmin, quantizer.qmax, quantizer.block_size)
        return QuantizedOperand(
            values=codes, scale=scale, offset=offset, format=quantizer.format, block_size=quantizer.block_size
        )
    return QuantizedOperand(values=quantizer(value), scale=None, offset=None, format=quantizer.format, block_size=None)


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
