"""`QBase`: a quantizer with two paths, one that quantizes and dequantizes, one that gives integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantsim.dualpath.integer_codes import integer_dtype, require_codes
from quantsim.dualpath.scale_and_zero_point import ScaleAndZeroPoint
from quantsim.errors import ConfigurationError
from quantsim.quantization.affine import exchange
from quantsim.quantization.affine.arguments import bitwidth_grid
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer
from quantsim.quantization.analyzers.base import EncodingAnalyzer
from quantsim.quantization.analyzers.grouping import normalise_shape
from quantsim_encodings.encoding import Encoding
from quantsim_kernels.affine import affine_dequantize, affine_quantize, affine_quantize_dequantize

__all__ = ["Observer", "QBase"]

_FLOAT_BITS: Final = 24
"""Bits of the widest grid whose integers float32 holds."""

Observer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes a tensor, and returns scale and zero point for it (and for what it took before, if it remembers)."""


class QBase(ScaleAndZeroPoint):
    """Base of quantizers that train with fake quantization and infer with integers; by itself, min-max quantization.

    With scale ``s`` and zero point ``z``::

        integers  x_int = clamp(rint(x / s) + z, qmin, qmax)     evalFunc, in a real integer dtype
        reals     x^    = (x_int - z) * s                        trainFunc; gradients straight through

    Signed grids, ``-2^(nbit-1) .. 2^(nbit-1) - 1``, are symmetric (``z = 0``); unsigned ones, ``0 .. 2^nbit - 1``,
    are not. The range moves only inside `compute_encodings` (see `quantsim.quantization.base.QuantizerBase`); a
    quantizer in `inference` is frozen.

    A quantizer of your own is a subclass with another `q`, another `observer`, or both. What `q` computes with goes
    into the buffers ``scale`` and ``zero_point``, which inference and export read; a learnable scale is a Parameter
    of its own that `q` copies into the buffer:

        >>> class PowerOfTwo(QBase):
        ...     '''Steps that a shifter can apply; the exponent is trained.'''
        ...
        ...     def __init__(self, nbit, train_flag=True, unsigned=True):
        ...         super().__init__(nbit, train_flag, unsigned)
        ...         self.exponent = nn.Parameter(torch.tensor(-4.0))
        ...
        ...     def observer(self, x):
        ...         exponent = (x.abs().max() / self.qmax).log2().ceil()
        ...         self.exponent.data.copy_(exponent)
        ...         return exponent.exp2(), torch.zeros(())
        ...
        ...     def q(self, x):
        ...         rounding = self.exponent.round() - self.exponent
        ...         scale = torch.exp2(self.exponent + rounding.detach())  # straight through
        ...         self.scale.copy_(scale.detach())
        ...         return self.on_grid(x, scale)
        >>> quantizer = PowerOfTwo(8, unsigned=False)
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(torch.tensor([-100.0, 20.0]))
        >>> quantizer(torch.tensor([3.3, -7.6])).detach()
        tensor([ 3., -8.])
        >>> quantizer.inference()(torch.tensor([3.3, -7.6]))
        tensor([ 3, -8], dtype=torch.int8)

    Args:
        nbit: Bits of an integer, 1 (signed 2) to 32.
        train_flag: Whether the quantizer starts on the training path.
        unsigned: Whether the integers start at 0.
        shape: Shape of scale and zero point: ``()`` per tensor, ``(C, 1, ...)`` per channel.
        encoding_analyzer: Turns observed data into a range; min-max by default.

    Attributes:
        train_flag: True on the training path.
        scale: Step of the grid, a float32 buffer; NaN until calibrated.
        zero_point: The integer that stands for 0, in a float32 buffer; 0 by default.

    Raises:
        ConfigurationError: If ``nbit`` is no usable width.
    """

    train_flag: bool

    def __init__(
        self,
        nbit: int,
        train_flag: bool = True,
        unsigned: bool = True,
        *,
        shape: int | Sequence[int] = (),
        encoding_analyzer: EncodingAnalyzer | None = None,
    ) -> None:
        self_shape = normalise_shape(shape)
        super().__init__(encoding_analyzer=encoding_analyzer or MinMaxEncodingAnalyzer(self_shape))
        self.shape = self_shape
        self.train_flag = bool(train_flag)
        self._set_grid(*bitwidth_grid(nbit, signed=not unsigned), symmetric=not unsigned)
        self.register_qparams()
        self.is_initialized()  # notes it where a subclass registered parameters that need no calibration

    def register_qparams(self) -> None:
        """Registers the quantization parameters ``scale`` and ``zero_point`` as buffers; runs once, in ``__init__``."""
        self.register_range_parameter("scale", self.shape, learnable=False)
        self.register_range_parameter("zero_point", self.shape, learnable=False)
        self.zero_point.zero_()

    # ---------------------------------------------------------------- settings

    @property
    def nbit(self) -> int:
        """Bits of an integer."""
        return self.bitwidth

    @property
    def unsigned(self) -> bool:
        """Whether the integers start at 0."""
        return not self.signed

    @property
    def dtype(self) -> torch.dtype:
        """The type of the integers: the narrowest of uint8, int8, int16, int32 and int64 that holds the grid."""
        return integer_dtype(self.qmin, self.qmax)

    # ---------------------------------------------------------------- the two paths

    def forward(self, input: Tensor) -> Tensor:
        """Quantizes on the path that ``train_flag`` says, or observes inside `compute_encodings`."""
        if self._observation_depth:
            return self._observe(input)
        return self.trainFunc(input) if self.train_flag else self.evalFunc(input)

    def trainFunc(self, input: Tensor) -> Tensor:  # noqa: N802 (the published name)
        """Training path: real numbers on the grid, in the dtype of ``input``.

        Args:
            input: Floating-point tensor.
        """
        return self.q(input)

    def evalFunc(self, input: Tensor) -> Tensor:  # noqa: N802 (the published name)
        """Inference path: integers only, in a real integer dtype, with nothing dequantized.

        Args:
            input: Floating-point tensor to quantize, or integers, which are codes already and pass.

        Raises:
            ConfigurationError: If `q` gave something else than integers of the grid.
        """
        if not input.is_floating_point():
            return require_codes(input, self.dtype, type(self).__name__)
        codes = self.q(input)
        if type(self).q is not QBase.q:  # ours cannot leave the grid
            self._require_integers(codes)
        return codes.to(self.dtype)

    def q(self, x: Tensor) -> Tensor:
        """What both paths share: quantizes ``x``, and dequantizes it on the training path.

        Args:
            x: Floating-point tensor.

        Raises:
            NotCalibratedError: If there is no scale yet.
        """
        return self.on_grid(x, self.scale, self.zero_point)

    def on_grid(self, x: Tensor, scale: Tensor | None = None, zero_point: Tensor | None = None) -> Tensor:
        """Quantizes ``x``: to reals on the training path, to integers (in the dtype of ``x``) on the inference path.

        Differentiable in all three, straight through the rounding.

        Args:
            x: Floating-point tensor.
            scale: Step, by default the buffer.
            zero_point: Zero point, by default 0 if a scale is given, else the buffer.
        """
        if scale is None:
            scale, zero_point = self.scale, self.zero_point
        is_zero = zero_point is None or (zero_point is self.zero_point and self.has_zero_offset)
        if scale is self.scale and not self._initialized and not self.is_initialized():
            return self._without_range(x)
        offset = None if zero_point is None or is_zero else -zero_point
        if scale.numel() == 1:  # one number fits tensors of any rank
            scale, offset = scale.reshape(()), None if offset is None else offset.reshape(())
        if self.train_flag:
            return affine_quantize_dequantize(x, scale, offset, self.qmin, self.qmax)
        values = x if x.dtype == torch.float64 or self.bitwidth <= 8 else x.float()
        if self.bitwidth > _FLOAT_BITS:
            values = x.double()
        return affine_quantize(values, scale, offset, self.qmin, self.qmax)

    def inference(self, mode: bool = True) -> Self:
        """Switches to the inference path, and freezes the range; ``mode=False`` undoes both.

        Example:
            >>> quantizer = QBase(8)
            >>> quantizer.set_range(-1.0, 1.55)
            >>> quantizer(torch.tensor([0.004, 9.0])), quantizer.inference()(torch.tensor([0.004, 9.0]))
            (tensor([0.0000, 1.5500]), tensor([100, 255], dtype=torch.uint8))
        """
        if mode == self.train_flag:
            if mode:
                self.__dict__["_unfrozen"] = not self.is_frozen
                self.freeze()
            elif self.__dict__.pop("_unfrozen", False):
                self.unfreeze()
        self.train_flag = not mode
        return self

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if self.train_flag:
            return self.trainFunc(x)
        scale, offset = self._scale_and_offset()
        return affine_dequantize(self.evalFunc(x).to(x.dtype), scale, offset)

    @override
    def quantize_owned(self, x: Tensor) -> Tensor:
        return self(x)

    def _require_integers(self, codes: Tensor) -> None:
        wrong = (codes != codes.round()) | (codes < self.qmin) | (codes > self.qmax)
        if bool(wrong.any()):
            raise ConfigurationError(
                "q gave numbers that are no integers of the grid",
                where=f"{type(self).__name__}.evalFunc",
                got=f"{codes[wrong].flatten()[0].item()!r} and {int(wrong.sum()) - 1} more",
                expected=f"integers from {self.qmin} to {self.qmax}",
                fix="let q dequantize only while self.train_flag is True; self.on_grid(x, scale, zero_point) does",
            )

    # ---------------------------------------------------------------- the range

    @property
    def observer(self) -> Observer:
        """What watches the data inside `compute_encodings`, and says scale and zero point.

        To change it, define a method ``observer(self, x) -> (scale, zero_point)`` in a subclass, or assign a function
        or module of that form, or an encoding analyzer of `quantsim.quantization.analyzers`. By default the encoding
        analyzer is asked, which knows all data of one `compute_encodings` block.
        """
        assigned = self._modules.get("observer") or self.__dict__.get("_observer_function")
        return self._ask_analyzer if assigned is None else assigned

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "observer":
            super().__setattr__(name, value)
            return
        self._modules.pop("observer", None)
        self.__dict__.pop("_observer_function", None)
        if isinstance(value, EncodingAnalyzer):
            self.encoding_analyzer = value
        elif isinstance(value, nn.Module):
            self._modules["observer"] = value
        elif callable(value):
            self.__dict__["_observer_function"] = value
        else:
            raise TypeError(
                f"{type(self).__name__}.observer: got {value!r}, expected an encoding analyzer, or a function or "
                "module from a tensor to (scale, zero_point)"
            )

    def _ask_analyzer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        analyzer = self.encoding_analyzer
        assert analyzer is not None
        analyzer.update_stats(x.detach())
        return self._qparams_of(*analyzer.compute_encodings(self.qmax - self.qmin, self.symmetric))

    @override
    def begin_observation(self) -> None:
        if self._observation_depth == 0:
            self.__dict__.pop("_observed", None)
        super().begin_observation()

    @override
    def _observe(self, x: Tensor) -> Tensor:
        observer = self.observer
        if observer == self._ask_analyzer:  # which is asked once, in the end
            return super()._observe(x)
        if x.numel():
            with torch.no_grad():
                self.__dict__["_observed"] = observer(x.detach())
            self.samples_seen += x.numel()
        return x

    @override
    def set_range_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        observed = self.__dict__.pop("_observed", None)
        if observed is None:
            self.set_range(*analyzer.compute_encodings(self.qmax - self.qmin, self.symmetric))
        else:
            self.set_qparams(*observed)

    @classmethod
    @override
    def from_encodings(cls, encoding: Encoding) -> Self:
        affine = exchange.require_affine(cls.__name__, encoding)
        arguments = exchange.constructor_arguments(affine)
        made = cls(affine.format.bits, unsigned=affine.format.qmin >= 0, shape=arguments["shape"])
        made.set_encodings(affine)
        return made

    @override
    def extra_repr(self) -> str:
        path = "training" if self.train_flag else "inference"
        return f"nbit={self.nbit}, unsigned={self.unsigned}, shape={self.shape}, path={path}"
