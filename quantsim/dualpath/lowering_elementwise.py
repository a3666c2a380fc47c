"""Integer forms of what works element by element: functions as tables, clipping, sums, products, scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx

from quantsim.dualpath.integer_graph import Grid, IntegerOp
from quantsim.dualpath.lowered_values import (
    Accumulation,
    ChannelAffine,
    Clip,
    Codes,
    Constant,
    Lowered,
    Mapped,
    MeanSquare,
    Normalization,
    Pending,
    Probabilities,
    Product,
    Scores,
    StaysFloatError,
    Sum,
)
from quantsim.dualpath.lowering import Emitter, Lowering, Rule, arguments_of
from quantsim.dualpath.lowering_attention import added_to_scores, feeds_softmax, masked_probabilities
from quantsim.dualpath.lowering_norms import add_to_mean_square, root_of_mean_square, times_root
from quantsim.dualpath.lowering_products import node_rank, scaled_channels
from quantsim.dualpath.rescaling import clipped_codes, multiplier_bits, multiplier_for
from quantsim_kernels.fixed_point import common_fixed_point

__all__ = ["EMITTERS", "RULES"]

_TABLE_BITS: Final = 8
"""Functions of codes up to this width are always tables; wider ones only if they are no affine maps."""

_WIDEST_TABLE: Final = 16

_aten = torch.ops.aten


def unary(lowering: Lowering, node: fx.Node) -> Lowered:
    """A function of one tensor and plain numbers."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    form = lowering.form(source)
    clip = _clip_of(node)
    if clip is not None and isinstance(form, (Accumulation, ChannelAffine, Sum, Product)):
        return replace(form, clip=form.clip.then(clip))
    if isinstance(form, MeanSquare):
        return root_of_mean_square(node, form)
    return _mapped(lowering, source, _as_function(node), clip, square=_is_square(node))


def addition(lowering: Lowering, node: fx.Node) -> Lowered:
    """``a + alpha * b`` and ``a - alpha * b``, of two activations or of one and a constant."""
    arguments = arguments_of(node)
    alpha = 1.0 if arguments.get("alpha") is None else float(arguments["alpha"])
    a, b = arguments["self"], arguments["other"]
    if "sub" in str(node.target):
        alpha = -alpha
    if isinstance(lowering.form(a), Constant):
        form = lowering.form(b)
        if alpha == 1.0:
            a, b = b, a
        elif isinstance(form, (Codes, Mapped)):
            return _sum(lowering, node, a, 1.0, b, alpha)
        else:
            raise StaysFloatError("a constant less this operand has no integer form")
    constant = lowering.form(b)
    if not isinstance(constant, Constant):
        if b not in lowering.active or a not in lowering.active:
            if not feeds_softmax(node):
                raise StaysFloatError("one operand is computed by the host, and no quantizer says on which grid")
            if b not in lowering.active:
                return added_to_scores(lowering, a, b, alpha)
            if alpha != 1.0:
                raise StaysFloatError("scores that are taken away from a mask have no integer form")
            return added_to_scores(lowering, b, a)
        return _sum(lowering, node, a, 1.0, b, alpha)
    form = lowering.form(a)
    value = constant.value
    if _is_number(node, a, value):
        return _add_number(lowering, node, a, form, alpha * float(value))
    if feeds_softmax(node):
        return added_to_scores(lowering, a, b, alpha)
    axis = _channels(value, node_rank(node))
    if axis is not None and _keeps_shape(node, a):
        offset = alpha * value.detach().double().numpy().reshape(-1)
        return scaled_channels(lowering, a, np.ones_like(offset), offset, axis)
    return _sum(lowering, node, a, 1.0, b, alpha)


