"""Encodings: the calibrated parameters of one tensor in one format, as plain immutable values.

Arrays are copied, checked and made read-only on construction; equality compares them element by element.
"""

from __future__ import annotations

from quantsim_encodings._encoding_base import Encoding
from quantsim_encodings.affine_encoding import AffineEncoding, GroupedBlockEncoding, UnplacedGroupedBlockEncoding
from quantsim_encodings.float_encoding import DynamicEncoding, FloatEncoding, MXEncoding
from quantsim_encodings.hardware_encoding import FixedPointEncoding, OpticalEncoding

__all__ = [
    "AffineEncoding",
    "DynamicEncoding",
    "Encoding",
    "FixedPointEncoding",
    "FloatEncoding",
    "GroupedBlockEncoding",
    "MXEncoding",
    "OpticalEncoding",
    "UnplacedGroupedBlockEncoding",
]
