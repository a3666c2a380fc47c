"""Base class of all encodings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from quantsim_encodings.formats import Format
from quantsim_encodings.granularity import Granularity


class Encoding:
    """Base of all encodings: a format, the granularity, and (in subclasses) what was calibrated.

    Subclasses are frozen dataclasses; these two annotations are no fields of the base, so that each can order its own.
    """

    format: Format
    granularity: Granularity

    @property
    def label(self) -> str:
        """Name of the kind of encoding, for messages."""
        return type(self).__name__

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in _field_names(self))

    def __hash__(self) -> int:
        values = (getattr(self, name) for name in _field_names(self))
        return hash((type(self), *(value for value in values if not isinstance(value, np.ndarray))))


def _field_names(encoding: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(encoding))


def _same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.shape == right.shape and np.array_equal(left, right)
    return left == right