def multiplication(lowering: Lowering, node: fx.Node) -> Lowered:
    """``a * b``, of two activations or of one and a constant."""
    a, b = node.args[:2]
    if isinstance(lowering.form(a), Constant):
        a, b = b, a
    assert isinstance(a, fx.Node)
    constant, form = lowering.form(b), lowering.form(a)
    for first, second in ((a, b), (b, a)):
        root = lowering.form(second)
        if isinstance(root, MeanSquare):
            return times_root(lowering, first, root)
        if isinstance(root, Probabilities) and isinstance(first, fx.Node) and first not in lowering.active:
            return masked_probabilities(lowering, root, first)
    if isinstance(constant, Constant):
        value = constant.value
        if _is_number(node, a, value):
            return _times_number(lowering, node, a, form, float(value))
        axis = _channels(value, node_rank(node))
        if axis is not None and _keeps_shape(node, a):
            gain = value.detach().double().numpy().reshape(-1)
            return scaled_channels(lowering, a, gain, np.zeros_like(gain), axis)
    first, factor_a = _scaled(lowering, a)
    second, factor_b = _scaled(lowering, b)
    return Product(first, second, factor_a * factor_b, lowering.shape(node))


def division(lowering: Lowering, node: fx.Node) -> Lowered:
    """``a / c`` with a constant."""
    a, b = node.args[:2]
    constant = lowering.form(b)
    assert isinstance(a, fx.Node)
    if node.kwargs.get("rounding_mode") is not None:
        raise StaysFloatError("a division that rounds has no integer form")
    if not isinstance(constant, Constant) or isinstance(lowering.form(a), Constant):
        raise StaysFloatError("a division by an activation has no integer form")
    value = constant.value
    if bool(torch.as_tensor(value == 0).any()):
        raise StaysFloatError("it divides by zero")
    if _is_number(node, a, value):
        return _times_number(lowering, node, a, lowering.form(a), 1.0 / float(value))
    axis = _channels(value, node_rank(node))
    if axis is None or not _keeps_shape(node, a):
        raise StaysFloatError("a division by a constant that varies along several dimensions has no integer form")
    gain = 1.0 / value.detach().double().numpy().reshape(-1)
    return scaled_channels(lowering, a, gain, np.zeros_like(gain), axis)


# -------------------------------------------------------------------- forms


def _mapped(
    lowering: Lowering,
    source: fx.Node,
    function: Callable[[Tensor], Tensor],
    clip: Clip | None = None,
    *,
    factor: float | None = None,
    addend: float = 0.0,
    square: bool = False,
) -> Mapped:
    form = lowering.form(source)
    if not isinstance(form, Mapped):
        codes = lowering.codes(source)
        codes.scale  # noqa: B018 (refuses scales of channels)
        form = Mapped(codes, lambda x: x, 1.0)
    inner = form.function
    is_identity = form.factor == 1.0 and form.addend == 0.0 and form.clip.is_open
    composed = replace(form, function=lambda x: function(inner(x)), square=square and is_identity)
    if clip is not None:
        return replace(composed, clip=form.clip.then(clip))
    if factor is not None and form.factor is not None and form.clip.is_open:
        return replace(composed, factor=form.factor * factor, addend=form.addend * factor + addend)
    return replace(composed, factor=None, addend=0.0, clip=Clip())


def _add_number(lowering: Lowering, node: fx.Node, a: fx.Node, form: Lowered, number: float) -> Lowered:
    if isinstance(form, (Accumulation, ChannelAffine)) and form.clip.is_open and form.axis is not None:
        return replace(form, offset=form.offset + number)
    if isinstance(form, MeanSquare):
        return add_to_mean_square(form, number)
    if isinstance(form, Scores):
        return form  # softmax does not change
    if isinstance(form, Normalization):
        return replace(form, offset=(0.0 if form.offset is None else form.offset) + np.full_like(form.gain, number))
    return _mapped(lowering, a, lambda x: x + number, factor=1.0, addend=number)


def _times_number(lowering: Lowering, node: fx.Node, a: fx.Node, form: Lowered, number: float) -> Lowered:
    if isinstance(form, (Accumulation, ChannelAffine)) and form.clip.is_open:
        return replace(form, scale=form.scale * number, offset=form.offset * number)
    if isinstance(form, Sum) and form.clip.is_open:
        return replace(form, factor_a=form.factor_a * number, factor_b=form.factor_b * number)
    if isinstance(form, Product) and form.clip.is_open:
        return replace(form, factor=form.factor * number)
    if isinstance(form, Scores) and number > 0:
        return replace(form, factor=form.factor * number, bias=None if form.bias is None else form.bias * number)
    if isinstance(form, Normalization):
        return replace(form, gain=form.gain * number, offset=None if form.offset is None else form.offset * number)
    return _mapped(lowering, a, lambda x: x * number, factor=number)


