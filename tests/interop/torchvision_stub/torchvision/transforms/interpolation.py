"""The enumeration of resampling modes, whose members transformers uses as dictionary keys."""

from __future__ import annotations

import enum


class InterpolationMode(enum.Enum):
    """Resampling modes by name."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"
