"""A table of every quantizer of a simulation: rows for programs, a rich table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from torch import Tensor, nn

from quantsim.nn import BaseQuantizationMixin
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.coverage import Coverage
from quantsim.sim.slots import slot_name
from quantsim_encodings.document import TensorReference, TensorRole
from quantsim_encodings.formats import FloatFormat, IntFormat, MXFormat, MXScaleRule, NVFP4Format, RoundingMode
from quantsim_encodings.granularity import PerBlock, PerBlocks, PerChannel, PerTensor, PerToken

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["QuantizerState", "SimulationSummary", "StorageSize", "SummaryRow", "iterate_quantizers", "summarize"]

_SCALE_BITS = 32


class QuantizerState(StrEnum):
    """Whether a quantizer is ready."""

    CALIBRATED = "calibrated"
    UNCALIBRATED = "not calibrated"
    DYNAMIC = "run time"
    FIXED = "no scale"
    """A plain cast: there is nothing to calibrate."""
    LAZY = "at first use"
    """A weight's quantizer: calibrates itself from the weight when the module is first called."""


@dataclass(frozen=True)
class SummaryRow:
    """One quantizer.

    Attributes:
        tensor: Which tensor it quantizes.
        module_type: Class of the module.
        format: Such as ``int8``, ``uint8``, ``e4m3fn``, ``mxfp4``; a rounding mode other than to nearest even follows.
        granularity: Such as ``tensor``, ``channel``, ``block of 32``, ``token``.
        state: Whether it is ready.
        frozen: Whether neither calibration nor training may change it.
        minimum: Smallest value of the grid over all channels; None while there is no range.
        maximum: Largest value of the grid; None while there is no range.
        bits: Stored size of the tensor, scales and offsets included, if it is a parameter; else 0.
    """

    tensor: TensorReference
    module_type: str
    format: str
    granularity: str
    state: QuantizerState
    frozen: bool
    minimum: float | None
    maximum: float | None
    bits: int

    @property
    def place(self) -> str:
        """The quantizer's place in the model, such as ``fc.param_quantizers['weight']``."""
        return slot_name(self.tensor)


@dataclass(frozen=True)
class StorageSize:
    """What the parameters of a model take, in bytes; a parameter that several modules share counts once.

    Attributes:
        float_bytes: In the types they have now.
        quantized_bytes: Quantized ones in their format, with scales (32 bit) and zero points; the others as they are.
    """

    float_bytes: int
    quantized_bytes: int


@dataclass(frozen=True)
class SimulationSummary:
    """What :meth:`QuantizationSimModel.summary` returns; ``print`` shows the table.

    Attributes:
        name: Name of the config.
        rows: One for each quantizer.
        coverage: What is quantized and what is not.
        storage: Size of the parameters.
    """

    name: str
    rows: tuple[SummaryRow, ...]
    coverage: Coverage
    storage: StorageSize

    @property
    def uncalibrated(self) -> tuple[SummaryRow, ...]:
        """Quantizers that have no range yet."""
        return tuple(row for row in self.rows if row.state is QuantizerState.UNCALIBRATED)

    def table(self) -> RenderableType:
        """The table as a rich renderable, one line for each module."""
        from rich.table import Table

        table = Table(title=f"Simulation {self.name}", title_justify="left")
        for heading in ("module", "type", "inputs", "parameters", "outputs", "state"):
            table.add_column(heading, overflow="fold")
        by_module: dict[str, list[SummaryRow]] = {}
        for row in self.rows:
            by_module.setdefault(row.tensor.module, []).append(row)
        for path, rows in by_module.items():
            cells = [
                ", ".join(
                    f"{row.tensor.key + ': ' if role is TensorRole.PARAM else ''}{row.format}/{row.granularity}"
                    for row in rows
                    if row.tensor.role is role
                )
                for role in (TensorRole.INPUT, TensorRole.PARAM, TensorRole.OUTPUT)
            ]
            states = sorted({row.state.value + (", frozen" if row.frozen else "") for row in rows})
            table.add_row(path or "(model)", rows[0].module_type, *cells, "; ".join(states))
        return table

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        # Plain text wherever it goes: a terminal or notebook (which rich looks for) would get control codes or HTML.
        text = StringIO()
        console = Console(
            file=text, width=140, color_system=None, force_terminal=False, force_jupyter=False, highlight=False
        )
        console.print(self.table())
        storage = (
            f"parameters: {_size_label(self.storage.quantized_bytes)} quantized, "
            f"{_size_label(self.storage.float_bytes)} in floating point"
        )
        return f"{text.getvalue()}{storage}\n{self.coverage}"


