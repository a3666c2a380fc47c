"""What `QBase` knows of its grid: scale and zero point as buffers, in and out as ranges and as encodings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.affine import exchange
from quantsim.quantization.affine.arguments import check_zero_point_shift
from quantsim.quantization.affine.integer_grid import IntegerGrid
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.granularity import Granularity, granularity_of
from quantsim_encodings.encoding import AffineEncoding, Encoding
from quantsim_kernels.reference.affine import range_from_scale_and_offset, scale_and_offset

__all__ = ["ScaleAndZeroPoint"]


class ScaleAndZeroPoint(IntegerGrid, QuantizerBase):
    """A quantizer whose parameters are the step of its grid and the integer that stands for 0.

    Affine quantizers of `quantsim.quantization` have a learnable real range instead.

    Attributes:
        shape: Shape of both.
        scale: Step of the grid, a float32 buffer; NaN until calibrated.
        zero_point: The integer that stands for 0, in a float32 buffer; 0 by default.
    """

    scale: Tensor
    zero_point: Tensor
    shape: tuple[int, ...]

    @property
    def block_size(self) -> None:
        """Always ``None``: scales are per tensor or per channel."""
        return None

    @property
    @override
    def granularity(self) -> Granularity:
        return granularity_of(self.shape, None)

    @property
    def zero_point_shift(self) -> float:
        """Always 0: a grid without a zero has no integers for hardware."""
        return 0.0

    @zero_point_shift.setter
    def zero_point_shift(self, value: float | None) -> None:
        if check_zero_point_shift(type(self).__name__, value):
            raise ConfigurationError(
                "a grid shifted by half a step has no integers",
                where=f"{type(self).__name__}.zero_point_shift",
                got=repr(value),
                expected="0.0",
                fix="use quantsim.quantization.affine.QuantizeDequantize",
            )

    # ---------------------------------------------------------------- the range

    def _qparams_of(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        scale, offset = scale_and_offset(minimum, maximum, self.qmin, self.qmax, self.symmetric)
        return scale, -offset

    @torch.no_grad()
    def set_range(self, min: Tensor | float, max: Tensor | float) -> None:
        """Sets scale and zero point to those of a real range.

        Args:
            min: Lower end, of the quantizer's shape or one that broadcasts to it.
            max: Upper end.

        Raises:
            ConfigurationError: If an end is not finite or has the wrong shape.
        """
        lower, upper = (torch.as_tensor(end, dtype=torch.float32) for end in (min, max))
        self.set_qparams(*self._qparams_of(lower, upper.to(lower.device)))

    def set_qparams(self, scale: Tensor | float, zero_point: Tensor | float = 0.0) -> None:
        """Sets scale and zero point; on an error nothing changes.

        Args:
            scale: Positive steps.
            zero_point: Integers of the grid that stand for 0.

        Raises:
            ConfigurationError: If a scale is not positive and finite, or a zero point is no integer of the grid.
        """
        scale, zero_point = torch.as_tensor(scale).float(), torch.as_tensor(zero_point).float()
        if not (scale.is_meta or bool((scale > 0).all())):
            raise ConfigurationError(
                where=f"{type(self).__name__}.scale",
                got=f"{scale.flatten()[:4].tolist()}",
                expected="positive numbers",
                fix="let the observer return (scale, zero_point), in this order",
            )
        inside = (zero_point >= self.qmin) & (zero_point <= self.qmax) & (zero_point == zero_point.round())
        if not (zero_point.is_meta or bool(inside.all())):
            raise ConfigurationError(
                "0 must be on the grid",
                where=f"{type(self).__name__}.zero_point",
                got=f"{zero_point.flatten()[:4].tolist()}",
                expected=f"integers from {self.qmin} to {self.qmax}: x_int = rint(x / scale) + zero_point",
            )
        self.assign_range_parameters(scale=scale, zero_point=zero_point)
        if not zero_point.is_meta and bool((zero_point != 0).any()) and self.has_zero_offset:
            self._symmetric = False

    def _scale_and_offset(self) -> tuple[Tensor, Tensor]:
        return self.scale.float(), -self.zero_point.float() + 0.0  # no -0

    def get_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the scale, or ``None`` while uninitialised."""
        return self._scale_and_offset()[0].to(dtype or torch.float32) if self.is_initialized() else None

    def get_offset(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the offset, minus the zero point, or ``None`` while uninitialised."""
        return self._scale_and_offset()[1].to(dtype or torch.float32) if self.is_initialized() else None

    def get_min(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the real number of ``qmin``, or ``None`` while uninitialised."""
        return self._end(0, dtype)

    def get_max(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the real number of ``qmax``, or ``None`` while uninitialised."""
        return self._end(1, dtype)

    def _end(self, which: int, dtype: torch.dtype | None) -> Tensor | None:
        if not self.is_initialized():
            return None
        ends = range_from_scale_and_offset(*self._scale_and_offset(), self.qmin, self.qmax)
        return ends[which].to(dtype or torch.float32)

    # ---------------------------------------------------------------- exchange

    @override
    def get_encodings(self) -> AffineEncoding | None:
        if not self.is_initialized():
            return None
        scale, offset = (values.detach().cpu().numpy() for values in self._scale_and_offset())
        return AffineEncoding(
            format=self.format, scale=scale, offset=offset, symmetric=self.symmetric, granularity=self.granularity
        )

    @override
    def set_encodings(self, encoding: Encoding) -> None:
        affine = exchange.require_affine(f"{type(self).__name__}.set_encodings", encoding)
        if affine.block_size is not None or affine.scale.size not in (1, self.scale.numel()):
            raise ShapeError(
                "the encoding does not fit the quantizer",
                where=f"{type(self).__name__}.set_encodings",
                got=f"scales of shape {affine.scale.shape}, block_size={affine.block_size}",
                expected=f"one scale, or shape {self.shape}",
            )
        before = (self.qmin, self.qmax, self.symmetric)
        scale, offset = (torch.tensor(each).float() for each in (affine.scale, affine.offset))
        shape = self.shape if affine.scale.size > 1 else ()
        try:
            self.zero_point_shift = affine.zero_point_shift
            self._set_grid(affine.format.qmin, affine.format.qmax, affine.symmetric)
            self.set_qparams(scale.reshape(shape), -offset.reshape(shape) + 0.0)
        except BaseException:
            self._set_grid(*before)
            raise

    @override
    def persistent_settings(self) -> dict[str, Any]:
        grid = {"qmin": self.qmin, "qmax": self.qmax, "symmetric": self.symmetric}
        return {**super().persistent_settings(), **grid}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        values = (settings.get(name, getattr(self, name)) for name in ("qmin", "qmax", "symmetric"))
        qmin, qmax, symmetric = values
        self._set_grid(int(qmin), int(qmax), bool(symmetric))
