from __future__ import annotations

import itertools

import pytest
import torch

from quantsim.nn import tensor_functions as functions

G = torch.Generator().manual_seed(0)
A, B = torch.randn(3, 4, generator=G), torch.randn(3, 4, generator=G)


def test_arithmetic_takes_numbers_on_either_side() -> None:
    for left, right in ((A, B), (A, 2.0), (2.0, A)):
        assert torch.equal(functions.add(left, right, alpha=4), left + 4 * right)
        assert torch.equal(functions.subtract(left, right, alpha=4), left - 4 * right)
        assert torch.equal(functions.multiply(left, right), left * right)
        assert torch.equal(functions.divide(left, right), left / right)


@pytest.mark.parametrize(("mode", "expected"), [("floor", [-2.0, 1.0]), ("trunc", [-1.0, 1.0]), (None, [-1.5, 1.5])])
def test_division_rounds_as_said(mode: str | None, expected: list[float]) -> None:
    assert functions.divide(torch.tensor([-3.0, 3.0]), 2.0, rounding_mode=mode).tolist() == expected
    assert functions.divide(3.0, torch.tensor([-2.0, 2.0]), rounding_mode=mode).tolist() == expected


def test_a_number_divided_keeps_the_dtype() -> None:
    assert functions.divide(1.0, torch.ones(2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_batch_norm_statistics_are_constants() -> None:
    mean, variance = torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True)
    x = A.clone().requires_grad_()
    functions.batch_norm(x, mean, variance).sum().backward()
    assert mean.grad is variance.grad is None
    assert x.grad is not None


def test_depth_to_space_is_depth_first() -> None:
    """ONNX's DCR: channel = block position * depth + depth index; torch's pixel_shuffle is the other mode."""
    block, depth = 2, 3
    x = torch.randn(2, depth * block**2, 2, 3, generator=G)
    got = functions.depth_to_space(x, block)
    assert got.shape == (2, depth, 4, 6)
    for d, row, column in itertools.product(range(depth), range(4), range(6)):
        channel = ((row % block) * block + column % block) * depth + d
        assert torch.equal(got[:, d, row, column], x[:, channel, row // block, column // block])
    assert not torch.equal(got, torch.nn.functional.pixel_shuffle(x, block))


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
def test_take_along_is_onnx_gather(axis: int) -> None:
    x = torch.randn(3, 4, 5, generator=G)
    indices = torch.tensor([[0, -1], [2, 1]], dtype=torch.int32)
    expected = torch.from_numpy(x.numpy().take(indices.numpy(), axis=axis))
    assert torch.equal(functions.take_along(x, indices, axis), expected)


def test_gather_and_scatter_by_index_tuples() -> None:
    indices = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)
    assert torch.equal(functions.gather_nd(A, indices), torch.stack((A[0, 1], A[2, 3])))
    assert torch.equal(functions.gather_nd(A, torch.tensor([[2], [0]])), A[[2, 0]])
    before = A.clone()
    got = functions.scatter_nd(A, indices, torch.tensor([7.0, 8.0]))
    assert (got[0, 1], got[2, 3]) == (7.0, 8.0)
    assert int((got != A).sum()) == 2
    assert torch.equal(A, before)


def test_slices_stacks_and_expansion() -> None:
    assert torch.equal(functions.strided_slice(A, [(0, 3, 2), (1, 4, 1)]), A[0:3:2, 1:4])
    assert torch.equal(functions.stack(A, B, dim=1), torch.stack((A, B), 1))
    assert functions.expand(A[:, :1], 3, 5).shape == functions.expand(A[:, :1], (3, 5)).shape == (3, 5)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_hadamard_is_sylvesters_matrix(size: int) -> None:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    x = torch.randn(2, 3, size, generator=G)
    torch.testing.assert_close(functions.hadamard(x), x @ matrix)


def test_rotary_embedding_rotates_by_its_angle() -> None:
    angle = torch.tensor([[0.5]])
    heads = torch.tensor([[[[1.0, 2.0, 9.0, 9.0]]]])
    x, y = 1.0, 2.0
    c, s = float(angle.cos()), float(angle.sin())
    got = functions.rotary_embedding(heads, angle.cos(), angle.sin(), interleaved=True, rotary_dim=2, head_size=4)
    torch.testing.assert_close(got, torch.tensor([[[[x * c - y * s, x * s + y * c, 9.0, 9.0]]]]))
    angles = torch.tensor([[0.5, 0.0]])
    halves = torch.tensor([[[[1.0, 9.0, 2.0, 9.0]]]])
    got = functions.rotary_embedding(halves, angles.cos(), angles.sin(), interleaved=False, rotary_dim=0, head_size=4)
    torch.testing.assert_close(got, torch.tensor([[[[x * c - y * s, 9.0, x * s + y * c, 9.0]]]]))