def _size_label(size: int) -> str:
    """A number of bytes in the unit that leaves one to three digits before the point."""
    if size < 1024:
        return f"{size} B"
    amount = float(size)
    for unit in ("KiB", "MiB"):
        amount /= 1024
        if amount < 999.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} GiB"


def iterate_quantizers(modules: Mapping[str, BaseQuantizationMixin]) -> Iterable[tuple[TensorReference, QuantizerBase]]:
    """All quantizers with the tensors they quantize, in the order of the model.

    Args:
        modules: Quantized modules by path.
    """
    for path, module in modules.items():
        for role, container in (
            (TensorRole.INPUT, module.input_quantizers),
            (TensorRole.PARAM, module.param_quantizers),
            (TensorRole.OUTPUT, module.output_quantizers),
        ):
            for key, quantizer in container._modules.items():
                if isinstance(quantizer, QuantizerBase):
                    yield TensorReference(path, role, key), quantizer


def summarize(
    name: str, model: nn.Module, modules: Mapping[str, BaseQuantizationMixin], coverage: Coverage
) -> SimulationSummary:
    """Collects the summary.

    Args:
        name: Name of the config.
        model: The simulated model.
        modules: Its quantized modules by path.
        coverage: What is quantized and what is not.
    """
    rows = []
    for tensor, quantizer in iterate_quantizers(modules):
        module = modules[tensor.module]
        values = module._own_parameter(tensor.key) if tensor.role is TensorRole.PARAM else None
        minimum, maximum = _range(quantizer)
        rows.append(
            SummaryRow(
                tensor,
                type(module).__name__,
                _format_label(quantizer),
                _granularity_label(quantizer),
                _state(quantizer, tensor.role),
                quantizer.is_frozen,
                minimum,
                maximum,
                0 if values is None else _stored_bits(values, quantizer),
            )
        )
    return SimulationSummary(name, tuple(rows), coverage, _storage(model, rows, modules))


