"""What of a model is computed by integers, and what stays float and why."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import torch
from torch import fx

from quantsim.dualpath.capture import QUANTIZER, module_path
from quantsim.dualpath.lowered_values import Codes
from quantsim.dualpath.lowering import Lowering, arguments_of, operation_name
from quantsim.dualpath.lowering_moves import RULES as MOVING_RULES

__all__ = ["IntegerCoverage", "OperationCoverage", "find_coverage"]

_aten = torch.ops.aten
_CONVOLUTIONS: Final = frozenset(
    getattr(getattr(_aten, f"conv{rank}d"), overload) for rank in (1, 2, 3) for overload in ("default", "padding")
)
_TRANSPOSED: Final = frozenset(
    {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}
)
_SUMMED: Final = {
    _aten.linear.default: "input",
    _aten.matmul.default: "self",
    _aten.bmm.default: "self",
    _aten.mm.default: "self",
    _aten.addmm.default: "mat1",
    _aten.baddbmm.default: "batch1",
}
"""Products that sum over the last dimension of an operand."""


@dataclass(frozen=True)
class OperationCoverage:
    """One operation of the traced model.

    Attributes:
        module: Path of the module whose code it is.
        operation: Its name.
        is_integer: Whether integer nodes compute it.
        reason: Why it stays float; empty if it does not.
        multiplications: Multiply-accumulates on the example inputs.
    """

    module: str
    operation: str
    is_integer: bool
    reason: str
    multiplications: int


@dataclass(frozen=True)
class IntegerCoverage:
    """All operations on activations; those that only move numbers where integers would go through float for them.

    Attributes:
        operations: In the order of computation.
        requantizations: Reasons why quantizers themselves have no integer grid.
    """

    operations: tuple[OperationCoverage, ...]
    requantizations: tuple[tuple[str, str], ...] = ()

    @property
    def integer(self) -> int:
        """How many operations integer nodes compute."""
        return sum(operation.is_integer for operation in self.operations)

    @property
    def total(self) -> int:
        """How many operations there are."""
        return len(self.operations)

    @property
    def floating(self) -> tuple[OperationCoverage, ...]:
        """The operations that stay float."""
        return tuple(operation for operation in self.operations if not operation.is_integer)

    @property
    def is_complete(self) -> bool:
        """Whether nothing stays float."""
        return self.integer == self.total

    @property
    def multiplications(self) -> int:
        """Multiply-accumulates of all operations."""
        return sum(operation.multiplications for operation in self.operations)

    @property
    def integer_multiplications(self) -> int:
        """Multiply-accumulates of integer nodes."""
        return sum(operation.multiplications for operation in self.operations if operation.is_integer)

    def __str__(self) -> str:
        """The report as text.

        Example:
            >>> print(IntegerCoverage((OperationCoverage("fc", "linear", True, "", 8),)))
            integer coverage: 1 of 1 operations, 100.0 % of 8 multiply-accumulates
        """
        share = 100.0 * self.integer_multiplications / self.multiplications if self.multiplications else 100.0
        counts = f"{self.integer} of {self.total} operations"
        lines = [f"integer coverage: {counts}, {share:.1f} % of {self.multiplications} multiply-accumulates"]
        lines += [
            f"  float: {operation.operation} of '{operation.module}': {operation.reason}" for operation in self.floating
        ]
        lines += [f"  quantizer without integers: {place}: {reason}" for place, reason in self.requantizations]
        return "\n".join(lines)


def find_coverage(lowering: Lowering, on_host: Collection[fx.Node]) -> IntegerCoverage:
    """The report of a finished lowering.

    Args:
        lowering: The lowering.
        on_host: Nodes that torch computes.
    """
    operations: list[OperationCoverage] = []
    quantizers: list[tuple[str, str]] = []
    for node in lowering.captured.graph_module.graph.nodes:
        if node.op != "call_function" or node not in lowering.active:
            continue
        if node.target is QUANTIZER:
            if node in lowering.reasons:
                quantizers.append((lowering.captured.places[node.args[1]], lowering.reasons[node]))
            continue
        is_integer = node not in on_host
        is_move = node.target in MOVING_RULES and node.target is not _aten.embedding.default
        if is_move and (is_integer or not _reads_codes(lowering, node)):
            continue
        operations.append(
            OperationCoverage(
                module_path(node),
                operation_name(node),
                is_integer,
                "" if is_integer else lowering.reasons.get(node, "what reads it stays float"),
                _multiplications(lowering, node),
            )
        )
    return IntegerCoverage(tuple(operations), tuple(quantizers))


def _reads_codes(lowering: Lowering, node: fx.Node) -> bool:
    return any(isinstance(lowering.forms.get(argument), Codes) for argument in node.all_input_nodes)


def _multiplications(lowering: Lowering, node: fx.Node) -> int:
    target = node.target

    def lengths(name: str) -> tuple[int, ...]:
        return _lengths(lowering, arguments_of(node)[name])

    if target in _CONVOLUTIONS:
        return math.prod(_lengths(lowering, node)) * math.prod(lengths("weight")[1:])
    if target in _TRANSPOSED:
        return math.prod(lengths("input")) * math.prod(lengths("weight")[1:])
    if target in _SUMMED:
        return math.prod(_lengths(lowering, node)) * lengths(_SUMMED[target])[-1]  # pyright: ignore[reportArgumentType]
    return 0


def _lengths(lowering: Lowering, node: fx.Node) -> tuple[int, ...]:
    """Lengths of a node's tensor on the example inputs, whatever they depend on."""

    def length(size: int | torch.SymInt) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        batch = dict.fromkeys(expression.free_symbols, lowering.captured.batch)
        return int(expression.subs(batch))

    return tuple(map(length, node.meta["val"].shape))
