"""Means and poolings in torch against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

GRID = {"multiplier": (1 << 30) + 9, "shift": 35, "zero_point": 3, "low": -128, "high": 127}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_mean_and_pools(dtype: Any, same: Any, generator: np.random.Generator) -> None:
    limits = np.iinfo(dtype)
    x = generator.integers(limits.min, limits.max + 1, (2, 3, 12, 9)).astype(dtype)
    for axes in ((2, 3), (-1,), (0, 1)):
        for keepdim in (True, False):
            same("mean", x, axes=axes, keepdim=keepdim, zero_point_in=5, **GRID)
    padding = {"padding": ((1, 0), (2, 1))}
    same("average_pool", x, kernel=(3, 2), stride=(2, 3), zero_point_in=-9, **padding, **GRID)
    same("average_pool", x[:, :, 0], kernel=(3,), stride=(1,), padding=((0, 2),), zero_point_in=100, **GRID)
    sizes = {"kernel": (3, 2), "stride": (2, 1), "dilation": (1, 2), **padding}
    y = same("max_pool", x, lowest=int(limits.min), **sizes)
    assert y.dtype is torch.as_tensor(x).dtype
    same("max_pool", x[:, :, 0], kernel=(4,), stride=(4,), padding=((3, 3),), dilation=(1,), lowest=int(limits.min))
