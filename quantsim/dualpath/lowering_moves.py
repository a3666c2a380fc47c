"""Integer forms of what moves numbers and changes none: shapes, orders, slices, look-ups, joins."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx

from quantsim.dualpath.capture import QUANTIZER
from quantsim.dualpath.integer_graph import Dimension, Grid, IntegerOp
from quantsim.dualpath.lowered_values import (
    Codes,
    Constant,
    Host,
    Lowered,
    Mapped,
    Pending,
    Probabilities,
    StaysFloatError,
    is_on_grid,
)
from quantsim.dualpath.lowering import Emitter, Lowering, Rule, arguments_of, fixed
from quantsim.dualpath.lowering_attention import moved_probabilities
from quantsim.dualpath.quantizer_grids import codes_on_grid, grid_of

__all__ = ["EMITTERS", "MAKING", "MOVES", "RULES"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Joined(Pending):
    """Tensors on several grids that are joined when one grid is known."""

    parts: tuple[Codes, ...]
    axis: int
    shape: tuple[Dimension, ...]


def same(lowering: Lowering, node: fx.Node) -> Lowered:
    """What changes nothing: dropout in evaluation, copies, conversions to the same type."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if node.meta["val"].dtype != source.meta["val"].dtype:
        raise StaysFloatError(f"it converts to {node.meta['val'].dtype}")
    return lowering.form(source)


def item(lowering: Lowering, node: fx.Node) -> Lowered:
    """One of several results."""
    source, index = node.args
    form = lowering.forms[source]  # pyright: ignore[reportArgumentType]
    if isinstance(form, Sequence):
        return form[index]  # pyright: ignore[reportArgumentType, reportCallIssue]
    if index == 0 and not isinstance(form, Constant):
        return form  # the result of a norm; its statistics are not read
    raise StaysFloatError("it reads a second result")


def reshape(lowering: Lowering, node: fx.Node) -> Lowered:
    """All that keeps the order of the elements."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    form = lowering.form(source)
    if isinstance(form, Probabilities):
        return moved_probabilities(lowering, node, form)
    codes = _movable(lowering, source)
    shape = lowering.shape(node)
    if shape == codes.value.shape:
        return codes
    return lowering.emit(IntegerOp.RESHAPE, (codes.value.name,), shape, codes.grid, {}, {"shape": shape})


def transpose(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.transpose``, ``aten.permute`` and ``aten.t``."""
    codes = _movable(lowering, node.args[0])
    rank = len(codes.value.shape)
    order = list(range(rank))
    if node.target is _aten.permute.default:
        order = [int(axis) % rank for axis in node.args[1]]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues, reportOptionalIterable]
    else:
        pair = (0, rank - 1) if node.target is _aten.t.default else tuple(int(axis) % rank for axis in node.args[1:3])  # pyright: ignore[reportArgumentType]
        first, second = pair
        order[first], order[second] = order[second], order[first]
    return lowering.emit(
        IntegerOp.TRANSPOSE, (codes.value.name,), lowering.shape(node), codes.grid, {}, {"order": tuple(order)}
    )


