"""Moves of integers in torch against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quantsim_kernels.torch.integer import structure


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64])
def test_moves(dtype: Any, same: Any, generator: np.random.Generator) -> None:
    x = generator.integers(0, 100, (2, 3, 4)).astype(dtype)
    kinds = [
        same("reshape", x, shape=(4, -1)),
        same("transpose", x, order=(2, 0, 1)),
        same("take", x, axis=1, indices=np.array([2, 0, -1])),
        same("take", x, axis=-1, indices=2),
        same("concatenate", x, x[:, :1], axis=1),
        same("expand", x[:, :1], shape=(5, 2, -1, 4)),
        same("pad", x, widths=((0, 0), (1, 0), (0, 2)), value=7),
        same("roll", x, shifts=(1, -1), axes=(1, 2)),
        same("embedding", np.array([[1, 0]]), table=x),
    ]
    for start, stop, step in ((1, None, 1), (0, -1, 2), (-2, None, 1), (-1, None, -1), (0, 99, 3)):
        kinds.append(same("slice", x, axis=2, start=start, stop=stop, step=step))
        same("slice", x, axis=-3, start=start, stop=stop, step=step)
    assert {kind.dtype for kind in kinds} == {torch.as_tensor(x).dtype}


def test_what_is_padded_is_held(same: Any) -> None:
    assert same("pad", np.array([1], np.uint8), widths=((1, 0),), value=-5).dtype is torch.int16
    with pytest.raises(IndexError):
        structure.embedding(torch.tensor([4]), table=torch.zeros(4, 2, dtype=torch.int8))
