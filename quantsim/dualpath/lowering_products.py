"""Integer forms of what sums: linear layers, convolutions, matrix products, means, average pools, and their norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from quantsim.dualpath.accumulator_bound import ACCUMULATOR_LIMIT, require_accumulator, weighted_sum_bound
from quantsim.dualpath.capture import module_path
from quantsim.dualpath.integer_graph import Grid, IntegerOp
from quantsim.dualpath.lowered_values import (
    Accumulation,
    ChannelAffine,
    Codes,
    Constant,
    Host,
    Lowered,
    Mapped,
    Normalization,
    Pending,
    Probabilities,
    SoftmaxProduct,
    StaysFloatError,
)
from quantsim.dualpath.lowering import Emitter, Lowering, Rule, arguments_of
from quantsim.dualpath.quantizer_grids import codes_on_grid
from quantsim.dualpath.rescaling import affine_multipliers, clipped_codes, multiplier_for

__all__ = ["EMITTERS", "RULES", "emit_sums", "scaled_channels"]

_IDENTITY_SHIFT = 30
_COARSE = 0.25
"""A bias is rounded to steps of the sum; where those are coarser than so many of the result, it is added later."""


def linear(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.linear`` with a constant matrix."""
    arguments = arguments_of(node)
    x, factor = operand(lowering, arguments["input"])
    weight, scale = _weight(lowering, arguments["weight"], 0)
    return _weighted(lowering, node, IntegerOp.LINEAR, x, factor, weight, scale, arguments["bias"], node_rank(node), {})


