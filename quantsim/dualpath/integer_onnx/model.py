"""Integer graphs as ONNX files: plain integer operators that every runtime computes to the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quantsim.dualpath.integer_graph import Dimension, IntegerGraph, IntegerNode, IntegerOp, Value
from quantsim.errors import ConfigurationError

if TYPE_CHECKING:
    import onnx

    from quantsim.dualpath.integer_onnx.writer import OnnxWriter, Term

__all__ = ["OPSET", "integer_onnx_model"]

OPSET: Final = 21
"""Version of ONNX's operators that the files use."""

_IR_VERSION: Final = 10


def integer_onnx_model(graph: IntegerGraph, *, all_values: bool = False) -> onnx.ModelProto:
    """The ONNX model that computes an integer graph, bit for bit.

    Products are MatMulInteger and ConvInteger on unsigned bytes (signed codes are moved up by 128), everything else is
    int64 arithmetic, tables are Gather, square roots go through float64 and are corrected. The names of inputs, outputs
    and values are the graph's; what stands for real numbers is described in the model's metadata, as
    ``quantsim.grid.<value>``.

    Args:
        graph: What to write.
        all_values: Make every value an output, so that a runtime can be compared node by node.

    Returns:
        A model of opset 21; save it with ``onnx.save``.

    Raises:
        ConfigurationError: ONNX is not installed, or a node cannot be written.

    Example:
        >>> from quantsim.dualpath.integer_graph import Grid
        >>> grid = Grid(scale=0.1, zero_point=0, low=-128, high=127)
        >>> graph = IntegerGraph(
        ...     nodes=(IntegerNode("relu", IntegerOp.CLAMP, ("x",), "y", attributes={"low": 0, "high": 127}),),
        ...     values={name: Value(name, (3,), "int8", grid) for name in ("x", "y")},
        ...     inputs=("x",),
        ...     outputs=("y",),
        ... )
        >>> [node.op_type for node in integer_onnx_model(graph).graph.node]
        ['Clip']
    """
    try:
        from onnx import helper

        from quantsim.dualpath.integer_onnx.writer import OnnxWriter
    except ImportError as error:
        raise ConfigurationError(
            "onnx is not installed", where="integer_onnx_model", expected="onnx", fix="pip install 'quantsim[onnx]'"
        ) from error
    writer = OnnxWriter(graph)
    handlers = _handlers()
    for node in graph.nodes:
        writer.scope = node.name
        try:
            _write(writer, node, handlers[node.op])
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error), where=f"node '{node.name}' ({node.op}) in ONNX") from error
    made = [node.output for node in graph.nodes]
    outputs = made if all_values else list(dict.fromkeys(name for name in graph.outputs if name not in graph.inputs))
    proto = helper.make_graph(
        writer.nodes,
        "integer",
        [_described(graph.values[name]) for name in graph.inputs],
        [_described(graph.values[name]) for name in outputs],
        initializer=list(writer.initializers.values()),
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="quantsim",
    )
    helper.set_model_props(model, {f"quantsim.grid.{name}": text for name, text in _grids(graph).items()})
    return model


def _write(writer: OnnxWriter, node: IntegerNode, handler: Callable[..., Term]) -> None:
    from quantsim.dualpath.integer_onnx.writer import Term

    values = writer.graph.values
    operands = [Term(name, values[name].dtype) for name in node.inputs]
    result = handler(writer, node, *operands, **node.constants, **node.attributes)
    writer.name_output(writer.cast(result, values[node.output].dtype), node.output)


def _handlers() -> dict[IntegerOp, Callable[..., Term]]:
    from quantsim.dualpath.integer_onnx import _elementwise, _normalization, _products, _structure

    modules = (_elementwise, _normalization, _products, _structure)
    names = {op.value: op for op in IntegerOp}
    return {names[name]: getattr(module, name) for module in modules for name in module.__all__ if name in names}


def _described(value: Value) -> onnx.ValueInfoProto:
    from onnx import helper

    def length(dimension: Dimension) -> int | str:
        return dimension if isinstance(dimension, int) else str(dimension)

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return helper.make_tensor_value_info(value.name, kind, [length(dimension) for dimension in value.shape])


def _grids(graph: IntegerGraph) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in dict.fromkeys((*graph.inputs, *graph.outputs)):
        grid = graph.values[name].grid
        if grid is not None:
            fields: dict[str, Any] = {
                "scale": np.asarray(grid.scale, np.float64).tolist(),
                "zero_point": grid.zero_point,
                "low": grid.low,
                "high": grid.high,
                "axis": grid.axis,
            }
            texts[name] = json.dumps(fields)
    return texts
