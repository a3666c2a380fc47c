"""LayerNorm and RMSNorm in torch against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantsim_kernels.torch.integer import normalization

GRID = {"zero_point": -3, "low": -128, "high": 127}


@pytest.fixture(params=["whole", "pieces"], autouse=True)
def _sizes_of_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small operands as a whole, and in pieces as large ones are."""
    if request.param == "pieces":
        monkeypatch.setattr(normalization, "_PIECE", 100)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("length", [1, 7, 384])
def test_norms(length: int, dtype: Any, same: Any, generator: np.random.Generator) -> None:
    limits = np.iinfo(dtype)
    x = generator.integers(limits.min, limits.max + 1, (5, 4, length)).astype(dtype)
    x[0], x[1], x[2, 0, 0] = limits.min, limits.max, limits.max
    small = 1 if dtype is np.int16 else 4
    gain = generator.integers(-(2**24), 2**24, length)
    offset = generator.integers(-(2**16), 2**16, length)
    bits = {"root_bits": small, "gain_bits": 10, "epsilon": 7}
    same("layer_norm", x, gain=gain, offset=offset, mean_bits=small, **bits, **GRID)
    same("layer_norm", x, gain=gain, mean_bits=0, **bits, **GRID)
    same("rms_norm", x, gain=gain, zero_point_in=int(limits.max), **bits, **GRID)
    same("rms_norm", x, gain=gain, offset=offset, zero_point_in=3, **{**bits, "epsilon": 0}, **GRID)


def test_squares_beyond_float64(same: Any, generator: np.random.Generator) -> None:
    x = generator.integers(-(2**15), 2**15, (7, 384)).astype(np.int16)
    gain, offset = generator.integers(-(2**24), 2**24, 384), generator.integers(-(2**16), 2**16, 384)
    bits = {"mean_bits": 8, "root_bits": 0, "gain_bits": 10, "epsilon": 7}
    same("layer_norm", x, gain=gain, offset=offset, **bits, **GRID)