def convolution(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.conv1d`` and ``aten.conv2d``."""
    arguments = arguments_of(node)
    x, factor = operand(lowering, arguments["input"])
    weight, scale = _weight(lowering, arguments["weight"], 0)
    rank = weight.ndim - 2
    stride, dilation = (_each(arguments[name], rank) for name in ("stride", "dilation"))
    attributes = {
        "stride": stride,
        "padding": _padding(arguments["padding"], weight.shape[2:], dilation),
        "dilation": dilation,
        "groups": int(arguments["groups"]),
        "zero_point_in": x.grid.zero_point,
    }
    _require_batch(node, rank)
    return _weighted(
        lowering, node, IntegerOp.CONVOLUTION, x, factor, weight, scale, arguments["bias"], rank + 2, attributes
    )


def matmul(lowering: Lowering, node: fx.Node) -> Lowered:
    """Products of activations, or of an activation and a constant matrix."""
    left, right = node.args[:2]
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    constant = lowering.form(right)
    if isinstance(constant, Constant) and isinstance(constant.value, Tensor) and constant.value.dim() == 2:
        x, factor = operand(lowering, left)
        weight, scale = _weight(lowering, right, 1)
        return _weighted(lowering, node, IntegerOp.LINEAR, x, factor, weight, scale, None, node_rank(node), {})
    probabilities = lowering.form(left)
    if isinstance(probabilities, Probabilities) and probabilities.bits is not None:
        return SoftmaxProduct(probabilities, lowering.codes(right), lowering.shape(node))
    a, factor_a = operand(lowering, left)
    b, factor_b = operand(lowering, right)
    terms = lowering.lengths(lowering.shape(left))[-1]
    module = module_path(node)
    bound = require_accumulator(
        terms * a.reach * b.reach, layer=module, terms=terms, operands=f"{_bits(a)} codes times {_bits(b)} codes"
    )
    return Accumulation(
        IntegerOp.MATMUL,
        (a.value.name, b.value.name),
        lowering.shape(node),
        np.array(a.scale * factor_a * b.scale * factor_b),
        np.array(0.0),
        bound,
        None,
        module,
        attributes={"zero_point_a": a.grid.zero_point, "zero_point_b": b.grid.zero_point},
    )


def mean(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.mean`` over dimensions, and ``aten.adaptive_avg_pool2d`` to one position."""
    x, factor = operand(lowering, node.args[0])
    if node.target is not torch.ops.aten.mean.dim:
        _require_batch(node, 1 if node.target is torch.ops.aten.adaptive_avg_pool1d.default else 2)
    lengths = lowering.shape(node.args[0])  # pyright: ignore[reportArgumentType]
    if node.target is torch.ops.aten.mean.dim:
        arguments = arguments_of(node)
        axes = tuple(sorted(axis % len(lengths) for axis in arguments["dim"] or range(len(lengths))))
        keepdim = bool(arguments["keepdim"])
    else:
        sizes = node.args[1]
        assert isinstance(sizes, Sequence)
        if any(size != 1 for size in sizes):
            return _adaptive_pool(lowering, node, x, factor, sizes)
        axes, keepdim = tuple(range(len(lengths) - len(sizes), len(lengths))), True
    counted = [lengths[axis] for axis in axes]
    if not all(isinstance(length, int) for length in counted):
        raise StaysFloatError("it averages over the batch")
    count = math.prod(lowering.lengths(counted))
    return _average(lowering, node, IntegerOp.MEAN, x, factor, count, {"axes": axes, "keepdim": keepdim})


def average_pool(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.avg_pool1d`` and ``aten.avg_pool2d``."""
    arguments = arguments_of(node)
    rank = 1 if node.target is torch.ops.aten.avg_pool1d.default else 2
    x, factor = operand(lowering, arguments.get("self", node.args[0]))
    _require_batch(node, rank)
    kernel = _each(arguments["kernel_size"], rank)
    stride = _each(arguments["stride"] or kernel, rank)
    padding = _each(arguments["padding"], rank)
    if arguments["ceil_mode"] or arguments.get("divisor_override") is not None:
        raise StaysFloatError("ceil_mode and divisor_override have no integer form")
    if any(padding) and not arguments["count_include_pad"]:
        raise StaysFloatError("an average that leaves padding out has another divisor at the edges")
    attributes = {"kernel": kernel, "stride": stride, "padding": tuple((size, size) for size in padding)}
    return _average(lowering, node, IntegerOp.AVERAGE_POOL, x, factor, math.prod(kernel), attributes)


def max_pool(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.max_pool1d`` and ``aten.max_pool2d``: on the grid of the input."""
    arguments = arguments_of(node)
    x = lowering.codes(arguments["self"])
    x.scale  # noqa: B018 (refuses scales of channels, which may be negative)
    rank = 1 if node.target is torch.ops.aten.max_pool1d.default else 2
    _require_batch(node, rank)
    if arguments["ceil_mode"]:
        raise StaysFloatError("ceil_mode has no integer form")
    kernel = _each(arguments["kernel_size"], rank)
    attributes = {
        "kernel": kernel,
        "stride": _each(arguments["stride"] or kernel, rank),
        "padding": tuple((size, size) for size in _each(arguments["padding"], rank)),
        "dilation": _each(arguments["dilation"], rank),
        "lowest": x.grid.low,
    }
    return lowering.emit(IntegerOp.MAX_POOL, (x.value.name,), lowering.shape(node), x.grid, {}, attributes)


def batch_norm(lowering: Lowering, node: fx.Node) -> Lowered:
    """Norms with fixed statistics: folded into the rounding of what comes before."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    weight, bias, average, variance = (_vector(lowering, argument) for argument in node.args[1:5])
    epsilon = float(node.args[6] if node.target is _BATCH_NORM else node.args[7])  # pyright: ignore[reportArgumentType]
    assert average is not None
    assert variance is not None
    gain = (1.0 if weight is None else weight) / np.sqrt(variance + epsilon)
    offset = (0.0 if bias is None else bias) - average * gain
    return scaled_channels(lowering, source, gain, offset, 1)


def scaled_channels(lowering: Lowering, source: fx.Node, gain: np.ndarray, offset: np.ndarray, axis: int) -> Lowered:
    """``source * gain + offset``, one number each of a dimension."""
    form = lowering.form(source)
    if isinstance(form, Accumulation) and form.clip.is_open and form.axis == axis:
        return replace(form, scale=form.scale * gain, offset=form.offset * gain + offset)
    if isinstance(form, ChannelAffine) and form.clip.is_open and form.axis == axis:
        return replace(form, scale=form.scale * gain, offset=form.offset * gain + offset)
    if isinstance(form, Normalization) and axis == node_rank(source) - 1:
        return replace(
            form, gain=form.gain * gain, offset=(0.0 if form.offset is None else form.offset) * gain + offset
        )
    return ChannelAffine(lowering.codes(source), gain, offset, axis)


def operand(lowering: Lowering, node: Any) -> tuple[Codes, float]:
    """Codes with one scale that a product may read, and a factor that belongs to the scale."""
    if not isinstance(node, fx.Node):
        raise StaysFloatError("one operand is a plain number")
    form = lowering.form(node)
    if isinstance(form, Mapped) and form.factor is not None and form.addend == 0.0 and form.clip.is_open:
        codes, factor = form.codes, form.factor
    else:
        codes, factor = lowering.codes(node), 1.0
    codes.scale  # noqa: B018 (refuses scales of channels)
    return codes, factor


def node_rank(node: fx.Node) -> int:
    """Number of dimensions of a node's tensor."""
    return len(node.meta["val"].shape)


# -------------------------------------------------------------------- sums


def _weight(lowering: Lowering, node: Any, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Integer weight with its output channels first, and a scale for each of them or for all."""
    form = lowering.form(node)
    if isinstance(form, Host) or not isinstance(form, Constant):
        raise StaysFloatError("its weight is no constant")
    if form.grid is None:
        raise StaysFloatError("its weight has no quantizer with an integer grid")
    grid = form.grid
    if grid.axis not in (None, axis):
        raise StaysFloatError(f"its weight has scales along dimension {grid.axis}, which is summed over")
    codes = codes_on_grid(form.value, grid) - grid.zero_point
    if codes.size and (codes.min() < -128 or codes.max() > 127):
        raise StaysFloatError(
            f"its weights less the zero point reach {codes.min()} to {codes.max()}; integer nodes hold int8 weights"
        )
    codes = codes.T if axis else codes
    return np.ascontiguousarray(codes.astype(np.int8)), np.asarray(grid.scale, np.float64)


def _weighted(
    lowering: Lowering,
    node: fx.Node,
    op: IntegerOp,
    x: Codes,
    factor: float,
    weight: np.ndarray,
    scale: np.ndarray,
    bias: Any,
    rank: int,
    attributes: dict[str, Any],
) -> Accumulation:
    module = module_path(node)
    terms = int(np.prod(weight.shape[1:]))
    bound = weighted_sum_bound(weight, x.grid.low, x.grid.high)
    sums = weight.astype(np.int64).reshape(weight.shape[0], -1).sum(axis=1)
    correction = -x.grid.zero_point * sums
    total = bound + int(np.abs(correction).max()) if correction.size else bound
    require_accumulator(total, layer=module, terms=terms, operands=f"{_bits(x)} codes times 8-bit weights")
    added = _vector(lowering, bias)
    channels = weight.shape[0]
    return Accumulation(
        op,
        (x.value.name,),
        lowering.shape(node),
        np.broadcast_to(scale * (x.scale * factor), (channels,)).astype(np.float64),
        np.zeros(channels) if added is None else added,
        total,
        rank - 1 if op is IntegerOp.LINEAR else 1,
        module,
        {"weight": weight},
        attributes,
        correction,
    )


def _average(
    lowering: Lowering, node: fx.Node, op: IntegerOp, x: Codes, factor: float, count: int, attributes: dict[str, Any]
) -> Accumulation:
    module = module_path(node)
    bound = require_accumulator(count * x.reach, layer=module, terms=count, operands=f"1 and {_bits(x)} codes")
    return Accumulation(
        op,
        (x.value.name,),
        lowering.shape(node),
        np.array(x.scale * factor / count),
        np.array(0.0),
        bound,
        None,
        module,
        attributes={**attributes, "zero_point_in": x.grid.zero_point},
    )


def _adaptive_pool(lowering: Lowering, node: fx.Node, x: Codes, factor: float, sizes: Sequence[Any]) -> Accumulation:
    lengths = x.value.shape[-len(sizes) :]
    if not all(isinstance(have, int) and have % want == 0 for have, want in zip(lengths, sizes, strict=True)):
        raise StaysFloatError("adaptive pooling to sizes that do not divide the input's")
    kernel = tuple(int(have) // want for have, want in zip(lengths, sizes, strict=True))  # pyright: ignore[reportArgumentType]
    attributes = {"kernel": kernel, "stride": kernel, "padding": ((0, 0),) * len(kernel)}
    return _average(lowering, node, IntegerOp.AVERAGE_POOL, x, factor, math.prod(kernel), attributes)


# -------------------------------------------------------------------- emission


def emit_accumulation(lowering: Lowering, form: Accumulation, grid: Grid) -> Codes:
    """A node that sums and rounds once; or two, where the bias does not fit the sum."""
    scale = float(grid.scale)
    bias = _bias(form, scale)
    if bias is None:
        sums = _emit(lowering, form, Grid(1.0, 0, -form.bound, form.bound), _zero_bias(form), {})
        return _emit_affine(lowering, sums, form.scale, form.offset, form.axis, form, grid)
    multiplier, shift = multiplier_for(form.scale / scale, form.bound)
    low, high = clipped_codes(grid, form.clip)
    constants = {"multiplier": multiplier, "shift": shift}
    attributes = {"zero_point": grid.zero_point, "low": low, "high": high}
    return _emit(lowering, form, replace(grid, low=low, high=high), bias, attributes, constants)


def emit_sums(lowering: Lowering, form: Accumulation) -> Codes:
    """The sums themselves, 32-bit integers, where no quantizer follows."""
    if not form.clip.is_open:
        raise StaysFloatError("no quantizer says on which grid the result is")
    if np.any(form.scale == 0):
        raise StaysFloatError("a channel has scale 0")
    bias = _bias(form, None)
    if bias is None:
        raise StaysFloatError(
            "the bias does not fit the 32-bit sums, and no quantizer says on which grid the result is"
        )
    reach = form.bound + (int(np.abs(bias).max()) if bias.size else 0)
    axis = None if form.scale.ndim == 0 else form.axis
    scale = float(form.scale) if axis is None else form.scale
    return _emit(lowering, form, Grid(scale, 0, -reach, reach, axis), bias, {})


def emit_channel_affine(lowering: Lowering, form: ChannelAffine, grid: Grid) -> Codes:
    """Scale and offset for each channel."""
    scale = form.codes.scale * form.scale
    return _emit_affine(lowering, form.codes, scale, form.offset, form.axis, form, grid)


def _emit_affine(
    lowering: Lowering,
    codes: Codes,
    scale: np.ndarray,
    offset: np.ndarray,
    axis: int | None,
    form: Accumulation | ChannelAffine,
    grid: Grid,
) -> Codes:
    low, high = clipped_codes(grid, form.clip)
    step = float(grid.scale)
    multiplier, addend, shift = affine_multipliers(np.asarray(scale) / step, np.asarray(offset) / step, codes.reach)
    return lowering.emit(
        IntegerOp.SCALE_SHIFT,
        (codes.value.name,),
        codes.value.shape,
        replace(grid, low=low, high=high),
        {"multiplier": multiplier, "offset": addend, "shift": shift},
        {
            "axis": 0 if axis is None else axis,
            "zero_point_in": codes.grid.zero_point,
            "zero_point": grid.zero_point,
            "low": low,
            "high": high,
        },
        form.module if isinstance(form, Accumulation) else None,
    )


def _bias(form: Accumulation, step: float | None) -> np.ndarray | None:
    """The bias in steps of the sum; None where it does not fit these, or is rounded too coarsely there."""
    if form.correction is None:
        return np.zeros(0, np.int64) if not np.any(form.offset) else None
    if np.any((form.scale == 0) & (form.offset != 0)):
        return None
    if step is not None and np.any((np.abs(form.scale) > _COARSE * step) & (form.offset != 0)):
        return None
    steps = np.divide(form.offset, form.scale, out=np.zeros_like(form.offset), where=form.scale != 0)
    if np.any(np.abs(steps) + form.bound >= ACCUMULATOR_LIMIT):
        return None
    return np.rint(steps).astype(np.int64) + form.correction


def _zero_bias(form: Accumulation) -> np.ndarray:
    return np.zeros(0, np.int64) if form.correction is None else form.correction


def _emit(
    lowering: Lowering,
    form: Accumulation,
    grid: Grid,
    bias: np.ndarray,
    attributes: dict[str, Any],
    rescaling: dict[str, np.ndarray] | None = None,
) -> Codes:
    """The node itself; without rescaling it gives the sums."""
    constants: dict[str, np.ndarray] = dict(form.constants)
    if form.correction is not None:
        constants["bias"] = bias.astype(np.int32)
    if rescaling is None and form.op in (IntegerOp.MATMUL, IntegerOp.MEAN, IntegerOp.AVERAGE_POOL):
        rescaling = {"multiplier": np.int64(1 << _IDENTITY_SHIFT), "shift": np.int64(_IDENTITY_SHIFT)}  # pyright: ignore[reportAssignmentType]
    if not attributes:
        attributes = {"zero_point": 0, "low": grid.low, "high": grid.high}
    constants.update({name: np.asarray(values, np.int64) for name, values in (rescaling or {}).items()})
    return lowering.emit(
        form.op, form.inputs, form.shape, grid, constants, {**form.attributes, **attributes}, form.module
    )


def _bits(codes: Codes) -> str:
    return f"{max((codes.grid.high - codes.grid.low).bit_length(), 1)}-bit"


def _vector(lowering: Lowering, node: Any) -> np.ndarray | None:
    form = lowering.form(node)
    if isinstance(form, Constant) and form.value is None:
        return None
    if not isinstance(form, Constant) or not isinstance(form.value, Tensor):
        raise StaysFloatError("its bias or statistics are no constants")
    return form.value.detach().cpu().double().numpy().reshape(-1)


def _require_batch(node: fx.Node, rank: int) -> None:
    if node_rank(node) != rank + 2:
        raise StaysFloatError("its input has no batch dimension")


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return tuple(int(size) for size in (values * rank if len(values) == 1 else values))


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if value == "valid":
        return ((0, 0),) * len(kernel)
    if value == "same":
        totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((size, size) for size in _each(value, len(kernel)))


_BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
_aten = torch.ops.aten

RULES: dict[Any, Rule] = {
    _aten.linear.default: linear,
    _aten.conv1d.default: convolution,
    _aten.conv2d.default: convolution,
    _aten.conv1d.padding: convolution,
    _aten.conv2d.padding: convolution,
    _aten.matmul.default: matmul,
    _aten.bmm.default: matmul,
    _aten.mm.default: matmul,
    _aten.mean.dim: mean,
    _aten.adaptive_avg_pool2d.default: mean,
    _aten.adaptive_avg_pool1d.default: mean,
    _aten.avg_pool2d.default: average_pool,
    _aten.avg_pool1d.default: average_pool,
    _aten.max_pool2d.default: max_pool,
    _aten.max_pool1d.default: max_pool,
    _BATCH_NORM: batch_norm,
    _aten.batch_norm.default: batch_norm,
}

EMITTERS: dict[type[Pending], Emitter] = {Accumulation: emit_accumulation, ChannelAffine: emit_channel_affine}
