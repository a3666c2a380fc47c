"""Encodings of affine quantizers in and out: quantsim's values and AIMET's legacy dictionaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.affine.arguments import bitwidth_grid
from quantsim.quantization.exact_division import dividend_for
from quantsim_encodings.encoding import AffineEncoding, Encoding
from quantsim_encodings.granularity import Flattened
from quantsim_kernels.reference.affine import range_from_scale_and_offset

if TYPE_CHECKING:
    from quantsim.quantization.affine.base import AffineQuantizerBase

__all__ = [
    "constructor_arguments",
    "export_encoding",
    "export_legacy",
    "import_encoding",
    "import_legacy",
    "range_of",
    "require_affine",
]


def export_encoding(quantizer: AffineQuantizerBase) -> AffineEncoding | None:
    """Returns the quantizer's encoding, or ``None`` while it is uninitialised."""
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    if scale is None or offset is None:
        return None
    return AffineEncoding(
        format=quantizer.format,
        scale=scale.detach().cpu().numpy(),
        offset=offset.detach().cpu().numpy(),
        symmetric=quantizer.symmetric,
        granularity=quantizer.granularity,
        block_size=quantizer.block_size,
        zero_point_shift=quantizer.zero_point_shift,
    )


def require_affine(owner: str, encoding: Encoding) -> AffineEncoding:
    """Returns ``encoding`` if it is affine.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(encoding, AffineEncoding):
        raise TypeError(f"{owner}: got a {type(encoding).__name__}, expected an AffineEncoding")
    return encoding


def constructor_arguments(encoding: AffineEncoding) -> dict[str, Any]:
    """Returns the keyword arguments that make a quantizer for ``encoding``.

    Raises:
        ShapeError: If the encoding does not say how its scales lie in the tensor.
    """
    if isinstance(encoding.granularity, Flattened) and encoding.scale.size > 1:
        raise ShapeError(
            "the file does not say how the scales lie in the tensor",
            where="from_encodings",
            got=f"{encoding.scale.size} scales in a row",
            expected="an encoding with a shape",
            fix="make the quantizer with its shape and call set_encodings",
        )
    return {
        "shape": tuple(encoding.scale.shape),
        "qmin": encoding.format.qmin,
        "qmax": encoding.format.qmax,
        "symmetric": encoding.symmetric,
        "block_size": encoding.block_size,
        "zero_point_shift": encoding.zero_point_shift,
    }


def import_encoding(quantizer: AffineQuantizerBase, encoding: Encoding) -> None:
    """Makes the quantizer's scale and offset those of ``encoding``; it is unchanged if that raises."""
    owner = f"{type(quantizer).__name__}.set_encodings"
    affine = require_affine(owner, encoding)
    _check_fit(quantizer, affine, owner)
    scale = torch.tensor(affine.scale, dtype=torch.float32).reshape(quantizer.shape)
    offset = torch.tensor(affine.offset, dtype=torch.float64).reshape(quantizer.shape)
    _assign(quantizer, affine.format.qmin, affine.format.qmax, affine.symmetric, affine.zero_point_shift, scale, offset)


def _assign(
    quantizer: AffineQuantizerBase,
    qmin: int,
    qmax: int,
    symmetric: bool,
    zero_point_shift: float,
    scale: Tensor,
    offset: Tensor,
) -> None:
    before = (quantizer.qmin, quantizer.qmax, quantizer.symmetric, quantizer.zero_point_shift)
    minimum, maximum = range_of(scale, offset, qmin, qmax)
    try:
        quantizer.zero_point_shift = zero_point_shift
        quantizer._set_grid(qmin, qmax, symmetric)
        _check_derived(quantizer, minimum, maximum, scale, offset)
        quantizer.assign_range_parameters(min=minimum, max=maximum)
    except BaseException:
        quantizer._zero_point_shift = before[3]
        quantizer._set_grid(*before[:3])
        raise


def _check_derived(
    quantizer: AffineQuantizerBase, minimum: Tensor, maximum: Tensor, scale: Tensor, offset: Tensor
) -> None:
    derived_scale, derived = quantizer.scale_from_range(minimum, maximum)
    if not torch.allclose(derived_scale, scale, rtol=1e-6, atol=0.0):
        worst = int((derived_scale / scale - 1).abs().argmax())
        raise ConfigurationError(
            "the quantizer cannot hold these scales",
            where=f"{type(quantizer).__name__}.set_encodings",
            got=f"a scale of {scale.flatten()[worst].item()!r}",
            expected=f"{derived_scale.flatten()[worst].item()!r}, the nearest that its grid and grouping allow",
            fix="use from_encodings to make a quantizer of the encoding's grouping",
        )
    if not torch.equal(derived.to(torch.float64), offset):
        raise ConfigurationError(
            "the quantizer cannot hold these offsets",
            where=f"{type(quantizer).__name__}.set_encodings",
            got=f"offsets {offset.flatten()[:4].tolist()}",
            expected=f"offsets {derived.flatten()[:4].tolist()}: zero must be on the grid"
            + (", in its middle if symmetric" if quantizer.symmetric else ""),
            fix="mark the encoding as not symmetric" if quantizer.symmetric else "correct the encoding",
        )


