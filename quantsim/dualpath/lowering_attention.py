"""Integer forms of attention: masked softmax as tables, and the product with the values divided at the end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx

from quantsim.dualpath.accumulator_bound import require_accumulator
from quantsim.dualpath.capture import module_path
from quantsim.dualpath.integer_graph import Grid, IntegerOp
from quantsim.dualpath.lowered_values import (
    Codes,
    Constant,
    Host,
    Lowered,
    Mapped,
    Pending,
    Probabilities,
    Scores,
    SoftmaxProduct,
    StaysFloatError,
)
from quantsim.dualpath.lowering import Emitter, Lowering, Rule, arguments_of
from quantsim.dualpath.rescaling import multiplier_for
from quantsim_kernels.fixed_point import exponential_tables, fixed_point

__all__ = [
    "EMITTERS",
    "RULES",
    "added_to_scores",
    "feeds_softmax",
    "masked_probabilities",
    "moved_probabilities",
    "score_units",
]

_REACH: Final = 2**16
"""So many units away a numerator must be 0."""

_SOFTMAX_BITS: Final = 16
"""Bits of the numerators where a quantizer rounds the probabilities themselves."""

_MASKED: Final = -1e4
"""What is added to a score to leave it out is at most this."""

_LIMIT: Final = 61

_aten = torch.ops.aten
_ON_THE_WAY: Final = frozenset(
    {
        _aten.add.Tensor,
        _aten.masked_fill.Scalar,
        _aten.where.ScalarOther,
        _aten.where.self,
        _aten.view.default,
        _aten.reshape.default,
        _aten.to.dtype,
        _aten.clone.default,
        _aten.contiguous.default,
        _aten.mul.Tensor,
        _aten.div.Tensor,
    }
)
"""What may stand between scores and their softmax."""


def softmax(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.softmax`` over the last dimension."""
    arguments = arguments_of(node)
    rank = len(node.meta["val"].shape)
    if int(arguments["dim"]) % rank != rank - 1:
        raise StaysFloatError("softmax runs over another dimension than the last")
    scores = scores_of(lowering, arguments["self"])
    if lowering.shape(node) != scores.codes.value.shape:
        raise StaysFloatError("what is added to the scores has more elements than they have")
    return Probabilities(scores)


def scores_of(lowering: Lowering, node: fx.Node) -> Scores:
    """What softmax reads, as codes with a factor, a bias and a mask."""
    form = lowering.form(node)
    if isinstance(form, Scores):
        return form
    if isinstance(form, Mapped) and form.factor is not None and form.factor > 0 and form.clip.is_open:
        return Scores(form.codes, form.factor)  # what is added to all changes no softmax
    codes = lowering.codes(node)
    codes.scale  # noqa: B018 (refuses scales of channels)
    return Scores(codes)


def masked_fill(lowering: Lowering, node: fx.Node) -> Lowered:
    """Scores of which some are left out."""
    arguments = arguments_of(node)
    if float(arguments["value"]) > _MASKED or not feeds_softmax(node):
        raise StaysFloatError("masked_fill has an integer form only where softmax leaves the masked elements out")
    scores = scores_of(lowering, arguments["self"])
    visible = lowering.insert(_aten.bitwise_not.default, (arguments["mask"],))
    return _with_mask(lowering, scores, visible)


def where(lowering: Lowering, node: fx.Node) -> Lowered:
    """Scores where a condition holds, and a number that softmax leaves out elsewhere."""
    condition, scores, other = node.args
    form = lowering.form(other)
    number = form.value if isinstance(form, Constant) else None
    value = float(number) if not isinstance(number, Tensor) and number is not None else None
    if isinstance(number, Tensor) and number.numel() == 1:
        value = float(number)
    if value is None or value > _MASKED or not feeds_softmax(node):
        raise StaysFloatError("where has an integer form only where softmax leaves the masked elements out")
    assert isinstance(scores, fx.Node)
    assert isinstance(condition, fx.Node)
    return _with_mask(lowering, scores_of(lowering, scores), condition)


