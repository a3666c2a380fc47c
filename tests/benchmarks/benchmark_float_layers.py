"""Layers that compute in fp16 (e5m10) against torch's own: Linear 1024 x 1024 with 512 rows, LSTM 256 x 256 with 64
sequences of 32 steps whose state is quantised at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import float_peers
import torch
from harness import Comparison, Options
from torch import nn

from quantsim import layers

EXPONENT_BITS, MANTISSA_BITS = 5, 10


def forward_backward(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """A training step's forward and backward: gradients of the input and of all parameters."""
    leaf = x.clone().requires_grad_()
    wanted = [leaf, *(parameter for parameter in module.parameters() if parameter.requires_grad)]

    def call() -> object:
        result = module(leaf)
        output = result[0] if isinstance(result, tuple) else result
        return torch.autograd.grad(output.sum(), wanted, allow_unused=True)

    return call


def forward(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """A call without gradients."""

    def call() -> object:
        with torch.no_grad():
            return module(x)

    return call


def subject(options: Options) -> Iterator[Comparison]:
    """Linear, then LSTM; forward, then forward + backward."""
    generator = torch.Generator().manual_seed(0)
    linear, ours = nn.Linear(1024, 1024), layers.QuantizedLinear(1024, 1024, EXPONENT_BITS, MANTISSA_BITS)
    modules: dict[str, nn.Module | None] = {"nn.Linear": linear, "quantsim": ours}
    if options.peers:
        modules["pychop"] = float_peers.pychop_layer("QuantizedLinear", (1024, 1024), EXPONENT_BITS, MANTISSA_BITS)
    x = torch.randn(512, 1024, generator=generator)
    yield from comparisons("Linear(1024, 1024), 512 rows", "nn.Linear", modules, x, {"forward + backward": 1.6})

    lstm = nn.LSTM(256, 256, batch_first=True)
    modules = {"nn.LSTM": lstm, "quantsim": layers.QuantizedLSTM(256, 256, EXPONENT_BITS, MANTISSA_BITS)}
    if options.peers:
        modules["pychop"] = float_peers.pychop_layer("QuantizedLSTM", (256, 256), EXPONENT_BITS, MANTISSA_BITS)
    x = torch.randn(64, 32, 256, generator=generator)
    gates = {"forward": 8.0, "forward + backward": 8.0}
    yield from comparisons("LSTM(256, 256), 64 sequences of 32", "nn.LSTM", modules, x, gates)


def comparisons(
    title: str, baseline: str, modules: dict[str, nn.Module | None], x: torch.Tensor, gates: dict[str, float]
) -> Iterator[Comparison]:
    """Forward and forward + backward of the modules that are there."""
    for kind, make in (("forward", forward), ("forward + backward", forward_backward)):
        functions = {label: make(module, x) for label, module in modules.items() if module is not None}
        yield Comparison(
            title=f"{title}, {kind}",
            baseline=baseline,
            functions=functions,
            gates={"quantsim": gates[kind]} if kind in gates else {},
            notes={"pychop": "states are not quantised"} if "LSTM" in title else {},
        )
