"""Which tensors of an exported graph have an encoding, and which have none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantsim.export.onnx_names import module_path

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["GraphCoverage", "GraphTensor", "graph_coverage"]

_KEEPING: Final = frozenset(
    """Reshape Transpose Squeeze Unsqueeze Flatten Identity Slice Gather GatherElements GatherND Expand Tile Split
    MaxPool ReduceMax ReduceMin DepthToSpace SpaceToDepth Concat Dropout""".split()
)
"""Operators whose results are elements of their first input (Concat: of all), so that they need no encoding."""

_FLOATING: Final = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})


@dataclass(frozen=True)
class GraphTensor:
    """A tensor of an exported graph.

    Attributes:
        name: Its name.
        operator: What computes it: an ONNX operator, ``"input"`` or ``"constant"``.
        module: Path of the module that it belongs to.
    """

    name: str
    operator: str
    module: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.operator}{f' in {self.module}' if self.module else ''})"


@dataclass(frozen=True)
class GraphCoverage:
    """Every floating-point tensor of the float graph, in one of four groups.

    Attributes:
        encoded: Tensors with an encoding.
        carried: Tensors that hold elements of an encoded tensor only, or go unchanged into one.
        small: Constants of one dimension or none (biases, norm parameters, factors): targets derive their format.
        missing: All others: the target has to compute them in floating point.
    """

    encoded: tuple[str, ...]
    carried: tuple[str, ...]
    small: tuple[str, ...]
    missing: tuple[GraphTensor, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.encoded)} tensors with an encoding, {len(self.carried)} that carry its numbers on, "
            f"{len(self.small)} small constants, {len(self.missing)} without"
        )


def graph_coverage(graph: ir.Graph, encoded: Collection[str], leaves: Collection[str]) -> GraphCoverage:
    """Sorts the tensors of a float graph.

    Args:
        graph: Without quantizers.
        encoded: Names of the tensors with an encoding.
        leaves: Paths of quantized modules: what they compute inside themselves is no tensor of the model.
    """
    tensors = _floating_tensors(graph, frozenset(leaves))
    has = {value for value in tensors if value.name in set(encoded)}
    carried: set[ir.Value] = set()
    for node in graph:  # forwards: results made of encoded elements
        if node.op_type in _KEEPING and _all_in(_elements_of(node), has | carried):
            carried.update(node.outputs)
    for node in reversed(graph):  # backwards: what goes nowhere but into encoded tensors
        for value in node.inputs:
            if value is not None and value in tensors and not value.is_graph_output() and value.uses():
                users = [use.node for use in value.uses()]
                if all(user.op_type in _KEEPING and _all_in(user.outputs, has | carried) for user in users):
                    carried.add(value)
    names: dict[str, list[str]] = {"encoded": [], "carried": [], "small": []}
    missing: list[GraphTensor] = []
    for value, tensor in tensors.items():
        if value in has:
            names["encoded"].append(tensor.name)
        elif value in carried:
            names["carried"].append(tensor.name)
        elif value.is_initializer() and len(value.shape or ()) < 2:
            names["small"].append(tensor.name)
        else:
            missing.append(tensor)
    return GraphCoverage(tuple(names["encoded"]), tuple(names["carried"]), tuple(names["small"]), tuple(missing))


def _floating_tensors(graph: ir.Graph, leaves: frozenset[str]) -> dict[ir.Value, GraphTensor]:
    found: dict[ir.Value, GraphTensor] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        if _is_floating(value):
            users = [use.node for use in value.uses()]
            kind = "constant" if value.is_initializer() else "input"
            found[value] = GraphTensor(str(value.name), kind, module_path(users[0]) if users else "")
    for node in graph:
        path = module_path(node)
        for value in node.outputs:
            if not _is_floating(value):
                continue
            users = [use.node for use in value.uses()]
            inside = path in leaves and not value.is_graph_output() and all(module_path(user) == path for user in users)
            # A constant that the exporter computed in the graph has one element or is no tensor of the model.
            if not (inside and users) and node.op_type not in ("Constant", "ConstantOfShape"):
                found[value] = GraphTensor(str(value.name), node.op_type, path)
    return found


def _is_floating(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.name in _FLOATING


def _elements_of(node: ir.Node) -> list[ir.Value | None]:
    return list(node.inputs if node.op_type == "Concat" else node.inputs[:1])


def _all_in(values: Collection[ir.Value | None], known: set[ir.Value]) -> bool:
    return bool(values) and all(value in known for value in values)
