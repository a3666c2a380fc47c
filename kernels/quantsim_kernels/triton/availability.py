"""Whether a Triton kernel may be launched, found out without importing Triton."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

from torch import Tensor

__all__ = ["is_installed", "is_interpreted", "launch_objection"]


@cache
def is_installed() -> bool:
    """Whether the ``triton`` package can be imported (it is not imported)."""
    return importlib.util.find_spec("triton") is not None


@cache
def is_interpreted() -> bool:
    """Whether Triton runs in its interpreter, on CPU tensors; read once, as Triton itself does."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def launch_objection(x: Tensor, *operands: Any, zero_point_shift: float = 0.0, **arguments: Any) -> str | None:
    """Why the Triton kernels cannot run on ``x``, or ``None`` when they can."""
    if not x.is_cuda and not (x.is_cpu and is_interpreted()):
        return "it serves CUDA tensors only (CPU tensors under TRITON_INTERPRET=1)"
    if not is_installed():
        return "the package triton is not installed"
    if zero_point_shift:
        return "it has no zero_point_shift"
    return None
