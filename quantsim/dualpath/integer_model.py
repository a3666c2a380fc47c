"""A model whose activations are integers from its first quantizer to its last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from quantsim.dualpath.capture import CapturedModel
from quantsim.dualpath.coverage import IntegerCoverage
from quantsim.dualpath.executors import GraphExecutor, create_executor
from quantsim.dualpath.host_steps import HostStep
from quantsim.dualpath.integer_codes import dequantize
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError
from quantsim.sim.example_inputs import ModelInputs

__all__ = ["IntegerModel", "Round"]


@dataclass(frozen=True)
class Round:
    """Host and integers take turns; most models need one round.

    Attributes:
        host: What torch computes first.
        graph: The integer nodes that can run then.
    """

    host: HostStep
    graph: IntegerGraph


@dataclass
class IntegerModel:
    """What `to_integer` makes: an integer graph, and what the host computes around it.

    Attributes:
        graph: All integer nodes. Its inputs are codes of the model's inputs, ids and masks; with operations that stay
            float also codes of their results.
        coverage: What of the model is in the graph.
        rounds: The graph in parts, with what the host computes before each.
        results: What the host computes last: results that are not codes.
        outputs: For each result of the model the name of a value, or its number among ``results``, or a constant.
        example: The flattened example inputs.
        structure: How arguments and results are flattened.
        traced: The model that it was made from, for comparisons.
        origins: Which value holds the codes of which quantizer's node in it.
    """

    graph: IntegerGraph
    coverage: IntegerCoverage
    rounds: tuple[Round, ...]
    results: HostStep | None
    outputs: tuple[tuple[str, Any], ...]
    example: tuple[Any, ...]
    structure: tuple[pytree.TreeSpec, pytree.TreeSpec]
    traced: CapturedModel | None = field(default=None, repr=False)
    origins: Mapping[fx.Node, str] = field(default_factory=dict, repr=False)
    _executors: dict[tuple[str, int], GraphExecutor] = field(default_factory=dict, repr=False)

    def __call__(self, *args: Any, executor: str = "torch", **kwargs: Any) -> Any:
        """Runs the model on integers; arguments and results are the float model's, results on their grids.

        Results that are integers come as float32, whatever the model's type.

        Args:
            *args: The model's arguments.
            executor: Which executor runs the integer nodes.
            **kwargs: The model's keyword arguments.

        Raises:
            ConfigurationError: Other arguments than those of the example inputs.
        """
        leaves = self._flat(args, kwargs)
        values = self._run(leaves, executor)
        results: Sequence[Tensor] = ()
        if self.results is not None:
            results = self._host(self.results, leaves, values)
        found = []
        for kind, what in self.outputs:
            if kind == "value":
                grid = self.graph.values[what].grid
                assert grid is not None
                found.append(dequantize(_tensor(values[what]), grid))
            else:
                found.append(results[what] if kind == "result" else what)
        return pytree.tree_unflatten(found, self.structure[1])

    def run_integers(self, inputs: object, executor: str = "numpy") -> dict[str, np.ndarray]:
        """Every value of the graph by name, as NumPy arrays of its type.

        Args:
            inputs: The model's inputs, as `to_integer` takes examples.
            executor: Which executor runs the integer nodes.
        """
        values = self._run(self.flat_inputs(inputs), executor)
        return {name: _tensor(value).cpu().numpy() for name, value in values.items()}

    def flat_inputs(self, inputs: object) -> list[Any]:
        """The model's inputs, flattened.

        Raises:
            ConfigurationError: Other arguments than those of the example inputs.
        """
        given = ModelInputs.of(inputs)
        return self._flat(given.args, dict(given.kwargs or {}))

    def integer_inputs(self, inputs: object) -> dict[str, np.ndarray]:
        """The inputs of the graph for inputs of the model: codes, ids, masks, as NumPy arrays of their types."""
        values = self.run_integers(inputs)
        return {name: values[name] for name in self.graph.inputs}

    def executor(self, name: str, part: int = 0) -> GraphExecutor:
        """The executor of one round's integer nodes, made once."""
        key = (name, part)
        if key not in self._executors:
            self._executors[key] = create_executor(self.rounds[part].graph, name)
        return self._executors[key]

    def _run(self, leaves: Sequence[Any], executor: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for number, part in enumerate(self.rounds):
            made = self._host(part.host, leaves, values)
            values.update(zip(part.host.makes, made, strict=True))
            if part.graph.nodes:
                operands = {name: values[name] for name in part.graph.inputs}
                values.update(self.executor(executor, number).all_values(operands))
        return values

    def _host(self, step: HostStep, leaves: Sequence[Any], values: Mapping[str, Any]) -> Sequence[Tensor]:
        reads = []
        for name in step.reads:
            grid = self.graph.values[name].grid
            assert grid is not None
            reads.append(dequantize(_tensor(values[name]), grid))
        with torch.no_grad():
            return step.module(*leaves, *reads)

    def _flat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        known = pytree.tree_unflatten(self.example, self.structure[0])[1]
        if set(kwargs) != set(known):
            raise ConfigurationError(
                "the model was traced with other keyword arguments",
                where=type(self).__name__,
                got=", ".join(sorted(kwargs)) or "none",
                expected=", ".join(sorted(known)) or "none",
                fix="call it as the example inputs did, or convert it again with other ones",
            )
        leaves = pytree.tree_leaves((args, {name: kwargs[name] for name in known}))
        if len(leaves) != len(self.example):
            raise ConfigurationError(
                "the model was traced with other arguments",
                where=type(self).__name__,
                got=f"{len(leaves)} arguments",
                expected=f"{len(self.example)}",
                fix="call it as the example inputs did, or convert it again with other ones",
            )
        for number, (given, example) in enumerate(zip(leaves, self.example, strict=True)):
            _require_like_example(given, example, f"{type(self).__name__}, argument {number}")
        return leaves


def _require_like_example(given: Any, example: Any, where: str) -> None:
    """Refuses an argument that would give other numbers than the model: its value or its lengths were traced."""
    if isinstance(given, Tensor) and isinstance(example, Tensor):
        kinds = [(each.is_floating_point(), each.dtype is torch.bool) for each in (given, example)]
        if kinds[0] == kinds[1] and given.dim() == example.dim() and given.shape[1:] == example.shape[1:]:
            return
    elif type(given) is type(example) and given == example:
        return
    raise ConfigurationError(
        "the model was traced with another argument",
        where=where,
        got=_shown(given),
        expected=_shown(example) + (", the first length may differ" if isinstance(example, Tensor) else ""),
        fix="call it as the example inputs did, or convert it again with other ones",
    )


def _shown(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