def _sum(lowering: Lowering, node: fx.Node, a: Any, factor_a: float, b: Any, factor_b: float) -> Sum:
    first, scale_a = _scaled(lowering, a)
    second, scale_b = _scaled(lowering, b)
    return Sum(first, factor_a * scale_a, second, factor_b * scale_b, lowering.shape(node))


def _scaled(lowering: Lowering, node: Any) -> tuple[Codes, float]:
    """Codes with one scale, and a factor."""
    if not isinstance(node, fx.Node):
        raise StaysFloatError("one operand is a plain number")
    form = lowering.form(node)
    if isinstance(form, Mapped) and form.factor is not None and form.addend == 0.0 and form.clip.is_open:
        return form.codes, form.factor
    codes = lowering.codes(node)
    codes.scale  # noqa: B018 (refuses scales of channels)
    return codes, 1.0


def _channels(value: Tensor, rank: int) -> int | None:
    """The only dimension of a broadcast constant that is longer than 1; None if there are several."""
    long = [axis for axis, size in enumerate(value.shape) if size > 1]
    return rank - value.dim() + long[0] if len(long) == 1 else None


def _is_number(node: fx.Node, operand: Any, value: Any) -> bool:
    """Whether a constant is one number that leaves the shape of the other operand as it is."""
    return not isinstance(value, Tensor) or (value.numel() == 1 and _keeps_shape(node, operand))


def _keeps_shape(node: fx.Node, operand: fx.Node) -> bool:
    return tuple(node.meta["val"].shape) == tuple(operand.meta["val"].shape)


def _as_function(node: fx.Node) -> Callable[[Tensor], Tensor]:
    target: Any = node.target
    rest, keywords = node.args[1:], dict(node.kwargs)
    if any(isinstance(argument, fx.Node) for argument in (*rest, *keywords.values())):
        raise StaysFloatError("one of its arguments is a tensor")
    return lambda x: target(x, *rest, **keywords)


def _is_square(node: fx.Node) -> bool:
    return node.target is _aten.square.default or (node.target is _aten.pow.Tensor_Scalar and node.args[1] in (2, 2.0))


