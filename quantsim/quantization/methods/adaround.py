"""AdaRound: which way each weight is rounded is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.affine import QuantizeDequantize
from quantsim.quantization.base import QuantizerBase
from quantsim_kernels.reference.operand_layout import blocked_shapes, computation_dtype

__all__ = ["AdaRoundQuantizeDequantize", "rectified_sigmoid"]

_STRETCH, _SHIFT = 1.2, -0.1
"""The sigmoid is stretched beyond 0 and 1, so that it reaches both."""


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """``clip(1.2 sigmoid(alpha) - 0.1, 0, 1)``: how far a weight is moved up, between 0 and 1 step.

    Example:
        >>> rectified_sigmoid(torch.tensor([-9.0, 0.0, 9.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    return (torch.sigmoid(alpha) * _STRETCH + _SHIFT).clamp(0.0, 1.0)


class AdaRoundQuantizeDequantize(QuantizeDequantize):
    """Adaptive rounding (Nagel et al. 2020): each weight is rounded down or up, as a Parameter of its own says.

    Until `begin_rounding` it rounds to nearest. From then on, with the range fixed::

        w^ = (clamp(floor(w / s) + h - o, qmin, qmax) + o) * s

    * **soft**, ``h = clip(1.2 sigmoid(alpha) - 0.1, 0, 1)``: only while it is learned, that is in training mode, with
      gradients on and not frozen. It starts at the weight itself. Add `rounding_loss` to the loss, which drives
      ``h`` to 0 or 1.
    * **hard**, ``h = 1 if alpha >= 0 else 0``: everywhere else, and for good after `freeze`; on the training path,
      on the integer path and in exports alike.

    Zeros stay zero, so pruned weights do. The weight itself must not change meanwhile; its gradient is 0.

    The arguments are those of `quantsim.quantization.affine.QuantizeDequantize`.

    Attributes:
        alpha: What is learned, in the shape of the weight; None before `begin_rounding`.

    Example:
        >>> weight = torch.tensor([0.4, 0.6, -1.5])
        >>> quantizer = AdaRoundQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
        >>> quantizer.set_range(-8.0, 7.0)
        >>> quantizer(weight).tolist()
        [0.0, 1.0, -2.0]
        >>> quantizer.begin_rounding(weight)
        >>> bool((quantizer(weight) - weight).abs().max() < 1e-6)
        True
        >>> _ = quantizer.alpha.data.neg_()
        >>> quantizer.freeze()
        >>> quantizer(weight).tolist()
        [1.0, 0.0, -1.0]
    """

    alpha: nn.Parameter | None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.register_parameter("alpha", None)

    def begin_rounding(self, weight: Tensor) -> None:
        """Starts learning, at the weight's own values; the range is fixed from now on.

        Args:
            weight: What is quantized.

        Raises:
            NotCalibratedError: If there is no range.
            ConfigurationError: If the grid is shifted by half a step.
        """
        if not self.is_initialized():
            self._without_range(weight)
        if self.zero_point_shift:
            raise ConfigurationError(
                "there is no learned rounding on a grid without a zero",
                where=f"{type(self).__name__}.begin_rounding",
                got=f"zero_point_shift={self.zero_point_shift}",
                expected="0.0",
                fix="use affine.QuantizeDequantize, or a grid with a zero",
            )
        with torch.no_grad():
            position, _ = self._position(weight)
            fraction = position - position.floor()
            alpha = -torch.log(_STRETCH / (fraction - _SHIFT) - 1.0)
            self.alpha = nn.Parameter(alpha.reshape(weight.shape).to(torch.float32))
        self.min.requires_grad_(False)
        self.max.requires_grad_(False)

    def end_rounding(self) -> None:
        """Forgets what was learned and rounds to nearest again: for a weight that has been set to what it became."""
        self.alpha = None

    @property
    def is_soft(self) -> bool:
        """Whether a call now gives values between grid points."""
        alpha = self._parameters.get("alpha")
        return alpha is not None and alpha.requires_grad and self.training and torch.is_grad_enabled()

    @property
    @override
    def rounds_to_nearest(self) -> bool:
        return self._parameters.get("alpha") is None

    def rounding_loss(self, sharpness: float) -> Tensor:
        """``sum(1 - |2 h - 1|^sharpness)``: 0 where all weights are rounded one way or the other.

        Args:
            sharpness: Exponent; large ones leave weights free at first, small ones (2) decide in the end.

        Raises:
            ConfigurationError: Before `begin_rounding`.
        """
        alpha = self._parameters.get("alpha")
        if alpha is None:
            raise ConfigurationError(
                "no rounding is learned",
                where=f"{type(self).__name__}.rounding_loss",
                expected="a call of begin_rounding(weight) before",
            )
        return (1.0 - (2.0 * rectified_sigmoid(alpha) - 1.0).abs().pow(sharpness)).sum()

    @override
    def forward(self, input: Tensor) -> Tensor:
        return QuantizerBase.forward(self, input)

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        alpha = self._parameters.get("alpha")
        if alpha is None:
            return super().map_to_grid(x, owned=owned)
        if alpha.shape != x.shape:
            raise ShapeError(
                "the rounding was learned for another tensor",
                where=type(self).__name__,
                got=f"a tensor of shape {tuple(x.shape)}",
                expected=f"shape {tuple(alpha.shape)}",
                fix="call begin_rounding(weight) for this weight",
            )
        position, (scale, offset) = self._position(x.detach())
        up = rectified_sigmoid(alpha) if self.is_soft else (alpha.detach() >= 0)
        up = up.reshape(position.shape).to(position.dtype)
        codes = position.floor() + torch.where(position == 0, torch.zeros_like(up), up)
        low, high = (float(end) for end in (self._qmin, self._qmax))
        inside = codes.clamp(min=offset + low, max=offset + high)
        values = inside * scale + 0.0  # no -0
        return values.reshape(x.shape).to(x.dtype)

    def _position(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``x / s``, with scale and offset, all in shapes that fit each other."""
        pair = self._scale_and_offset()
        assert pair is not None
        view, scale_view = blocked_shapes(x.shape, pair[0].shape, self.block_size)
        dtype = computation_dtype(x.dtype, self._qmin, self._qmax)
        scale, offset = (values.detach().reshape(scale_view).to(dtype) for values in pair)
        return x.reshape(view).to(dtype) / scale, (scale, offset)

    # ---------------------------------------------------------------- freezing, calibration, persistence

    @override
    def unfreeze(self) -> None:
        super().unfreeze()
        if self._parameters.get("alpha") is not None:
            self.min.requires_grad_(False)
            self.max.requires_grad_(False)

    @override
    def _can_observe(self) -> bool:
        return super()._can_observe() and self._parameters.get("alpha") is None

    @override
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = state_dict.get(f"{prefix}alpha")
        own = self._parameters.get("alpha")
        if saved is None:
            self.alpha = None
        elif own is None or own.shape != saved.shape:
            self.alpha = nn.Parameter(torch.zeros_like(saved, device=self.min.device))
            self.alpha.requires_grad_(self.is_overwrite_allowed)
            self.min.requires_grad_(False)
            self.max.requires_grad_(False)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not self.is_overwrite_allowed and self.alpha is not None:  # it was frozen when it was saved
            self.alpha.requires_grad_(False)
