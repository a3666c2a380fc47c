from __future__ import annotations

import pytest
import torch

from quantsim.errors import ShapeError
from quantsim.quantization.analyzers.grouping import arrange, flatten_groups, normalise_shape, resolve_block_size

CASES = [
    ((8, 12), (), None),
    ((8, 12), (1,), None),
    ((8, 12), (1, 1, 1), None),
    ((8, 12), (8, 1), None),
    ((8, 12), (12,), None),
    ((8, 12), (8, 12), None),
    ((2, 8, 3, 5), (8, 1, 1), None),
    ((2, 8, 3, 5), (1, 8, 1, 5), None),
    ((8, 12), (8, 3), (1, 4)),
    ((8, 12), (4, 3), (2, -1)),
    ((2, 8, 12), (4, 3), (2, 4)),
    ((), (), None),
]


@pytest.mark.parametrize(("tensor", "shape", "block_size"), CASES)
def test_groups_are_what_broadcasting_says(tensor, shape, block_size):
    x = torch.randn(tensor)
    groups = flatten_groups(x, shape, block_size)
    view, reduced = arrange(x, shape, block_size)
    by_view = view.amax(reduced).flatten() if reduced else view.flatten()
    assert groups.shape == (max(1, torch.Size(shape).numel()), x.numel() // max(1, torch.Size(shape).numel()))
    assert torch.equal(groups.amax(1), by_view)
    # Number the groups, spread the numbers over the tensor, and see that each group holds its own number only.
    numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
    if block_size is not None:
        sizes = resolve_block_size(tensor, shape, block_size)
        for dimension, size in enumerate(sizes):
            numbers = numbers.repeat_interleave(size, dimension)
    spread = numbers.reshape(numbers.shape if numbers.dim() <= x.dim() else ()).expand(tensor)
    assert torch.equal(flatten_groups(spread, shape, block_size), torch.arange(len(groups))[:, None].expand_as(groups))


@pytest.mark.parametrize(
    ("tensor", "shape", "block_size"),
    [
        ((8, 12), (7, 1), None),
        ((12,), (8, 12), None),
        ((8, 12), (8, 5), (1, -1)),
        ((8, 12), (8, 3), (1, 5)),
        ((8, 12), (8, 3), (4,)),
        ((12,), (8, 3), (1, 4)),
    ],
)
def test_what_does_not_fit(tensor, shape, block_size):
    with pytest.raises(ShapeError, match=r"got a tensor of shape"):
        flatten_groups(torch.zeros(tensor), shape, block_size)


def test_shapes():
    assert normalise_shape(3) == (3,)
    assert normalise_shape([3, 1]) == (3, 1)
    for wrong in ((-1,), (0,), (2.0,), (True,)):
        with pytest.raises(ShapeError, match="positive integers"):
            normalise_shape(wrong)
