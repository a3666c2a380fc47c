"""What the host computes before, between and after the integer nodes: masks, ids, and operations that stay float."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantsim.dualpath.capture import QUANTIZER
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.lowered_values import Codes, Constant
from quantsim.dualpath.lowering import Lowering
from quantsim.dualpath.quantizer_grids import to_codes

__all__ = ["HostStep", "Levels", "build_host_step", "find_levels", "host_nodes"]


@dataclass(frozen=True)
class HostStep:
    """A part of the model that torch runs.

    Attributes:
        module: Takes the model's flattened inputs, then the real numbers of ``reads``; gives what ``makes`` names.
        reads: Values of the integer graph.
        makes: Names of inputs of the integer graph, or of results.
    """

    module: fx.GraphModule
    reads: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass(frozen=True)
class Levels:
    """In which round each value is known: rounds of the host and of integer nodes take turns.

    Attributes:
        values: By name of a value of the integer graph.
        count: Number of rounds.
    """

    values: Mapping[str, int]

    @property
    def count(self) -> int:
        """Number of rounds."""
        return max(self.values.values(), default=0) + 1


def find_levels(lowering: Lowering) -> Levels:
    """The round of each value: what depends on no integer value is known in round 0."""
    makers = {node.output: node for node in lowering.nodes}
    values = dict.fromkeys(lowering.values, 0)
    nodes = [node for node in lowering.captured.graph_module.graph.nodes if node.op != "output"]
    while True:
        host: dict[fx.Node, int] = {}
        for node in nodes:
            form = lowering.forms[node]
            if isinstance(form, Codes):
                host[node] = values[form.value.name] + 1
            elif isinstance(form, Constant):
                host[node] = 0
            else:
                host[node] = max((host[argument] for argument in node.all_input_nodes), default=0)
        found = dict(values)
        for name in found:
            if name in lowering.inputs:
                found[name] = host[lowering.inputs[name].node]
            else:
                found[name] = max((found[each] for each in makers[name].inputs), default=0)
        if found == values:
            return Levels(values)
        values = found


def host_nodes(lowering: Lowering, roots: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that the host computes for some results; codes and constants are known to it."""
    found: set[fx.Node] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node in found or node.op == "placeholder" or isinstance(lowering.forms[node], (Codes, Constant)):
            continue
        found.add(node)
        waiting += node.all_input_nodes
    return found


def build_host_step(lowering: Lowering, roots: Mapping[str, tuple[fx.Node, Grid | None]]) -> HostStep:
    """A module that computes some nodes of the traced model.

    Args:
        lowering: The finished lowering.
        roots: What to compute, by name; rounded to codes where a grid is given.
    """
    captured = lowering.captured
    wanted = host_nodes(lowering, [node for node, _ in roots.values()])
    attributes = nn.Module()
    graph = fx.Graph()
    made: dict[fx.Node, Any] = {node: graph.placeholder(node.name) for node in captured.inputs}
    reads: list[str] = []

    def known(node: fx.Node) -> Any:
        if node not in made:
            form = lowering.forms[node]
            if isinstance(form, Constant):
                made[node] = _constant(graph, attributes, node, form.value)
            else:
                assert isinstance(form, Codes)
                reads.append(form.value.name)
                read = graph.placeholder(f"read_{len(reads)}")  # float32, whatever the model's type is
                dtype = node.meta["val"].dtype
                made[node] = read if dtype is torch.float32 else graph.call_method("to", (read, dtype))
        return made[node]

    ordered = [node for node in captured.graph_module.graph.nodes if node in wanted]
    for node in ordered:  # placeholders come first
        for argument in node.all_input_nodes:
            if argument not in wanted:
                known(argument)
    for node, _ in roots.values():
        if node not in wanted:
            known(node)
    for node in ordered:
        if node.target is QUANTIZER:
            key = node.args[1]
            name = f"quantizer_{key}"
            attributes.add_module(name, captured.quantizers[key])  # pyright: ignore[reportArgumentType]
            made[node] = graph.call_module(name, (known(node.args[0]),))  # pyright: ignore[reportArgumentType]
        else:
            made[node] = graph.node_copy(node, known)
    results = []
    for node, grid in roots.values():
        result = known(node)
        if grid is not None:
            dtype = getattr(torch, grid.dtype)
            arguments = (result, float(grid.scale), grid.zero_point, grid.low, grid.high, dtype)
            result = graph.call_function(to_codes, arguments)
        results.append(result)
    graph.output(tuple(results))
    _placeholders_first(graph)
    return HostStep(fx.GraphModule(attributes, graph), tuple(reads), tuple(roots))


def _constant(graph: fx.Graph, attributes: nn.Module, node: fx.Node, value: Any) -> Any:
    """A constant as an attribute of the module; plain values are written into the graph."""
    name = f"constant_{node.name}"
    if isinstance(value, Tensor):
        attributes.register_buffer(name, value)
        return graph.get_attr(name)
    if isinstance(value, nn.Module):
        attributes.add_module(name, value)
        return graph.get_attr(name)
    return value


def _placeholders_first(graph: fx.Graph) -> None:
    """Moves placeholders before all other nodes, in their order."""
    first = next(iter(graph.nodes))
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        if node is first:
            continue
        first.append(node)
        first = node
