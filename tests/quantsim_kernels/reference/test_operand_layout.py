"""Shapes in which a tensor meets its scale, and the dtype of the computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quantsim_kernels.reference.operand_layout import blocked_shapes, computation_dtype


@pytest.mark.parametrize(
    ("shape", "scale_shape", "block_size", "expected"),
    [
        ((4, 6), (), None, ((4, 6), ())),
        ((), (1, 1), None, ((), ())),
        ((4, 6), (6,), None, ((4, 6), (6,))),
        ((4, 6), (4, 3), (1, 2), ((4, 1, 3, 2), (4, 1, 3, 1))),
        ((4, 6), (2, 1), (-1, -1), ((2, 2, 1, 6), (2, 1, 1, 1))),
        ((5, 4, 6), (4, 3), (1, 2), ((5, 4, 1, 3, 2), (4, 1, 3, 1))),
        ((0, 6), (0, 3), (1, 2), ((0, 1, 3, 2), (0, 1, 3, 1))),
    ],
    ids=str,
)
def test_shapes_that_fit(shape: Any, scale_shape: Any, block_size: Any, expected: Any) -> None:
    assert blocked_shapes(shape, scale_shape, block_size) == expected
    view, scale_view = expected
    assert torch.empty(shape).view(view).numel() == torch.empty(shape).numel()
    assert torch.broadcast_shapes(view, scale_view) == view


@pytest.mark.parametrize(
    ("shape", "scale_shape", "block_size", "message"),
    [
        ((4, 6), (5, 1), None, "scale: got shape .5, 1. for a tensor of shape .4, 6."),
        ((1, 6), (4, 6), None, "without enlarging it"),
        ((6,), (4, 1), None, "scale: got shape"),
        ((4, 6), (4, 4), (1, 2), r"\(4 x 2 != 6\)"),
        ((4, 6), (4, 4), (1, -1), r"\(4 x -1 != 6\)"),
        ((4, 6), (4, 3), (2,), "one entry for each dimension of the scale"),
        ((6,), (4, 3), (1, 2), "at most as many as the tensor has"),
        ((4, 6), (4, 3), (1, 0), r"\(3 x 0 != 6\)"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(shape: Any, scale_shape: Any, block_size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blocked_shapes(shape, scale_shape, block_size)


@pytest.mark.parametrize(
    ("dtype", "bits", "expected"),
    [
        (torch.bfloat16, 2, torch.bfloat16),
        (torch.bfloat16, 4, torch.bfloat16),
        (torch.bfloat16, 8, torch.float32),
        (torch.float16, 8, torch.float16),
        (torch.float16, 9, torch.float32),
        (torch.float32, 8, torch.float32),
        (torch.float32, 16, torch.float32),
        (torch.float32, 32, torch.float64),
        (torch.bfloat16, 32, torch.float64),
        (torch.float64, 4, torch.float64),
    ],
    ids=str,
)
@pytest.mark.parametrize("signed", [False, True])
def test_dtype_of_the_computation(dtype: torch.dtype, bits: int, signed: bool, expected: torch.dtype) -> None:
    qmin = -(2 ** (bits - 1)) if signed else 0
    assert computation_dtype(dtype, qmin, qmin + 2**bits - 1) is expected


def test_grids_far_from_zero_are_computed_wider() -> None:
    assert computation_dtype(torch.bfloat16, 1000, 1015) is torch.float32