def added_to_scores(lowering: Lowering, scores: fx.Node, addend: fx.Node, factor: float = 1.0) -> Scores:
    """Scores plus ``factor`` times a constant bias, or a mask of zeros and huge negative numbers by the host."""
    form = scores_of(lowering, scores)
    constant = lowering.form(addend)
    if isinstance(constant, Constant):
        tensor = constant.value.detach().float() * factor
        hidden = tensor <= _MASKED
        if bool(hidden.any()):
            form = _with_mask(lowering, form, _visible(lowering, addend, factor))
        return _with_bias(form, tensor.masked_fill(hidden, 0.0))
    if not isinstance(constant, Host) or addend in lowering.active:
        raise StaysFloatError("what is added to the scores is computed in floating point")
    values = lowering.example(addend) * factor
    if not bool(((values == 0) | (values <= _MASKED)).all()):
        raise StaysFloatError("what is added to the scores depends on the inputs and is no mask")
    return _with_mask(lowering, form, _visible(lowering, addend, factor))


def masked_probabilities(lowering: Lowering, form: Probabilities, alive: fx.Node) -> Probabilities:
    """Probabilities times booleans: rows, or elements, that are nothing."""
    constant = lowering.form(alive)
    if isinstance(constant, Constant) and isinstance(constant.value, Tensor) and bool((constant.value == 1).all()):
        return form
    if alive.meta["val"].dtype is not torch.bool or alive.meta["val"].shape[-1] != 1:
        raise StaysFloatError("probabilities are multiplied by something else than a mask of rows")
    return replace(form, scores=_with_mask(lowering, form.scores, alive))


def moved_probabilities(lowering: Lowering, node: fx.Node, form: Probabilities) -> Probabilities:
    """Probabilities in another shape with the same last dimension: the scores are moved instead."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if before[-1] != after[-1]:
        raise StaysFloatError("probabilities are moved so that their rows change")
    scores, shape = form.scores, lowering.shape(node)
    codes = lowering.emit(IntegerOp.RESHAPE, (scores.codes.value.name,), shape, scores.codes.grid, {}, {"shape": shape})
    bias, mask = scores.bias, scores.mask
    if bias is not None and bias.numel() > 1:
        lengths = [lowering.lengths(lowering.shape(each)) for each in (source, node)]
        if not all(isinstance(size, int) for size in shape):
            raise StaysFloatError("a bias of scores is moved together with the batch")
        bias = bias.expand(lengths[0]).reshape(lengths[1])
    if mask is not None:
        full = lowering.insert(_aten.expand.default, (mask, _sizes(lowering, source)))
        mask = lowering.insert(_aten.reshape.default, (full, _sizes(lowering, node)))
    return replace(form, scores=Scores(codes, scores.factor, bias, mask))


def feeds_softmax(node: fx.Node) -> bool:
    """Whether all that reads a node leads to a softmax."""
    return bool(node.users) and all(
        user.target is _aten.softmax.int or (user.target in _ON_THE_WAY and feeds_softmax(user)) for user in node.users
    )


def _sizes(lowering: Lowering, node: fx.Node) -> list[Any]:
    """Lengths of a node's tensor as arguments; at most one is left to be found out."""
    sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    if sizes.count(-1) > 1:
        raise StaysFloatError("several lengths of the scores grow with the batch")
    return sizes


def _visible(lowering: Lowering, addend: fx.Node, factor: float) -> fx.Node:
    """Where ``factor`` times the addend leaves scores in."""
    scaled = addend if factor == 1.0 else lowering.insert(_aten.mul.Scalar, (addend, factor))
    return lowering.insert(_aten.gt.Scalar, (scaled, _MASKED))


def _with_mask(lowering: Lowering, scores: Scores, visible: fx.Node) -> Scores:
    if scores.mask is not None:
        visible = lowering.insert(_aten.bitwise_and.Tensor, (scores.mask, visible))
    return replace(scores, mask=visible)


def _with_bias(scores: Scores, bias: Tensor) -> Scores:
    return replace(scores, bias=bias if scores.bias is None else scores.bias + bias)


# -------------------------------------------------------------------- emission


