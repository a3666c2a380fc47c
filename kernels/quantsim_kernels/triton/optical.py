"""Optical levels and products in Triton: each operand becomes codes once, one kernel does all the rest.

No result is read back from the device. Levels equal the reference's bit for bit; products equal it up to the order of
float32 sums (int8 codes are summed exactly), so that a level is another one only where a sum lies on a tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.runtime.errors
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.reference import optical as reference
from quantsim_kernels.triton._optical_codes import OpticalCodes, code_kind, encode, line_ranges, new_extremes
from quantsim_kernels.triton._optical_kernels import levels_kernel
from quantsim_kernels.triton._optical_product_kernels import PRODUCT_SIGNATURE, product_kernel
from quantsim_kernels.triton.availability import is_interpreted
from quantsim_kernels.triton.float_cast import PRECISION, WIDE_ELEMENTS, kernel_tensor, tile_elements

__all__ = ["linear", "matmul", "quantize"]

KEPT = "triton"
"""The name of a weight's codes in the dictionary of those who keep them."""

_NOISES = {OpticalNoise.NONE: 0, OpticalNoise.DITHER: 1, OpticalNoise.SHOT: 2}
_LARGEST_BUCKET = 8192
_GROUP = 8
_WARM_UP, _MEASURED = 5, 20
"""Milliseconds that each choice of tiles is run for."""
_TILES = ((128, 256, 8, 3), (128, 128, 8, 3), (128, 128, 4, 4), (64, 256, 8, 3), (64, 128, 4, 4), (64, 64, 4, 4),
          (32, 128, 4, 4), (16, 128, 4, 4))  # fmt: skip
"""Rows, columns, warps and stages that are tried."""


def _is_wide(count: int, noise: OpticalNoise) -> bool:
    """Whether element numbers need 64 bits; shot noise counts two draws for each."""
    return (2 * count if noise is OpticalNoise.SHOT else count) >= WIDE_ELEMENTS


def quantize(
    x: Tensor,
    range: Tensor,
    levels: int,
    *,
    lut: float | None = None,
    noise: OpticalNoise = OpticalNoise.NONE,
    seed: Tensor | None = None,
    photons: float | None = None,
) -> Tensor:
    """Optical levels in one Triton kernel; the reference where ranges vary along the last dimension.

    Arguments, result and errors as :func:`quantsim_kernels.reference.optical.quantize`.
    """
    shape = x.shape if x.dim() else torch.Size((1,))
    ends = line_ranges(range, shape)
    if ends is None or x.dtype not in PRECISION:
        return reference.quantize(x, range, levels, lut=lut, noise=noise, seed=seed, photons=photons)
    source = x.detach().contiguous()
    y = torch.empty_like(source)
    count = source.numel()
    if not count:
        return y
    low, high = ends
    elements = tile_elements(count)
    launch: Any = levels_kernel[(triton.cdiv(count, elements),)]
    # Triton launches on the current device, which need not be the tensor's.
    with torch.cuda.device_of(source):
        launch(
            kernel_tensor(source),
            low,
            high,
            low if seed is None else seed,
            kernel_tensor(y),
            count,
            shape[-1],
            float(levels - 1),
            0.0 if lut is None else lut,
            1.0 if photons is None else photons,
            RANGE_STEP=1 if low.dim() else 0,
            HAS_LUT=lut is not None,
            NOISE=_NOISES[noise],
            PRECISION=PRECISION[source.dtype],
            WIDE_INDEX=_is_wide(count, noise),
            ELEMENTS=elements,
            enable_fp_fusion=False,
        )
    return y


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_range: Tensor,
    weight_range: Tensor,
    output_range: Tensor | None,
    *,
    levels: int,
    lut: float | None = None,
    noise: OpticalNoise = OpticalNoise.NONE,
    seed: Tensor | None = None,
    photons: float | None = None,
    error_map: Tensor | None = None,
    weight_codes: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """``Q_noise(Q(x) Q(W; lut)^T) + bias`` in three kernels, in two where the weight's codes were kept; no gradient.

    Arguments, result and errors as :func:`quantsim_kernels.reference.optical.linear`. ``weight_codes`` is a dictionary
    that this function keeps the weight's codes in and finds them in the next time, for a caller who knows that weight,
    range, levels, smallest transmission and error map are then the same.

    Raises:
        ValueError: the codes that were kept are of a weight of another shape, or of other levels.
    """
    x_ends = line_ranges(x_range, x.shape)
    weight_ends = line_ranges(weight_range, weight.shape)
    if x_ends is None or weight_ends is None:
        return reference.linear(
            x, weight, bias, x_range, weight_range, output_range, levels=levels, lut=lut, noise=noise, seed=seed,
            photons=photons, error_map=error_map,
        )  # fmt: skip
    kept = None if weight_codes is None else weight_codes.get(KEPT)
    if kept is None:
        kind = code_kind(levels, lut, error_map, weight.shape[-1])
        kept = encode(weight, weight_ends, levels, kind, lut=lut, error_map=error_map)
        if weight_codes is not None:
            weight_codes[KEPT] = kept
    elif (kept.rows, kept.terms, kept.levels) != (*weight.shape, levels):
        raise ValueError(
            f"linear(weight_codes): got codes of a {kept.rows} x {kept.terms} weight on {kept.levels} levels, expected "
            f"{weight.shape[0]} x {weight.shape[1]} on {levels}; give each weight a dictionary of its own"
        )
    matrix = x if x.dim() > 1 else x.unsqueeze(0)
    extremes = new_extremes(x.device)
    codes = encode(matrix, x_ends, levels, kept.kind, extremes=extremes)
    shape = (*x.shape[:-1], weight.shape[0])
    return _product(codes, kept, shape, bias, output_range, x.dtype, noise, seed, photons, extremes)


