"""Finds the grid of a weight that is quantized already, so that calibrating it again loses nothing.

For each set of elements that share a scale the largest s is sought with ``w = k·s`` for integers k in [qmin, qmax].
The largest magnitude is some number of steps, and there are few numbers to try: a number fits if it makes all elements
integers, up to the rounding of float32. What was found counts only if the quantizer then reproduces the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantsim.nn.observation import preserve_on_error
from quantsim.quantization.affine import GroupedBlockQuantizeDequantize
from quantsim.quantization.base import QuantizerBase

__all__ = ["recover_grid"]

SAMPLE = 8
"""Sets, and elements of each, that are tried first; they rule out weights that are on no grid."""

MOST_STEPS = 1023
"""Most steps from zero to the largest magnitude that are tried."""

MOST_TRIALS = 2**24
"""Most trials, over all sets; bounds memory."""

TOLERANCE = 4 * torch.finfo(torch.float32).eps
"""Relative error of a code that two roundings of float32 (of the element and of the largest) explain."""


def recover_grid(quantizer: QuantizerBase, parameter: Tensor) -> bool:
    """Sets the quantizer's range so that it reproduces ``parameter`` exactly, if there is such a range.

    Only for symmetric affine quantizers with as many negative as positive numbers (up to one).

    Args:
        quantizer: Quantizer of the parameter; unchanged if the result is False.
        parameter: Values of any shape that fits the quantizer.

    Returns:
        Whether the parameter was on such a grid (to one unit in the last place of float32).

    Example:
        >>> from quantsim.quantization import affine
        >>> quantizer = affine.QuantizeDequantize((), bitwidth=4, symmetric=True)
        >>> recover_grid(quantizer, torch.tensor([0.3, -0.9, 0.6])), float(quantizer.get_scale())
        (True, 0.30000001192092896)
        >>> recover_grid(quantizer, torch.tensor([0.31, -0.92, 0.65]))
        False
    """
    bounds = _symmetric_bounds(quantizer)
    if bounds is None or parameter.numel() == 0 or not parameter.is_floating_point():
        return False
    qmin, qmax = bounds
    shape = tuple(quantizer.shape)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
    groups = _groups(parameter, shape, getattr(quantizer, "block_size", None))
    if groups is None or not bool(torch.isfinite(groups).all()) or not bool(groups.any()):
        return False
    # A few sets first: one that is on no grid settles it, and real weights are on none.
    scales = None if _scales(groups[:SAMPLE], qmin, qmax) is None else _scales(groups, qmin, qmax)
    if scales is None:
        return False
    scale = scales.to(torch.float32).reshape(shape)
    try:
        with preserve_on_error([quantizer]):
            quantizer.set_range(scale * qmin, scale * qmax)  # pyright: ignore[reportCallIssue]
            _require_reproduced(quantizer, parameter)
    except _NotReproducedError:
        return False
    return True


class _NotReproducedError(Exception):
    pass


def _require_reproduced(quantizer: QuantizerBase, parameter: Tensor) -> None:
    """Raises unless the quantizer maps the parameter to itself, up to the rounding of one product."""
    with torch.no_grad():
        error = (quantizer(parameter) - parameter).abs()
    tolerance = 2 * torch.finfo(parameter.dtype if parameter.dtype.itemsize <= 4 else torch.float32).eps
    if not bool((error <= tolerance * parameter.abs()).all()):
        raise _NotReproducedError


def _symmetric_bounds(quantizer: QuantizerBase) -> tuple[int, int] | None:
    """The integer bounds of a plain symmetric signed affine quantizer, else ``None``."""
    if isinstance(quantizer, GroupedBlockQuantizeDequantize):  # two scales, another problem
        return None
    qmin, qmax = getattr(quantizer, "qmin", None), getattr(quantizer, "qmax", None)
    if not (isinstance(qmin, int) and isinstance(qmax, int) and getattr(quantizer, "symmetric", False)):
        return None
    if (qmin + qmax) not in (0, -1) or qmax < 1:
        return None
    if getattr(quantizer, "zero_point_shift", None) or not hasattr(quantizer, "set_range"):
        return None
    return qmin, qmax


def _groups(parameter: Tensor, shape: tuple[int, ...], block_size: tuple[int, ...] | None) -> Tensor | None:
    """The parameter as (number of scales, elements that share one), in float64; ``None`` if the shapes do not fit."""
    values = parameter.detach().to(torch.float64)
    dims = values.dim()
    if len(shape) > dims and any(size != 1 for size in shape[: len(shape) - dims]):
        return None
    counts = (1,) * (dims - len(shape)) + shape[max(0, len(shape) - dims) :]
    blocked: list[int] = []
    for size, count in zip(values.shape, counts, strict=True):
        if count < 1 or size % count or (block_size is None and count not in (1, size)):
            return None
        blocked += [count, size // count]
    order = [*range(0, 2 * dims, 2), *range(1, 2 * dims, 2)]
    number = 1
    for count in counts:
        number *= count
    return values.reshape(blocked).permute(order).reshape(number, -1)


def _scales(groups: Tensor, qmin: int, qmax: int) -> Tensor | None:
    """The largest scale for which each row's elements are codes; ``None`` if a row has none."""
    largest = groups.abs().amax(dim=1, keepdim=True)
    most = min(MOST_STEPS, max(-qmin, qmax), max(1, MOST_TRIALS // len(groups)))
    steps = torch.arange(1, most + 1, dtype=groups.dtype, device=groups.device)
    fractions = groups / torch.where(largest > 0, largest, torch.ones_like(largest))
    possible = torch.ones(len(groups), most, dtype=torch.bool, device=groups.device)
    for column in torch.linspace(0, groups.shape[1] - 1, min(SAMPLE, groups.shape[1])).long().tolist():
        possible &= _are_codes(fractions[:, column : column + 1] * steps, qmin, qmax)
        if not bool(possible.any(dim=1).all()):
            return None
    while True:
        if not bool(possible.any(dim=1).all()):
            return None
        fewest = possible.to(torch.uint8).argmax(dim=1, keepdim=True)  # the first that is still possible
        fits = _are_codes(fractions * steps[fewest], qmin, qmax).all(dim=1, keepdim=True)
        if bool(fits.all()):
            return (largest / steps[fewest]).squeeze(1)
        possible.scatter_(1, fewest, possible.gather(1, fewest) & fits)


def _are_codes(values: Tensor, qmin: int, qmax: int) -> Tensor:
    codes = values.round()
    return ((values - codes).abs() <= TOLERANCE * codes.abs()) & (codes >= qmin) & (codes <= qmax)
