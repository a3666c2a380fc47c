"""Replaces what quantizers compute while a model is traced, for ONNX and for the integer graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from quantsim.nn.kernel_quant import SpecifiedQuantizedModule
from quantsim.quantization.base import QuantizerBase

__all__ = ["Forward", "replaced_quantizers"]

Forward = Callable[[Tensor], Tensor]
"""What a quantizer computes instead."""


@contextmanager
def replaced_quantizers(model: nn.Module, forward_of: Callable[[QuantizerBase], Forward | None]) -> Iterator[None]:
    """Inside, quantizers compute something else, and quantized modules never take a kernel.

    Args:
        model: The model; as before when the block ends, however it ends.
        forward_of: What a quantizer computes instead; ``None`` leaves it as it is.

    Example:
        >>> import torch
        >>> from quantsim.quantization import affine
        >>> quantizer = affine.QuantizeDequantize((), bitwidth=8, symmetric=True)
        >>> with replaced_quantizers(quantizer, lambda quantizer: torch.neg):
        ...     quantizer(torch.ones(1))
        tensor([-1.])
    """
    replaced: list[nn.Module] = []
    try:
        for module in model.modules():
            forward: Callable[..., Any] | None
            if isinstance(module, QuantizerBase):
                forward = forward_of(module)
            elif (
                isinstance(module, SpecifiedQuantizedModule)
                and type(module).forward is SpecifiedQuantizedModule.forward
            ):
                forward = module._fake_quantized_forward
            else:
                continue
            if forward is not None and "forward" not in module.__dict__:
                module.__dict__["forward"] = forward
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)
