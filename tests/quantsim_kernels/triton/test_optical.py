"""Optical levels and products in Triton: levels against the reference, products against float64 sums of its levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels import Backend, force_backend
from quantsim_kernels.optical import optical_linear, optical_matmul, optical_quantize
from quantsim_kernels.optical_attention import optical_attention
from quantsim_kernels.reference import optical as reference
from quantsim_kernels.triton._optical_kernels import CODES_SIGNATURE, QUANTIZE_SIGNATURE
from quantsim_kernels.triton._optical_product_kernels import PRODUCT_SIGNATURE

UNIT = torch.tensor([-1.0, 1.0])
LUT = 0.020040
SEED = torch.tensor(-(2**40) - 7)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def span(x: Tensor) -> Tensor:
    return torch.stack(torch.aminmax(x.detach().float()))


def level_sums(a: Tensor, b: Tensor, a_range: Tensor, b_range: Tensor, levels: int, lut: float | None) -> Tensor:
    """``Q(a) Q(b; lut)`` in float64."""
    left, right = a.float(), b.float()
    return (
        reference.quantize(left, a_range, levels).double()
        @ reference.quantize(right, b_range, levels, lut=lut).double()
    )


def assert_levels(actual: Tensor, expected: Tensor, ends: Tensor, levels: int) -> None:
    """Equal but for ties that fell one level to the other side: at most 0.1 % (more beyond 4096 levels), or one."""
    step = float(ends[1] - ends[0]) / (levels - 1)
    error = (actual.double() - expected.double()).abs()
    assert error.max() <= 1.01 * step
    assert (error > 1e-5 * float(ends.abs().max())).sum() <= max(1.0, 1e-3 * max(1.0, levels / 4096) * error.numel())


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", ["none", "dither"])
def test_levels_interpreted(noise: str, dtype: torch.dtype, assert_same_bits: Callable[..., None]) -> None:
    from quantsim_kernels.triton import optical as ours

    kind = OpticalNoise.parse(noise)
    for ends in ((-1.0, 1.0), (-0.3, 2.0), (0.5, 1.5), (-2.0, -0.5), (0.0, 0.0), (1e-3, 3e4), (math.nan, math.nan)):
        special = torch.tensor([0.0, -0.0, ends[0], ends[1], math.inf, -math.inf, math.nan])
        x = torch.cat([draw(3000) * max(1.0, ends[1] / 2), special]).to(dtype)
        for levels, lut in ((2, None), (3, 0.3), (255, LUT), (256, None), (256, LUT), (4097, 0.0), (2**24, LUT)):
            settings: Any = {"lut": lut, "noise": kind, "seed": SEED}
            actual = ours.quantize(x, torch.tensor(ends), levels, **settings)
            assert_same_bits(actual, reference.quantize(x, torch.tensor(ends), levels, **settings))


def test_levels_of_other_shapes_interpreted(
    monkeypatch: pytest.MonkeyPatch, assert_same_bits: Callable[..., None]
) -> None:
    from quantsim_kernels.triton import optical as ours

    x = draw(6, 300, 5).transpose(0, 1)
    rows = torch.stack([x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)])
    settings: Any = {"noise": OpticalNoise.DITHER, "seed": SEED}
    for range in (UNIT, rows, rows[:, :, :1], rows.expand(2, 300, 6, 5)):
        assert_same_bits(ours.quantize(x, range, 16, **settings), reference.quantize(x, range, 16, **settings))
    expected = reference.quantize(x, UNIT, 16, **settings)
    monkeypatch.setattr(ours, "_is_wide", lambda *_: True)
    assert_same_bits(ours.quantize(x, UNIT, 16, **settings), expected)
    assert_same_bits(ours.quantize(x[0, 0, 0], UNIT, 16), reference.quantize(x[0, 0, 0], UNIT, 16))
    assert_same_bits(ours.quantize(x.double(), UNIT, 16), reference.quantize(x.double(), UNIT, 16))
    assert ours.quantize(x[:0], UNIT, 16).shape == (0, 6, 5)


def test_shot_noise_interpreted() -> None:
    from quantsim_kernels.triton import optical as ours

    x, ends = draw(20_000) * 0.3, torch.tensor([-1.0, 1.5])
    settings: Any = {"noise": OpticalNoise.SHOT, "seed": SEED, "photons": 50.0}
    actual, expected = (law.quantize(x, ends, 256, **settings) for law in (ours, reference))
    assert_levels(actual, expected, ends, 256)
    # Their law: variance |x| F / photons.
    y = ours.quantize(torch.full((100_000,), 0.4), ends, 2**20, **settings).double()
    assert float(y.var()) == pytest.approx(0.4 * 1.5 / 50.0, rel=0.03)


# ---------------------------------------------------------------- products


CODES: dict[str, tuple[int, float | None]] = {
    "int8": (256, None),
    "int8-16": (16, None),
    "int8-odd": (255, 0.0),
    "float16-lut": (256, LUT),
    "float16-levels": (2049, None),
    "float32-lut": (256, 0.3),
    "float32-levels": (2**16, None),
}


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("terms", [1, 3, 40, 129])
def test_linear_interpreted(terms: int, name: str) -> None:
    from quantsim_kernels.triton import optical as ours

    levels, lut = CODES[name]
    x, weight, bias = draw(5, 7, terms) + 1.0, draw(150, terms, seed=1), draw(150, seed=2)
    x_ends, w_ends = span(x), span(weight) * 0.9
    sums = level_sums(x, weight.t(), x_ends, w_ends, levels, lut)
    product, extremes = ours.linear(x, weight, bias, x_ends, w_ends, None, levels=levels, lut=lut)
    scale = float(sums.abs().max())
    torch.testing.assert_close((product - bias).double(), sums, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(extremes.double(), span(sums).double(), rtol=1e-5, atol=1e-5 * scale)
    ends = span(sums) * 0.8
    settings: Any = {"levels": levels, "lut": lut, "noise": OpticalNoise.DITHER, "seed": SEED}
    y, same = ours.linear(x, weight, bias, x_ends, w_ends, ends, **settings)
    assert torch.equal(same, extremes)
    expected = reference.quantize(sums.float(), ends, levels, noise=OpticalNoise.DITHER, seed=SEED)
    assert_levels(y - bias, expected, ends, levels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_of_any_dtype_and_strides_interpreted(dtype: torch.dtype) -> None:
    from quantsim_kernels.triton import optical as ours

    x = draw(3, 70, 2, 9).permute(3, 2, 0, 1).to(dtype)  # (9, 2, 3, 70), K with stride 18
    weight, bias = draw(70, 20, seed=1).t().to(dtype), draw(20, seed=2).to(dtype)
    ends = torch.tensor([-30.0, 30.0])
    settings: Any = {"levels": 256, "noise": OpticalNoise.DITHER, "seed": SEED}
    y, extremes = ours.linear(x, weight, bias, span(x), span(weight), ends, **settings)
    expected, same = reference.linear(x, weight, bias, span(x), span(weight), ends, **settings)
    assert y.dtype is dtype
    assert_levels(y, expected, ends, 256)
    torch.testing.assert_close(extremes, same, rtol=1e-5, atol=1e-5)
    deep = draw(2, 1, 3, 2, 4, 8).transpose(1, 3).to(dtype)  # more batch dimensions than the kernel counts
    y, _ = ours.linear(deep, weight[:, :8], None, UNIT, UNIT, None, levels=256)
    torch.testing.assert_close(y, reference.linear(deep, weight[:, :8], None, UNIT, UNIT, None, levels=256)[0])
    y, _ = ours.linear(x[0, 0, 0], weight, None, UNIT, UNIT, None, levels=256)
    torch.testing.assert_close(y, reference.linear(x[0, 0, 0], weight, None, UNIT, UNIT, None, levels=256)[0])


def test_ranges_far_from_zero_lose_nothing_interpreted() -> None:
    from quantsim_kernels.triton import optical as ours

    # Skewed as activations after GELU are: small sums of many codes that all have the same sign.
    x = torch.nn.functional.gelu(draw(40, 700) * 0.1)
    x[0, 0] = 10.0
    weight = draw(30, 700, seed=1) * 0.05
    for x_ends in (span(x), torch.tensor([0.0, 10.0]), torch.tensor([-10.0, 0.0]), torch.tensor([5.0, 6.0])):
        sums = level_sums(x, weight.t(), x_ends, span(weight), 256, None)
        product, _ = ours.linear(x, weight, None, x_ends, span(weight), None, levels=256)
        torch.testing.assert_close(product.double(), sums, rtol=1e-5, atol=1e-5 * float(sums.abs().max()))
    same = torch.tensor([0.7, 0.7])
    product, _ = ours.linear(x, weight, None, same, span(weight), None, levels=256)
    sums = level_sums(x, weight.t(), same, span(weight), 256, None)
    torch.testing.assert_close(product.double(), sums, rtol=1e-5, atol=1e-5)


def test_noise_is_numbered_over_the_whole_result_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantsim_kernels.triton import optical as ours

    x, weight = draw(150, 8), draw(2, 8, 140, seed=1)
    ends = torch.tensor([-8.0, 8.0])
    settings: Any = {"levels": 256, "noise": OpticalNoise.DITHER, "seed": SEED}
    expected, _ = reference.matmul(x, weight, UNIT, UNIT, ends, **settings)
    assert_levels(ours.matmul(x, weight, UNIT, UNIT, ends, **settings)[0], expected, ends, 256)
    monkeypatch.setattr(ours, "_is_wide", lambda *_: True)
    assert_levels(ours.matmul(x, weight, UNIT, UNIT, ends, **settings)[0], expected, ends, 256)
    settings.update(noise=OpticalNoise.SHOT, photons=5.0)
    expected, _ = reference.matmul(x, weight, UNIT, UNIT, ends, **settings)
    assert_levels(ours.matmul(x, weight, UNIT, UNIT, ends, **settings)[0], expected, ends, 256)


SHAPES = [
    ((9, 40), (40, 21)),
    ((2, 1, 9, 40), (3, 40, 21)),
    ((2, 9, 40), (40, 21)),
    ((2, 9, 40), (1, 1, 40, 21)),
    ((9, 40), (2, 40, 21)),
    ((2, 1, 3, 9, 40), (5, 1, 40, 21)),
    ((2, 3, 4, 9, 40), (2, 3, 1, 40, 21)),  # as heads that several heads of queries share
    ((2, 3, 4, 9, 40), (1, 3, 1, 40, 21)),
    ((2, 3, 2, 9, 40), (2, 1, 2, 40, 21)),
    ((0, 9, 40), (0, 40, 21)),
    ((2, 9, 0), (2, 0, 21)),
]


@pytest.mark.parametrize("lut", [None, LUT, 0.3])
def test_matmul_interpreted(lut: float | None) -> None:
    from quantsim_kernels.triton import optical as ours

    for a_shape, b_shape in SHAPES if lut != 0.3 else SHAPES[:2]:
        a, b = draw(*a_shape), draw(*b_shape, seed=1)
        expected, ends = reference.matmul(a, b, UNIT * 3, UNIT * 2, None, levels=256, lut=lut)
        product, extremes = ours.matmul(a, b, UNIT * 3, UNIT * 2, None, levels=256, lut=lut)
        torch.testing.assert_close(product, expected, rtol=1e-5, atol=2e-4)
        torch.testing.assert_close(extremes, ends, rtol=1e-5, atol=2e-4, equal_nan=True)


def test_ranges_of_rows_and_columns_interpreted() -> None:
    from quantsim_kernels.triton import optical as ours

    a, b = draw(2, 2, 9, 40).abs().transpose(0, 1), draw(2, 2, 40, 21, seed=1)
    rows = torch.stack([torch.zeros(2, 2, 9, 1), a.amax(-1, keepdim=True)])
    columns = torch.stack([b.amin(-2, keepdim=True), b.amax(-2, keepdim=True)])
    along_k = torch.stack([torch.zeros(40), a.amax((0, 1, 2))])
    for a_range, b_range in ((rows, UNIT), (rows, columns), (UNIT, columns), (along_k, UNIT)):
        for lut in (None, LUT):
            settings: Any = {"levels": 256, "lut": lut}
            arguments: Any = {**settings, "noise": OpticalNoise.DITHER, "seed": SEED}
            expected, ends = reference.matmul(a, b, a_range, b_range, None, **settings)
            product, extremes = ours.matmul(a, b, a_range, b_range, None, **settings)
            torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(extremes, ends, rtol=1e-5, atol=1e-4)
            y, _ = ours.matmul(a, b, a_range, b_range, ends, **arguments)
            assert_levels(y, reference.matmul(a, b, a_range, b_range, ends, **arguments)[0], ends, 256)
    # A range of the result for each row is used in a pass of its own.
    wide = torch.stack([product.amin(-1, keepdim=True), product.amax(-1, keepdim=True)])
    y, _ = ours.matmul(a, b, UNIT, UNIT, wide, levels=256)
    assert_levels(y, reference.matmul(a, b, UNIT, UNIT, wide, levels=256)[0], wide.amax((1, 2, 3, 4)), 256)
    matrix, each = draw(20, 40, seed=2), torch.stack([-torch.ones(20, 1), torch.rand(20, 1) + 0.5])
    y, _ = ours.linear(a, matrix, None, UNIT, each, None, levels=256)
    torch.testing.assert_close(y, reference.linear(a, matrix, None, UNIT, each, None, levels=256)[0])


def test_nan_reaches_its_row_and_the_range_interpreted() -> None:
    from quantsim_kernels.triton import optical as ours

    weight = draw(5, 40, seed=1)
    for levels, lut in CODES.values():
        x = draw(6, 40)
        x[2, 7] = math.nan
        x[3, 1], x[4, 1] = math.inf, -math.inf
        product, extremes = ours.linear(x, weight, None, UNIT, UNIT, None, levels=levels, lut=lut)
        expected, _ = reference.linear(x, weight, None, UNIT, UNIT, None, levels=levels, lut=lut)
        assert product.isnan().all(1).tolist() == [False, False, True, False, False, False]
        torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-4, equal_nan=True)
        assert extremes.isnan().all()
        product, _ = ours.linear(x[:2], weight, None, UNIT * math.nan, UNIT, None, levels=levels, lut=lut)
        assert product.isnan().all()
        negative = -x[:1].abs() - 0.1
        product, extremes = ours.linear(negative, weight.abs() + 0.1, None, UNIT, UNIT, None, levels=levels, lut=lut)
        assert torch.equal(extremes, span(product))
        assert extremes[1] < 0


def test_error_map_interpreted() -> None:
    from quantsim_kernels.triton import optical as ours

    x, weight = draw(3, 50), draw(20, 50, seed=1)
    for factors in (1 + 0.1 * draw(20, 50, seed=2), 1 + 0.1 * draw(20, 1, seed=2), torch.tensor(1.5).double()):
        settings: Any = {"levels": 256, "lut": LUT, "error_map": factors}
        y, _ = ours.linear(x, weight, None, UNIT, UNIT, None, **settings)
        torch.testing.assert_close(y, reference.linear(x, weight, None, UNIT, UNIT, None, **settings)[0])
        settings["error_map"] = factors.mT if factors.dim() else factors
        y, _ = ours.matmul(x, weight.t(), UNIT, UNIT, None, **settings)
        torch.testing.assert_close(y, reference.matmul(x, weight.t(), UNIT, UNIT, None, **settings)[0])


def test_codes_of_a_weight_may_be_kept_interpreted() -> None:
    from quantsim_kernels.triton import optical as ours

    x, weight = draw(3, 50), draw(20, 50, seed=1)
    codes: dict[str, Any] = {}
    for levels, lut in CODES.values():
        codes = {}
        settings: Any = {"levels": levels, "lut": lut}
        made = ours.linear(x, weight, None, UNIT, UNIT, None, **settings)
        for each in (weight, torch.zeros(20, 50)):  # the second time the weight is not looked at
            kept = ours.linear(x, each, None, UNIT, UNIT, None, weight_codes=codes, **settings)
            assert torch.equal(kept[0], made[0])
            assert torch.equal(kept[1], made[1])
    with pytest.raises(ValueError, match="got codes of a 20 x 50 weight on 65536 levels, expected 20 x 50 on 256"):
        ours.linear(x, weight, None, UNIT, UNIT, None, levels=256, weight_codes=codes)


# ---------------------------------------------------------------- entry points


class Reads(TorchDispatchMode):
    """Counts what would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_entry_points_with_gradients_and_without_reading_back_interpreted() -> None:
    from quantsim_kernels.triton import optical as ours

    x, weight, bias = (t.requires_grad_() for t in (draw(2, 6, 20), draw(9, 20, seed=1), draw(9, seed=2)))
    results: dict[Backend, list[Tensor]] = {}
    for backend in (Backend.REFERENCE, Backend.TRITON):
        with force_backend(backend):
            y, _ = optical_linear(x, weight, bias, UNIT, UNIT, UNIT * 9, seed=3)
            z, _ = optical_matmul(y, weight, UNIT * 9, UNIT, UNIT * 9, seed=4)
            q = optical_quantize(z, UNIT * 9, noise="dither", seed=5)
            results[backend] = [y, z, q, *torch.autograd.grad(q.square().sum(), (x, weight, bias))]
    for one, other in zip(results[Backend.TRITON], results[Backend.REFERENCE], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    seed = torch.tensor(1)
    with Reads() as seen, torch.no_grad():
        ours.linear(x, weight, bias, UNIT, UNIT, UNIT, levels=256, noise=OpticalNoise.DITHER, seed=seed)
        ours.matmul(x, weight.t(), UNIT, UNIT, UNIT, levels=256, noise=OpticalNoise.DITHER, seed=seed)
    assert seen.names
    assert not [name for name in seen.names if "local_scalar" in name or "_to_copy" in name or "nonzero" in name]


def test_attention_interpreted() -> None:
    q, k, v = (draw(1, 5, 2, 16, seed=s).transpose(1, 2) for s in (0, 1, 2))
    wide, settings = UNIT * 20, {"seed": 3, "is_causal": True}
    for options in ({"attn_range": "row", "noise": "shot", "photons": 9.0}, {"dropout_p": 0.3}):
        results = []
        for backend in (Backend.REFERENCE, Backend.TRITON):
            with force_backend(backend) if backend is Backend.TRITON else torch.no_grad():
                arguments: Any = {**settings, **options}
                results.append(products_of_attention(q, k, v, wide, arguments))
        for one, other in zip(*results, strict=True):
            # A tie in the scores moves the weights of its row, by a level.
            assert ((one - other).abs() > 2e-2).double().mean() <= 0.02


def products_of_attention(q: Tensor, k: Tensor, v: Tensor, wide: Tensor, options: Any) -> tuple[Tensor, ...]:
    """The attention built from whichever products are forced."""
    function = getattr(optical_attention, "__wrapped__", optical_attention)
    return function(q, k, v, span(q), span(k), wide, span(v), span(v), **options)


def test_tiles_are_measured_once_for_each_bucket_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantsim_kernels.triton import optical as ours

    timed: list[int] = []

    def milliseconds(call: Callable[[], None]) -> float:
        call()
        timed.append(1)
        return float(len(timed) % 3)

    monkeypatch.setattr(ours, "is_interpreted", lambda: False)
    monkeypatch.setattr(ours, "_milliseconds", milliseconds)
    monkeypatch.setattr(ours, "_measured", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    weight = draw(40, 32, seed=1)
    counts = []
    for rows in (33, 40, 64, 65, 5):
        x = draw(rows, 32)
        y, extremes = ours.linear(x, weight, None, UNIT, UNIT, UNIT * 4, levels=256)
        expected, ends = reference.linear(x, weight, None, UNIT, UNIT, UNIT * 4, levels=256)
        assert_levels(y, expected, UNIT * 4, 256)
        torch.testing.assert_close(extremes, ends, rtol=1e-5, atol=1e-5)
        counts.append(len(timed))
    assert counts[0] == counts[1] == counts[2] > 1
    assert counts[3] > counts[2]
    assert counts[4] == counts[3]  # few rows leave one choice, which needs no measurement
    capturing[0] = True  # what is recorded may not be measured
    ours.linear(draw(500, 32), weight, None, UNIT, UNIT, UNIT * 4, levels=256)
    assert len(timed) == counts[4]


def test_cases_pass_under_the_interpreter(run_interpreted: Callable[[str], str]) -> None:
    output = run_interpreted(__file__)
    assert f"{2 * len(DTYPES) + 2 + 4 * len(CODES) + len(DTYPES) + 2 + 3 + 7} passed" in output, output[-3000:]


# ---------------------------------------------------------------- ahead of time


EPILOGUE = {
    "A_RANGE_STEP": 0,
    "B_RANGE_STEP": 0,
    "QUANTIZED": True,
    "NOISE": 1,
    "HAS_BIAS": True,
    "BIAS_PRECISION": 0,
    "OUTPUT_PRECISION": 0,
    "WIDE_INDEX": False,
    "ROWS": 64,
    "COLUMNS": 32,
    "GROUP": 8,
}


@pytest.mark.parametrize(
    ("kind", "type", "instruction"), [(0, "*i8", "s32.s8.s8"), (1, "*fp16", "f32.f16.f16"), (2, "*fp32", "tf32")]
)
def test_product_compiles_ahead_of_time(
    kind: int,
    type: str,
    instruction: str,
    compile_ahead: Callable[[list[tuple[Any, ...]]], dict[str, Any]],
) -> None:
    constants = {**EPILOGUE, "KIND": kind, "DEPTH": 64 if kind < 2 else 32, "NOISE": 2 if kind == 1 else 1}
    assert constants.keys() <= PRODUCT_SIGNATURE.keys()
    kernel = ("_optical_product_kernels", "product_kernel", "PRODUCT_SIGNATURE", constants)
    types = {"a_pointer": type, "b_pointer": type}
    results = compile_ahead([(f"sm_{architecture}", *kernel, architecture, types) for architecture in (80, 90)])
    assert "wgmma.mma_async" in results["sm_90"]["ptx"]
    assert "mma.sync" in results["sm_80"]["ptx"]
    for name, result in results.items():
        assert f".target {name}" in result["ptx"]
        assert instruction in result["ptx"]
        assert result["cubin"] > 0


def test_levels_and_codes_compile_ahead_of_time(
    compile_ahead: Callable[[list[tuple[Any, ...]]], dict[str, Any]],
) -> None:
    levels = {"RANGE_STEP": 0, "HAS_LUT": True, "NOISE": 1, "PRECISION": 2, "WIDE_INDEX": True, "ELEMENTS": 1024}
    codes = {"KIND": 1, "HAS_LUT": True, "HAS_ERROR": False, "ERROR_PRECISION": 0, "PRECISION": 0}
    assert levels.keys() <= QUANTIZE_SIGNATURE.keys()
    assert codes.keys() <= CODES_SIGNATURE.keys()
    jobs = []
    for architecture in (80, 90):
        jobs.append(
            (f"levels-sm_{architecture}", "_optical_kernels", "levels_kernel", "QUANTIZE_SIGNATURE", levels,
             architecture, {"x_pointer": "*i16", "y_pointer": "*i16"})
        )  # fmt: skip
        jobs.append(
            (f"codes-sm_{architecture}", "_optical_kernels", "codes_kernel", "CODES_SIGNATURE",
             {**codes, "ROWS": 4, "DEPTH": 256}, architecture, {"codes_pointer": "*fp16"})
        )  # fmt: skip
    for name, result in compile_ahead(jobs).items():
        assert f".target {name.split('-')[1]}" in result["ptx"]
        assert result["cubin"] > 0
