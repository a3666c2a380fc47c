"""int8 quantize-dequantize of a 4096 x 4096 float32 tensor against ``clone``: forward, and forward + backward with a
learnable range."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import peers
import torch
from harness import Comparison, Options

from quantsim.quantization import affine

BLOCK = 32
FORWARD, BACKWARD = 3.0, 8.0
COMPILED_FORWARD, COMPILED_BACKWARD = 1.2, 4.0


def granularities(size: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]]:
    """Quantizer shape and block size by granularity."""
    return {
        "per tensor": ((), None),
        "per channel": ((size, 1), None),
        f"block {BLOCK}": ((size, size // BLOCK), (1, BLOCK)),
    }


def plain_operators(x: torch.Tensor, scale: torch.Tensor, block_size: tuple[int, ...] | None) -> torch.Tensor:
    """What anyone would write."""
    shape = x.shape
    if block_size is not None:
        x = x.view(*scale.shape, block_size[-1])
        scale = scale.unsqueeze(-1)
    return (torch.clamp(torch.round(x / scale), -128, 127) * scale).view(shape)


def fused_operator(
    quantizer: torch.nn.Module, block_size: tuple[int, ...] | None
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """torch's own fake quantisation, where it has the granularity."""
    scale = quantizer.get_scale().detach()
    if block_size is not None:
        return None
    if scale.numel() == 1:
        value = scale.item()
        return lambda x: torch.fake_quantize_per_tensor_affine(x, value, 0, -128, 127)
    flat, zero_points = scale.flatten(), torch.zeros(scale.numel(), dtype=torch.int32)
    return lambda x: torch.fake_quantize_per_channel_affine(x, flat, zero_points, 0, -128, 127)


def without_gradient(function: Callable[[torch.Tensor], object], x: torch.Tensor) -> Callable[[], object]:
    """A call under ``no_grad``."""

    def call() -> object:
        with torch.no_grad():
            return function(x)

    return call


def with_backward(
    quantizer: torch.nn.Module, x: torch.Tensor, gradient: torch.Tensor, run: Callable | None = None
) -> Callable[[], object]:
    """Forward and backward to the tensor and to the range."""
    leaf = x.clone().requires_grad_()
    wanted = [leaf, *quantizer.parameters()]
    function = quantizer if run is None else run
    return lambda: torch.autograd.grad(function(leaf), wanted, gradient)


def subject(options: Options) -> Iterator[Comparison]:
    """Each granularity, forward then backward; symmetric, and asymmetric per tensor."""
    size = 512 if options.quick else 4096
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, size, generator=generator)
    gradient = torch.randn(size, size, generator=generator)
    cases = [(name, *spec, True) for name, spec in granularities(size).items()] + [
        ("per tensor, asymmetric", (), None, False)
    ]
    for name, shape, block_size, symmetric in cases:
        quantizer = affine.QuantizeDequantize(shape, 8, symmetric, block_size=block_size)
        with quantizer.compute_encodings():
            quantizer(x)
        functions: dict[str, Callable[[], object]] = {"clone": x.clone, "quantsim": without_gradient(quantizer, x)}
        backward: dict[str, Callable[[], object]] = {
            "clone": x.clone,
            "quantsim": with_backward(quantizer, x, gradient),
        }
        if options.compiled:
            torch.compiler.reset()
            compiled = torch.compile(quantizer, fullgraph=True)
            functions["quantsim compiled"] = without_gradient(compiled, x)
            backward["quantsim compiled"] = with_backward(quantizer, x, gradient, compiled)
        if symmetric:
            scale = quantizer.get_scale().detach()
            functions["plain operators"] = without_gradient(
                lambda t, scale=scale, block_size=block_size: plain_operators(t, scale, block_size), x
            )
            fused = fused_operator(quantizer, block_size)
            if fused is not None:
                functions["torch fused"] = without_gradient(fused, x)
        if options.peers and symmetric:
            add_peers(functions, backward, quantizer, (shape, block_size), x, gradient)
        yield Comparison(
            title=f"forward {size}x{size}, {name}",
            baseline="clone",
            functions=functions,
            gates={"quantsim": FORWARD, "quantsim compiled": COMPILED_FORWARD},
        )
        yield Comparison(
            title=f"forward + backward {size}x{size}, {name}",
            baseline="clone",
            functions=backward,
            gates={"quantsim": BACKWARD, "quantsim compiled": COMPILED_BACKWARD},
        )


def add_peers(
    functions: dict[str, Callable[[], object]],
    backward: dict[str, Callable[[], object]],
    quantizer: torch.nn.Module,
    granularity: tuple[tuple[int, ...], tuple[int, ...] | None],
    x: torch.Tensor,
    gradient: torch.Tensor,
) -> None:
    """The other libraries that are installed and have this granularity."""
    shape, block_size = granularity
    aimet = peers.aimet_quantizer(shape, block_size, x)
    if aimet is not None:
        functions["aimet"] = without_gradient(aimet, x)
        backward["aimet"] = with_backward(aimet, x, gradient)
    blocks = block_size or tuple(
        extent if scales == 1 else 1 for extent, scales in zip(x.shape, shape or (1, 1), strict=True)
    )
    torchao = peers.torchao_quantize_dequantize(quantizer.get_scale().detach(), blocks)
    if torchao is not None:
        functions["torchao"] = without_gradient(torchao, x)
    if shape == ():
        brevitas = peers.brevitas_quantize_dequantize(x)
        if brevitas is not None:
            functions["brevitas"] = without_gradient(brevitas, x)
            backward["brevitas"] = with_backward(brevitas, x, gradient)