def _check_fit(quantizer: AffineQuantizerBase, encoding: AffineEncoding, owner: str) -> None:
    same_count = encoding.scale.size == math.prod(quantizer.shape)
    squeezed = [tuple(n for n in shape if n > 1) for shape in (encoding.scale.shape, quantizer.shape)]
    in_place = isinstance(encoding.granularity, Flattened) or squeezed[0] == squeezed[1]
    same_blocks = encoding.block_size is None or quantizer.block_size is None or _blocks_agree(quantizer, encoding)
    if not (same_count and in_place and same_blocks):
        raise ShapeError(
            "the encoding does not fit the quantizer",
            where=owner,
            got=f"scales of shape {encoding.scale.shape}, block_size={encoding.block_size}",
            expected=f"shape {quantizer.shape}, block_size={quantizer.block_size}",
            fix="use from_encodings to make a quantizer of the encoding's shape",
        )


def _blocks_agree(quantizer: AffineQuantizerBase, encoding: AffineEncoding) -> bool:
    mine, other = quantizer.block_size or (), encoding.block_size or ()
    trimmed = tuple(size for size in other[len(other) - len(mine) :])
    return len(trimmed) == len(mine) and all(a == b or -1 in (a, b) for a, b in zip(mine, trimmed, strict=True))


def range_of(scale: Tensor, offset: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """The float32 range from which exactly ``scale`` and ``offset`` are derived again.

    ``s * (o + qmin) .. s * (o + qmax)``, rounded such that the two ends differ by a number whose quotient by
    ``n = qmax - qmin`` is ``scale`` to the last bit, wherever float32 has such a number (a scale that was derived from
    a range always has one).

    Args:
        scale: float32 scales.
        offset: Offsets of the same shape.
        qmin: Smallest integer.
        qmax: Largest integer.

    Example:
        >>> minimum, maximum = range_of(torch.tensor(0.1), torch.tensor(-3.0), 0, 15)
        >>> ((maximum - minimum) / 15 == torch.tensor(0.1)).item()
        True
    """
    steps = qmax - qmin
    width = dividend_for(scale, steps)
    # Both ends on the grid of width's last place: there their difference is exact.
    place = (torch.nextafter(width, torch.full_like(width, math.inf)) - width).to(torch.float64)
    maximum = torch.round(scale.to(torch.float64) * (offset + qmax) / place) * place
    minimum = maximum - width.to(torch.float64)
    return minimum.to(torch.float32), maximum.to(torch.float32)


def export_legacy(quantizer: AffineQuantizerBase) -> list[dict[str, Any]] | None:
    """Returns AIMET's list of dictionaries, or ``None`` while the quantizer is uninitialised.

    Raises:
        ConfigurationError: If the grid does not use all integers of its bitwidth, which the list cannot say.
    """
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    if scale is None or offset is None:
        return None
    grid = quantizer.format
    if not grid.is_full_range:
        raise ConfigurationError(
            "legacy encodings cannot hold this grid",
            where=f"{type(quantizer).__name__}.get_legacy_encodings",
            got=f"integers from {grid.qmin} to {grid.qmax}",
            expected="all integers of a bitwidth",
            fix="use get_encodings",
        )
    minimum, maximum = range_from_scale_and_offset(scale, offset, grid.qmin, grid.qmax)
    shift = quantizer.zero_point_shift
    columns = (tensor.detach().flatten().tolist() for tensor in (minimum, maximum, scale, offset))
    return [
        {
            "min": low,
            "max": high,
            "scale": step,
            "offset": int(zero) + grid.qmin,  # of the unsigned grid, whatever the signedness
            "bitwidth": grid.bits,
            "dtype": "int",
            "is_symmetric": str(quantizer.symmetric),
            **({"zero_point_shift": shift} if shift else {}),
        }
        for low, high, step, zero in zip(*columns, strict=True)
    ]


def import_legacy(quantizer: AffineQuantizerBase, encodings: Sequence[Mapping[str, Any]]) -> None:
    """Takes over bitwidth, symmetry and range from AIMET's list of dictionaries; unchanged if that raises."""
    owner = f"{type(quantizer).__name__}.set_legacy_encodings"
    if len(encodings) != math.prod(quantizer.shape):
        raise ShapeError(
            "wrong number of encodings",
            where=owner,
            got=str(len(encodings)),
            expected=f"{math.prod(quantizer.shape)} for shape {quantizer.shape}",
        )
    try:
        first = encodings[0]
        symmetric = {"true": True, "false": False}[str(first["is_symmetric"]).lower()]
        bitwidth = int(first["bitwidth"])
        scale = torch.tensor([float(entry["scale"]) for entry in encodings], dtype=torch.float32)
        unsigned_offset = torch.tensor([float(entry["offset"]) for entry in encodings], dtype=torch.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            "not a list of legacy encodings",
            where=owner,
            got=f"{error!r} in {encodings[0]!r}",
            expected="dictionaries with min, max, scale, offset, bitwidth and is_symmetric",
        ) from None
    qmin, qmax = bitwidth_grid(bitwidth, signed=symmetric)
    shift = float(first.get("zero_point_shift", 0.0))
    offset = (unsigned_offset - qmin).reshape(quantizer.shape)
    _assign(quantizer, qmin, qmax, symmetric, shift, scale.reshape(quantizer.shape), offset)
