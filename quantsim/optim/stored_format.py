"""Formats that an optimizer's tensors are kept in, and the rounding that puts them there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim_encodings.formats import (
    FloatFormat,
    IntFormat,
    MXFormat,
    NVFP4Format,
    RoundingMode,
    block_format,
    float_format,
)
from quantsim_kernels.float_cast import float_cast
from quantsim_kernels.mx import mx_quantize_dequantize
from quantsim_kernels.random_seeds import SEED_STEP

__all__ = ["FormatLike", "RoundingJob", "SeededRounding", "StoredFormat", "storage_dtype", "stored_format"]

StoredFormat: TypeAlias = FloatFormat | MXFormat | NVFP4Format
"""A float format, or a block format with its blocks along a tensor's last dimension."""

FormatLike: TypeAlias = StoredFormat | str

_LARGEST_TOGETHER: Final = 2**16
"""Tensors of at most so many elements are rounded together."""

_STORAGE: Final = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}


def stored_format(format: FormatLike, *, where: str = "format") -> StoredFormat:
    """The format that a name stands for; a format is returned as it is.

    Args:
        format: A format; the name of a float format (``"bf16"``, ``"e4m3fn"``, any ``"e<E>m<M>"``) or of a block format
            (``"mxfp8_e4m3"``, ``"nvfp4"``).
        where: What errors call the argument.

    Raises:
        ConfigurationError: Neither a format nor the name of one.

    Example:
        >>> stored_format("bf16").mantissa_bits, stored_format("mxfp8_e4m3").block_size
        (7, 32)
    """
    if isinstance(format, (FloatFormat, MXFormat, NVFP4Format)):
        return format
    found = _format_or_problems(format) if isinstance(format, str) else ""
    if not isinstance(found, str):
        return found
    raise ConfigurationError(
        "there is no such format",
        where=where,
        got=repr(format),
        expected=f"a FloatFormat, MXFormat or NVFP4Format, or the name of one{found}",
        fix="for example 'bf16', 'e4m3fn' or 'mxfp8_e4m3'",
    )


@lru_cache(maxsize=256)
def _format_or_problems(name: str) -> StoredFormat | str:
    problems = ""
    for look_up in (float_format, block_format):
        try:
            return look_up(name)
        except ValueError as error:
            problems += f" ({error})"
    return problems


@lru_cache(maxsize=256)
def storage_dtype(format: StoredFormat) -> torch.dtype | None:
    """The torch dtype whose numbers are exactly those of the format; None if torch has none.

    Example:
        >>> storage_dtype(stored_format("bf16")), storage_dtype(stored_format("e4m3"))
        (torch.bfloat16, None)
    """
    return next((dtype for name, dtype in _STORAGE.items() if float_format(name) == format), None)


def format_of_narrow_dtype(dtype: torch.dtype) -> FloatFormat | None:
    """The format of weights that are held in float16 or bfloat16; None for wider ones."""
    return {torch.float16: float_format("fp16"), torch.bfloat16: float_format("bf16")}.get(dtype)


@lru_cache(maxsize=256)
def is_identity(format: StoredFormat, dtype: torch.dtype) -> bool:
    """Whether every number of a dtype is one of the format.

    Example:
        >>> (
        ...     is_identity(stored_format("fp32"), torch.bfloat16),
        ...     is_identity(stored_format("fp16"), torch.bfloat16),
        ... )
        (True, False)
    """
    if not isinstance(format, FloatFormat):
        return False
    limits = torch.finfo(dtype)
    return (
        format.signed
        and format.mantissa_bits >= _mantissa_bits(dtype)
        and format.max >= limits.max
        and format.tiny <= limits.smallest_normal * limits.eps
    )


def require_carrier(format: StoredFormat, dtype: torch.dtype, where: str) -> None:
    """Raises unless a dtype can hold the format's numbers.

    Raises:
        ConfigurationError: It cannot.
    """
    element = format if isinstance(format, FloatFormat) else format.element
    bits = element.bits - 1 if isinstance(element, IntFormat) else element.mantissa_bits
    limits = torch.finfo(dtype)
    fits = bits <= _mantissa_bits(dtype)
    if isinstance(format, FloatFormat):
        fits = fits and format.max <= limits.max and format.tiny >= limits.smallest_normal * limits.eps
    if not fits:
        raise ConfigurationError(
            "the tensor cannot hold the format's numbers",
            where=where,
            got=f"{getattr(format, 'label', None) or getattr(format, 'name', None) or format} in {dtype}",
            expected=f"at most {_mantissa_bits(dtype)} fraction bits and a range inside that of {dtype}",
            fix="hold the weights in a wider type, or choose a narrower format",
        )


