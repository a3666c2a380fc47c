"""Writes the stand-ins of quantizers as ONNX operators, and constants as what they are stored as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.export.onnx_grids import FLOAT8_FORMATS, Arithmetic, OnnxGrid, ScaleLayout, lay_out, unsigned
from quantsim.export.onnx_names import QUANTIZER_PLACE, unique_name
from quantsim.export.onnx_placeholders import DOMAIN, ENTER, KEY, LEAVE
from quantsim_kernels.affine import affine_quantize
from quantsim_kernels.reference.float_cast import float_cast

__all__ = ["StandIn", "find_stand_ins", "give_names", "lower", "take_out"]

_NUMPY_TYPES: Final = {
    "INT4": ml_dtypes.int4,
    "UINT4": ml_dtypes.uint4,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
}


@dataclass
class StandIn:
    """One quantizer in the graph, at one of its calls.

    Attributes:
        node: What stands for it, or where the tensor enters the operations that it is written as.
        key: Number of the quantizer.
        source: The float tensor that it quantizes, as the graph without any quantizers has it.
        leave: Where the tensor leaves those operations, None if it is one node.
        name: Name of the tensor, of its own for each encoding.
    """

    node: ir.Node
    key: int
    source: ir.Value
    leave: ir.Node | None = None
    name: str = ""

    @property
    def input(self) -> ir.Value:
        """What the quantizer reads."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def is_constant(self) -> bool:
        """Whether it quantizes a parameter or another constant."""
        return self.source.is_initializer()


def find_stand_ins(graph: ir.Graph) -> list[StandIn]:
    """All quantizers, in the order of the graph."""
    found: list[StandIn] = []
    sources: dict[ir.Value, ir.Value] = {}  # of what quantizers give
    entered: dict[int, list[StandIn]] = {}
    for node in graph:
        if node.domain != DOMAIN:
            continue
        key, value = node.attributes[KEY].as_int(), node.inputs[0]
        assert value is not None
        if node.op_type == LEAVE:
            stand_in = entered[key].pop()
            stand_in.leave = node
            sources[node.outputs[0]] = stand_in.source
        elif node.op_type == ENTER or not entered.get(key):  # else the cast inside of written operations
            source = sources.get(value, value)
            found.append(StandIn(node, key, source))
            sources[node.outputs[0]] = source
            if node.op_type == ENTER:
                entered.setdefault(key, []).append(found[-1])
    return found


def give_names(graph: ir.Graph, stand_ins: Sequence[StandIn], encodings: Mapping[int, Any]) -> None:
    """Finds the name that each encoding goes by; a tensor with several encodings gets a copy for each further one.

    Args:
        graph: Copies are inserted in place.
        stand_ins: Of this graph; their names are set.
        encodings: Encoding of each quantizer, by number; only compared.
    """
    taken: set[str | None] = {value.name for node in graph for value in node.outputs}
    taken |= {value.name for value in graph.inputs} | set(graph.initializers)
    first: dict[ir.Value, int] = {}
    copies: dict[tuple[ir.Value, int], ir.Value] = {}
    for stand_in in stand_ins:
        source = stand_in.source
        assert source.name is not None
        if source not in first or encodings[first[source]] == encodings[stand_in.key]:
            first.setdefault(source, stand_in.key)
            stand_in.name = source.name
            continue
        read = stand_in.input
        known = next(
            (
                copy
                for (value, key), copy in copies.items()
                if value is read and encodings[key] == encodings[stand_in.key]
            ),
            None,
        )
        if known is None:
            name = unique_name(f"{source.name}_again", taken)
            taken.add(name)
            node = ir.node("Identity", [read], name=name, metadata_props=dict(stand_in.node.metadata_props))
            known = node.outputs[0]
            known.name, known.type, known.shape = name, read.type, read.shape
            graph.insert_before(stand_in.node, node)
            copies[read, stand_in.key] = known
        stand_in.node.replace_input_with(0, known)
        assert known.name is not None
        stand_in.name = known.name


