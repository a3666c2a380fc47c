"""Integer linear layers on a CUDA device against bfloat16: torch._int_mm alone, with rescaling, and Triton's fused one.

PYTHONPATH=kernels:encodings python tests/benchmarks/gpu_integer.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from quantsim_kernels.torch import integer as in_torch
from quantsim_kernels.triton import integer_matmul as in_triton

GATE = 1.3


def milliseconds(function: Callable[[], object], rounds: int = 20) -> float:
    """Median time of a call, after warming up."""
    for _ in range(3):
        function()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(rows: int, columns: int, depth: int) -> None:
    """One size: times, and how many times faster than bfloat16."""
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randint(-128, 128, (rows, depth), dtype=torch.int8, device="cuda", generator=generator)
    weight = torch.randint(-127, 128, (columns, depth), dtype=torch.int8, device="cuda", generator=generator)
    unsigned = (x.to(torch.int16) + 128).to(torch.uint8)
    bias = torch.randint(-(2**20), 2**20, (columns,), device="cuda", generator=generator)
    multiplier = torch.randint(1 << 30, 1 << 31, (columns,), device="cuda", generator=generator)
    shift = torch.full((columns,), 44, device="cuda")
    grid = {"multiplier": multiplier, "shift": shift, "zero_point": 0, "low": -128, "high": 127}
    a, b = torch.randn(rows, depth, device="cuda").bfloat16(), torch.randn(columns, depth, device="cuda").bfloat16()
    functions: dict[str, Callable[[], object]] = {
        "bfloat16": lambda: a @ b.t(),
        "_int_mm, sums only": lambda: torch.ops.aten._int_mm.default(x, weight.t()),
        "_int_mm and rescaling": lambda: in_torch.linear(x, weight=weight, bias=bias, **grid),
        "Triton, sums only": lambda: in_triton.linear(x, weight=weight, bias=bias),
        "Triton, rescaled": lambda: in_triton.linear(x, weight=weight, bias=bias, **grid),
        "Triton, rescaled, unsigned": lambda: in_triton.linear(unsigned, weight=weight, bias=bias, **grid),
    }
    assert torch.equal(
        in_torch.linear(x, weight=weight, bias=bias, **grid), in_triton.linear(x, weight=weight, bias=bias, **grid)
    )
    print(f"{rows} x {columns} x {depth}, {torch.cuda.get_device_name()}")
    base = None
    for name, function in functions.items():
        time = milliseconds(function)
        base = time if base is None else base
        print(f"  {name:28s} {time:8.3f} ms  {base / time:5.2f} times bfloat16's speed")


if __name__ == "__main__":
    for size in ((8192, 8192, 8192), (4096, 4096, 4096), (512, 1024, 1024), (32, 4096, 4096)):
        measure(*size)
    print(f"gate: {GATE} at 8192, for the sums and for the whole layer in Triton")
