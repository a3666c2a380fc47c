from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from quantsim.cli.arrays import read_arrays, to_tensor
from quantsim.cli.outcome import CommandError


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.zeros(2, np.float64), torch.bfloat16),
        (np.zeros(2, np.float16), torch.bfloat16),
        (np.zeros(2, ">f4"), torch.bfloat16),
        (np.zeros(2, np.int32), torch.int64),
        (np.zeros(2, np.uint16), torch.int64),
        (np.zeros(2, ">i8"), torch.int64),
        (np.zeros(2, np.uint8), torch.uint8),
        (np.zeros(2, bool), torch.bool),
    ],
)
def test_types(array: np.ndarray, dtype: torch.dtype) -> None:
    assert to_tensor(array, torch.bfloat16, "x").dtype == dtype


def test_values_survive() -> None:
    values = np.arange(6, dtype=">i4").reshape(2, 3)[:, ::-1]
    assert to_tensor(values, torch.float32, "x").tolist() == [[2, 1, 0], [5, 4, 3]]


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.array([1j]), np.array(["2020"], "M8[D]")])
def test_what_is_no_number(array: np.ndarray) -> None:
    with pytest.raises(CommandError, match=r"--data 'x' holds .*; expected numbers"):
        to_tensor(array, torch.float32, "--data 'x'")


def test_files_of_one_array_and_of_several(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(3))
    np.savez(tmp_path / "two.npz", x=np.ones(3), y=np.zeros(3))
    assert list(read_arrays(tmp_path / "one.npy", "x")) == ["array"]
    assert list(read_arrays(tmp_path / "two.npz", "x")) == ["x", "y"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text", b"\x93NUMPY\x01\x00"])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CommandError, match=r"--data x.npz: cannot be read .*; expected a file of numpy.save"):
        read_arrays(tmp_path / "x.npz", "--data x.npz")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CommandError, match=r"cannot be read .*pickle"):
        read_arrays(tmp_path / "x.npz", "x")


def test_an_empty_file_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz")
    with pytest.raises(CommandError, match="holds no array"):
        read_arrays(tmp_path / "x.npz", "x")


def test_whole_numbers_do_not_wrap() -> None:
    with pytest.raises(CommandError, match=r"x holds 9223372036854775808; expected whole numbers below 2\*\*63"):
        to_tensor(np.array([0, 2**63], dtype=np.uint64), torch.float32, "x")
    assert to_tensor(np.array([2**63 - 1], dtype=np.uint64), torch.float32, "x").tolist() == [2**63 - 1]
    assert to_tensor(np.array([], dtype=np.uint64), torch.float32, "x").shape == (0,)
