"""Readable names for the tensors of an exported graph, the same in every export of a model.

The output of an operator is called after the module that computes it: ``/encoder/layer.0/dense/Add_output_0``, with a
number where a module has several of one operator (``/block/Add_1_output_0``). Inputs, outputs and parameters keep their
names.
"""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["NAME_MAP", "QUANTIZER_PLACE", "module_path", "rename_tensors", "unique_name"]

NAME_MAP: Final = "quantsim.name_map"
"""Metadata of the model: JSON, for each tensor with an encoding the places of its quantizers."""

QUANTIZER_PLACE: Final = "quantsim.quantizer"
"""Metadata of the nodes that a quantizer became: where it sits in the simulation."""

_SCOPES: Final = "pkg.torch.onnx.name_scopes"


def _scopes(node: ir.Node) -> list[str]:
    """Paths of the modules around a node, outermost first."""
    text = node.metadata_props.get(_SCOPES)
    if not text:
        return []
    # The last is the operation itself.
    return [str(scope) for scope in ast.literal_eval(text)[:-1]]


def module_path(node: ir.Node) -> str:
    """Path of the module that computes a node, ``""`` for the model itself."""
    scopes = _scopes(node)
    return scopes[-1] if scopes else ""


def _prefix(node: ir.Node) -> str:
    parts: list[str] = []
    outer = ""
    for scope in _scopes(node):
        if scope and scope != outer:
            inside = f"{outer}." if outer else ""
            parts.append(scope.removeprefix(inside))
            outer = scope
    return "".join(f"/{part}" for part in parts)


def rename_tensors(graph: ir.Graph, skip: frozenset[str] = frozenset()) -> None:
    """Names nodes and what they compute after modules.

    Args:
        graph: Changed in place.
        skip: Domains of nodes that keep their names.
    """
    fixed = {value.name for value in (*graph.inputs, *graph.outputs)} | set(graph.initializers)
    outputs = set(graph.outputs)
    counts: Counter[str] = Counter()
    for number, node in enumerate(graph):
        if node.domain in skip:
            node.name = f"stand_in_{number}"
            for index, value in enumerate(node.outputs):
                if value not in outputs:
                    value.name = f"/stand_in_{number}_{index}"
            continue
        stem = f"{_prefix(node)}/{node.op_type}"
        count = counts[stem]
        counts[stem] += 1
        node.name = f"{stem}_{count}" if count else stem
        for index, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = unique_name(f"{node.name}_output_{index}", fixed)
                fixed.add(value.name)


def unique_name(name: str, taken: set[str | None]) -> str:
    """``name``, with a number if it is taken.

    Example:
        >>> unique_name("x", {"x", "x_1"})
        'x_2'
    """
    number, result = 0, name
    while result in taken:
        number += 1
        result = f"{name}_{number}"
    return result
