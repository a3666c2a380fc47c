"""Rescalers: multiply integers by a real ratio, as a fixed-point multiplier and a shift."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quantsim.dualpath.integer_codes import integer_dtype
from quantsim.errors import ConfigurationError
from quantsim.quantization.affine.arguments import bitwidth_grid
from quantsim_kernels.fixed_point import fixed_point, fixed_point_width

__all__ = ["AccumulatorBias", "MulQuant", "MulShift"]

_INT32 = (-(2**31), 2**31 - 1)
Ratio = npt.ArrayLike | Tensor


class _FixedPointFactor(nn.Module):
    """A real factor and its fixed-point form, ``multiplier / 2^shift``."""

    scale: Tensor
    multiplier: Tensor
    shift: Tensor

    def __init__(self, scale: Ratio, integer_bits: int | None, fraction_bits: int | None, axis: int) -> None:
        super().__init__()
        if (integer_bits is None) != (fraction_bits is None):
            raise ConfigurationError(
                where=type(self).__name__,
                got=f"integer_bits={integer_bits}, fraction_bits={fraction_bits}",
                expected="both, or neither for a multiplier of 31 significant bits",
            )
        self.integer_bits, self.fraction_bits, self.axis = integer_bits, fraction_bits, axis
        self.register_buffer("scale", torch.tensor(_numbers(scale), dtype=torch.float32))
        self._fix(_numbers(scale))

    def _fix(self, ratio: npt.NDArray[np.float64]) -> None:
        try:
            if self.integer_bits is None or self.fraction_bits is None:
                multiplier, shift = fixed_point(ratio)
            else:
                multiplier, bits = fixed_point_width(ratio, self.integer_bits, self.fraction_bits)
                shift = np.full(multiplier.shape, bits, np.int64)
        except ValueError as error:
            raise ConfigurationError(str(error), where=type(self).__name__) from None
        for name, values in (("multiplier", multiplier), ("shift", shift)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64, device=self.scale.device))

    def extra_repr(self) -> str:
        """The factor, if it is one number, and the fixed-point format."""
        scale = f"scale={self.scale.item():.6g}" if self.scale.numel() == 1 else f"scales={self.scale.numel()}"
        return scale if self.integer_bits is None else f"{scale}, fixed point {self.integer_bits}.{self.fraction_bits}"


class MulShift(_FixedPointFactor):
    """Multiplies by a real factor: exactly on the training path, by ``multiplier / 2^shift`` on the inference path.

    With ``round`` half away from zero::

        training    y = x * scale + bias
        inference   y = round((x * multiplier + bias_fixed) / 2^shift), int32

    The multiplier has 31 significant bits, or the bits of a fixed-point format of one's own, such as 16.12 (16 bits
    before the point, sign included, and 12 after it), for small hardware; a factor that does not fit is refused.

    Args:
        scale: The factor, one number or one for each channel.
        bias: Added afterwards, in steps of the result.
        integer_bits: Bits before the point, with ``fraction_bits``.
        fraction_bits: Bits after the point.
        axis: Dimension of the channels.
        train_flag: Whether the module starts on the training path.

    Attributes:
        scale: The factor, a float32 buffer; as the next, what the training path uses.
        bias: A float32 buffer; ``None`` if there is no bias.
        multiplier: int64 buffer of the inference path.
        shift: int64 buffer of the inference path.
        train_flag: True on the training path.

    Raises:
        ConfigurationError: If a factor does not fit the fixed-point format, or only one of its widths is given.

    Example:
        >>> rescaler = MulShift(0.3)
        >>> rescaler(torch.tensor([10.0])), rescaler.inference()(torch.tensor([10, -15]))
        (tensor([3.]), tensor([ 3, -5], dtype=torch.int32))
        >>> small = MulShift(0.3, integer_bits=16, fraction_bits=12)
        >>> int(small.multiplier), int(small.shift)
        (1229, 12)
    """

    bias: Tensor | None
    offset: Tensor

    def __init__(
        self,
        scale: Ratio = 1.0,
        bias: Ratio | None = None,
        *,
        integer_bits: int | None = None,
        fraction_bits: int | None = None,
        axis: int = -1,
        train_flag: bool = True,
    ) -> None:
        super().__init__(scale, integer_bits, fraction_bits, axis)
        self.train_flag = bool(train_flag)
        addend = None if bias is None else torch.tensor(_numbers(bias), dtype=torch.float32)
        self.register_buffer("bias", addend)
        self._fix_offset(1.0)

    def inference(self, mode: bool = True, *, input_scale: Ratio = 1.0, output_scale: float = 1.0) -> Self:
        """Switches to the inference path; ``mode=False`` switches back.

        Args:
            mode: Whether to infer.
            input_scale: What one step of the integers that will come in stands for.
            output_scale: What one step of the integers that will go out is to stand for.

        Raises:
            ConfigurationError: If the ratio does not fit the fixed-point format.
        """
        if mode:
            self._fix(_numbers(self.scale) * _numbers(input_scale) / output_scale)
            self._fix_offset(output_scale)
        self.train_flag = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Rescales ``x``: real numbers on the training path, integers on the inference path."""
        if self.train_flag:
            scaled = x * _along(self.scale, self.axis, x.dim())
            return scaled if self.bias is None else scaled + _along(self.bias, self.axis, x.dim())
        from quantsim_kernels.torch import integer

        _require_integers(x, self)
        low, high = _INT32
        return integer.scale_shift(
            x,
            multiplier=self.multiplier,
            offset=self.offset,
            shift=self.shift,
            axis=self.axis % x.dim(),
            zero_point_in=0,
            zero_point=0,
            low=low,
            high=high,
        ).to(torch.int32)

    def _fix_offset(self, output_scale: float) -> None:
        bias = _numbers(0.0 if self.bias is None else self.bias) / output_scale
        exact = np.rint(np.ldexp(bias, self.shift.cpu().numpy()))
        if not (np.abs(exact) < 2**62).all():
            raise ConfigurationError(
                "the bias does not fit 64 bits beside this factor",
                where=f"{type(self).__name__}.bias",
                got=f"bias up to {np.abs(bias).max():g}, shift {self.shift.flatten()[:4].tolist()}",
                expected="bias * 2^shift below 2^62",
            )
        offset = torch.tensor(exact, dtype=torch.int64)
        self.register_buffer("offset", offset.to(self.scale.device))


