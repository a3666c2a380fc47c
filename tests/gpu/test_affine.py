"""The affine Triton kernels on a real GPU: equal to the reference on the same device, and faster than it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantsim_kernels import Backend, Scheme, affine_quantize, affine_quantize_dequantize, explain, force_backend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = {
    "tensor": ((513, 1025), (), None),
    "channel": ((513, 1025), (513, 1), None),
    "last-channel": ((513, 1025), (1025,), None),
    "conv": ((4, 64, 33, 33), (64, 1, 1), None),
    "block": ((256, 1024), (256, 32), (1, 32)),
    "block-both": ((256, 1024), (8, 32), (32, 32)),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def run(
    backend: Backend, x: Tensor, scale: Tensor, offset: Tensor | None, grad: Tensor, *arguments: object
) -> list[Tensor]:
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, scale, offset)]
    with force_backend(backend):
        y = affine_quantize_dequantize(*leaves, *arguments)  # type: ignore[arg-type]
        y.backward(grad)
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None)]


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("grid", [(-128, 127), (-8, 7), (0, 255)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_reference(name: str, dtype: torch.dtype, grid: tuple[int, int], with_offset: bool) -> None:
    shape, scale_shape, block_size = SHAPES[name]
    x = torch.randn(shape, device="cuda").mul_(3).to(dtype)
    scale = torch.rand(scale_shape, device="cuda") * 0.05 + 0.01
    offset = torch.randint(-20, 20, scale_shape, device="cuda").float() if with_offset else None
    grad = torch.randn(shape, device="cuda").to(dtype)
    expected = run(Backend.REFERENCE, x, scale, offset, grad, *grid, block_size)
    actual = run(Backend.TRITON, x, scale, offset, grad, *grid, block_size)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    share = max(1, x.numel() // max(1, scale.numel()))
    for result, wanted in zip(actual[2:], expected[2:], strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=2e-6 * share**0.5 * max(map(abs, grid)))
    if dtype is not torch.bfloat16 or grid[1] < 200:
        with force_backend("reference"):
            codes = affine_quantize(x, scale, offset, *grid, block_size)
        assert torch.equal(affine_quantize(x, scale, offset, *grid, block_size), codes)


def test_the_gpu_agrees_with_the_cpu() -> None:
    x, scale = torch.randn(300, 700), torch.tensor(0.037)
    on_gpu = affine_quantize_dequantize(x.cuda(), scale.cuda(), None, -128, 127)
    assert torch.equal(on_gpu.cpu(), affine_quantize_dequantize(x, scale, None, -128, 127))


def test_cuda_tensors_get_the_triton_kernel() -> None:
    x, scale = torch.ones(4, device="cuda"), torch.ones((), device="cuda")
    chosen = next(d for d in explain("affine_quantize_dequantize", Scheme.AFFINE, x, scale, None, -8, 7) if d.chosen)
    assert chosen.kernel.backend is Backend.TRITON


def milliseconds(function: object, repeats: int = 20) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    best = float("inf")
    for _ in range(repeats):
        start.record()
        function()  # type: ignore[operator]
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end))
    return best


def test_one_pass_over_memory() -> None:
    x, scale = torch.randn(8192, 8192, device="cuda"), torch.rand(8192, 1, device="cuda") + 0.01
    clone = milliseconds(x.clone)
    ours = milliseconds(lambda: affine_quantize_dequantize(x, scale, None, -128, 127))
    assert ours <= 2 * clone, f"{ours:.3f} ms, clone {clone:.3f} ms"
