"""A quantized Linear with three int8 quantizers against ``nn.Linear``: a real size, and one so small that only the
overhead is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import peers
import torch
from harness import Comparison, Options
from torch import nn

import quantsim.nn
from quantsim.quantization import affine


def quantized(linear: nn.Linear, x: torch.Tensor) -> nn.Module:
    """The layer with input, weight (per channel) and output quantizers, calibrated."""
    module = quantsim.nn.QuantizationMixin.from_module(linear)
    module.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    module.param_quantizers["weight"] = affine.QuantizeDequantize((linear.out_features, 1), 8, True)
    module.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    with torch.no_grad(), module.compute_encodings():
        module(x)
    return module


def forward(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """A call without gradients."""

    def call() -> object:
        with torch.no_grad():
            return module(x)

    return call


def forward_backward(module: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> Callable[[], object]:
    """A training step's forward and backward: gradients of the input, the weights and every range."""
    leaf = x.clone().requires_grad_()
    wanted = [leaf, *module.parameters()]
    return lambda: torch.autograd.grad(module(leaf), wanted, gradient)


def comparison(
    title: str, sizes: tuple[int, int, int], gates: tuple[float, float | None], options: Options
) -> Iterator[Comparison]:
    """Forward, then forward + backward, of one size (in, out, batch)."""
    inputs, outputs, batch = sizes
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, inputs, generator=generator)
    gradient = torch.randn(batch, outputs, generator=generator)
    linear = nn.Linear(inputs, outputs)
    modules: dict[str, nn.Module] = {"nn.Linear": linear, "quantsim": quantized(linear, x)}
    if options.peers:
        aimet = peers.aimet_linear(linear, x)
        if aimet is not None:
            modules["aimet"] = aimet
    functions = {label: forward(module, x) for label, module in modules.items()}
    if options.compiled:
        functions["nn.Linear compiled"] = forward(torch.compile(linear), x)
        functions["quantsim compiled"] = forward(torch.compile(modules["quantsim"], fullgraph=True), x)
    yield Comparison(
        title=f"{title}, forward",
        baseline="nn.Linear",
        functions=functions,
        gates={"quantsim": gates[0]},
        against={"quantsim compiled": "nn.Linear compiled"},
    )
    yield Comparison(
        title=f"{title}, forward + backward",
        baseline="nn.Linear",
        functions={label: forward_backward(module, x, gradient) for label, module in modules.items()},
        gates={} if gates[1] is None else {"quantsim": gates[1]},
    )


def subject(options: Options) -> Iterator[Comparison]:
    """1024 to 1024 with batch 512; 16 to 16 with batch 4."""
    yield from comparison("1024 to 1024, batch 512", (1024, 1024, 512), (1.3, 1.4), options)
    yield from comparison("tiny, 16 to 16, batch 4", (16, 16, 4), (10.0, None), options)
