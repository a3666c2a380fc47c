"""Quantizers that cast to a block format; scales come from the values in every call, so nothing is calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.granularity import PerBlock
from quantsim.quantization.mx.formats import (
    block_format_from_settings,
    block_format_settings,
    choose_block_format,
    describe_block_format,
)
from quantsim.quantization.rounding import RoundingQuantizerBase
from quantsim_encodings.encoding import Encoding, MXEncoding
from quantsim_encodings.formats import BlockFormat, NVFP4Format, RoundingMode
from quantsim_kernels.mx import MXCodes, mx_quantize, mx_quantize_dequantize
from quantsim_kernels.reference.mx import element_grid

__all__ = ["MXQuantizeDequantize", "NVFP4QuantizeDequantize"]


class MXQuantizeDequantize(RoundingQuantizerBase):
    """Casts to a block format and back, with blocks along one axis; the last block may be shorter.

    What NaN, infinities, zeros and very small blocks become is said in `quantsim_kernels.reference.mx`. The gradient
    passes straight through. Tensors that are not floating-point pass unchanged.

    Args:
        format: A block format or its name, such as ``"mxfp8_e4m3"``, ``"mxfp4"``, ``"mxint8"`` or ``"nvfp4"``.
        axis: Dimension along which blocks lie, by default the last. It should be the one that a multiplication sums
            over.
        rounding: How elements between two numbers are rounded: a `RoundingMode`, its name, or its number. Scales
            follow the format's own rule.
        seed: Seed of the noise of stochastic modes, see `RoundingQuantizerBase`.

    Raises:
        ConfigurationError: If format, axis or rounding is not usable.

    Example:
        >>> import torch
        >>> quantizer = MXQuantizeDequantize("mxfp4")
        >>> quantizer(torch.tensor([1.1, -7.0, 0.2]))
        tensor([ 1., -6.,  0.])
    """

    needs_calibration = False

    def __init__(
        self,
        format: BlockFormat | str = "mxfp8_e4m3",
        axis: int = -1,
        *,
        rounding: RoundingMode | str | int = RoundingMode.NEAREST_EVEN,
        seed: int | None = None,
    ) -> None:
        super().__init__(rounding=rounding, seed=seed)
        owner = type(self).__name__
        self._format = choose_block_format(owner, format)
        try:
            element_grid(self._format.element)
            self._granularity = PerBlock(axis, self._format.block_size)
        except ValueError as error:
            raise ConfigurationError(str(error), where=owner) from None

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if not x.is_floating_point():
            return x
        self._require_axis(x)
        seed = self.current_seed()
        result = mx_quantize_dequantize(x, self._format, self.axis, self._rounding, seed=seed, inplace=owned)
        self.advance_seed()
        return result

    def quantize(self, x: Tensor) -> MXCodes:
        """Returns the codes of elements and scales that stand for what calling the quantizer gives.

        A stochastic quantizer uses the noise of its next call and does not move on.
        """
        self._require_axis(x)
        return mx_quantize(x, self._format, self.axis, self._rounding, seed=self.current_seed())

    def _require_axis(self, x: Tensor) -> None:
        if not -max(x.dim(), 1) <= self.axis < max(x.dim(), 1):
            raise ShapeError(
                "the tensor has no such dimension",
                where=type(self).__name__,
                got=f"shape {tuple(x.shape)} for blocks along axis {self.axis}",
                expected="an axis of the tensor",
            )

    @property
    def axis(self) -> int:
        """Dimension along which blocks lie; negative counts from the last."""
        return self._granularity.axis

    @property
    @override
    def format(self) -> BlockFormat:
        return self._format

    @property
    @override
    def granularity(self) -> PerBlock:
        return self._granularity

    @property
    @override
    def bitwidth(self) -> int:
        return self._format.element.bits

    def get_encodings(self) -> MXEncoding:
        """Returns format, axis and rounding; there are no scales to export, they follow from the values."""
        return MXEncoding(self._format, self._granularity, rounding=self._rounding)

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over format, axis and rounding of an `MXEncoding` without fixed scales.

        Raises:
            TypeError: If ``encoding`` is anything else.
            ConfigurationError: If it has fixed scales, or blocks that do not lie along one axis.
        """
        made = type(self).from_encodings(encoding)
        self._format, self._granularity = made._format, made._granularity
        self._set_rounding(made._rounding)

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer with the format, axis and rounding of ``encoding``; raises as `set_encodings` does."""
        format, axis = _read(cls.__name__, encoding)
        return cls(format, axis, rounding=_rounding_of(encoding))

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {
            **super().persistent_settings(),
            "block_format": block_format_settings(self._format),
            "axis": self.axis,
        }

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        if "block_format" in settings:
            format = block_format_from_settings(settings["block_format"])
            self._format, self._granularity = format, PerBlock(settings["axis"], format.block_size)

    @override
    def extra_repr(self) -> str:
        return f"format={describe_block_format(self._format)}, axis={self.axis}{self._describe_rounding()}"


class NVFP4QuantizeDequantize(MXQuantizeDequantize):
    """`MXQuantizeDequantize` in NVIDIA's NVFP4: e2m1 elements, e4m3 scales, and with two levels a float32 over all.

    Args:
        axis: Dimension along which blocks lie.
        two_level: Whether the block scales are relative to one scale of the whole tensor.
        block_size: Elements of a block.
        rounding: How elements are rounded.
        seed: Seed of the noise of stochastic modes.

    Example:
        >>> import torch
        >>> NVFP4QuantizeDequantize(two_level=False)(torch.tensor([6.0, 1.1, -0.3]))
        tensor([ 6.0000,  1.0000, -0.5000])
    """

    def __init__(
        self,
        axis: int = -1,
        *,
        two_level: bool = True,
        block_size: int = 16,
        rounding: RoundingMode | str | int = RoundingMode.NEAREST_EVEN,
        seed: int | None = None,
    ) -> None:
        try:
            format = NVFP4Format(block_size, two_level)
        except ValueError as error:
            raise ConfigurationError(str(error), where=type(self).__name__) from None
        super().__init__(format, axis, rounding=rounding, seed=seed)

    @classmethod
    @override
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer with the grid of an `MXEncoding` in NVFP4."""
        format, axis = _read(cls.__name__, encoding)
        if not isinstance(format, NVFP4Format):
            raise TypeError(
                f"{cls.__name__}: got an encoding in {describe_block_format(format)}, expected one in NVFP4"
            )
        return cls(axis, two_level=format.two_level, block_size=format.block_size, rounding=_rounding_of(encoding))


def _rounding_of(encoding: Encoding) -> RoundingMode:
    assert isinstance(encoding, MXEncoding)
    return encoding.rounding


def _read(owner: str, encoding: Encoding) -> tuple[BlockFormat, int]:
    """Returns format and axis of an encoding whose scales follow from the values."""
    if not isinstance(encoding, MXEncoding):
        raise TypeError(f"{owner}: got {encoding!r}, expected an MXEncoding")
    if encoding.scale is not None or encoding.tensor_scale is not None:
        raise ConfigurationError(
            "the encoding fixes the scales of its blocks",
            where=owner,
            got=f"{encoding.format} with scales",
            expected="an MXEncoding without scales: this quantizer takes them from the values in every call",
            fix="drop scale and tensor_scale from the encoding",
        )
    granularity = encoding.granularity
    if not isinstance(granularity, PerBlock) or granularity.block_size != encoding.format.block_size:
        raise ConfigurationError(
            "the blocks do not lie along one axis in the size that the format says",
            where=owner,
            got=f"{granularity} for blocks of {encoding.format.block_size}",
            expected=f"PerBlock(axis, {encoding.format.block_size})",
        )
    return encoding.format, granularity.axis