def expand(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.expand``; of a constant to the batch too, such as the token of a class."""
    source = lowering.form(node.args[0])
    if isinstance(source, Constant):
        after = _quantizer_after(lowering, node)
        if after is None or not isinstance(source.value, Tensor) or not source.value.is_floating_point():
            return Host()
        with torch.no_grad():
            codes = lowering.constant_codes(Constant(after[1].map_to_grid(source.value), after[0]))
    else:
        codes = _movable(lowering, node.args[0])
    shape = lowering.shape(node)
    if shape == codes.value.shape:
        return codes
    return lowering.emit(IntegerOp.EXPAND, (codes.value.name,), shape, codes.grid, {}, {"shape": shape})


def slice_(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.slice``."""
    arguments = arguments_of(node)
    codes = _movable(lowering, arguments["self"])
    shape = lowering.shape(node)
    if shape == codes.value.shape and arguments["step"] in (None, 1):
        return codes
    axis = int(arguments["dim"]) % len(shape)
    length = codes.value.shape[axis]
    if not isinstance(length, int):
        raise StaysFloatError("it cuts the batch")
    limits = fixed(arguments["start"], arguments["end"], arguments["step"])
    start, stop, step = slice(*limits).indices(length)
    return _slice(lowering, codes, axis, start, stop, step, shape)


def select(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.select``: one index of a dimension."""
    codes = _movable(lowering, node.args[0])
    axis = int(node.args[1]) % len(codes.value.shape)  # pyright: ignore[reportArgumentType]
    length = codes.value.shape[axis]
    if not isinstance(length, int):
        raise StaysFloatError("it takes one example of the batch")
    (index,) = fixed(node.args[2])
    indices = np.asarray(int(index) % length, np.int64)
    return _take(lowering, codes, axis, indices, lowering.shape(node))


def split(lowering: Lowering, node: fx.Node) -> Sequence[Lowered]:
    """``aten.split``, ``aten.split_with_sizes``, ``aten.chunk`` and ``aten.unbind``."""
    arguments = arguments_of(node)
    codes = _movable(lowering, arguments["self"])
    axis = int(arguments["dim"]) % len(codes.value.shape)
    parts: list[Lowered] = []
    start = 0
    for index, value in enumerate(node.meta["val"]):
        shape = tuple(lowering._dimension(size) for size in value.shape)
        if node.target is _aten.unbind.int:
            parts.append(_take(lowering, codes, axis, np.asarray(index, np.int64), shape))
            continue
        length = shape[axis]
        if not isinstance(length, int):
            raise StaysFloatError("it cuts the batch")
        parts.append(_slice(lowering, codes, axis, start, start + length, 1, shape))
        start += length
    return parts


def index_select(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.index_select`` and ``aten.index`` with one constant list of indices."""
    if node.target is _aten.index_select.default:
        source, axis, indices = node.args[0], int(node.args[1]), node.args[2]  # pyright: ignore[reportArgumentType]
    else:
        source, lists = node.args[:2]
        assert isinstance(lists, Sequence)
        given = [number for number, each in enumerate(lists) if each is not None]
        if len(given) != 1:
            raise StaysFloatError("it picks elements by several lists of indices")
        axis, indices = given[0], lists[given[0]]
    form = lowering.form(indices)
    if not isinstance(form, Constant) or not isinstance(form.value, Tensor) or form.value.dtype is torch.bool:
        raise StaysFloatError("it picks elements by indices that depend on the inputs")
    codes = _movable(lowering, source)
    return _take(
        lowering, codes, axis % len(codes.value.shape), form.value.cpu().numpy().astype(np.int64), lowering.shape(node)
    )


def concatenate(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.cat`` and ``aten.stack``; parts on other grids are moved to the one of the quantizer that follows."""
    tensors = node.args[0]
    assert isinstance(tensors, Sequence)
    shape = lowering.shape(node)
    axis = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(shape)  # pyright: ignore[reportArgumentType]
    known = [lowering.form(each) for each in tensors]
    grids = [form.grid for form in known if isinstance(form, Codes)]
    parts: list[Codes] = []
    for form, each in zip(known, tensors, strict=True):
        assert isinstance(each, fx.Node)
        if isinstance(form, Constant) and form.grid is None and grids and isinstance(form.value, Tensor):
            codes = codes_on_grid(form.value, grids[0])
            if np.allclose((codes - grids[0].zero_point) * np.asarray(grids[0].scale), form.value.numpy(), atol=1e-7):
                form = Constant(form.value, grids[0])  # zeros, say
            parts.append(lowering.constant_codes(form))
        else:
            parts.append(_movable(lowering, each))
    if node.target is _aten.stack.default:
        parts = [_unsqueezed(lowering, part, axis) for part in parts]
    joined = Joined(tuple(parts), axis, shape)
    if all(is_on_grid(part.grid, parts[0].grid) for part in parts):
        return _join(lowering, joined, parts[0].grid)
    return joined


def pad(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.pad`` and ``aten.constant_pad_nd`` with zeros."""
    arguments = arguments_of(node)
    codes = _movable(lowering, arguments["self"])
    if arguments.get("mode", "constant") != "constant":
        raise StaysFloatError(f"padding by {arguments['mode']} has no integer form")
    amounts = [int(amount) for amount in fixed(*arguments["pad"])]
    (value,) = fixed(arguments.get("value"))
    steps = float(value or 0.0) / codes.scale
    fill = round(steps) + codes.grid.zero_point if math.isfinite(steps) else codes.grid.high + 1
    if not codes.grid.low <= fill <= codes.grid.high:
        raise StaysFloatError("it pads with a number outside of the grid")
    if not any(amounts):
        return codes
    pairs = [(amounts[2 * each], amounts[2 * each + 1]) for each in range(len(amounts) // 2)]
    widths = ((0, 0),) * (len(codes.value.shape) - len(pairs)) + tuple(reversed(pairs))
    if any(side < 0 for pair in widths for side in pair):
        raise StaysFloatError("a negative padding has no integer form")
    return lowering.emit(
        IntegerOp.PAD, (codes.value.name,), lowering.shape(node), codes.grid, {}, {"widths": widths, "value": fill}
    )


def roll(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.roll`` along dimensions."""
    arguments = arguments_of(node)
    codes = _movable(lowering, arguments["self"])
    if not arguments["dims"]:
        raise StaysFloatError("it rolls over all dimensions at once")
    axes = tuple(int(axis) % len(codes.value.shape) for axis in arguments["dims"])
    attributes = {"shifts": tuple(int(shift) for shift in fixed(*arguments["shifts"])), "axes": axes}
    return lowering.emit(IntegerOp.ROLL, (codes.value.name,), lowering.shape(node), codes.grid, {}, attributes)


def embedding(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.embedding``: a table of codes, looked up with ids from the host."""
    weight, ids = node.args[:2]
    form = lowering.form(weight)
    if not isinstance(form, Constant) or not isinstance(ids, fx.Node):
        raise StaysFloatError("its table is no constant")
    grid = form.grid
    values = form.value
    after = _quantizer_after(lowering, node)
    if after is not None:
        grid = after[0]
        with torch.no_grad():
            values = after[1].map_to_grid(values)
    if grid is None or grid.axis is not None:
        raise StaysFloatError("no quantizer says on which grid its table is")
    table = codes_on_grid(values, grid).astype(grid.dtype)
    value = lowering.host_value(ids, None, ids.name)
    return lowering.emit(IntegerOp.EMBEDDING, (value.name,), lowering.shape(node), grid, {"table": table}, {})


def _quantizer_after(lowering: Lowering, node: fx.Node) -> tuple[Grid, Any] | None:
    """The one quantizer that reads a node, and its grid."""
    users = [user for user in node.users if user.target is QUANTIZER]
    if not users or len(users) != len(node.users) or any(user.args[1] != users[0].args[1] for user in users):
        return None
    quantizer = lowering.captured.quantizers[users[0].args[1]]  # pyright: ignore[reportArgumentType]
    return grid_of(quantizer, ()), quantizer


def emit_joined(lowering: Lowering, form: Joined, grid: Grid) -> Codes:
    """Parts on one grid, one after another."""
    parts = tuple(
        part if is_on_grid(part.grid, grid) else lowering.emit_pending(Mapped(part, lambda x: x, 1.0), grid)
        for part in form.parts
    )
    return _join(lowering, Joined(parts, form.axis, form.shape), grid)


def _join(lowering: Lowering, form: Joined, grid: Grid) -> Codes:
    names = [part.value.name for part in form.parts]
    return lowering.emit(IntegerOp.CONCATENATE, names, form.shape, grid, {}, {"axis": form.axis})


def _unsqueezed(lowering: Lowering, codes: Codes, axis: int) -> Codes:
    shape = (*codes.value.shape[:axis], 1, *codes.value.shape[axis:])
    return lowering.emit(IntegerOp.RESHAPE, (codes.value.name,), shape, codes.grid, {}, {"shape": shape})


def _slice(
    lowering: Lowering, codes: Codes, axis: int, start: int, stop: int, step: int, shape: tuple[Dimension, ...]
) -> Codes:
    attributes = {"axis": axis, "start": start, "stop": stop, "step": step}
    return lowering.emit(IntegerOp.SLICE, (codes.value.name,), shape, codes.grid, {}, attributes)


def _take(lowering: Lowering, codes: Codes, axis: int, indices: np.ndarray, shape: tuple[Dimension, ...]) -> Codes:
    return lowering.emit(IntegerOp.TAKE, (codes.value.name,), shape, codes.grid, {"indices": indices}, {"axis": axis})


def _movable(lowering: Lowering, node: Any) -> Codes:
    codes = lowering.codes(node)
    if codes.grid.axis is not None:
        raise StaysFloatError("its input has a scale for each channel, and channels move")
    return codes


_SAME: Final = (
    _aten.dropout.default,
    _aten.contiguous.default,
    _aten.clone.default,
    _aten.detach.default,
    _aten.alias.default,
    _aten.to.dtype,
    _aten.to.device,
    _aten.to.dtype_layout,
    _aten._to_copy.default,
    _aten.lift_fresh_copy.default,
    _aten.feature_dropout.default,
)
_RESHAPING: Final = (
    _aten.view.default,
    _aten.reshape.default,
    _aten._unsafe_view.default,
    _aten.flatten.using_ints,
    _aten.unflatten.int,
    _aten.unsqueeze.default,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
)

RULES: dict[Any, Rule] = {
    **dict.fromkeys(_SAME, same),
    **dict.fromkeys(_RESHAPING, reshape),
    **dict.fromkeys((_aten.transpose.int, _aten.permute.default, _aten.t.default), transpose),
    **dict.fromkeys((_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.unbind.int), split),
    operator.getitem: item,
    _aten.expand.default: expand,
    _aten.slice.Tensor: slice_,
    _aten.select.int: select,
    _aten.index_select.default: index_select,
    _aten.index.Tensor: index_select,
    _aten.cat.default: concatenate,
    _aten.stack.default: concatenate,
    _aten.pad.default: pad,
    _aten.constant_pad_nd.default: pad,
    _aten.roll.default: roll,
    _aten.embedding.default: embedding,
}

MAKING: Final = frozenset({_aten.embedding.default, _aten.expand.default})
"""What may make activations of constants and of what the host prepares."""

MOVES: Final = frozenset(
    {target for target, rule in RULES.items() if rule not in (concatenate, embedding, pad, split, item)}
)
"""What moves numbers and changes none: a grid passes through."""

EMITTERS: dict[type[Pending], Emitter] = {Joined: emit_joined}
