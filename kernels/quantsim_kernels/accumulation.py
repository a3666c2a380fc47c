"""`Accumulation`: how a matrix product keeps its partial sums."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch

from quantsim_encodings.formats import FloatFormat, RoundingMode, float_format
from quantsim_kernels.reference.float_cast import check_format, saturates

__all__ = ["Accumulation"]


@dataclass(frozen=True)
class Accumulation:
    """Partial sums of a matrix product, rounded to a format after each ``chunk`` of its K products.

    For each element of the result: ``acc = 0``; for each chunk of consecutive products, ``acc = cast(acc + sum)``;
    at the end ``acc = cast(acc + bias)``. Products are exact, the sum within a chunk is float64's, and ``acc + sum`` is
    rounded once. ``chunk=1`` is a multiply-accumulate unit; larger chunks are adder trees such as tensor cores have;
    ``None`` rounds only the final sum. In convolutions K runs over input channels, then kernel positions.

    Gradients are those of the exact product, straight through all roundings.

    Args:
        format: Format of the accumulator, a `FloatFormat` or a name such as ``"fp16"`` or ``"e6m9"``; at most that of
            float32.
        rounding: Rounding law, by number, name or enum.
        chunk: Products that are summed before each rounding, or ``None`` for all.
        inner: Format that each chunk's sum is rounded to before it is added, ``None`` for none. With ``chunk=1`` it is
            the format of the products.
        saturate: Whether what is too large becomes the largest number. ``None``: only in formats without infinity.
            ``False``: infinity, or NaN in formats without.
        subnormal: Whether results below the smallest normal number are kept; if not they become zero.
        seed: Seed of the stochastic roundings, each of which draws noise of its own. The same integer gives the same
            noise in each call; ``None`` draws a new seed for each call from quantsim_kernels' own stream.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a name is unknown, a format too wide, ``chunk`` not positive, or ``saturate=False`` leaves no
            code for what is too large.

    Example:
        >>> Accumulation("fp16", "stochastic", chunk=16)
        Accumulation('fp16', 'stochastic', chunk=16)
    """

    format: FloatFormat | str = "fp32"
    rounding: RoundingMode | int | str = RoundingMode.NEAREST_EVEN
    chunk: int | None = 1
    inner: FloatFormat | str | None = None
    saturate: bool | None = None
    subnormal: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "format", _format("format", self.format))
        set_field(self, "rounding", RoundingMode.parse(self.rounding))
        if self.inner is not None:
            set_field(self, "inner", _format("inner", self.inner))
        if self.chunk is not None and (isinstance(self.chunk, bool) or not isinstance(self.chunk, int)):
            raise TypeError(f"Accumulation(chunk): got {self.chunk!r}, expected an integer or None")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"Accumulation(chunk): got {self.chunk}, expected at least 1, or None for all of K")
        if self.saturate is not None and not isinstance(self.saturate, bool):
            raise TypeError(f"Accumulation(saturate): got {self.saturate!r}, expected True, False or None")
        if not isinstance(self.subnormal, bool):
            raise TypeError(f"Accumulation(subnormal): got {self.subnormal!r}, expected True or False")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise TypeError(f"Accumulation(seed): got {self.seed!r}, expected an integer or None")
        for name in ("format", "inner"):
            format = getattr(self, name)
            if format is not None:
                try:
                    check_format(format, torch.float32, saturates(format, self.saturate))
                except ValueError as error:
                    raise ValueError(f"Accumulation({name}): {error}") from None
        # Compiled code takes the settings as a constant of this form.
        set_field(self, "_text", json.dumps({field.name: _plain(getattr(self, field.name)) for field in fields(self)}))

    @property
    def is_stochastic(self) -> bool:
        """Whether a rounding draws random bits."""
        return RoundingMode.parse(self.rounding).is_stochastic

    @property
    def text(self) -> str:
        """All settings in one line, see `from_text`."""
        return self.__dict__["_text"]

    @staticmethod
    @lru_cache(maxsize=256)
    def from_text(text: str) -> Accumulation:
        """The object that has this `text`.

        Example:
            >>> Accumulation.from_text(Accumulation("bf16", chunk=8).text) == Accumulation("bf16", chunk=8)
            True
        """
        values = json.loads(text)
        for name in ("format", "inner"):
            values[name] = None if values[name] is None else FloatFormat(**values[name])
        return Accumulation(**values)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the kernels of `quantsim_kernels.reference.float_matmul` take, all but operands and seed."""
        return _arguments(self)

    def __repr__(self) -> str:
        default = Accumulation.__dataclass_fields__
        parts = [repr(_label(self.format)), repr(str(RoundingMode.parse(self.rounding)))]
        parts += [
            f"{name}={_label(getattr(self, name))!r}"
            for name in ("chunk", "inner", "saturate", "subnormal", "seed")
            if name == "chunk" or getattr(self, name) != default[name].default
        ]
        return f"Accumulation({', '.join(parts)})"


@lru_cache(maxsize=256)
def _arguments(accumulation: Accumulation) -> dict[str, Any]:
    def resolved(format: FloatFormat | None) -> FloatFormat | None:
        return format if format is None or accumulation.subnormal else replace(format, has_subnormals=False)

    format: Any = accumulation.format
    inner: Any = accumulation.inner
    return {
        "format": resolved(format),
        "rounding": accumulation.rounding,
        "chunk": accumulation.chunk,
        "inner": resolved(inner),
        "saturate": saturates(format, accumulation.saturate),
        "inner_saturate": inner is not None and saturates(inner, accumulation.saturate),
    }


def _format(argument: str, value: Any) -> FloatFormat:
    if isinstance(value, FloatFormat):
        return value
    if isinstance(value, str):
        try:
            return float_format(value)
        except ValueError as error:
            raise ValueError(f"Accumulation({argument}): {error}") from None
    raise TypeError(f"Accumulation({argument}): got {value!r}, expected a FloatFormat or a name such as 'fp16'")


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, FloatFormat) else value


def _label(value: Any) -> Any:
    return value.label if isinstance(value, FloatFormat) else value
