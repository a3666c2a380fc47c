"""What all affine quantizers share: the grid, the learnable range, and scale and offset derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.affine import exchange
from quantsim.quantization.affine.arguments import parse_arguments
from quantsim.quantization.affine.derived_range import DerivedRange
from quantsim.quantization.affine.integer_grid import IntegerGrid
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.granularity import granularity_of
from quantsim.quantization.sharded_tensors import whole
from quantsim_kernels.reference.affine import range_from_scale_and_offset, scale_and_offset

if TYPE_CHECKING:
    from quantsim.quantization.analyzers.base import EncodingAnalyzer
    from quantsim_encodings.encoding import AffineEncoding, Encoding
    from quantsim_encodings.granularity import Granularity

__all__ = ["AffineQuantizerBase"]


class AffineQuantizerBase(IntegerGrid, QuantizerBase):
    """A quantizer onto an evenly spaced grid, parametrised by a learnable real range.

    The formulas for scale, offset and their gradients are those of `quantsim_kernels.reference.affine`.

    Args:
        shape: Shape of ``min`` and ``max``: ``()`` or ``(1,)`` per tensor, ``(C, 1, ...)`` per channel; with
            ``block_size`` the number of blocks in each of the tensor's last dimensions.
        bitwidth: Bits of an integer; symmetric means signed two's complement, asymmetric means unsigned. Instead of
            it, ``qmin`` and ``qmax`` may be given.
        qmin: Smallest integer.
        qmax: Largest integer.
        symmetric: Whether the offset is fixed so that zero lies in the middle of the grid.
        encoding_analyzer: Turns observed data into a range; min-max if not given.
        block_size: Elements of a block in each dimension of ``shape``; -1 means the dimension divided evenly.
        zero_point_shift: 0.5 shifts the grid by half a step; 0.0 (the default) does not.

    Attributes:
        min: Lower end of the range, a float32 Parameter of ``shape``; NaN until calibrated.
        max: Upper end of the range.

    Raises:
        TypeError: If the arguments fit neither way of writing.
        ConfigurationError: If they contradict each other.
    """

    min: Tensor
    max: Tensor

    elementwise_range: ClassVar[bool] = True
    """Whether each scale and offset depends on its own ``min`` and ``max`` only."""

    @overload
    def __init__(
        self,
        shape: int | Sequence[int],
        qmin: int,
        qmax: int,
        symmetric: bool,
        encoding_analyzer: EncodingAnalyzer | None = None,
        block_size: Sequence[int] | None = None,
        zero_point_shift: float | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        shape: int | Sequence[int],
        bitwidth: int,
        symmetric: bool,
        encoding_analyzer: EncodingAnalyzer | None = None,
        block_size: Sequence[int] | None = None,
        zero_point_shift: float | None = None,
    ) -> None: ...

    def __init__(self, *arguments: Any, **named: Any) -> None:
        parsed = parse_arguments(type(self).__name__, arguments, named)
        super().__init__(encoding_analyzer=parsed.encoding_analyzer)
        self.shape = parsed.shape
        self.block_size = parsed.block_size
        self._set_grid(parsed.qmin, parsed.qmax, parsed.symmetric)
        self.zero_point_shift = parsed.zero_point_shift
        self.register_range_parameter("min", self.shape)
        self.register_range_parameter("max", self.shape)

    @property
    @override
    def granularity(self) -> Granularity:
        return granularity_of(self.shape, self.block_size)

    # ---------------------------------------------------------------- the range

    @torch.no_grad()
    def set_range(self, min: Tensor | float | None, max: Tensor | float | None) -> None:
        """Sets the range; ``None`` leaves an end as it is. On an error nothing changes.

        Args:
            min: Lower end, of the quantizer's shape or one that broadcasts to it.
            max: Upper end.

        Raises:
            ConfigurationError: If an end is not finite, has the wrong shape, or the lower exceeds the upper.

        Example:
            >>> from quantsim.quantization import affine
            >>> quantizer = affine.QuantizeDequantize(shape=(), bitwidth=8, symmetric=True)
            >>> quantizer.set_range(-1, 1)
            >>> quantizer.get_min().detach(), quantizer.get_max().detach()
            (tensor(-1.0039), tensor(0.9961))
        """
        ends = {
            name: torch.as_tensor(end, dtype=torch.float32)
            for name, end in (("min", min), ("max", max))
            if end is not None
        }
        lower = ends.get("min", whole(self._range_parameter("min").detach()))
        upper = ends.get("max", whole(self._range_parameter("max").detach())).to(lower.device)
        if not (lower.is_meta or upper.is_meta):
            try:
                crossed = bool((lower > upper).any())
            except RuntimeError:
                crossed = False  # shapes that do not even fit each other are reported below
            if crossed:
                raise ConfigurationError(
                    "the range is upside down",
                    where=f"{type(self).__name__}.set_range",
                    got=f"min={lower.flatten()[:4].tolist()}, max={upper.flatten()[:4].tolist()}",
                    expected="min <= max",
                )
        self.assign_range_parameters(**ends)

    @override
    def set_range_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        # A grid shifted by half a step has no zero and one step less on either side of it.
        steps = self._qmax - self._qmin - (1 if self._zero_point_shift else 0)
        minimum, maximum = analyzer.compute_encodings(steps, self._symmetric)
        self.assign_range_parameters(min=minimum, max=maximum)

    def scale_from_range(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and offset of a range, both in the shape of ``minimum`` and differentiable in both ends."""
        return scale_and_offset(minimum, maximum, self._qmin, self._qmax, self._symmetric)

    def kernel_operand(self, values: Tensor) -> Tensor:
        """Shapes a scale or offset as kernels take it: a lone number for per-tensor grids fits tensors of any rank."""
        return values.reshape(()) if self.block_size is None and values.numel() == 1 else values

    def _kernel_arguments(self) -> tuple[Tensor, Tensor | None]:
        """Scale and offset for a kernel, connected to the range where gradients are wanted."""
        parameters = self._parameters
        minimum, maximum = parameters["min"], parameters["max"]
        assert minimum is not None
        assert maximum is not None
        if torch.compiler.is_compiling():
            # In the graph: a cached tensor would be a constant there, and outlive a later change of the range.
            scale, offset = self.scale_from_range(minimum, maximum)
            return self.kernel_operand(scale), None if self.has_zero_offset else self.kernel_operand(offset)
        derived = self._derived
        if derived is None or not derived.is_current(minimum, maximum):
            derived = self._derived = DerivedRange(self, minimum, maximum)
        if (minimum.requires_grad or maximum.requires_grad) and torch.is_grad_enabled():
            return derived.with_gradient()
        return derived.scale, derived.offset

    def _scale_and_offset(self) -> tuple[Tensor, Tensor] | None:
        if not self.is_initialized():
            return None
        return self.scale_from_range(whole(self._range_parameter("min")), whole(self._range_parameter("max")))

    def get_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the scale in the quantizer's shape, or ``None`` while uninitialised.

        Args:
            dtype: Type of the result; float32 by default.
        """
        pair = self._scale_and_offset()
        return None if pair is None else pair[0].to(dtype or torch.float32)

    def get_offset(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the offset (minus the zero point) in the quantizer's shape, or ``None`` while uninitialised."""
        pair = self._scale_and_offset()
        return None if pair is None else pair[1].to(dtype or torch.float32)

    def get_min(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the real number of ``qmin``, ``scale * (offset + qmin)``, which may differ from ``min``."""
        return self._end(0, dtype)

    def get_max(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the real number of ``qmax``, ``scale * (offset + qmax)``, which may differ from ``max``."""
        return self._end(1, dtype)

    def _end(self, which: int, dtype: torch.dtype | None) -> Tensor | None:
        pair = self._scale_and_offset()
        if pair is None:
            return None
        scale, offset = pair
        shifted = offset + self._zero_point_shift
        return range_from_scale_and_offset(scale, shifted, self._qmin, self._qmax)[which].to(dtype or torch.float32)

    # ---------------------------------------------------------------- exchange

    def get_encodings(self) -> AffineEncoding | None:
        """Returns scale, offset and grid as a plain value, or ``None`` while uninitialised."""
        return exchange.export_encoding(self)

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over grid and range of ``encoding``; scale and offset become exactly those of the encoding.

        Raises:
            TypeError: If ``encoding`` is not an `AffineEncoding`.
            ShapeError: If it has another number of scales or another block size.
        """
        exchange.import_encoding(self, encoding)

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer that has the grid and the range of ``encoding``."""
        affine = exchange.require_affine(cls.__name__, encoding)
        quantizer = cls(**exchange.constructor_arguments(affine))
        quantizer.set_encodings(affine)
        return quantizer

    def get_legacy_encodings(self) -> list[dict[str, Any]] | None:
        """Returns AIMET's list of dictionaries: min, max, scale, offset, bitwidth, dtype, is_symmetric."""
        return exchange.export_legacy(self)

    def set_legacy_encodings(self, encodings: Sequence[Mapping[str, Any]]) -> None:
        """Takes over bitwidth, symmetry and range from a list as returned by `get_legacy_encodings`."""
        exchange.import_legacy(self, encodings)

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {
            **super().persistent_settings(),
            "qmin": self._qmin,
            "qmax": self._qmax,
            "symmetric": self._symmetric,
            "block_size": None if self.block_size is None else list(self.block_size),
            "zero_point_shift": self._zero_point_shift,
        }

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        if "block_size" in settings:
            saved = tuple(int(size) for size in settings["block_size"] or ()) or None
            if (saved is None) != (self.block_size is None) or (saved and len(saved) != len(self.shape)):
                raise ShapeError(
                    "the saved block size does not fit",
                    where=type(self).__name__,
                    got=f"block_size={saved}",
                    expected=f"block_size={self.block_size}",
                    fix="make the quantizer with the block size that was saved",
                )
            self.block_size = saved
        self._set_grid(
            int(settings.get("qmin", self._qmin)),
            int(settings.get("qmax", self._qmax)),
            bool(settings.get("symmetric", self._symmetric)),
        )
        self.zero_point_shift = float(settings.get("zero_point_shift", self._zero_point_shift))

    @override
    def extra_repr(self) -> str:
        block = "" if self.block_size is None else f", block_size={self.block_size}"
        shift = "" if not self._zero_point_shift else f", zero_point_shift={self._zero_point_shift}"
        return f"shape={self.shape}{block}, qmin={self._qmin}, qmax={self._qmax}, symmetric={self._symmetric}{shift}"
