"""How every executor takes inputs, walks an integer graph and hands back values; backends add only their functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from quantsim.dualpath.integer_graph import BatchMultiple, IntegerGraph, IntegerNode, IntegerOp, Value
from quantsim.errors import ConfigurationError, QuantsimError, ShapeError

__all__ = [
    "Array",
    "FunctionExecutor",
    "GraphExecutor",
    "Inputs",
    "as_numpy",
    "checked_cast",
    "checked_tensor_cast",
    "with_lengths",
]

Array = np.ndarray | Tensor
"""A tensor of integers, of NumPy or of torch."""

Inputs = Mapping[str, Array] | Sequence[Array]
"""Inputs of a graph by name, or in the order of ``graph.inputs``."""

_WIDE_UNSIGNED: Final = (torch.uint16, torch.uint32, torch.uint64)
"""Types that torch stores, and computes next to nothing on."""

_PLAIN_ERRORS: Final = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


def as_numpy(array: Array) -> np.ndarray:
    """An array of NumPy with the same integers and the same type.

    Example:
        >>> as_numpy(torch.tensor([1, 2], dtype=torch.int8)).dtype
        dtype('int8')
    """
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)


def with_lengths(attribute: Any, batch: int) -> Any:
    """An attribute of a node with every `BatchMultiple` replaced by the length that it stands for.

    Args:
        attribute: A plain number, a length, or a sequence of them.
        batch: Size of the batch.

    Example:
        >>> with_lengths((BatchMultiple(2), 5), batch=3)
        (6, 5)
    """
    if isinstance(attribute, BatchMultiple):
        return attribute.factor * batch
    if isinstance(attribute, list | tuple):
        return tuple(with_lengths(item, batch) for item in attribute)
    return attribute


class GraphExecutor(ABC):
    """Runs one integer graph.

    Args:
        graph: What to run.

    Raises:
        ConfigurationError: A node reads a value that no node before it makes, or has the name of another.
    """

    name: str
    """How the executor is called in `quantsim.dualpath.executors.create_executor`."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        _check_order(graph)

    def __call__(self, inputs: Inputs) -> dict[str, Any]:
        """The graph's outputs by name.

        Args:
            inputs: Integer arrays, of NumPy or torch, by name or in the order of ``graph.inputs``. Any integer type
                will do whose numbers lie in the input's grid. The batch may be of another size than the example's.

        Raises:
            ConfigurationError: An input is missing or unknown, is not an integer, or leaves its grid.
            ShapeError: An input has another shape than the graph says.
        """
        return self._checked_run(inputs, tuple(self.graph.outputs))

    def all_values(self, inputs: Inputs) -> dict[str, Any]:
        """Every value of the graph by name: the inputs, then the output of each node in order.

        Args:
            inputs: As in a call.
        """
        return self._checked_run(inputs, (*self.graph.inputs, *(node.output for node in self.graph.nodes)))

    @abstractmethod
    def _run(self, inputs: Mapping[str, Array], batch: int, wanted: tuple[str, ...]) -> dict[str, Any]:
        """The wanted values; inputs are complete, of the values' types and right in shape."""

    def _checked_run(self, inputs: Inputs, wanted: tuple[str, ...]) -> dict[str, Any]:
        named = _named(self.graph, inputs)
        batch = _batch_size(self.graph, named)
        checked = {
            name: _checked_input(self.graph.values[name], array, batch, self.name) for name, array in named.items()
        }
        return self._run(checked, batch, wanted)


class FunctionExecutor(GraphExecutor):
    """Computes node after node with one function for each op.

    Subclasses say which functions, and how arrays come in and are stored.
    """

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__(graph)
        self._functions: dict[IntegerOp, Callable[..., Any]] = {
            op: self._function(op) for op in dict.fromkeys(node.op for node in graph.nodes)
        }
        self._constants: dict[str, dict[str, Any]] = {
            node.name: {key: self._constant(array) for key, array in node.constants.items()} for node in graph.nodes
        }
        self._last_reader = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}

    @abstractmethod
    def _function(self, op: IntegerOp) -> Callable[..., Any]:
        """What computes ``op``: takes operands in order, then constants and attributes by name."""

    @abstractmethod
    def _constant(self, array: np.ndarray) -> Any:
        """A constant as the functions take it."""

    @abstractmethod
    def _operand(self, array: Any, op: IntegerOp) -> Any:
        """A stored value as the function of ``op`` takes it."""

    @abstractmethod
    def _stored(self, array: Any, value: Value) -> Any:
        """A graph input or a function's result in the type of ``value``; raises where its integers do not fit."""

    def _run(self, inputs: Mapping[str, Array], batch: int, wanted: tuple[str, ...]) -> dict[str, Any]:
        values = {name: self._stored(array, self.graph.values[name]) for name, array in inputs.items()}
        kept = frozenset(wanted)
        for index, node in enumerate(self.graph.nodes):
            values[node.output] = self._computed(node, values, batch)
            for name in dict.fromkeys(node.inputs):
                if self._last_reader[name] == index and name not in kept:
                    del values[name]
        return {name: values[name] for name in wanted}

    def _computed(self, node: IntegerNode, values: Mapping[str, Any], batch: int) -> Any:
        value = self.graph.values[node.output]
        attributes = {key: with_lengths(attribute, batch) for key, attribute in node.attributes.items()}
        operands = (self._operand(values[name], node.op) for name in node.inputs)
        try:
            result = self._functions[node.op](*operands, **self._constants[node.name], **attributes)
            expected = with_lengths(value.shape, batch)
            if tuple(result.shape) != expected:
                raise ShapeError(got=f"a result of shape {tuple(result.shape)}", expected=str(expected))
            return self._stored(result, value)
        except QuantsimError as error:
            raise error.with_location(_place(node)) from error.__cause__
        except _PLAIN_ERRORS as error:
            raise QuantsimError(str(error), where=_place(node)) from error


