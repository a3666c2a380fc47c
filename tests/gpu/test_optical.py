"""Optical levels and products on a real GPU: against the reference on the CPU, and without waiting for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels import Backend, Scheme, explain
from quantsim_kernels.optical import optical_linear, optical_matmul, optical_quantize
from quantsim_kernels.reference import optical as reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

UNIT = torch.tensor([-1.0, 1.0])
LUT = 0.020040
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CODES: dict[str, tuple[int, float | None]] = {
    "int8": (256, None),
    "float16": (256, LUT),
    "float32-lut": (256, 0.3),
    "float32-levels": (4096, None),
}


def span(x: Tensor) -> Tensor:
    return torch.stack(torch.aminmax(x.float()))


def assert_levels(actual: Tensor, expected: Tensor, ends: Tensor, levels: int) -> None:
    """Equal but for at most 0.1 % of ties that fell one level to the other side."""
    step = float(ends[1] - ends[0]) / (levels - 1)
    error = (actual.cpu().double() - expected.double()).abs()
    assert error.max() <= 1.01 * step
    assert (error > 1e-5 * float(ends.abs().max())).double().mean() <= 1e-3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", ["none", "dither", "shot"])
def test_levels(noise: str, dtype: torch.dtype) -> None:
    x = torch.randn(1000, 333).to(dtype)
    for ends in (torch.tensor([-1.0, 1.5]), torch.stack([torch.zeros(1000, 1), torch.rand(1000, 1) + 0.5])):
        for levels, lut in ((2, None), (255, LUT), (256, LUT), (2**20, 0.1)):
            settings: Any = {"lut": lut, "noise": noise, "seed": 5, "photons": 100.0}
            actual = optical_quantize(x.cuda(), ends.cuda(), levels, **settings).cpu()
            expected = optical_quantize(x, ends, levels, **settings)
            if noise != "shot":
                assert torch.equal(actual, expected)
            elif levels < 2**20:
                assert (actual != expected).double().mean() <= 1e-3


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("shape", [(7, 40, 33), (1000, 768, 500), (64, 3001, 96)], ids=str)
def test_linear(shape: tuple[int, int, int], name: str) -> None:
    levels, lut = CODES[name]
    rows, terms, columns = shape
    x, weight, bias = torch.randn(rows, terms) + 0.5, torch.randn(columns, terms), torch.randn(columns)
    x_ends, w_ends = span(x), span(weight)
    sums = (
        reference.quantize(x, x_ends, levels).double()
        @ reference.quantize(weight, w_ends, levels, lut=lut).double().t()
    )
    near = (x.cuda(), weight.cuda(), bias.cuda(), x_ends.cuda(), w_ends.cuda())
    product, extremes = optical_linear(*near, None, levels=levels, lut=lut)
    scale = float(sums.abs().max())
    torch.testing.assert_close((product.cpu() - bias).double(), sums, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(extremes.cpu().double(), span(sums).double(), rtol=1e-5, atol=1e-5 * scale)
    ends = span(sums) * 0.8
    y, _ = optical_linear(*near, ends.cuda(), levels=levels, lut=lut, seed=3)
    expected = reference.quantize(sums.float(), ends, levels, noise=OpticalNoise.DITHER, seed=torch.tensor(3))
    assert_levels(y.cpu() - bias, expected, ends, levels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lut", [None, LUT])
def test_matmul_of_any_strides(lut: float | None, dtype: torch.dtype) -> None:
    a = torch.randn(2, 65, 3, 64).transpose(1, 2).to(dtype)
    b = torch.randn(3, 70, 64, generator=torch.Generator().manual_seed(1)).mT.to(dtype)
    rows = torch.stack([torch.zeros(2, 3, 65, 1), a.float().amax(-1, keepdim=True)])
    ends = torch.tensor([-40.0, 40.0])
    for a_range in (UNIT, rows):
        settings: Any = {"levels": 256, "lut": lut, "noise": OpticalNoise.DITHER}
        expected, same = reference.matmul(a, b, a_range, UNIT, ends, seed=torch.tensor(4), **settings)
        arguments = (a.cuda(), b.cuda(), a_range.cuda(), UNIT.cuda(), ends.cuda())
        y, extremes = optical_matmul(*arguments, seed=4, **settings)
        assert_levels(y.cpu(), expected, ends, 256)
        torch.testing.assert_close(extremes.cpu(), same, rtol=1e-5, atol=1e-3)


def test_nan_and_many_tiles_meet_in_the_range() -> None:
    x, weight = torch.randn(3000, 64, device="cuda"), torch.randn(2000, 64, device="cuda")
    unit = UNIT.cuda()
    product, extremes = optical_linear(x, weight, None, unit, unit, None, lut=None)
    assert torch.equal(extremes, span(product))
    x[17, 3] = torch.nan
    product, extremes = optical_linear(x, weight, None, unit, unit, None, lut=None)
    assert product.isnan().all(1).nonzero().flatten().tolist() == [17]
    assert extremes.isnan().all()


def test_nothing_waits_for_the_device() -> None:
    """Forward and backward with a running range, under torch's own watch over synchronisation."""
    x = torch.randn(256, 128, device="cuda", requires_grad=True)
    weight = torch.randn(96, 128, device="cuda", requires_grad=True)
    bias, unit = torch.zeros(96, device="cuda", requires_grad=True), UNIT.cuda()
    ends, seed = unit * 30, torch.tensor(3, device="cuda")

    def step() -> None:
        y, extremes = optical_linear(x, weight, bias, unit, unit, ends, seed=seed)
        optical_matmul(y, weight, ends, unit, ends, seed=seed)[0].sum().backward()
        ends.mul_(0.9).add_(extremes, alpha=0.1)

    step()  # compiles and measures
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ends.isfinite().all()


def test_it_can_be_captured_in_a_graph() -> None:
    x, weight, unit = torch.randn(64, 128, device="cuda"), torch.randn(96, 128, device="cuda"), UNIT.cuda()
    seed = torch.tensor(3, device="cuda")
    expected, _ = optical_linear(x, weight, None, unit, unit, unit * 30, seed=seed)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        optical_linear(x, weight, None, unit, unit, unit * 30, seed=seed)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    wide = unit * 30
    with torch.cuda.graph(graph):
        y, _ = optical_linear(x, weight, None, unit, unit, wide, seed=seed)
    graph.replay()
    torch.testing.assert_close(y, expected, rtol=0, atol=60.1 / 255)
    assert (y != expected).double().mean() <= 1e-3


def test_the_registry_chooses_triton() -> None:
    x, unit = torch.randn(4, 8, device="cuda"), UNIT.cuda()
    for op, operands in (
        ("optical_quantize", (x, unit)),
        ("optical_linear", (x, x, None, unit, unit, unit)),
        ("optical_matmul", (x, x.t(), unit, unit, unit)),
    ):
        chosen = [d for d in explain(op, Scheme.OPTICAL, *operands) if d.chosen]
        assert [d.kernel.backend for d in chosen] == [Backend.TRITON]