def _clip_of(node: fx.Node) -> Clip | None:
    """What a function that only clips clips to."""
    name = str(node.target).split(".")[1]
    if name == "relu":
        return Clip(0.0)
    if name == "relu6":
        return Clip(0.0, 6.0)
    if name in ("hardtanh", "clamp", "clamp_min", "clamp_max"):
        arguments = arguments_of(node)
        low, high = (arguments.get(key) for key in (("min_val", "max_val") if name == "hardtanh" else ("min", "max")))
        return Clip(-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return None


# -------------------------------------------------------------------- emission


def emit_mapped(lowering: Lowering, form: Mapped, grid: Grid) -> Codes:
    """A table, or a rescaling where the function is an affine map."""
    codes = form.codes
    bits = (codes.grid.high - codes.grid.low).bit_length()
    is_affine = form.factor is not None and form.addend == 0.0
    if is_affine and (bits > _TABLE_BITS or form.factor == 1.0):
        assert form.factor is not None
        return _requantized(lowering, codes, form.factor, form.clip, grid)
    if bits > _WIDEST_TABLE:
        raise StaysFloatError(f"a function of {bits}-bit sums has no integer form; put a quantizer before it")
    integers = np.arange(codes.grid.low, codes.grid.high + 1)
    real = torch.from_numpy((integers - codes.grid.zero_point).astype(np.float32)) * codes.scale
    with torch.no_grad():
        results = form.function(real).double()
    step = torch.nan_to_num(results, nan=0.0) / float(grid.scale)
    rounded = torch.round(step.float().double()) + grid.zero_point
    table = rounded.clamp(grid.low, grid.high).numpy().astype(grid.dtype)
    return lowering.emit(
        IntegerOp.TABLE, (codes.value.name,), codes.value.shape, grid, {"table": table}, {"first": codes.grid.low}
    )


def _requantized(lowering: Lowering, codes: Codes, factor: float, clip: Clip, grid: Grid) -> Codes:
    low, high = clipped_codes(grid, clip)
    result = replace(grid, low=low, high=high)
    ratio = codes.scale * factor / float(grid.scale)
    if ratio == 1.0 and codes.grid.zero_point == grid.zero_point:
        return lowering.emit(
            IntegerOp.CLAMP, (codes.value.name,), codes.value.shape, result, {}, {"low": low, "high": high}
        )
    multiplier, shift = multiplier_for(ratio, codes.reach)
    return lowering.emit(
        IntegerOp.REQUANTIZE,
        (codes.value.name,),
        codes.value.shape,
        result,
        {"multiplier": multiplier, "shift": shift},
        {"zero_point_in": codes.grid.zero_point, "zero_point": grid.zero_point, "low": low, "high": high},
    )


def emit_sum(lowering: Lowering, form: Sum, grid: Grid) -> Codes:
    """A sum of two grids, rounded once."""
    low, high = clipped_codes(grid, form.clip)
    step = float(grid.scale)
    ratios = (form.a.scale * form.factor_a / step, form.b.scale * form.factor_b / step)
    try:
        (first, second), shift = common_fixed_point(*ratios, bits=multiplier_bits(form.a.reach + form.b.reach))
    except ValueError as error:
        raise StaysFloatError(f"its scales are too far apart: {error}") from None
    return lowering.emit(
        IntegerOp.ADD,
        (form.a.value.name, form.b.value.name),
        form.shape,
        replace(grid, low=low, high=high),
        {"multiplier_a": np.asarray(first), "multiplier_b": np.asarray(second), "shift": np.asarray(shift)},
        {
            "zero_point_a": form.a.grid.zero_point,
            "zero_point_b": form.b.grid.zero_point,
            "zero_point": grid.zero_point,
            "low": low,
            "high": high,
        },
    )


def emit_product(lowering: Lowering, form: Product, grid: Grid) -> Codes:
    """A product of two grids, rounded once."""
    low, high = clipped_codes(grid, form.clip)
    ratio = form.a.scale * form.b.scale * form.factor / float(grid.scale)
    multiplier, shift = multiplier_for(ratio, form.a.reach * form.b.reach)
    return lowering.emit(
        IntegerOp.MULTIPLY,
        (form.a.value.name, form.b.value.name),
        form.shape,
        replace(grid, low=low, high=high),
        {"multiplier": multiplier, "shift": shift},
        {
            "zero_point_a": form.a.grid.zero_point,
            "zero_point_b": form.b.grid.zero_point,
            "zero_point": grid.zero_point,
            "low": low,
            "high": high,
        },
    )


_UNARY: Final = """
relu.default relu6.default gelu.default silu.default sigmoid.default tanh.default exp.default hardswish.default
hardsigmoid.default hardtanh.default leaky_relu.default elu.default selu.default celu.default softplus.default
mish.default neg.default abs.default sqrt.default rsqrt.default reciprocal.default square.default pow.Tensor_Scalar
clamp.default clamp_min.default clamp_max.default erf.default sin.default cos.default log.default log_sigmoid.default
softsign.default threshold.default rsub.Scalar
""".split()

RULES: dict[Any, Rule] = {}
for _name in _UNARY:
    _packet, _overload = _name.split(".")
    if hasattr(_aten, _packet) and hasattr(getattr(_aten, _packet), _overload):
        RULES[getattr(getattr(_aten, _packet), _overload)] = unary
RULES.update(
    {
        _aten.add.Tensor: addition,
        _aten.add.Scalar: addition,
        _aten.sub.Tensor: addition,
        _aten.sub.Scalar: addition,
        _aten.mul.Tensor: multiplication,
        _aten.mul.Scalar: multiplication,
        _aten.div.Tensor: division,
        _aten.div.Scalar: division,
        _aten.div.Tensor_mode: division,
        _aten.div.Scalar_mode: division,
    }
)

EMITTERS: dict[type[Pending], Emitter] = {Mapped: emit_mapped, Sum: emit_sum, Product: emit_product}
