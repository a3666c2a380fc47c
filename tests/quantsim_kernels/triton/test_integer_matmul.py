"""Integer products in Triton against the reference, bit for bit: interpreted, and compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from quantsim_kernels.reference import integer as law
from quantsim_kernels.triton._integer_kernels import INTEGER_SIGNATURE

GRIDS = [{"zero_point": -3, "low": -128, "high": 127}, {"zero_point": 9, "low": -(2**15), "high": 2**15 - 1}]
GEOMETRY = {"stride": (2, 1), "padding": ((1, 0), (1, 2)), "dilation": (1, 2)}


def codes(dtype: Any, shape: tuple[int, ...], extreme: bool) -> np.ndarray:
    limits = np.iinfo(dtype)
    if extreme:
        return np.full(shape, limits.min if limits.min else limits.max, dtype)
    return np.random.default_rng(5).integers(limits.min, limits.max + 1, shape).astype(dtype)


def scales(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(6)
    signs = generator.choice([-1, 1], count)
    return {
        "multiplier": generator.integers(1 << 30, 1 << 31, count) * signs,
        "shift": generator.integers(38, 48, count),
    }


def check(op: str, *operands: np.ndarray, device: Any = "cpu", **parameters: Any) -> torch.Tensor:
    from quantsim_kernels.triton import integer_matmul as ours

    def on_device(value: Any) -> Any:
        return torch.as_tensor(value, device=device) if isinstance(value, np.ndarray) else value

    constants = {name: on_device(value) for name, value in parameters.items()}
    result = getattr(ours, op)(*map(on_device, operands), **constants)
    np.testing.assert_array_equal(result.cpu().numpy(), getattr(law, op)(*operands, **parameters))
    return result


def check_linear(dtype: Any, extreme: bool, device: str) -> None:
    for rows, length, columns in ((3, 7, 5), (40, 96, 33), (2, 600, 40)):
        x, weight = codes(dtype, (2, rows, length), extreme), codes(np.int8, (columns, length), extreme)
        bias = np.random.default_rng(1).integers(-(2**24), 2**24, columns)
        assert check("linear", x, device=device, weight=weight, bias=bias).dtype is torch.int32
        for grid in GRIDS:
            check("linear", x, device=device, weight=weight, bias=bias, **scales(columns), **grid)
        single: dict[str, Any] = {"multiplier": (1 << 30) + 1, "shift": 41}
        assert check("linear", x, device=device, weight=weight, bias=bias, **single, **GRIDS[0]).dtype is torch.int8


def check_matmul(dtype: Any, extreme: bool, device: str) -> None:
    a, b = codes(dtype, (2, 1, 9, 50), extreme), codes(np.int8, (3, 50, 21), extreme)
    for zero_point_a, zero_point_b in ((0, 0), (128, 0), (0, -5), (200, 1)):
        points: dict[str, Any] = {"zero_point_a": zero_point_a, "zero_point_b": zero_point_b}
        for grid in GRIDS:
            check("matmul", a, b, device=device, **points, multiplier=(1 << 30) + 5, shift=42, **grid)
    turned: dict[str, Any] = {"zero_point_a": 7, "zero_point_b": 130, "multiplier": 1 << 30, "shift": 42, **GRIDS[0]}
    check("matmul", b.swapaxes(1, 2), a[0].swapaxes(1, 2), device=device, **turned)


def check_convolution(dtype: Any, extreme: bool, device: str) -> None:
    x = codes(dtype, (2, 6, 7, 8), extreme)
    for groups in (1, 3):
        weight = codes(np.int8, (9, 6 // groups, 3, 2), extreme)
        bias = np.random.default_rng(1).integers(-(2**20), 2**20, 9)
        for zero_point_in in (0, 77, -100):
            parameters = {"weight": weight, "bias": bias, "zero_point_in": zero_point_in, "groups": groups, **GEOMETRY}
            check("convolution", x, device=device, **parameters)
            check("convolution", x, device=device, **parameters, **scales(9), **GRIDS[0])


CHECKS = {"linear": check_linear, "matmul": check_matmul, "convolution": check_convolution}


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("op", CHECKS)
def test_products_interpreted(op: str, dtype: Any, extreme: bool) -> None:
    CHECKS[op](dtype, extreme, "cpu")


def test_wide_codes_are_torchs_interpreted() -> None:
    x, weight = codes(np.int16, (3, 40), False), codes(np.int8, (5, 40), False)
    check("linear", x, weight=weight, bias=np.arange(5), **scales(5), **GRIDS[0])
    check("matmul", x, weight.T, zero_point_a=3, zero_point_b=4, multiplier=1 << 30, shift=45, **GRIDS[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("op", CHECKS)
def test_products_on_a_gpu(op: str, dtype: Any, extreme: bool) -> None:
    CHECKS[op](dtype, extreme, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(1000, 4096, 1500), (2000, 1000, 1024), (17, 4096, 4096)])
def test_large_products_on_a_gpu(shape: tuple[int, int, int]) -> None:
    rows, length, columns = shape
    x, weight = codes(np.uint8, (rows, length), False), codes(np.int8, (columns, length), False)
    check("linear", x, device="cuda", weight=weight, bias=np.arange(columns), **scales(columns), **GRIDS[0])


def test_cases_pass_under_the_interpreter(run_interpreted: Callable[[str], str]) -> None:
    output = run_interpreted(__file__)
    assert f"{4 * len(CHECKS) + 1} passed" in output, output[-2000:]


def test_kernel_compiles_ahead_of_time(
    compile_ahead: Callable[[list[tuple[Any, ...]]], dict[str, Any]],
) -> None:
    flags = ("HAS_BIAS", "HAS_ROW_SUMS", "HAS_COLUMN_SUMS", "RESCALED", "WHOLE")
    constants = {**dict.fromkeys(flags, True), "ROWS": 64, "COLUMNS": 64, "DEPTH": 64, "GROUP": 8}
    assert constants.keys() <= INTEGER_SIGNATURE.keys()
    kernel = ("_integer_kernels", "integer_matmul_kernel", "INTEGER_SIGNATURE", constants)
    results = compile_ahead([(f"sm_{architecture}", *kernel, architecture, {}) for architecture in (80, 90)])
    assert "wgmma.mma_async" in results["sm_90"]["ptx"]
    assert "mma.sync" in results["sm_80"]["ptx"]
    for name, result in results.items():
        assert f".target {name}" in result["ptx"]
        assert "s32" in result["ptx"]
        assert ".s8" in result["ptx"]
        assert "shr.s64" in result["ptx"]
