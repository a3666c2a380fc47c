"""Quantized LinearCrossEntropyLoss: its linear layer is a child whose weight the loss reads itself."""

from __future__ import annotations

from typing import Any

from quantsim.nn.base import BaseQuantizationMixin
from quantsim.nn.quantized_forward import SpecifiedModule

__all__ = ["LinearLoss"]


class LinearLoss(SpecifiedModule):
    """Behaviour of the quantized classes of LinearCrossEntropyLoss.

    Attributes:
        linear: Quantized linear layer; its parameter quantizers apply, its forward is never called.
    """

    def __quant_init__(self) -> None:
        super().__quant_init__()
        module: Any = self
        module.linear = self._family().from_module(module.linear)

    def _run_float_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        linear: BaseQuantizationMixin = self.linear  # pyright: ignore[reportAssignmentType]
        linear._calibrate_parameters(overwrite=False)
        with linear._patch_quantized_parameters():
            return super()._run_float_forward(args, kwargs)

    def get_original_module(self) -> Any:
        """Returns the float module; see `BaseQuantizationMixin.get_original_module`."""
        original = super().get_original_module()
        linear: Any = original._modules["linear"]
        original._modules["linear"] = linear.get_original_module()
        return original
