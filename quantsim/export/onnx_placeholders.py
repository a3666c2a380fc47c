"""Stand-ins for quantizers while a model is traced: nodes that become ONNX operators afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.float import DynamicFloatQuantizeDequantize
from quantsim.quantization.granularity import PerBlock, PerTensor
from quantsim.sim.stand_ins import Forward, replaced_quantizers
from quantsim_kernels.reference.float_cast import dynamic_quantize_dequantize

__all__ = ["DOMAIN", "ENTER", "KEY", "LEAVE", "QUANTIZE_DEQUANTIZE", "stand_ins"]

DOMAIN: Final = "quantsim"
"""Domain of the stand-in operators; no exported file has it."""

QUANTIZE_DEQUANTIZE: Final = "QuantizeDequantize"
"""Stands for a quantizer, or for the cast of one with a run-time scale."""

ENTER: Final = "Enter"
"""Where a tensor enters a quantizer that is written as the operations that it computes."""

LEAVE: Final = "Leave"
"""Where it leaves again; with `ENTER` it keeps the exporter from mixing the operations of several quantizers."""

KEY: Final = "quantizer"
"""The operators' attribute: number of the quantizer."""


def _node(operator: str, key: int, x: Tensor) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{operator}", [x], attrs={KEY: key}, dtype=x.dtype, shape=x.shape, version=1
    )


def _stand_in(key: int, x: Tensor) -> Tensor:
    return _node(QUANTIZE_DEQUANTIZE, key, x) if x.is_floating_point() else x


def _written_out(key: int, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return _node(LEAVE, key, compute(_node(ENTER, key, x))) if x.is_floating_point() else x


def _dynamic_cast(key: int, quantizer: DynamicFloatQuantizeDequantize, x: Tensor) -> Tensor:
    """Plain operations for the scale, a stand-in for the cast."""

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
def stand_ins(
    model: nn.Module, keys: Mapping[QuantizerBase, int], written_out: Collection[QuantizerBase]
) -> Iterator[None]:
    """Inside, quantizers are traced as stand-ins, and quantized modules never take a kernel.

    Args:
        model: The simulated model.
        keys: Number of each quantizer.
        written_out: Those that are traced as what they compute.
    """

    def forward_of(quantizer: QuantizerBase) -> Forward | None:
        if quantizer not in keys:
            return None
        if quantizer in written_out:
            return partial(_written_out, keys[quantizer], quantizer.map_to_grid)
        if isinstance(quantizer, DynamicFloatQuantizeDequantize):
            return partial(_written_out, keys[quantizer], partial(_dynamic_cast, keys[quantizer], quantizer))
        return partial(_stand_in, keys[quantizer])

    with replaced_quantizers(model, forward_of):
        yield
