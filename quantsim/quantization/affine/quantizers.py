"""The three affine quantizers: onto integers, onto the real grid, and from integers back."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim_kernels.affine import affine_dequantize, affine_quantize, affine_quantize_dequantize

__all__ = ["Dequantize", "Quantize", "QuantizeDequantize"]


class QuantizeDequantize(AffineQuantizerBase):
    """Moves each element to the nearest point of the grid: ``(q + o) * s``, ``q = clamp(rint(x/s) - o, qmin, qmax)``.

    See `AffineQuantizerBase` for the arguments. The result has the dtype of the input.

    Example:
        >>> import torch
        >>> quantizer = QuantizeDequantize(shape=(2, 1), bitwidth=8, symmetric=False)
        >>> x = torch.tensor([[-1.0, 0.5], [0.0, 2.55]])
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(x)
        >>> quantizer(torch.tensor([[-9.0, 0.5], [0.014, 1.0]])).detach()
        tensor([[-1.0000,  0.5000],
                [ 0.0100,  1.0000]])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps ``input`` onto the grid, or observes it and passes it through inside `compute_encodings`.

        Raises:
            NotCalibratedError: If the range was never set.
            ValueError: If ``input`` does not fit the quantizer's shape or block size.
        """
        # The same as the base class's, one call less: this is the hottest line of a simulation.
        if self._observation_depth:
            return self._observe(input)
        if not self._initialized and not self.is_initialized():
            return self._without_range(input)
        scale, offset = self._kernel_arguments()
        return affine_quantize_dequantize(
            input,
            scale,
            offset,
            self._qmin,
            self._qmax,
            self.block_size,
            zero_point_shift=self._zero_point_shift,
        )

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        scale, offset = self._kernel_arguments()
        return affine_quantize_dequantize(
            x,
            scale,
            offset,
            self._qmin,
            self._qmax,
            self.block_size,
            inplace=owned,
            zero_point_shift=self._zero_point_shift,
        )


class _IntegerCodes(AffineQuantizerBase):
    """Refuses what has no integer codes: a grid that is shifted by half a step."""

    @property
    def zero_point_shift(self) -> float:
        """Always 0: a shifted grid has no integer codes for real numbers."""
        return 0.0

    @zero_point_shift.setter
    def zero_point_shift(self, value: float | None) -> None:
        if value:
            raise ConfigurationError(
                "a grid shifted by half a step has no integer codes",
                where=f"{type(self).__name__}(zero_point_shift)",
                got=repr(value),
                expected="0.0",
                fix="use QuantizeDequantize",
            )


class Quantize(_IntegerCodes):
    """Maps each element to its integer code ``q = clamp(rint(x/s) - o, qmin, qmax)``, held in the input's dtype.

    See `AffineQuantizerBase` for the arguments.

    Example:
        >>> import torch
        >>> quantizer = Quantize(shape=(), qmin=0, qmax=255, symmetric=False)
        >>> quantizer.set_range(-1.0, 1.55)
        >>> quantizer(torch.tensor([-1.0, 0.0, 9.0])).detach()
        tensor([  0., 100., 255.])
    """

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        scale, offset = self._kernel_arguments()
        return affine_quantize(x, scale, offset, self._qmin, self._qmax, self.block_size)


class Dequantize(_IntegerCodes):
    """Maps integer codes back to real numbers, ``(q + o) * s``.

    See `AffineQuantizerBase` for the arguments.

    Example:
        >>> import torch
        >>> quantizer = Dequantize(shape=(), qmin=0, qmax=255, symmetric=False)
        >>> quantizer.set_range(-1.0, 1.55)
        >>> quantizer(torch.tensor([0.0, 100.0, 255.0])).detach()
        tensor([-1.0000,  0.0000,  1.5500])
    """

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        scale, offset = self._kernel_arguments()
        return affine_dequantize(x, scale, offset, self.block_size)
