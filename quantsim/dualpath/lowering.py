"""Walks a traced model and turns it, node by node, into an integer graph.

Each node becomes one of the forms of `quantsim.dualpath.lowered_values`. The rules for operations are in the modules
``lowering_products``, ``lowering_elementwise``, ``lowering_norms``, ``lowering_attention`` and ``lowering_moves``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from quantsim.dualpath.capture import QUANTIZER, CapturedModel, module_path
from quantsim.dualpath.integer_graph import BatchMultiple, Dimension, Grid, IntegerNode, IntegerOp, Value
from quantsim.dualpath.lowered_values import (
    Accumulation,
    Codes,
    Constant,
    Host,
    Lowered,
    Mapped,
    Pending,
    Probabilities,
    StaysFloatError,
    is_on_grid,
    same_grid,
)
from quantsim.dualpath.quantizer_grids import codes_on_grid, grid_of
from quantsim.quantization.softmax import UnnormalizedSoftmaxQuantizeDequantize

__all__ = ["Emitter", "HostInput", "Lowering", "Rule", "arguments_of", "fixed", "operation_name"]

Rule = Callable[["Lowering", fx.Node], Lowered | Sequence[Lowered]]
"""Gives a node's form; raises `StaysFloatError` where it has none."""

Emitter = Callable[["Lowering", Any, Grid], Codes]
"""Makes the nodes that put pending arithmetic on a grid."""

_QUANTIZER_PATH = re.compile(r"(^|\.)(input|output|param)_quantizers(\.|$).*")
_CONSTANT_LIMIT = 2**15 - 1


@dataclass(frozen=True)
class HostInput:
    """What the host hands to the integer graph.

    Attributes:
        node: The node of the traced model that the host computes.
        grid: What it rounds it to, or None for ids and masks.
    """

    node: fx.Node
    grid: Grid | None


