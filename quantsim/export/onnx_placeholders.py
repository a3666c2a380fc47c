"""Stand-ins for quantizers while a model is traced: one node each, written out as ONNX operators afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from quantsim.nn.kernel_quant import SpecifiedQuantizedModule
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.float import DynamicFloatQuantizeDequantize
from quantsim.quantization.granularity import PerBlock, PerTensor
from quantsim_kernels.reference.float_cast import dynamic_quantize_dequantize

__all__ = ["DOMAIN", "KEY", "OPERATOR", "stand_ins"]

DOMAIN: Final = "quantsim"
"""Domain of the stand-in operator; no exported file has it."""

OPERATOR: Final = "QuantizeDequantize"
"""Name of the stand-in operator."""

KEY: Final = "quantizer"
"""Its attribute: number of the quantizer."""


def _stand_in(key: int, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{OPERATOR}", [x], attrs={KEY: key}, dtype=x.dtype, shape=x.shape, version=1
    )


def _dynamic_stand_in(key: int, quantizer: DynamicFloatQuantizeDequantize, x: Tensor) -> Tensor:
    """Plain operations for the scale, a stand-in for the cast."""
    if not x.is_floating_point():
        return x

    def run(rows: Tensor, block_size: int | None = None) -> Tensor:
        return dynamic_quantize_dequantize(rows, quantizer.format, block_size, cast=cast)

    def cast(values: Tensor, *_: Any, **__: Any) -> Tensor:
        return _stand_in(key, values)

    granularity = quantizer.granularity
    if isinstance(granularity, PerTensor):
        return run(x.reshape(1, -1)).reshape(x.shape)
    if isinstance(granularity, PerBlock):
        size = None if granularity.block_size == -1 else granularity.block_size
        return run(x.movedim(granularity.axis, -1), size).movedim(-1, granularity.axis)
    return run(x)


@contextmanager
def stand_ins(model: nn.Module, keys: Mapping[QuantizerBase, int]) -> Iterator[None]:
    """Inside, quantizers are traced as one node each, and quantized modules never take a kernel.

    Args:
        model: The simulated model.
        keys: Number of each quantizer that is to be a stand-in; others are traced as what they compute.
    """
    replaced: list[nn.Module] = []
    try:
        for module in model.modules():
            forward: Callable[..., Any]
            if isinstance(module, QuantizerBase):
                if module not in keys:
                    continue
                if isinstance(module, DynamicFloatQuantizeDequantize):
                    forward = partial(_dynamic_stand_in, keys[module], module)
                else:
                    forward = partial(_stand_in, keys[module])
            elif (
                isinstance(module, SpecifiedQuantizedModule)
                and type(module).forward is SpecifiedQuantizedModule.forward
            ):
                forward = module._fake_quantized_forward
            else:
                continue
            if "forward" not in module.__dict__:
                module.__dict__["forward"] = forward
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)
