"""One dictionary for each scale: how AIMET's 0.6.1 files and its torch-side JSON describe an encoding."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from quantsim_encodings._problems import ProblemCollector, child, show
from quantsim_encodings.encoding import AffineEncoding, Encoding, FloatEncoding, GroupedBlockEncoding, MXEncoding
from quantsim_encodings.formats import FloatFormat, IntFormat, RoundingMode, float_format
from quantsim_encodings.granularity import Flattened, PerTensor
from quantsim_encodings.loss import Loss, LossReport
from quantsim_encodings.versions.model import Model

RANGE_TOLERANCE = 1e-2
"""How far, in steps, the redundant min and max of a file may be from what its scale and offset give."""


class LegacyIntEncoding(Model):
    """An integer grid with one scale. ``offset`` is the negative of the unsigned zero point."""

    bitwidth: Annotated[int, Field(ge=1, le=64)]
    dtype: Literal["int"]
    is_symmetric: Literal["True", "False"]
    max: float
    min: float
    offset: int
    scale: Annotated[float, Field(gt=0)]
    zero_point_shift: float = 0.0


class LegacyFloatEncoding(Model):
    """A cast to a floating-point format without scale."""

    bitwidth: Annotated[int, Field(ge=1, le=64)]
    dtype: Literal["float"]


LegacyEncoding = Annotated[LegacyIntEncoding | LegacyFloatEncoding, Field(discriminator="dtype")]

FLOAT_FORMATS_BY_BITS: dict[int, FloatFormat] = {16: float_format("fp16"), 32: float_format("fp32")}


def decode_legacy(
    items: list[LegacyIntEncoding | LegacyFloatEncoding], path: str, problems: ProblemCollector
) -> Encoding | None:
    """Builds the encoding of one tensor; notes problems and returns ``None`` if there are any."""
    if not items:
        problems.add(path, "got an empty array, expected at least one encoding")
        return None
    first = items[0]
    if isinstance(first, LegacyFloatEncoding):
        if len(items) != 1:
            problems.add(path, f"got {len(items)} float encodings, expected one: they have no scale")
            return None
        return decode_float_bits(first.bitwidth, child(child(path, 0), "bitwidth"), problems)
    integers = [item for item in items if isinstance(item, LegacyIntEncoding)]
    consistent = len(integers) == len(items)
    if not consistent:
        problems.add(path, "mixes int and float encodings, expected one kind for a tensor")
    for index, item in enumerate(integers):
        for field in ("bitwidth", "is_symmetric", "zero_point_shift"):
            if getattr(item, field) != getattr(first, field):
                consistent = False
                got, expected = show(getattr(item, field)), show(getattr(first, field))
                problems.add(child(child(path, index), field), f"got {got}, expected {expected} as in the first")
    return _affine(integers, path, problems) if consistent else None


def decode_float_bits(bits: int, path: str, problems: ProblemCollector) -> FloatEncoding | None:
    """Builds the cast that AIMET means by a number of bits."""
    if bits not in FLOAT_FORMATS_BY_BITS:
        problems.add(path, f"got a float of {bits} bits, expected one of {sorted(FLOAT_FORMATS_BY_BITS)}")
        return None
    return FloatEncoding(FLOAT_FORMATS_BY_BITS[bits])


def _affine(items: list[LegacyIntEncoding], path: str, problems: ProblemCollector) -> AffineEncoding | None:
    first = items[0]
    symmetric = first.is_symmetric == "True"
    single = len(items) == 1
    with problems.guard(path):
        # Symmetric grids are signed and others unsigned: that is all these versions know.
        format = IntFormat.from_bits(first.bitwidth, signed=symmetric)
        offset = np.array([item.offset for item in items], dtype=object) - format.qmin
        if any(abs(value) >= 2**62 for value in offset):
            raise ValueError("got an offset beyond 62 bits")
        encoding = AffineEncoding(
            format,
            scale=np.array(first.scale if single else [item.scale for item in items]),
            offset=np.array(offset[0] if single else offset, dtype=np.int64),
            symmetric=symmetric,
            granularity=PerTensor() if single else Flattened(),
            zero_point_shift=first.zero_point_shift,
        )
        minimum, maximum = legacy_range(encoding)
        for index, item in enumerate(items):
            for field, limits in (("min", minimum), ("max", maximum)):
                got, expected = getattr(item, field), float(limits[index])
                tolerance = max(RANGE_TOLERANCE * item.scale, 1e-5 * abs(expected))
                if not abs(got - expected) <= tolerance:
                    problems.add(
                        child(child(path, index), field),
                        f"got {got!r}, expected {expected!r} from scale, offset and bitwidth",
                    )
        return encoding
    return None


def legacy_range(encoding: AffineEncoding) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Minimum and maximum as AIMET writes them, flat: without the zero-point shift."""
    offset = encoding.offset.reshape(-1)
    scale = encoding.scale.reshape(-1)

    def real(code: int) -> np.ndarray[Any, Any]:
        with np.errstate(over="ignore"):
            return np.asarray(scale * np.asarray(offset + float(code), dtype=scale.dtype))

    return real(encoding.format.qmin), real(encoding.format.qmax)