def _place(node: IntegerNode) -> str:
    return f"node '{node.name}' ({node.op})"


def _check_order(graph: IntegerGraph) -> None:
    known, names = set(graph.inputs), set[str]()
    for node in graph.nodes:
        for name in node.inputs:
            if name not in known:
                raise ConfigurationError(
                    f"the value '{name}' is read before it is made",
                    where=_place(node),
                    expected="nodes in the order of computation",
                )
        if node.output in known:
            raise ConfigurationError(f"the value '{node.output}' is made twice", where=_place(node))
        if node.name in names:
            raise ConfigurationError("two nodes have one name", where=_place(node), expected="a name of its own")
        names.add(node.name)
        known.add(node.output)
    for name in (*known, *graph.outputs):
        if name not in graph.values or name not in known:
            raise ConfigurationError(
                f"the value '{name}' is {'not described' if name in known else 'never made'}",
                where="IntegerGraph",
                fix="give each input and each node's output an entry in graph.values",
            )


def _named(graph: IntegerGraph, inputs: Inputs) -> dict[str, Array]:
    if isinstance(inputs, Mapping):
        named = {str(name): array for name, array in inputs.items()}
    elif isinstance(inputs, list | tuple):
        named = dict(zip(graph.inputs, inputs, strict=False)) if len(inputs) == len(graph.inputs) else {}
    else:
        raise ConfigurationError(
            where="inputs", got=type(inputs).__name__, expected="a mapping by name, or a list in the graph's order"
        )
    if set(named) != set(graph.inputs):
        got = ", ".join(named) if isinstance(inputs, Mapping) else f"{len(inputs)} arrays"
        raise ConfigurationError(where="inputs", got=got or "none", expected=", ".join(graph.inputs) or "none")
    for name, array in named.items():
        if not isinstance(array, np.ndarray | np.generic | Tensor):
            raise ConfigurationError(
                where=f"input '{name}'",
                got=type(array).__name__,
                expected="integers in an array of NumPy or a tensor of torch",
                fix="convert it, as with numpy.asarray",
            )
    return {name: named[name] for name in graph.inputs}


def _batch_size(graph: IntegerGraph, inputs: Mapping[str, Array]) -> int:
    """The batch that the inputs have; a shape that contradicts it is found later, by `_checked_input`."""
    for name, array in inputs.items():
        for length, dimension in zip(array.shape, graph.values[name].shape, strict=False):
            if isinstance(dimension, BatchMultiple):
                return int(length) // dimension.factor
    return graph.batch


def _checked_input(value: Value, array: Array, batch: int, executor: str) -> Array:
    where = f"input '{value.name}' of the {executor} executor"
    expected: tuple[int, ...] = with_lengths(value.shape, batch)
    if tuple(array.shape) != expected:
        raise ShapeError(where=where, got=f"shape {tuple(array.shape)}", expected=str(expected))
    kind = str(array.dtype).removeprefix("torch.")
    if value.dtype == "bool" or kind == "bool":
        if value.dtype != kind:
            raise ConfigurationError(where=where, got=f"type {kind}", expected=value.dtype)
        return array
    if not kind.startswith(("int", "uint")):
        raise ConfigurationError(
            where=where,
            got=f"type {kind}",
            expected=f"integers ({value.dtype})",
            fix="quantize to the input's grid first",
        )
    low, high = _limits(value)
    own = np.iinfo(kind)
    if (own.min < low or own.max > high) and 0 not in expected:
        if array.dtype in _WIDE_UNSIGNED:
            array = as_numpy(array)
        smallest, largest = int(array.min()), int(array.max())
        if smallest < low or largest > high:
            raise ConfigurationError(
                where=where,
                got=f"integers from {smallest} to {largest}",
                expected=f"{low} to {high}",
                fix="clamp to the input's grid when quantizing",
            )
    return array


def _limits(value: Value) -> tuple[int, int]:
    limits = np.iinfo(value.dtype)
    if value.grid is None:
        return int(limits.min), int(limits.max)
    return max(int(limits.min), value.grid.low), min(int(limits.max), value.grid.high)


def checked_cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """The integers of ``array`` in a type that must hold them all.

    Args:
        array: Integers or booleans.
        dtype: NumPy's name of the type.

    Raises:
        OverflowError: An integer does not fit.

    Example:
        >>> checked_cast(np.array([3, -4]), "int8").dtype
        dtype('int8')
    """
    if array.dtype == dtype:
        return array
    if array.size:
        low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        smallest, largest = int(array.min()), int(array.max())
        if smallest < low or largest > high:
            raise OverflowError(f"integers from {smallest} to {largest} do not fit {dtype}")
    return array.astype(dtype)


def checked_tensor_cast(array: Tensor, dtype: torch.dtype) -> Tensor:
    """`checked_cast` for tensors of torch.

    Example:
        >>> checked_tensor_cast(torch.tensor([3, -4]), torch.int8).dtype
        torch.int8
    """
    if array.dtype == dtype:
        return array
    if array.dtype in _WIDE_UNSIGNED:
        array = array.to(torch.int64)
    if array.numel():
        low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        smallest, largest = (int(limit) for limit in torch.aminmax(array))
        if smallest < low or largest > high:
            raise OverflowError(f"integers from {smallest} to {largest} do not fit {dtype}")
    return array.to(dtype)