def _mantissa_bits(dtype: torch.dtype) -> int:
    return {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23, torch.float64: 52}[dtype]


@dataclass(frozen=True)
class RoundingJob:
    """One tensor that is to be rounded into another, or in place.

    Attributes:
        target: Where the numbers go.
        source: What is rounded; the target itself, or a tensor of its shape in any floating-point dtype.
        format: Its format.
        keeps_source: Whether the source must not be overwritten, if it is another tensor than the target.
    """

    target: Tensor
    source: Tensor
    format: StoredFormat
    keeps_source: bool = False


@dataclass
class SeededRounding:
    """Rounds tensors in place; each stochastic rounding has noise of its own, which the two numbers determine.

    Args:
        mode: How values between two numbers of the format are rounded.
        seed: Start of the sequence of noise.
        draws: How many tensors were rounded with noise so far.

    Example:
        >>> rounding, x = SeededRounding(RoundingMode.STOCHASTIC, seed=1), torch.tensor([1.0, 1.03125])
        >>> rounding.round_(x, stored_format("e4m3fn"))
        >>> x[0].item(), x[1].item() in (1.0, 1.125), rounding.draws
        (1.0, True, 1)
    """

    mode: RoundingMode
    seed: int = 0
    draws: int = 0

    @torch.no_grad()
    def round_(self, values: Tensor, format: StoredFormat, mode: RoundingMode | None = None) -> None:
        """Replaces each element by a number of the format; what is too large becomes the largest one.

        Args:
            values: Floating-point tensor of any shape.
            format: The format; the blocks of a block format lie along the last dimension.
            mode: Another rounding mode than usual.
        """
        if values.numel() == 0 or is_identity(format, values.dtype):
            return
        rounded = self.rounded(values, format, mode)
        if rounded is not values:
            values.copy_(rounded)

    @torch.no_grad()
    def round_all(self, jobs: Iterable[RoundingJob]) -> None:
        """Rounds many tensors; small ones of one format go together, as each call costs more than rounding them.

        Args:
            jobs: What is rounded into what; always in the same order, as the order decides which noise is whose.
        """
        together: dict[tuple[StoredFormat, torch.dtype, torch.device], list[RoundingJob]] = {}
        for job in jobs:
            source = job.source
            if source.numel() == 0 or is_identity(job.format, source.dtype):
                if source is not job.target:
                    job.target.copy_(source)
            elif isinstance(job.format, FloatFormat) and source.numel() <= _LARGEST_TOGETHER:
                together.setdefault((job.format, source.dtype, source.device), []).append(job)
            elif source is job.target:
                self.round_(source, job.format)
            else:
                job.target.copy_(self.rounded(source.clone() if job.keeps_source else source, job.format))
        for (format, _, _), group in together.items():
            flat = torch.cat([job.source.reshape(-1) for job in group])
            parts = self.rounded(flat, format).split([job.source.numel() for job in group])
            for job, part in zip(group, parts, strict=True):
                job.target.copy_(part.view(job.target.shape))

    def rounded(self, values: Tensor, format: StoredFormat, mode: RoundingMode | None = None) -> Tensor:
        """The rounded values; may overwrite ``values``."""
        mode = self.mode if mode is None else mode
        seed = self._next_seed() if mode.is_stochastic else None
        with torch.no_grad():
            if isinstance(format, FloatFormat):
                return float_cast(values, format, mode, saturate=True, seed=seed, inplace=True)
            if values.dim() == 0:
                return mx_quantize_dequantize(values.reshape(1), format, -1, mode, seed=seed).reshape(())
            return mx_quantize_dequantize(values, format, -1, mode, seed=seed, inplace=True)

    def _next_seed(self) -> int:
        self.draws += 1
        return (self.seed + self.draws * SEED_STEP) % 2**63
