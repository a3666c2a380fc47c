"""Moves of integers against Python's own indexing."""

from __future__ import annotations

import numpy as np
import pytest

from quantsim_kernels.reference.integer import structure as ours

X = np.arange(24).reshape(2, 3, 4)


def test_moves() -> None:
    assert ours.reshape(X, shape=(4, -1)).tolist() == [list(range(6 * i, 6 * i + 6)) for i in range(4)]
    turned = ours.transpose(X, order=(2, 0, 1))
    assert all(turned[k, i, j] == X[i, j, k] for i, j, k in np.ndindex(2, 3, 4))
    for start, stop, step in ((1, None, 1), (0, -1, 2), (-2, None, 1), (None, None, -1), (0, 99, 3)):
        part = ours.slice(X, axis=2, start=start, stop=stop, step=step)  # pyright: ignore[reportArgumentType]
        assert part.tolist() == [[row.tolist()[start:stop:step] for row in rows] for rows in X]
    assert ours.take(X, axis=1, indices=[2, 0, 2])[1].tolist() == [X[1, i].tolist() for i in (2, 0, 2)]
    assert ours.take(X, axis=-1, indices=-1).tolist() == X[..., 3].tolist()
    assert ours.concatenate(X, X[:, :1], axis=1)[0].tolist() == [*X[0].tolist(), X[0, 0].tolist()]
    wide = ours.expand(X[:, :1, None], shape=(2, 5, -1, 4))
    assert wide.shape == (2, 5, 1, 4)
    assert (wide == X[:, :1, None]).all()
    assert ours.expand([[1]], shape=(3, 2, 2)).shape == (3, 2, 2)
    padded = ours.pad(X, widths=((0, 0), (1, 0), (0, 2)), value=-9)
    assert padded[0].tolist() == [[-9] * 6, *([*row.tolist(), -9, -9] for row in X[0])]
    rolled = ours.roll(X, shifts=(1, -1), axes=(1, 2))
    assert all(rolled[i, (j + 1) % 3, (k - 1) % 4] == X[i, j, k] for i, j, k in np.ndindex(2, 3, 4))


def test_embedding() -> None:
    table = np.arange(12).reshape(4, 3) - 6
    assert ours.embedding([[3, 0]], table=table).tolist() == [[table[3].tolist(), table[0].tolist()]]
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match="expected 0 to 3"):
            ours.embedding([wrong], table=table)


def test_floats_are_refused() -> None:
    with pytest.raises(TypeError, match=r"reshape\(x\): got dtype float64"):
        ours.reshape([1.0], shape=(1,))