def take_out(model: ir.Model) -> None:
    """Takes all quantizers out: what is left is the float graph."""
    graph = model.graph
    for stand_in in find_stand_ins(graph):
        last = stand_in.node if stand_in.leave is None else stand_in.leave
        _replace(graph, last, stand_in.input, [])
    passes.RemoveUnusedNodesPass()(model)  # what stood inside of written operations
    graph.opset_imports.pop(DOMAIN, None)


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value, new: Sequence[ir.Node]) -> None:
    """Puts ``new`` in the place of ``node``, and ``value`` in that of its result."""
    old = node.outputs[0]
    if new:
        graph.insert_before(node, new)
    for index, output in enumerate(graph.outputs):
        if output is old:
            name = old.name
            if value in graph.inputs or value in graph.outputs or not new:
                copy = ir.node("Identity", [value], name=f"{name}_copy")
                graph.insert_before(node, copy)
                value, source = copy.outputs[0], value
                value.type, value.shape = source.type, source.shape
            old.name = f"{name}_before"
            value.name = name
            graph.outputs[index] = value
    ir.convenience.replace_all_uses_with(old, value)
    graph.remove(node, safe=True)


class _Writer:
    """Writes one graph."""

    def __init__(self, graph: ir.Graph, *, unsigned_weights: bool) -> None:
        self.graph = graph
        self.unsigned_weights = unsigned_weights
        self.taken: set[str | None] = {value.name for node in graph for value in node.outputs}
        self.taken |= {value.name for value in graph.inputs} | set(graph.initializers)
        self.scales: dict[tuple[int, tuple[int | None, ...], str], tuple[ir.Value, ir.Value]] = {}

    def name(self, wanted: str) -> str:
        result = unique_name(wanted, self.taken)
        self.taken.add(result)
        return result

    def constant(self, wanted: str, values: np.ndarray) -> ir.Value:
        name = self.name(wanted)
        value = ir.Value(name=name, const_value=ir.tensor(values, name=name))
        assert value.const_value is not None
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(values.shape)
        self.graph.register_initializer(value)
        return value

    def write(self, stand_in: StandIn, grid: OnnxGrid, place: str) -> ir.Value:
        """Replaces one stand-in; returns its result."""
        is_constant = stand_in.input.is_initializer()
        if is_constant and self.unsigned_weights:
            grid = unsigned(grid)
        nodes: list[ir.Node] = []
        metadata = {**stand_in.node.metadata_props, QUANTIZER_PLACE: place}

        def add(op: str, inputs: Sequence[ir.Value], suffix: str, like: ir.Value, type: Any, **attributes: Any) -> Any:
            name = self.name(f"{stand_in.name}{suffix}")
            node = ir.node(op, list(inputs), attributes, name=name, metadata_props=dict(metadata))
            output = node.outputs[0]
            output.name, output.shape, output.type = name, like.shape, ir.TensorType(type)
            nodes.append(node)
            return output

        x = stand_in.input
        own_type = x.dtype
        if own_type is None:
            raise ValueError(f"tensor {x.name!r} has no type")
        stored = ir.DataType[grid.data_type]
        if grid.arithmetic is Arithmetic.CAST:
            if is_constant:
                values = _tensor(x)
                if grid.limit is not None:
                    values = values.clamp(-grid.limit, grid.limit)
                codes = self.constant(f"{stand_in.name}_q", _stored(values, grid.data_type))
            else:
                if grid.limit is not None:
                    limits = [
                        self.constant(f"{stand_in.name}_{end}", np.array(sign * grid.limit, own_type.numpy()))
                        for end, sign in (("low", -1), ("high", 1))
                    ]
                    x = add("Clip", [x, *limits], "_clipped", x, own_type)
                codes = add("Cast", [x], "_q", x, stored, to=stored)
            result = add("Cast", [codes], "_qdq", stand_in.input, own_type, to=own_type)
        else:
            shape = tuple(size if isinstance(size, int) else None for size in x.shape or ())
            layout = lay_out(grid, shape)
            if isinstance(layout, str):
                raise ConfigurationError(
                    f"the quantizer {layout}", where=place, fix="give it a granularity that ONNX has"
                )
            scale, zero_point = self._scale(stand_in, grid, layout, shape)
            attributes: dict[str, Any] = {}
            if layout.axis is not None:
                attributes["axis"] = layout.axis
            if layout.block_size is not None:
                attributes["block_size"] = layout.block_size
            if is_constant:
                codes = self.constant(f"{stand_in.name}_q", _codes(_tensor(x), grid, layout))
            else:
                if own_type is not ir.DataType.FLOAT:
                    x = add("Cast", [x], "_float", x, ir.DataType.FLOAT, to=ir.DataType.FLOAT)
                if grid.codes is not None:
                    x = self._clip(add, stand_in, grid, layout, x)
                saturate = {} if grid.arithmetic is Arithmetic.INTEGER else {"saturate": int(grid.saturate)}
                codes = add("QuantizeLinear", [x, scale, zero_point], "_q", x, stored, **attributes, **saturate)
            result = add("DequantizeLinear", [codes, scale, zero_point], "_qdq", x, ir.DataType.FLOAT, **attributes)
            if own_type is not ir.DataType.FLOAT:
                result = add("Cast", [result], "_cast", x, own_type, to=own_type)
        _replace(self.graph, stand_in.node, result, nodes)
        return result

    def _scale(
        self, stand_in: StandIn, grid: OnnxGrid, layout: ScaleLayout, shape: tuple[int | None, ...]
    ) -> tuple[ir.Value, ir.Value]:
        known = (stand_in.key, () if layout.axis is None else shape, grid.data_type)
        if known not in self.scales:
            # A zero point of its own for each quantizer: runtimes that move weights to another type change it in place.
            self.scales[known] = (
                self.constant(f"{stand_in.name}_scale", np.asarray(layout.scale, np.float32)),
                self.constant(f"{stand_in.name}_zero_point", layout.zero_point.astype(_NUMPY_TYPES[grid.data_type])),
            )
        return self.scales[known]

    def _clip(self, add: Any, stand_in: StandIn, grid: OnnxGrid, layout: ScaleLayout, x: ir.Value) -> ir.Value:
        """Cuts real numbers off where the grid ends and the integer type does not."""
        assert grid.codes is not None
        ends = [
            (np.asarray(code - layout.zero_point, np.float32) * np.asarray(layout.scale, np.float32)).astype(np.float32)
            for code in grid.codes
        ]
        if layout.axis is None:
            low, high = (
                self.constant(f"{stand_in.name}_{name}", end) for name, end in zip(("low", "high"), ends, strict=True)
            )
            return add("Clip", [x, low, high], "_clipped", x, ir.DataType.FLOAT)
        rank = len(x.shape or ())
        form = [1] * rank
        form[layout.axis] = -1
        for op, name, end in zip(("Max", "Min"), ("low", "high"), ends, strict=True):
            bound = self.constant(f"{stand_in.name}_{name}", end.reshape(form) if end.ndim == 1 else _spread(end, x))
            x = add(op, [x, bound], f"_{name}_cut", x, ir.DataType.FLOAT)
        return x


