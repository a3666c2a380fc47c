"""The two ways of writing an affine quantizer's arguments: by (qmin, qmax, symmetric) and by (bitwidth, symmetric)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers.base import EncodingAnalyzer
from quantsim.quantization.analyzers.grouping import normalise_shape
from quantsim.quantization.analyzers.min_max import MinMaxEncodingAnalyzer

__all__ = ["AffineArguments", "bitwidth_grid", "parse_arguments"]


@dataclass(frozen=True, kw_only=True)
class AffineArguments:
    """What both ways of writing say."""

    shape: tuple[int, ...]
    qmin: int
    qmax: int
    symmetric: bool
    encoding_analyzer: EncodingAnalyzer
    block_size: tuple[int, ...] | None
    zero_point_shift: float


def _by_grid(
    shape: Any,
    qmin: int,
    qmax: int,
    symmetric: bool,
    encoding_analyzer: EncodingAnalyzer | None = None,
    block_size: Sequence[int] | None = None,
    zero_point_shift: float | None = None,
) -> None: ...


def _by_bitwidth(
    shape: Any,
    bitwidth: int,
    symmetric: bool,
    encoding_analyzer: EncodingAnalyzer | None = None,
    block_size: Sequence[int] | None = None,
    zero_point_shift: float | None = None,
) -> None: ...


_GRID_SIGNATURE = inspect.signature(_by_grid)
_BITWIDTH_SIGNATURE = inspect.signature(_by_bitwidth)


def bitwidth_grid(bitwidth: int, *, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of ``bitwidth`` bits.

    Raises:
        ConfigurationError: If the bitwidth is no integer from 1 (2 for signed) to 32.

    Example:
        >>> bitwidth_grid(4, signed=True), bitwidth_grid(4, signed=False)
        ((-8, 7), (0, 15))
    """
    smallest = 2 if signed else 1
    if isinstance(bitwidth, bool) or int(bitwidth) != bitwidth or not smallest <= bitwidth <= 32:
        raise ConfigurationError(
            "not a usable bitwidth",
            where="bitwidth",
            got=repr(bitwidth),
            expected=f"an integer from {smallest} to 32",
            fix="for other grids pass qmin and qmax",
        )
    bits = int(bitwidth)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def parse_arguments(owner: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> AffineArguments:
    """Reads the arguments of an affine quantizer, ``shape`` being the first.

    Args:
        owner: Class name, for error texts.
        positional: Positional arguments.
        named: Keyword arguments.

    Raises:
        TypeError: If they fit neither way of writing.
        ConfigurationError: If a value makes no sense.
    """
    # A third positional argument after (shape, integer, ...) that is a bool can only be `symmetric`.
    by_grid = "qmin" in named or "qmax" in named or (len(positional) > 2 and not isinstance(positional[2], bool))
    signature = _GRID_SIGNATURE if by_grid else _BITWIDTH_SIGNATURE
    try:
        values = signature.bind(*positional, **named).arguments
    except TypeError as error:
        ways = " or ".join(f"{owner}({', '.join(way.parameters)})" for way in (_GRID_SIGNATURE, _BITWIDTH_SIGNATURE))
        raise TypeError(f"{owner}: {error}; expected {ways}") from None
    symmetric = bool(values["symmetric"])
    if by_grid:
        qmin, qmax = values["qmin"], values["qmax"]
    else:
        qmin, qmax = bitwidth_grid(values["bitwidth"], signed=symmetric)
    check_grid(owner, qmin, qmax)
    shape = normalise_shape(values["shape"])
    block_size = values.get("block_size")
    block_size = None if block_size is None else tuple(int(size) for size in block_size)
    if block_size is not None and len(block_size) != len(shape):
        raise ConfigurationError(
            "block_size does not fit shape",
            where=f"{owner}(block_size)",
            got=f"block_size={block_size}, shape={shape}",
            expected="one size for each dimension of shape",
        )
    return AffineArguments(
        shape=shape,
        qmin=int(qmin),
        qmax=int(qmax),
        symmetric=symmetric,
        encoding_analyzer=_analyzer(owner, values.get("encoding_analyzer"), shape, block_size),
        block_size=block_size,
        zero_point_shift=check_zero_point_shift(owner, values.get("zero_point_shift")),
    )


def check_grid(owner: str, qmin: object, qmax: object) -> None:
    """Raises ConfigurationError unless ``qmin < qmax`` are integers."""
    valid = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in (qmin, qmax))
    if not valid or not int(qmin) < int(qmax):  # type: ignore[call-overload]
        raise ConfigurationError(
            "not an integer grid",
            where=owner,
            got=f"qmin={qmin!r}, qmax={qmax!r}",
            expected="integers with qmin < qmax",
        )


def check_zero_point_shift(owner: str, value: float | None) -> float:
    """Returns the shift as a float.

    Raises:
        ConfigurationError: If it is neither 0 nor 0.5.
    """
    if value not in (None, 0.0, 0.5):
        raise ConfigurationError(
            "not a usable shift", where=f"{owner}(zero_point_shift)", got=repr(value), expected="0.0 or 0.5"
        )
    return float(value or 0.0)


def _analyzer(
    owner: str, analyzer: EncodingAnalyzer | None, shape: tuple[int, ...], block_size: tuple[int, ...] | None
) -> EncodingAnalyzer:
    if analyzer is None:
        return MinMaxEncodingAnalyzer(shape, block_size)
    if block_size is not None and analyzer.block_size is None and analyzer.shape == shape:
        analyzer.block_size = block_size  # AIMET's analyzers get theirs from the quantizer as well
    padded = (1,) * (len(shape) - len(analyzer.shape)) + analyzer.shape
    fits = len(padded) == len(shape) and all(a in (1, b) for a, b in zip(padded, shape, strict=True))
    if not fits:
        raise ConfigurationError(
            "the analyzer does not fit the quantizer",
            where=f"{owner}(encoding_analyzer)",
            got=f"an analyzer of shape {analyzer.shape}",
            expected=f"shape {shape} or one that broadcasts to it",
            fix=f"make it with shape={shape}",
        )
    return analyzer