def emit_probabilities(lowering: Lowering, form: Probabilities, grid: Grid) -> Codes:
    """Softmax on a grid of its own."""
    if form.bits is not None:
        raise StaysFloatError("an unnormalised softmax can only be multiplied by values")
    inputs, constants, attributes, length = _numerators(lowering, form.scores, _SOFTMAX_BITS)
    multiplier, shift = _result(1.0 / float(grid.scale), (length << _SOFTMAX_BITS), 1 << _SOFTMAX_BITS)
    constants["result_multiplier"] = multiplier
    attributes.update({"result_shift": shift, "zero_point": grid.zero_point, "low": grid.low, "high": grid.high})
    shape = form.scores.codes.value.shape
    return lowering.emit(IntegerOp.SOFTMAX, inputs, shape, grid, constants, attributes)


def emit_softmax_product(lowering: Lowering, form: SoftmaxProduct, grid: Grid) -> Codes:
    """Numerators times values, over the sum of the numerators."""
    bits = form.probabilities.bits
    assert bits is not None
    inputs, constants, attributes, length = _numerators(lowering, form.probabilities.scores, bits)
    values = form.values
    assert lowering.current is not None
    bound = require_accumulator(
        length * ((1 << bits) - 1) * values.reach,
        layer=module_path(lowering.current),
        terms=length,
        operands=f"{bits}-bit softmax numerators times values",
    )
    multiplier, shift = _result(values.scale / float(grid.scale), length << bits, bound)
    constants["result_multiplier"] = multiplier
    attributes.update(
        {
            "zero_point_values": values.grid.zero_point,
            "result_shift": shift,
            "zero_point": grid.zero_point,
            "low": grid.low,
            "high": grid.high,
        }
    )
    operands = (inputs[0], values.value.name, *inputs[1:])
    return lowering.emit(IntegerOp.SOFTMAX_MATMUL, operands, form.shape, grid, constants, attributes)


def _numerators(
    lowering: Lowering, scores: Scores, bits: int
) -> tuple[list[str], dict[str, np.ndarray], dict[str, Any], int]:
    """Operands, constants and attributes of the exponentials, and the length of a row."""
    codes = scores.codes
    length = codes.value.shape[-1]
    if not isinstance(length, int):
        raise StaysFloatError("softmax runs over the batch")
    reach = max(abs(codes.grid.low), abs(codes.grid.high))
    units = score_units(bits)
    multiplier, shift = multiplier_for(codes.scale * scores.factor * units, reach)
    tables = exponential_tables(bits, units)
    constants = {
        "multiplier": multiplier,
        "shift": shift,
        "exponential_high": tables.exponential_high,
        "exponential_low": tables.exponential_low,
    }
    if scores.bias is not None:
        constants["bias"] = np.rint(scores.bias.double().numpy() * units).astype(np.int64)
    inputs = [codes.value.name]
    if scores.mask is not None:
        inputs.append(lowering.host_value(scores.mask, None, "mask").name)
    return inputs, constants, {"exponential_shift": tables.exponential_shift}, length


def score_units(bits: int) -> int:
    """Units of a nat in which scores are counted: as fine as lets the farthest numerator be 0.

    Example:
        >>> score_units(8), score_units(16)
        (8192, 4096)
    """
    return 2 ** int(math.log2(_REACH / ((bits + 1) * math.log(2.0))))


def _result(ratio: float, total: int, numerator: int) -> tuple[np.ndarray, int]:
    """Multiplier and shift of a ratio with which neither side of the division leaves 64-bit integers."""
    most = min(31, _LIMIT - numerator.bit_length())
    for bits in range(most, 1, -1):
        multiplier, shift = fixed_point(ratio, bits)
        if (total << int(shift)).bit_length() <= _LIMIT:
            return np.asarray(multiplier), int(shift)
    raise StaysFloatError("its scales are too far apart for the division")


RULES: dict[Any, Rule] = {
    _aten.softmax.int: softmax,
    _aten.masked_fill.Scalar: masked_fill,
    _aten.where.ScalarOther: where,
    _aten.where.self: where,
}

EMITTERS: dict[type[Pending], Emitter] = {
    Probabilities: emit_probabilities,
    SoftmaxProduct: emit_softmax_product,
}