def _spread(values: np.ndarray, x: ir.Value) -> np.ndarray:
    for axis, length in enumerate(x.shape or ()):
        if values.shape[axis] not in (1, length):
            assert isinstance(length, int), "an axis with several scales has a fixed length"
            size = -(-length // values.shape[axis])
            values = values.repeat(size, axis).take(range(length), axis)
    return values


def _tensor(value: ir.Value) -> Tensor:
    """The values of a constant, float32 or wider."""
    assert value.const_value is not None
    values = value.const_value.numpy()
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values))


def _stored(values: Tensor, data_type: str) -> np.ndarray:
    return values.numpy().astype(_NUMPY_TYPES[data_type])


def _codes(values: Tensor, grid: OnnxGrid, layout: ScaleLayout) -> np.ndarray:
    """What a constant is stored as, by the formula of the simulation."""
    scale, blocks = torch.from_numpy(np.array(layout.scale, np.float32)), None
    zero_point = torch.from_numpy(np.array(layout.zero_point)).to(torch.float32)
    if layout.block_size is not None:
        assert layout.axis is not None
        blocks = tuple(layout.block_size if axis == layout.axis else 1 for axis in range(values.dim()))
    elif layout.axis is not None:
        form = [1] * values.dim()
        form[layout.axis] = -1
        scale, zero_point = scale.reshape(form), zero_point.reshape(form)
    if grid.arithmetic is Arithmetic.INTEGER:
        bounds = np.iinfo if not grid.data_type.endswith("4") else ml_dtypes.iinfo
        limits = bounds(_NUMPY_TYPES[grid.data_type])
        low, high = grid.codes or (int(limits.min), int(limits.max))
        return _stored(affine_quantize(values, scale, -zero_point, low, high, blocks), grid.data_type)
    if blocks is not None:
        assert layout.axis is not None
        scale = scale.repeat_interleave(layout.block_size or 1, layout.axis).narrow(
            layout.axis, 0, values.shape[layout.axis]
        )
    format = FLOAT8_FORMATS[grid.data_type]
    return _stored(float_cast(values / scale, format, saturate=grid.saturate), grid.data_type)