def matmul(
    a: Tensor,
    b: Tensor,
    a_range: Tensor,
    b_range: Tensor,
    output_range: Tensor | None,
    *,
    levels: int,
    lut: float | None = None,
    noise: OpticalNoise = OpticalNoise.NONE,
    seed: Tensor | None = None,
    photons: float | None = None,
    error_map: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``Q_noise(Q(a) Q(b; lut))`` in three kernels; no gradient.

    Arguments, result and errors as :func:`quantsim_kernels.reference.optical.matmul`.
    """
    right = b.mT
    a_ends = line_ranges(a_range, a.shape)
    b_ends = line_ranges(b_range.mT if b_range.dim() > 2 else b_range.unsqueeze(-1), right.shape)
    if a_ends is None or b_ends is None:
        return reference.matmul(
            a, b, a_range, b_range, output_range, levels=levels, lut=lut, noise=noise, seed=seed, photons=photons,
            error_map=error_map,
        )  # fmt: skip
    factors = None if error_map is None else error_map.expand(b.shape).mT
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    kind = code_kind(levels, lut, error_map, a.shape[-1])
    extremes = new_extremes(a.device)
    a_codes = encode(a, a_ends, levels, kind, extremes=extremes)
    b_codes = encode(right, b_ends, levels, kind, lut=lut, error_map=factors)
    shape = (*batch, a.shape[-2], b.shape[-1])
    return _product(a_codes, b_codes, shape, None, output_range, a.dtype, noise, seed, photons, extremes)


def _product(
    a: OpticalCodes,
    b: OpticalCodes,
    shape: tuple[int, ...],
    bias: Tensor | None,
    output_range: Tensor | None,
    dtype: torch.dtype,
    noise: OpticalNoise,
    seed: Tensor | None,
    photons: float | None,
    extremes: Tensor,
) -> tuple[Tensor, Tensor]:
    """What follows the codes, as the reference returns it; ``shape`` is that of the result, ``photons`` of a term."""
    total = None if photons is None else photons * a.terms
    if output_range is None or output_range.numel() == 2:
        quantized = output_range is not None
        y = _launch(
            a,
            b,
            shape,
            bias,
            output_range,
            dtype if quantized else torch.float32,
            noise if quantized else OpticalNoise.NONE,
            seed,
            total,
            extremes,
        )
    else:  # ranges of rows or of columns
        product = _launch(a, b, shape, None, None, torch.float32, OpticalNoise.NONE, None, None, extremes)
        y = quantize(product, output_range, a.levels, noise=noise, seed=seed, photons=total)
        y = (y if bias is None else y + bias.to(torch.float32)).to(dtype)
    return y, extremes if y.numel() else extremes.fill_(math.nan)


def _launch(
    a: OpticalCodes,
    b: OpticalCodes,
    shape: tuple[int, ...],
    bias: Tensor | None,
    output_range: Tensor | None,
    dtype: torch.dtype,
    noise: OpticalNoise,
    seed: Tensor | None,
    photons: float | None,
    extremes: Tensor,
) -> Tensor:
    """The product in the given shape, with its range in ``extremes``; ``photons`` are those of a result."""
    c = torch.empty(shape, dtype=dtype, device=a.codes.device)
    if not c.numel():
        return c
    columns = shape[-1]
    if b.codes.shape[0] == b.rows:  # one matrix for all: the rows of the whole batch are its rows
        batch, rows, places = 1, c.numel() // columns, (1, 1, 1, 1)
    else:
        batch, rows = math.prod(shape[:-2]), shape[-2]
        a, *a_place = a.placed(shape[:-2])
        b, *b_place = b.placed(shape[:-2])
        places = (*a_place, *b_place)
    ends = a.low if output_range is None else output_range.detach().to(torch.float32).reshape(2).contiguous()
    addend = None if bias is None else bias.detach().contiguous()
    if addend is not None and addend.dtype not in PRECISION:
        addend = addend.to(torch.float32)
    # Triton launches on the current device, which need not be the tensor's.
    with torch.cuda.device_of(c):
        _run(
            batch,
            rows,
            columns,
            a.codes,
            b.codes,
            a.sums,
            b.sums,
            a.low,
            a.high,
            b.low,
            b.high,
            ends,
            ends if addend is None else kernel_tensor(addend),
            ends if seed is None or noise is OpticalNoise.NONE else seed,
            kernel_tensor(c),
            extremes.view(torch.int32),
            extremes.view(torch.uint32),
            rows,
            columns,
            a.terms,
            a.codes.shape[1],
            *places,
            float(a.levels - 1),
            a.levels // 2,
            1.0 if photons is None else photons,
            float(a.terms),
            min(_LARGEST_BUCKET, triton.next_power_of_2(rows)),
            KIND=int(a.kind),
            A_RANGE_STEP=a.range_step,
            B_RANGE_STEP=b.range_step,
            QUANTIZED=output_range is not None,
            NOISE=_NOISES[noise],
            HAS_BIAS=addend is not None,
            BIAS_PRECISION=0 if addend is None else PRECISION[addend.dtype],
            OUTPUT_PRECISION=PRECISION[dtype],
            WIDE_INDEX=_is_wide(c.numel(), noise),
            DEPTH=a.depth,
            GROUP=_GROUP,
        )
    return c


def _run(batch: int, rows: int, columns: int, *arguments: Any, **constants: Any) -> None:
    """Starts the product's kernel, in tiles that were measured or, where nothing can be measured, chosen by size."""
    constants["enable_fp_fusion"] = False
    bucket, pitch = arguments[_BUCKET], arguments[_PITCH]

    def start(tiles: dict[str, int]) -> None:
        programs = batch * triton.cdiv(rows, tiles["ROWS"]) * triton.cdiv(columns, tiles["COLUMNS"])
        launch: Any = product_kernel[(programs,)]
        launch(*arguments, **constants, **tiles)

    key = (bucket, columns, pitch, constants["KIND"], torch.cuda.current_device() if not is_interpreted() else None)
    tiles = _measured.get(key)
    if tiles is None:
        if is_interpreted() or torch.cuda.is_current_stream_capturing():
            tiles = _tiles_by_size(rows, columns)
        else:
            tiles = _measured[key] = _fastest(start, bucket)
    start(tiles)


_BUCKET = list(PRODUCT_SIGNATURE).index("row_bucket")
_PITCH = list(PRODUCT_SIGNATURE).index("pitch")
_measured: dict[tuple[Any, ...], dict[str, int]] = {}
"""The fastest tiles for each power of two of rows and each shape and kind of the other operand's codes."""


def _tiles_by_size(rows: int, columns: int) -> dict[str, int]:
    sizes = [max(16, min(128, triton.next_power_of_2(size))) for size in (rows, columns)]
    return {"ROWS": sizes[0], "COLUMNS": sizes[1]}


def _fastest(start: Callable[[dict[str, int]], None], bucket: int) -> dict[str, int]:
    """The tiles that take the least time, among those that are not larger than the result.

    The kernel may run any number of times: it writes the same result, and the range of a product knows no repetition.
    """
    choices = [
        {"ROWS": rows, "COLUMNS": columns, "num_warps": warps, "num_stages": stages}
        for rows, columns, warps, stages in _TILES
        if rows <= max(bucket, 16)
    ]
    return min(choices, key=lambda tiles: _milliseconds(lambda: start(tiles))) if len(choices) > 1 else choices[0]


def _milliseconds(call: Callable[[], None]) -> float:
    """Median time of a call; infinite where the device has too little memory for its tiles."""
    from triton.testing import do_bench

    try:
        return float(do_bench(call, warmup=_WARM_UP, rep=_MEASURED, return_mode="median"))  # pyright: ignore[reportArgumentType]
    except triton.runtime.errors.OutOfResources:
        return math.inf
