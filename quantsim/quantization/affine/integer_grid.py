"""The integer grid of an affine quantizer, changeable after construction."""

from __future__ import annotations

from typing import Any

from quantsim.quantization.affine.arguments import bitwidth_grid, check_grid, check_zero_point_shift
from quantsim_encodings.formats import IntFormat
from quantsim_kernels.reference.affine import symmetric_offset

__all__ = ["IntegerGrid"]


class IntegerGrid:
    """Integers ``qmin .. qmax`` and their symmetry; a change drops what was derived from them."""

    _qmin: int
    _qmax: int
    _symmetric: bool
    _zero_point_shift: float = 0.0
    _derived: Any

    @property
    def qmin(self) -> int:
        """Smallest integer of the grid."""
        return self._qmin

    @qmin.setter
    def qmin(self, value: int) -> None:
        self._set_grid(value, self._qmax, self._symmetric)

    @property
    def qmax(self) -> int:
        """Largest integer of the grid."""
        return self._qmax

    @qmax.setter
    def qmax(self, value: int) -> None:
        self._set_grid(self._qmin, value, self._symmetric)

    @property
    def symmetric(self) -> bool:
        """Whether the offset is fixed so that zero lies in the middle of the grid."""
        return self._symmetric

    @symmetric.setter
    def symmetric(self, value: bool) -> None:
        self._set_grid(self._qmin, self._qmax, bool(value))

    @property
    def zero_point_shift(self) -> float:
        """Shift of the grid in steps, 0.0 or 0.5."""
        return self._zero_point_shift

    @zero_point_shift.setter
    def zero_point_shift(self, value: float | None) -> None:
        self._zero_point_shift = check_zero_point_shift(type(self).__name__, value)
        self._derived = None

    @property
    def signed(self) -> bool:
        """Whether the grid has negative integers; setting it keeps the number of steps and moves the grid."""
        return self._qmin < 0

    @signed.setter
    def signed(self, value: bool) -> None:
        if bool(value) != self.signed:
            self._set_grid(*bitwidth_grid(self.bitwidth, signed=bool(value)), self._symmetric)

    @property
    def bitwidth(self) -> int:
        """Fewest bits that hold all integers of the grid; setting it keeps signedness."""
        return self.format.bits

    @bitwidth.setter
    def bitwidth(self, value: int) -> None:
        self._set_grid(*bitwidth_grid(value, signed=self.signed), self._symmetric)

    def _set_grid(self, qmin: int, qmax: int, symmetric: bool) -> None:
        check_grid(type(self).__name__, qmin, qmax)
        self._qmin, self._qmax, self._symmetric = int(qmin), int(qmax), symmetric
        self._derived = None

    @property
    def format(self) -> IntFormat:
        """The integers as data."""
        return IntFormat(self._qmin, self._qmax)

    @property
    def has_zero_offset(self) -> bool:
        """Whether the offset is 0 by construction (symmetric signed grids), so that kernels need none."""
        return self._symmetric and symmetric_offset(self._qmin, self._qmax) == 0