def lower(
    graph: ir.Graph,
    stand_ins: Sequence[StandIn],
    grids: Mapping[int, OnnxGrid],
    encodings: Mapping[int, Any],
    places: Mapping[int, str],
    *,
    unsigned_weights: bool,
) -> None:
    """Writes all quantizers as operators; float constants that nothing else reads go away.

    Quantizers of one tensor with equal encodings become one.

    Args:
        graph: Changed in place.
        stand_ins: Of this graph, with names.
        grids: By number of the quantizer, of those that are not written as operations.
        encodings: Encoding of each quantizer; only compared.
        places: Where each quantizer sits, for metadata and errors.
        unsigned_weights: Store signed constants as unsigned ones of the same real numbers.

    Raises:
        ConfigurationError: Scales lie over a tensor as ONNX cannot say.
    """
    writer = _Writer(graph, unsigned_weights=unsigned_weights)
    results: dict[ir.Value, list[tuple[int, ir.Value]]] = {}
    written_out = {stand_in.key: stand_in for stand_in in stand_ins if stand_in.leave is not None}
    for stand_in in stand_ins:
        for node in (stand_in.node, stand_in.leave):
            if stand_in.leave is not None and node is not None:
                value = node.inputs[0]
                assert value is not None
                _replace(graph, node, value, [])
    single = [stand_in for stand_in in stand_ins if stand_in.leave is None]
    casts = [
        StandIn(node, key, scaled, name=f"{written_out[key].name}_scaled")
        for node in graph
        if node.domain == DOMAIN
        and (key := node.attributes[KEY].as_int()) in written_out
        and (scaled := node.inputs[0]) is not None
    ]
    for stand_in in (*single, *casts):
        read = stand_in.input
        known = next(
            (
                result
                for key, result in results.get(read, [])
                if key == stand_in.key or encodings[key] == encodings[stand_in.key]
            ),
            None,
        )
        if known is None:
            known = writer.write(stand_in, grids[stand_in.key], places[stand_in.key])
            results.setdefault(read, []).append((stand_in.key, known))
        else:
            _replace(graph, stand_in.node, known, [])
    for source, found in results.items():
        name = source.name or ""
        if source.is_initializer() and not source.uses() and source not in graph.outputs and name in graph.initializers:
            del graph.initializers[name]
            if found[0][1] not in graph.outputs:
                found[0][1].name = name
    graph.opset_imports.pop(DOMAIN, None)