def _storage(model: nn.Module, rows: Iterable[SummaryRow], modules: Mapping[str, BaseQuantizationMixin]) -> StorageSize:
    ranges = {
        id(values) for module in model.modules() if isinstance(module, QuantizerBase) for values in module.parameters()
    }
    bits = {
        id(values): values.numel() * values.element_size() * 8
        for values in model.parameters()
        if id(values) not in ranges
    }
    float_bytes = sum(bits.values()) // 8
    sizes = {id(values): values.numel() for values in model.parameters()}
    parts: dict[int, dict[int, tuple[int, int]]] = {}
    for row in rows:
        if row.tensor.role is TensorRole.PARAM:
            values = modules[row.tensor.module]._own_parameter(row.tensor.key)
            if values is not None:
                base = values if values._base is None else values._base  # rows of a packed weight, in attention
                parts.setdefault(id(base), {})[values.data_ptr()] = (values.numel(), row.bits)
    for identity, quantized in parts.items():
        covered = sum(count for count, _ in quantized.values())
        rest = bits[identity] * (sizes[identity] - covered) // sizes[identity]
        bits[identity] = rest + sum(stored for _, stored in quantized.values())
    return StorageSize(float_bytes, -(-sum(bits.values()) // 8))


def _stored_bits(values: Tensor, quantizer: QuantizerBase) -> int:
    match quantizer.format:
        case MXFormat(element=element) | NVFP4Format(element=element) as grid:
            tensor_bits = _SCALE_BITS if isinstance(grid, NVFP4Format) and grid.two_level else 0
            return values.numel() * element.bits + _blocks(values, quantizer) * grid.scale_format.bits + tensor_bits
        case _:
            pass
    if not getattr(quantizer, "is_scaled", True):
        return values.numel() * quantizer.bitwidth
    if not quantizer.needs_calibration:
        return values.numel() * quantizer.bitwidth + _blocks(values, quantizer) * _SCALE_BITS
    scales = next((parameter.numel() for parameter in quantizer.parameters()), 1)
    offset_bits = 0 if getattr(quantizer, "symmetric", True) else quantizer.bitwidth
    return values.numel() * quantizer.bitwidth + scales * (_SCALE_BITS + offset_bits)


def _blocks(values: Tensor, quantizer: QuantizerBase) -> int:
    """How many scales a tensor has that computes them at run time."""
    match quantizer.granularity:
        case PerBlock(axis=axis, block_size=size):
            length = values.shape[axis]
            return values.numel() // max(length, 1) * (1 if size == -1 else -(-length // size))
        case PerToken():
            return values.numel() // max(values.shape[-1], 1)
        case _:
            return 1


def _state(quantizer: QuantizerBase, role: TensorRole) -> QuantizerState:
    if not getattr(quantizer, "is_scaled", True):
        return QuantizerState.FIXED
    if not quantizer.needs_calibration:
        return QuantizerState.DYNAMIC
    if quantizer.is_initialized():
        return QuantizerState.CALIBRATED
    return QuantizerState.LAZY if role is TensorRole.PARAM else QuantizerState.UNCALIBRATED


def _format_label(quantizer: QuantizerBase) -> str:
    rounding = getattr(quantizer, "rounding", RoundingMode.NEAREST_EVEN)
    label = _grid_label(quantizer)
    return label if rounding is RoundingMode.NEAREST_EVEN else f"{label} {rounding.value}"


def _grid_label(quantizer: QuantizerBase) -> str:
    match quantizer.format:
        case IntFormat() as grid:
            plain = f"{'int' if grid.signed else 'uint'}{grid.bits}"
            return (
                plain
                if grid == IntFormat.from_bits(grid.bits, signed=grid.signed)
                else f"{plain}[{grid.qmin}, {grid.qmax}]"
            )
        case FloatFormat() as grid:
            return grid.label
        case MXFormat() as grid:
            element = grid.element
            name = grid.name or f"mx {element.label if isinstance(element, FloatFormat) else f'int{element.bits}'}"
            return name if grid.scale_rule is MXScaleRule.FLOOR else f"{name} ({grid.scale_rule.value})"
        case NVFP4Format(two_level=two_level):
            return "nvfp4" if two_level else "nvfp4_one_level"
        case other:
            return type(other).__name__


def _granularity_label(quantizer: QuantizerBase) -> str:
    match quantizer.granularity:
        case PerTensor():
            return "tensor"
        case PerChannel():
            return "channel"
        case PerToken():
            return "token"
        case PerBlock(block_size=size):
            return f"block of {size}"
        case PerBlocks(block_size=sizes):
            return f"blocks of {'×'.join('all' if size == -1 else str(size) for size in sizes)}"
        case other:
            return type(other).__name__


def _range(quantizer: QuantizerBase) -> tuple[float | None, float | None]:
    if not quantizer.needs_calibration or not quantizer.is_initialized():
        return None, None
    minimum, maximum = getattr(quantizer, "get_min", None), getattr(quantizer, "get_max", None)
    if minimum is None or maximum is None:
        return None, None
    low, high = minimum(), maximum()
    if low is None or high is None:
        return None, None
    return float(low.detach().min()), float(high.detach().max())
