"""Integers on the CPU against float32: a linear layer with rescaling, convolutions, a transformer's ops, and MiniLM.

The linear layer is measured with random codes and weights, whose sums need one block, and with the largest weights,
which need several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from harness import Comparison, Options
from models import minilm, minilm_inputs
from torch import Tensor

from quantsim.dualpath import to_integer
from quantsim.sim import QuantizationSimModel
from quantsim_kernels.fixed_point import exponential_tables, fixed_point
from quantsim_kernels.torch import integer

LINEAR_GATE, MODEL_GATE = 1.3, 3.0
GRID: dict[str, Any] = {"zero_point": 3, "low": -128, "high": 127}


def codes(shape: tuple[int, ...], low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Random integers, the same in each run."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def rescaling(channels: int, ratio: float) -> dict[str, Tensor]:
    """A multiplier and shift for each channel."""
    ratios = torch.rand(channels, generator=torch.Generator().manual_seed(1)).numpy() * ratio + ratio / 2
    multiplier, shift = fixed_point(ratios)
    return {"multiplier": torch.as_tensor(multiplier), "shift": torch.as_tensor(shift)}


def linear(rows: int, columns: int, depth: int) -> Comparison:
    """A linear layer with rescaling against torch.mm of the same numbers."""
    unsigned, signed = codes((rows, depth), 0, 255, torch.uint8), codes((rows, depth), -128, 127, torch.int8)
    weight, extreme = codes((columns, depth), -127, 127, torch.int8), torch.full((columns, depth), -127).to(torch.int8)
    bias, scale = codes((columns,), -9999, 9999, torch.int64), rescaling(columns, 1e-3)
    x, w = unsigned.float(), weight.float()

    def call(x: Tensor, weight: Tensor) -> Callable[[], object]:
        return lambda: integer.linear(x, weight=weight, bias=bias, **scale, **GRID)

    functions = {
        "float32 mm": lambda: torch.mm(x, w.t()),
        "unsigned": call(unsigned, weight),
        "signed": call(signed, weight),
        "unsigned, largest weights": call(unsigned, extreme),
        "signed, largest weights": call(signed, extreme),
    }
    if rows * columns * depth <= 1 << 24:  # minutes otherwise, on CPUs without int8 instructions
        functions["torch._int_mm, sums only"] = lambda: torch.ops.aten._int_mm.default(signed, weight.t())
    return Comparison(
        title=f"integer linear {rows}x{columns}x{depth}",
        baseline="float32 mm",
        functions=functions,
        gates={"unsigned": LINEAR_GATE, "signed": LINEAR_GATE},
    )


def convolution(groups: int, channels: int, size: int) -> Comparison:
    """A 3x3 convolution of 8 images."""
    x = codes((8, channels, size, size), 0, 255, torch.uint8)
    weight = codes((channels, channels // groups, 3, 3), -127, 127, torch.int8)
    bias, scale = codes((channels,), -9999, 9999, torch.int64), rescaling(channels, 1e-3)
    images, w = x.float(), weight.float()
    geometry: dict[str, Any] = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": groups}
    return Comparison(
        title=f"integer conv2d 8x{channels}x{size}x{size}, groups={groups}",
        baseline="float32",
        functions={
            "float32": lambda: F.conv2d(images, w, padding=1, groups=groups),
            "integer": lambda: integer.convolution(
                x, weight=weight, bias=bias, zero_point_in=3, **geometry, **scale, **GRID
            ),
        },
    )


def attention(batch: int, heads: int, tokens: int) -> Comparison:
    """Softmax and its product with the values, 8 bits."""
    scores, values = (
        codes((batch, heads, tokens, tokens), -128, 127, torch.int8),
        codes((batch, heads, tokens, 32), -128, 127, torch.int8),
    )
    real, v = scores.float() / 16, values.float()
    high, low, shift = exponential_tables(8)
    tables: dict[str, Any] = {"exponential_high": torch.as_tensor(high), "exponential_low": torch.as_tensor(low)}
    rule: dict[str, Any] = {"multiplier": 1 << 30, "shift": 23, **tables, "exponential_shift": shift}
    product: dict[str, Any] = {"zero_point_values": 0, "result_multiplier": (1 << 30) + 1, "result_shift": 30, **GRID}
    return Comparison(
        title=f"integer softmax times values, {batch}x{heads}x{tokens}",
        baseline="float32",
        functions={
            "float32": lambda: torch.softmax(real, -1) @ v,
            "integer": lambda: integer.softmax_matmul(scores, values, **rule, **product),
        },
    )


def layer_norm(rows: int, width: int) -> Comparison:
    """LayerNorm of a 16-bit residual stream."""
    x = codes((rows, width), -2000, 2000, torch.int16)
    gain, offset = codes((width,), 1 << 20, 1 << 24, torch.int64), codes((width,), -9999, 9999, torch.int64)
    bits: dict[str, Any] = {"epsilon": 5, "mean_bits": 4, "root_bits": 4, "gain_bits": 10}
    real = x.float()
    return Comparison(
        title=f"integer LayerNorm {rows}x{width}",
        baseline="float32",
        functions={
            "float32": lambda: F.layer_norm(real, (width,)),
            "integer": lambda: integer.layer_norm(x, gain=gain, offset=offset, **bits, **GRID),
        },
    )


def whole_model(batch: int, length: int) -> Comparison | None:
    """MiniLM as an integer graph, in torch and in ONNX Runtime, against its float32 self."""
    model = minilm()
    if model is None:
        return None
    inputs = minilm_inputs(batch, length)
    sim = QuantizationSimModel(model, inputs, config="integer_w8a8")
    sim.compute_encodings([inputs])
    graph = to_integer(sim, inputs, strict=True)

    def float32() -> object:
        with torch.no_grad():
            return model(**inputs)

    return Comparison(
        title=f"MiniLM {batch}x{length}, integers only",
        baseline="float32",
        functions={
            "float32": float32,
            "torch": lambda: graph(**inputs),
            "onnxruntime": lambda: graph(**inputs, executor="onnxruntime"),
        },
        gates={"torch": MODEL_GATE},
    )


def subject(options: Options) -> Iterator[Comparison]:
    """What a convolutional network and a transformer are made of."""
    small = options.quick
    yield linear(*((64, 128, 128) if small else (512, 1024, 1024)))
    yield convolution(1, 64, 8 if small else 28)
    yield convolution(64, 64, 8 if small else 28)
    yield attention(1 if small else 8, 12, 32 if small else 128)
    yield layer_norm(64 if small else 1024, 384)
    model = whole_model(*((1, 16) if small else (32, 64)))
    if model is not None:
        yield model
