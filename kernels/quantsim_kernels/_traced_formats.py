"""Formats as arguments of compiled code.

Once a compiler has seen two formats at the same place it takes their numbers for variables, and no kernel can be made
for a variable number of fraction bits. `operator.index` makes a number constant again.
"""

from __future__ import annotations

from dataclasses import replace
from operator import index
from typing import TypeVar

import torch

from quantsim_encodings.formats import FloatFormat, Format, IntFormat, MXFormat, NVFP4Format

__all__ = ["constant_format"]

AnyFormat = TypeVar("AnyFormat", bound=Format)


def constant_format(format: AnyFormat) -> AnyFormat:
    """``format`` itself, or inside compiled code an equal one whose numbers are constants."""
    if not torch.compiler.is_compiling():
        return format
    if isinstance(format, FloatFormat):
        widths = {name: index(getattr(format, name)) for name in ("exponent_bits", "mantissa_bits", "bias")}
        return replace(format, **widths)  # type: ignore[return-value]
    if isinstance(format, IntFormat):
        return replace(format, qmin=index(format.qmin), qmax=index(format.qmax))  # type: ignore[return-value]
    if isinstance(format, MXFormat):
        element = constant_format(format.element)
        return replace(format, element=element, block_size=index(format.block_size))  # type: ignore[return-value]
    if isinstance(format, NVFP4Format):
        return replace(format, block_size=index(format.block_size))  # type: ignore[return-value]
    return format
