"""Matrix products in Triton that cast their operands: against torch's products of the cast operands, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim_encodings.formats import (
    FloatFormat,
    IntFormat,
    MXFormat,
    NVFP4Format,
    RoundingMode,
    float_format,
    mx_format,
)
from quantsim_kernels.operands import DeferredOperand, OperandCast, QuantizedOperand
from quantsim_kernels.reference import float_cast as float_reference
from quantsim_kernels.reference import mx as mx_reference
from quantsim_kernels.triton._float_matmul_kernels import MATMUL_SIGNATURE, OPERAND_CONSTANTS


def deferred(source: Tensor, format: Any, *, counts: list[int] | None = None, **settings: Any) -> DeferredOperand:
    """An operand of which reading the values is counted."""
    cast = OperandCast(format=format, **settings)

    def quantize(x: Tensor) -> Tensor:
        if counts is not None:
            counts[0] += 1
        if not isinstance(format, FloatFormat):
            return mx_reference.quantize_dequantize(x, format, cast.axis, cast.rounding)
        if cast.scale is None:
            return float_reference.float_cast(x, format, cast.rounding, cast.saturate)
        return float_reference.quantize_dequantize(x, cast.scale, format, cast.block_size, cast.rounding)

    return DeferredOperand(source, quantize, format, cast)


def values(operand: Any) -> Tensor:
    return operand.dequantize().double() if isinstance(operand, QuantizedOperand) else operand.double()


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any], bool]] = {
    "e4m3fn": (float_format("e4m3fn"), {}, {}, True),
    "e5m2-down-inf": (float_format("e5m2"), {"rounding": RoundingMode.DOWN, "saturate": False}, {}, True),
    "e8m20": (FloatFormat(8, 20), {}, {}, True),
    "scaled": (float_format("e4m3fn"), {"scale": torch.tensor(0.02)}, {"scale": torch.rand(70, 1) / 99 + 0.005}, True),
    "blocks-of-scales": (float_format("e4m3fn"), {}, {"scale": torch.rand(70, 9) + 0.1, "block_size": (1, 10)}, False),
    "mxfp6": (mx_format("mxfp6_e3m2"), {}, {}, True),
    "mxint8": (mx_format("mxint8"), {}, {}, True),
    "blocks-of-24": (MXFormat(float_format("e2m1"), block_size=24), {}, {}, False),
    "nvfp4": (NVFP4Format(), {}, {}, False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_linear_interpreted(name: str, dtype: torch.dtype) -> None:
    from quantsim_kernels.triton import float_matmul as ours

    format, of_x, of_weight, is_fused = CASES[name]
    x, weight, bias = torch.randn(3, 11, 90), torch.randn(70, 90), torch.randn(70)
    x[0, 0] = 0.0
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    counts = [0]
    a = deferred(x, format, counts=counts, **of_x)
    b = deferred(weight, format, counts=counts, **of_weight)
    y = ours.linear(a, b, bias)
    if dtype is torch.float32:
        # What the product casts itself is never quantized on its own.
        assert (counts[0] == 0) == is_fused
    expected = torch.nn.functional.linear(values(a), values(b), bias.double())
    assert y.dtype is dtype
    torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=3e-5)


@pytest.mark.parametrize("name", ["e4m3fn", "mxfp6", "nvfp4"])
def test_matmul_interpreted(name: str) -> None:
    from quantsim_kernels.triton import float_matmul as ours

    format = CASES[name][0]
    along_k = {} if isinstance(format, FloatFormat) else {"axis": -2}
    shapes = [((9, 40), (40, 21)), ((2, 1, 9, 40), (3, 40, 21)), ((2, 9, 40), (40, 21)), ((9, 40), (2, 40, 21))]
    for a_shape, b_shape in shapes:
        a, b = deferred(torch.randn(a_shape), format), deferred(torch.randn(b_shape), format, **along_k)
        product = ours.matmul(a, b)
        torch.testing.assert_close(product.double(), values(a) @ values(b), rtol=1e-6, atol=3e-5)
    # Blocks along another axis than K are cast before; vectors and other operands are taken as they are.
    a, b = torch.randn(9, 40), deferred(torch.randn(40, 21), format)
    torch.testing.assert_close(ours.matmul(a, b).double(), values(a) @ values(b), rtol=1e-6, atol=3e-5)
    vector = torch.randn(40)
    torch.testing.assert_close(ours.matmul(a, vector), a @ vector, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(ours.matmul(vector, vector), vector @ vector, rtol=1e-6, atol=1e-5)
    codes = QuantizedOperand(values=torch.ones(40, 3), scale=torch.tensor(0.5), format=IntFormat(-8, 7))
    torch.testing.assert_close(ours.matmul(a, codes), a.sum(1, keepdim=True).expand(9, 3) * 0.5, rtol=1e-6, atol=1e-5)


def test_what_is_read_often_is_cast_once_interpreted() -> None:
    from quantsim_kernels.triton import float_matmul as ours

    counts = [0]
    x, weight = torch.randn(300, 32), torch.randn(300, 32)
    a = deferred(x, float_format("e4m3fn"), counts=counts)
    b = deferred(weight, float_format("e4m3fn"), counts=counts)
    torch.testing.assert_close(ours.linear(a, b).double(), values(a) @ values(b).T, rtol=1e-6, atol=3e-5)
    assert counts == [2]


def test_nan_reaches_only_its_row_interpreted() -> None:
    from quantsim_kernels.triton import float_matmul as ours

    x, weight = torch.randn(4, 32), torch.randn(5, 32)
    x[2, 7] = torch.nan
    for format in (float_format("e4m3fn"), mx_format("mxfp4")):
        rows = ours.linear(deferred(x, format), deferred(weight, format)).isnan().all(1)
        assert rows.tolist() == [False, False, True, False]
    assert ours.linear(x[:0], weight).shape == (0, 5)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., K\) and \(N, K\)"):
        ours.linear(x, weight[:, :3])
    with pytest.raises(ValueError, match=r"linear\(bias\)"):
        ours.linear(x, weight, torch.ones(4))
    with pytest.raises(ValueError, match=r"matmul: got shapes"):
        ours.matmul(x, weight)


def test_cases_pass_under_the_interpreter(run_interpreted: Callable[[str], str]) -> None:
    output = run_interpreted(__file__)
    assert f"{3 * len(CASES) + 5} passed" in output, output[-2000:]


E2M1 = {
    "LOWEST": 0,
    "HIGHEST": 2,
    "MANTISSA": 1,
    "LARGEST": 3,
    "LARGEST_NEGATIVE": 3,
    "TOP_EXPONENT": 2,
    "TOP_SIGNIFICAND": 3 << 22,
    "FRACTION_BITS": 1,
    "SUBNORMALS": 1,
    "NEGATIVE_ZERO": 1,
    "ROUNDING": 1,
}


@pytest.mark.parametrize(("dot", "instruction"), [(2, "bf16"), (1, "tf32")])
def test_kernel_compiles_ahead_of_time(
    dot: int, instruction: str, compile_ahead: Callable[[list[tuple[Any, ...]]], dict[str, Any]]
) -> None:
    blocks = {**dict.fromkeys(OPERAND_CONSTANTS, 0), **E2M1, "CAST": 3, "BLOCK": 32}
    scaled = {**blocks, "CAST": 2}
    constants = {f"A_{name}": value for name, value in scaled.items()}
    constants.update({f"B_{name}": value for name, value in blocks.items()})
    constants.update(HAS_BIAS=True, OUTPUT_PRECISION=0, BIAS_PRECISION=0, DOT=dot, ROWS=64, COLUMNS=32, DEPTH=32)
    assert constants.keys() <= MATMUL_SIGNATURE.keys()
    kernel = ("_float_matmul_kernels", "matmul_kernel", "MATMUL_SIGNATURE", constants)
    results = compile_ahead([(f"sm_{architecture}", *kernel, architecture, {}) for architecture in (80, 90)])
    assert "wgmma.mma_async" in results["sm_90"]["ptx"]
    assert "mma.sync" in results["sm_80"]["ptx"]
    for name, result in results.items():
        assert f".target {name}" in result["ptx"]
        assert instruction in result["ptx"]
        assert "div.rn.f32" in result["ptx"]
        assert "fma.rn.f32" not in result["ptx"]