class MulQuant(_FixedPointFactor):
    """Turns 32-bit sums into codes: ``clamp(round((x + bias) * multiplier / 2^shift) + zero_point, qmin, qmax)``.

    This is where a layer's bias is added, as an integer in steps of the sum.

    Args:
        nbit: Bits of the codes.
        unsigned: Whether they start at 0.
        scale: Step of the sums over the step of the codes, one number or one for each channel.
        bias: Integers that are added to the sums.
        zero_point: The code that stands for 0.
        integer_bits: See `MulShift`, as the next two.
        fraction_bits: Bits after the point.
        axis: Dimension of the channels.
        limits: Smallest and largest code, by default those of ``nbit``.

    Attributes:
        scale: The factor, a float32 buffer.
        bias: What is added to the sums, an int32 buffer.
        multiplier: int64 buffer.
        shift: int64 buffer.
        qmin: Smallest code.
        qmax: Largest code.
        zero_point: The code that stands for 0, an int64 buffer.

    Example:
        >>> rescaler = MulQuant(8, scale=0.01, bias=torch.tensor([100, -100]), zero_point=3)
        >>> rescaler(torch.tensor([[900, 900], [10**6, -(10**6)]], dtype=torch.int32))
        tensor([[ 13,  11],
                [255,   0]], dtype=torch.uint8)
    """

    bias: Tensor
    zero_point: Tensor

    def __init__(
        self,
        nbit: int = 8,
        unsigned: bool = True,
        *,
        scale: Ratio = 1.0,
        bias: Ratio = 0,
        zero_point: int = 0,
        integer_bits: int | None = None,
        fraction_bits: int | None = None,
        axis: int = -1,
        limits: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(scale, integer_bits, fraction_bits, axis)
        self.qmin, self.qmax = bitwidth_grid(nbit, signed=not unsigned) if limits is None else limits
        self.register_buffer("bias", torch.tensor(_numbers(bias), dtype=torch.int32))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int64))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the codes."""
        return integer_dtype(self.qmin, self.qmax)

    def forward(self, x: Tensor) -> Tensor:
        """Codes of the sums ``x``, any integers."""
        from quantsim_kernels.torch import integer

        _require_integers(x, self)
        return integer.requantize(
            x + _along(self.bias, self.axis, x.dim()),
            multiplier=self.multiplier,
            shift=self.shift,
            zero_point_in=0,
            zero_point=int(self.zero_point),
            low=self.qmin,
            high=self.qmax,
            axis=None if self.multiplier.dim() == 0 else self.axis % x.dim(),
        ).to(self.dtype)


class AccumulatorBias(nn.Module):
    """Adds a layer's integer bias to its 32-bit sums, where no output quantizer says which codes to make of them.

    Args:
        bias: Integers in steps of the sum, one for each channel.
        axis: Dimension of the channels.
    """

    bias: Tensor

    def __init__(self, bias: Ratio, *, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("bias", torch.tensor(_numbers(bias), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` plus the bias, int32."""
        return x + _along(self.bias, self.axis, x.dim())


def _numbers(values: Ratio) -> npt.NDArray[np.float64]:
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, np.float64)


def _along(values: Tensor, axis: int, rank: int) -> Tensor:
    """One number as it is; one for each channel shaped so that it broadcasts."""
    if values.dim() == 0:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _require_integers(x: Tensor, module: nn.Module) -> None:
    if x.is_floating_point():
        raise ConfigurationError(
            "real numbers on the inference path",
            where=type(module).__name__,
            got=f"a tensor of {x.dtype}",
            expected="integers",
        )