class Lowering:
    """The integer graph of one traced model, while it is being made.

    Args:
        captured: The traced model; nodes for masks are added to its graph.
        rules: By target of a node.
        emitters: By type of pending arithmetic.
        transparent: Targets through which a grid passes unchanged.
        making: Targets that may make activations of what is none.

    Attributes:
        forms: What each node of the traced model became.
        nodes: Of the integer graph, in order.
        values: Of the integer graph, by name.
        inputs: What the host hands to it, by the name of the value.
        reasons: Why nodes stay float.
        active: Nodes whose numbers depend on activations.
    """

    def __init__(
        self,
        captured: CapturedModel,
        rules: Mapping[Any, Rule],
        emitters: Mapping[type[Pending], Emitter],
        transparent: frozenset[Any],
        making: frozenset[Any],
    ) -> None:
        self.captured = captured
        self.forms: dict[fx.Node, Lowered | Sequence[Lowered]] = {}
        self.nodes: list[IntegerNode] = []
        self.values: dict[str, Value] = {}
        self.inputs: dict[str, HostInput] = {}
        self.reasons: dict[fx.Node, str] = {}
        self.active: set[fx.Node] = set()
        self.current: fx.Node | None = None
        self._rules, self._emitters = rules, emitters
        self._transparent, self._making = transparent, making
        self._made: dict[tuple[Any, ...], tuple[object, Codes]] = {}
        self._examples: dict[fx.Node, Any] = {}
        self._identities: dict[str, Mapped] = {}
        self._row_numbers: dict[int, fx.Node] = {}
        self._inserted: dict[Any, fx.Node] = {}

    def run(self) -> None:
        """Gives every node its form, and settles what leaves the model."""
        for node in list(self.captured.graph_module.graph.nodes):
            if node.op == "output":
                continue
            self.current = node
            if node.op == "placeholder" and node in self.captured.inputs:
                value = node.meta.get("val")
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.active.add(node)
            elif any(argument in self.active for argument in node.all_input_nodes) and not _is_length(node):
                self.active.add(node)
            self.forms[node] = self._form(node)
        for node in self.captured.outputs:
            if isinstance(node, fx.Node) and isinstance(self.forms.get(node), Pending):
                self.current = node
                try:
                    self.codes(node)
                except StaysFloatError as reason:
                    self.reasons.setdefault(node, str(reason))

    # ---------------------------------------------------------------- forms

    def form(self, node: fx.Node | Any) -> Lowered:
        """The form of an argument; a plain number is a constant."""
        if not isinstance(node, fx.Node):
            return Constant(node)
        form = self.forms[node]
        if isinstance(form, Sequence):
            raise StaysFloatError(f"{node.name} is several tensors")
        return form

    def codes(self, node: fx.Node) -> Codes:
        """The codes of an argument; pending arithmetic is put on the grid of the quantizer that reads it.

        Raises:
            StaysFloatError: It is on no grid.
        """
        form = self.form(node)
        if isinstance(form, Codes):
            return form
        if isinstance(form, Constant):
            return self.constant_codes(form)
        if isinstance(form, Host):
            raise StaysFloatError(f"its operand {_described(node)} is computed in floating point")
        made = self.settle(node, form)
        self.forms[node] = made
        return made

    def settle(self, node: fx.Node, form: Pending) -> Codes:
        """Codes for pending arithmetic that nothing else can take up.

        Raises:
            StaysFloatError: No quantizer says on which grid.
        """
        if isinstance(form, Probabilities) and form.grid is not None:
            return self.emit_pending(replace(form, grid=None), form.grid)
        if isinstance(form, Probabilities) and form.bits is not None:
            raise StaysFloatError("an unnormalised softmax can only be multiplied by values")
        grid = self._grid_after(node)
        if grid is not None:
            return self.emit_pending(form, grid)
        if isinstance(form, Accumulation):
            from quantsim.dualpath.lowering_products import emit_sums

            return emit_sums(self, form)
        raise StaysFloatError(f"no quantizer says on which grid the result of {_described(node)} is")

    def emit_pending(self, form: Pending, grid: Grid) -> Codes:
        """Codes of pending arithmetic on a grid; made once.

        Raises:
            StaysFloatError: It cannot be put on this grid.
        """
        if grid.axis is not None:
            raise StaysFloatError("the quantizer of its result has a scale for each channel")
        emitter = self._emitters.get(type(form))
        if emitter is None:
            raise StaysFloatError("a part of a norm or softmax is read by something else than its rest")
        key = (id(form), grid.scale, grid.zero_point, grid.low, grid.high)
        if key not in self._made:
            self._made[key] = (form, emitter(self, form, grid))
        return self._made[key][1]

    def constant_codes(self, constant: Constant) -> Codes:
        """A constant tensor as codes: rows of a table that are looked up with fixed ids.

        Without a grid of its own it gets 16 bits.
        """
        tensor = constant.value
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() == 0:
            raise StaysFloatError("one operand is a constant that is no tensor of real numbers")
        grid = constant.grid
        if grid is None or grid.axis is not None:
            peak = float(tensor.abs().max()) if tensor.numel() else 1.0
            grid = Grid(max(peak, 1e-30) / _CONSTANT_LIMIT, 0, -_CONSTANT_LIMIT, _CONSTANT_LIMIT)
        shape = tuple(tensor.shape)
        table = codes_on_grid(tensor, grid).reshape(-1, shape[-1])
        key = ("constant", shape, table.tobytes(), grid.scale, grid.zero_point)
        if key in self._made:
            return self._made[key][1]
        rows = self._rows(table.shape[0])
        ids = self.host_value(rows, None, "rows")
        looked_up = self.emit(
            IntegerOp.EMBEDDING, (ids.name,), table.shape, grid, {"table": table.astype(grid.dtype)}, {}
        )
        made = looked_up
        if shape != table.shape:
            made = self.emit(IntegerOp.RESHAPE, (looked_up.value.name,), shape, grid, {}, {"shape": shape})
        self._made[key] = (tensor, made)
        return made

    def _rows(self, count: int) -> fx.Node:
        if count not in self._row_numbers:
            self._row_numbers[count] = self.insert(torch.ops.aten.arange.default, (count,))
        return self._row_numbers[count]

    def _form(self, node: fx.Node) -> Lowered | Sequence[Lowered]:
        if node.op == "placeholder":
            tensor = self.captured.constants.get(node.name)
            return Host() if tensor is None else Constant(tensor)
        if node.op == "get_attr":
            return Constant(_attribute(self.captured.graph_module, str(node.target)))
        try:
            if node.target is QUANTIZER:
                return self._quantized(node)
            arguments = node.all_input_nodes
            if all(isinstance(self.forms[argument], Constant) for argument in arguments):
                return Host() if _is_random(node) else Constant(self._evaluated(node))
            rule = self._rules.get(node.target)
            if node not in self.active:
                form = Host()
                if rule is not None and node.target in self._making:
                    form = rule(self, node)
                    if not isinstance(form, Host):
                        self.active.add(node)
                return form
            if rule is None:
                raise StaysFloatError(f"{operation_name(node)} has no integer form")
            return rule(self, node)
        except StaysFloatError as reason:
            self.reasons[node] = str(reason)
            return Host()

    def _quantized(self, node: fx.Node) -> Lowered:
        source, key = node.args
        assert isinstance(source, fx.Node)
        quantizer = self.captured.quantizers[key]  # pyright: ignore[reportArgumentType]
        form = self.form(source)
        if isinstance(form, Constant):
            with torch.no_grad():
                values = quantizer.map_to_grid(form.value)
            try:
                return Constant(values, grid_of(quantizer, tuple(values.shape)))
            except StaysFloatError:
                return Constant(values)
        self.active.add(node)
        if isinstance(quantizer, UnnormalizedSoftmaxQuantizeDequantize):
            if isinstance(form, Probabilities) and form.grid is None:
                return replace(form, bits=quantizer.bitwidth)
            raise StaysFloatError("an unnormalised softmax quantizer does not follow a softmax over the last dimension")
        shape = node.meta["val"].shape
        grid = grid_of(quantizer, tuple(size if isinstance(size, int) else -1 for size in shape))
        if isinstance(form, Host):
            return Codes(self.host_value(source, grid, self.captured.places[key]))  # pyright: ignore[reportArgumentType]
        if isinstance(form, Codes):
            return form if is_on_grid(form.grid, grid) else self.emit_pending(self._same(form), grid)
        if isinstance(form, Probabilities):
            if form.bits is not None or form.grid is not None:
                raise StaysFloatError("two quantizers follow one softmax")
            return replace(form, grid=grid)
        return self.emit_pending(form, grid)

    def _same(self, codes: Codes) -> Mapped:
        """The identity; one object for each value, so that equal requantizations are one."""
        return self._identities.setdefault(codes.value.name, Mapped(codes, lambda x: x, 1.0))

    def _evaluated(self, node: fx.Node) -> Any:
        def value(argument: fx.Node) -> Any:
            form = self.forms[argument]
            assert isinstance(form, Constant)
            return form.value

        args, kwargs = map_arg((node.args, dict(node.kwargs)), value)
        assert callable(node.target)
        try:
            with torch.no_grad():
                return node.target(*args, **kwargs)
        except Exception as error:
            raise StaysFloatError(
                f"{operation_name(node)} of constants cannot be computed beforehand: {error}"
            ) from error

    def _grid_after(self, node: fx.Node) -> Grid | None:
        """The grid of the quantizer that everything goes to which reads a node; None if there is no such one."""
        found: list[Grid] = []
        for user in node.users:
            if user.target is QUANTIZER:
                quantizer = self.captured.quantizers[user.args[1]]  # pyright: ignore[reportArgumentType]
                try:
                    grid = grid_of(quantizer, ())
                except StaysFloatError:
                    return None
            elif user.target in self._transparent:
                grid = self._grid_after(user)
            else:
                return None
            if grid is None:
                return None
            found.append(grid)
        return found[0] if found and all(same_grid(found[0], grid) for grid in found[1:]) else None

    # ---------------------------------------------------------------- what rules use

    def shape(self, node: fx.Node) -> tuple[Dimension, ...]:
        """Shape of a node's tensor.

        Raises:
            StaysFloatError: A length depends on the inputs, and not as a multiple of the batch.
        """
        return tuple(self._dimension(size) for size in node.meta["val"].shape)

    def _dimension(self, size: Any) -> Dimension:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression.is_number:
            return int(expression)
        symbols = list(expression.free_symbols)
        if len(symbols) == 1 and str(symbols[0]) in self.captured.batch_symbols:
            factor = (expression / symbols[0]).simplify()
            if factor.is_Integer:
                return BatchMultiple(int(factor))
        raise StaysFloatError(f"a length of its result, {expression}, is no multiple of the batch")

    def lengths(self, shape: Sequence[Dimension]) -> tuple[int, ...]:
        """Lengths for the batch of the example inputs."""
        return tuple(size if isinstance(size, int) else size.factor * self.captured.batch for size in shape)

    def insert(self, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """A node for the host, before the one that is being lowered; one for equal arguments."""
        assert self.current is not None
        key = (target, str(args))
        if key in self._inserted:
            return self._inserted[key]
        graph = self.captured.graph_module.graph
        fakes = map_arg(args, lambda argument: argument.meta["val"])
        with graph.inserting_before(self.current):
            node = graph.call_function(target, args)
        node.meta["val"] = target(*fakes)
        self.forms[node] = Host()
        self._inserted[key] = node
        return node

    def host_value(self, node: fx.Node, grid: Grid | None, name: str) -> Value:
        """A value of the integer graph that the host computes; one for each node and grid."""
        for known, entry in self.inputs.items():
            if entry.node is node and (
                entry.grid is grid if entry.grid is None or grid is None else same_grid(entry.grid, grid)
            ):
                return self.values[known]
        tensor = node.meta["val"]
        if grid is not None:
            if grid.axis is not None:
                raise StaysFloatError("the quantizer of an input has a scale for each channel")
            dtype = grid.dtype
        else:
            dtype = "bool" if tensor.dtype is torch.bool else "int64"
        value = Value(self._unique(_QUANTIZER_PATH.sub("", name) or node.name), self.shape(node), dtype, grid)
        self.values[value.name] = value
        self.inputs[value.name] = HostInput(node, grid)
        return value

    def emit(
        self,
        op: IntegerOp,
        inputs: Sequence[str],
        shape: Sequence[Dimension],
        grid: Grid,
        constants: Mapping[str, np.ndarray] | None = None,
        attributes: Mapping[str, Any] | None = None,
        module: str | None = None,
    ) -> Codes:
        """Adds a node and its value."""
        assert self.current is not None
        path = _QUANTIZER_PATH.sub("", module_path(self.current)) if module is None else module
        name = self._unique(f"{path}.{op.value}" if path else op.value)
        value = Value(name, tuple(shape), grid.dtype, grid)
        self.values[name] = value
        self.nodes.append(
            IntegerNode(name, op, tuple(inputs), name, dict(constants or {}), dict(attributes or {}), path)
        )
        return Codes(value)

    def example(self, node: fx.Node) -> Any:
        """What the host computes for a node from the example inputs."""
        if node in self._examples:
            return self._examples[node]
        if node in self.captured.inputs:
            value = self.captured.example[self.captured.inputs.index(node)]
        elif isinstance(self.forms[node], Constant):
            value = self.forms[node].value  # pyright: ignore[reportAttributeAccessIssue]
        elif node in self.active:
            raise StaysFloatError("a mask depends on activations")
        elif node.op != "call_function" or _is_random(node):
            raise StaysFloatError("a mask is drawn at random, or made from something that is no tensor")
        else:
            args, kwargs = map_arg((node.args, dict(node.kwargs)), self.example)
            assert callable(node.target)
            value = node.target(*args, **kwargs)
        self._examples[node] = value
        return value

    def _unique(self, name: str) -> str:
        if name not in self.values:
            return name
        number = 2
        while f"{name}_{number}" in self.values:
            number += 1
        return f"{name}_{number}"


def operation_name(node: fx.Node) -> str:
    """Name of a node's operation, as people know it."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__.strip("_")
    return getattr(target, "__name__", str(target))


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Arguments of a node by name, with defaults."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    found: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        if index < len(node.args):
            found[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        else:
            found[argument.name] = argument.default_value if argument.has_default_value() else None
    return found


def fixed(*values: Any) -> tuple[Any, ...]:
    """Lengths and positions that are plain numbers (or None).

    Raises:
        StaysFloatError: One is computed from the size of the batch.
    """
    if any(isinstance(value, fx.Node) for value in values):
        raise StaysFloatError("a length or position in it grows with the batch")
    return values


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_length(node: fx.Node) -> bool:
    """Whether a node gives a length of a tensor, which depends on no numbers in it."""
    return isinstance(node.meta.get("val"), (int, torch.SymInt))


def _described(node: fx.Node) -> str:
    path = module_path(node)
    name = "a quantizer" if node.target is QUANTIZER else operation_name(node)
    return f"{name} of '{path}'" if path else name


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