def derivable_range(encoding: AffineEncoding) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Like :func:`legacy_range`, but such that AIMET gets the scale back to the last bit.

    AIMET's loader ignores ``scale`` and derives it anew as ``(max - min) / n`` in float32. Where the plain products do
    not give that, both ends are put on the grid of the last place of ``n * scale``, on which their difference is exact.
    """
    minimum, maximum = legacy_range(encoding)
    scale = encoding.scale.reshape(-1)
    if scale.dtype != np.float32 or encoding.zero_point_shift:  # a shifted grid's range is read another way
        return minimum, maximum
    steps = np.float32(encoding.format.steps)
    width = scale * steps
    candidates = np.stack([width, np.nextafter(width, np.float32(np.inf)), np.nextafter(width, np.float32(0))])
    distance = np.abs(candidates / steps - scale)
    width = np.take_along_axis(candidates, distance.argmin(0)[None], 0)[0]
    place = (np.nextafter(width, np.float32(np.inf)) - width).astype(np.float64)
    codes = encoding.offset.reshape(-1) + float(encoding.format.qmax)
    upper = np.round(scale.astype(np.float64) * codes / place) * place
    lower = (upper - width).astype(np.float32)
    plain = (maximum - minimum) / steps == scale
    return np.where(plain, minimum, lower), np.where(plain, maximum, upper.astype(np.float32))


def legacy_codes(encoding: AffineEncoding, path: str, report: LossReport) -> tuple[bool, np.ndarray[Any, Any]]:
    """Symmetry and flat offsets relative to unsigned codes, as 0.6.1 and 1.0.0 hold them; reports what is lost."""
    format = encoding.format
    if not format.is_full_range:
        report.refuse(
            path,
            f"has integers from {format.qmin} to {format.qmax}; only the full range of {format.bits} bits can be held",
        )
    if format.signed and not encoding.symmetric:
        report.lose(Loss.CODE_SIGN, path, "has signed codes without symmetry, which are read back as unsigned codes")
    if encoding.symmetric and not format.signed:
        report.lose(Loss.CODE_SIGN, path, "has unsigned codes with symmetry, which are read back as signed codes")
    if not np.issubdtype(encoding.offset.dtype, np.integer):
        report.refuse(path, "has offsets with a fraction; only integers can be held")
    return encoding.symmetric, (encoding.offset + format.qmin).reshape(-1)


def encode_legacy(encoding: Encoding, path: str, report: LossReport) -> list[dict[str, Any]]:
    """Builds the list of dictionaries; reports what it cannot hold."""
    if isinstance(encoding, FloatEncoding):
        bits = encode_float_bits(encoding, path, report)
        return [{"bitwidth": bits, "dtype": "float"}]
    if not isinstance(encoding, AffineEncoding):
        report.refuse(path, f"has an encoding of kind {encoding.label}, which cannot be held")
        return []
    if isinstance(encoding, GroupedBlockEncoding):
        report.lose(Loss.GROUPING, path, "is LPBQ; only the products of its scales can be held")
    if encoding.scale.size > 1:
        report.lose(Loss.LAYOUT, path, f"is {encoding.granularity}; only its scales in row-major order can be held")
    symmetric, offsets = legacy_codes(encoding, path, report)
    minimum, maximum = derivable_range(encoding)
    shift = {"zero_point_shift": encoding.zero_point_shift} if encoding.zero_point_shift else {}
    return [
        {
            "min": low,
            "max": high,
            "scale": scale,
            "offset": int(offset),
            "bitwidth": encoding.format.bits,
            "dtype": "int",
            "is_symmetric": str(symmetric),
            **shift,
        }
        for low, high, scale, offset in zip(
            minimum.tolist(), maximum.tolist(), encoding.scale.reshape(-1).tolist(), offsets.tolist(), strict=True
        )
    ]


def encode_float_bits(encoding: FloatEncoding, path: str, report: LossReport) -> int:
    """Number of bits by which AIMET means this cast; reports any other."""
    report_cast(encoding, path, report)
    plain = encoding.scale is None or bool((encoding.scale == 1).all())
    for bits, format in FLOAT_FORMATS_BY_BITS.items():
        if plain and encoding.format == format:
            return bits
    scaled = "without scale" if encoding.scale is None else "with a scale"
    report.refuse(path, f"is {encoding.format.label} {scaled}; only fp16 and fp32 without scale can be held")
    return encoding.format.bits


def report_cast(encoding: FloatEncoding, path: str, report: LossReport) -> None:
    """Reports a way of casting that AIMET's versions do not know: they round to nearest even and saturate."""
    report_rounding(encoding, path, report)
    if not encoding.saturate:
        report.refuse(path, "does not saturate; only casts that do can be held")


def report_rounding(encoding: FloatEncoding | MXEncoding, path: str, report: LossReport) -> None:
    """Reports a rounding mode other than AIMET's."""
    if encoding.rounding is not RoundingMode.NEAREST_EVEN:
        report.refuse(path, f"rounds by {encoding.rounding.value}; only nearest_even can be held")
