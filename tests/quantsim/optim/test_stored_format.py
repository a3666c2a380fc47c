from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.optim.stored_format import (
    RoundingJob,
    SeededRounding,
    format_of_narrow_dtype,
    is_identity,
    require_carrier,
    storage_dtype,
    stored_format,
)
from quantsim_encodings.formats import MXFormat, NVFP4Format, RoundingMode, float_format


def test_names_and_formats() -> None:
    assert stored_format("e6m9").mantissa_bits == 9  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(stored_format("mxfp4"), MXFormat)
    assert isinstance(stored_format("nvfp4"), NVFP4Format)
    format = float_format("e3m2")
    assert stored_format(format) is format


@pytest.mark.parametrize("value", ["", "mxfp5", "e0m3", 7, None, ["bf16"]])
def test_what_is_no_format_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"there.*no such format"):
        stored_format(value, where="there")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["fp16", "bf16", "e4m3fn", "e5m2"])
def test_the_storage_type_holds_every_number(name: str) -> None:
    dtype = storage_dtype(stored_format(name))
    assert dtype is not None
    values = torch.arange(0, 2 ** (8 * dtype.itemsize), dtype=torch.int32)
    codes = values.to(torch.uint8 if dtype.itemsize == 1 else torch.int16).view(dtype).float()
    codes = codes[codes.isfinite()]
    rounded = codes.clone()
    SeededRounding(RoundingMode.NEAREST_EVEN).round_(rounded, stored_format(name))
    assert torch.equal(rounded, codes)
    assert torch.equal(rounded.to(dtype).float(), codes)


@pytest.mark.parametrize("name", ["e4m3", "e5m3", "mxfp8_e4m3", "tf32"])
def test_other_formats_have_no_storage_type(name: str) -> None:
    assert storage_dtype(stored_format(name)) is None


def test_identity() -> None:
    assert is_identity(stored_format("e8m23"), torch.float32)
    assert not is_identity(stored_format("e8m22"), torch.float32)
    assert not is_identity(stored_format("e8m23"), torch.float64)
    assert is_identity(stored_format("tf32"), torch.bfloat16)
    assert not is_identity(stored_format("tf32"), torch.float16) or float_format("tf32").mantissa_bits >= 10
    assert not is_identity(stored_format("mxint8"), torch.bfloat16)
    assert format_of_narrow_dtype(torch.float32) is None


@pytest.mark.parametrize(
    ("name", "dtype", "fits"),
    [
        ("bf16", torch.bfloat16, True),
        ("bf16", torch.float16, False),
        ("fp16", torch.bfloat16, False),
        ("e5m2", torch.float16, True),
        ("mxfp8_e4m3", torch.bfloat16, True),
        ("mxint8", torch.float16, True),
        ("e8m23", torch.float64, True),
    ],
)
def test_carriers(name: str, dtype: torch.dtype, fits: bool) -> None:
    if fits:
        require_carrier(stored_format(name), dtype, "here")
    else:
        with pytest.raises(ConfigurationError, match="here: the tensor cannot hold"):
            require_carrier(stored_format(name), dtype, "here")


def test_rounding_is_in_place_saturates_and_follows_from_seed_and_draws() -> None:
    x = torch.linspace(-600, 600, 1001)
    expected = torch.from_numpy(np.clip(x.numpy(), -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32))
    values = x.clone()
    address = values.data_ptr()
    rounding = SeededRounding(RoundingMode.NEAREST_EVEN)
    rounding.round_(values, stored_format("e4m3fn"))
    assert torch.equal(values, expected) and values.data_ptr() == address and rounding.draws == 0

    def drawn(seed: int, draws: int) -> torch.Tensor:
        result = x.clone()
        SeededRounding(RoundingMode.STOCHASTIC, seed, draws).round_(result, stored_format("e4m3fn"))
        return result

    assert torch.equal(drawn(1, 5), drawn(1, 5))
    assert not torch.equal(drawn(1, 5), drawn(1, 6))
    assert not torch.equal(drawn(1, 5), drawn(2, 5))


def test_blocks_lie_along_the_last_dimension_and_may_be_ragged() -> None:
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    values = x.clone()
    SeededRounding(RoundingMode.NEAREST_EVEN).round_(values, stored_format("mxfp8_e4m3"))
    for row, got in zip(x, values, strict=True):
        for start in (0, 32):
            block, result = row[start : start + 32], got[start : start + 32]
            scale = 2.0 ** (torch.floor(torch.log2(block.abs().max())) - 8)
            oracle = np.clip((block / scale).numpy(), -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
            assert torch.equal(result, torch.from_numpy(oracle) * scale)


def test_many_tensors_are_rounded_together_and_each_as_if_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (), (0, 4), (70_000,), (7,), (2, 40)]
    formats = [stored_format(name) for name in ("e4m3fn", "e4m3fn", "e4m3fn", "bf16", "bf16", "mxfp8_e4m3")]
    sources = [torch.randn(shape, generator=generator) for shape in shapes]
    expected = []
    for source, format in zip(sources, formats, strict=True):
        expected.append(source.clone())
        SeededRounding(RoundingMode.NEAREST_EVEN).round_(expected[-1], format)
    in_place = [source.clone().t() if source.dim() == 2 else source.clone() for source in sources]
    in_place = [values.t() if values.dim() == 2 else values for values in in_place]
    jobs = [RoundingJob(values, values, format) for values, format in zip(in_place, formats, strict=True)]
    SeededRounding(RoundingMode.NEAREST_EVEN).round_all(jobs)
    assert all(torch.equal(a, b) for a, b in zip(in_place, expected, strict=True))
    kept = [source.clone() for source in sources]
    targets = [torch.zeros_like(source, dtype=torch.float64) for source in sources]
    jobs = [RoundingJob(*three, keeps_source=True) for three in zip(targets, kept, formats, strict=True)]
    SeededRounding(RoundingMode.NEAREST_EVEN).round_all(jobs)
    assert all(torch.equal(a.float(), b) for a, b in zip(targets, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, sources, strict=True))


def test_tensors_that_are_rounded_together_have_noise_of_their_own() -> None:
    values = [torch.full((4096,), 1.0625) for _ in range(2)]  # half a step above one
    rounding = SeededRounding(RoundingMode.STOCHASTIC)
    rounding.round_all([RoundingJob(item, item, stored_format("e4m3fn")) for item in values])
    assert rounding.draws == 1
    assert 0.45 < float((values[0] == values[1]).float().mean()) < 0.55
