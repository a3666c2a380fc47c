"""Arrays of NumPy's files as tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantsim.cli.outcome import CommandError
from quantsim.cli.user_code import name_and_message

__all__ = ["read_arrays", "to_tensor"]


def read_arrays(path: Path, where: str) -> dict[str, Any]:
    """The arrays of a file by name; that of an ``npy`` file is called ``array``.

    Args:
        path: The file.
        where: What errors call it.

    Raises:
        CommandError: It is none, or holds objects instead of numbers: those would run code.
    """
    try:
        stored = np.load(path, allow_pickle=False)
        arrays = dict(stored.items()) if isinstance(stored, np.lib.npyio.NpzFile) else {"array": stored}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        expected = "a file of numpy.save or numpy.savez, with numbers"
        raise CommandError(f"{where}: cannot be read ({name_and_message(error)}); expected {expected}") from error
    if not arrays:
        raise CommandError(f"{where}: the file holds no array")
    return arrays


def to_tensor(array: Any, dtype: torch.dtype, where: str) -> Tensor:
    """An array as a tensor: fractions in the model's type, whole numbers in 64 bits but for bytes.

    Args:
        array: The array.
        dtype: The model's type.
        where: What errors call the array.

    Raises:
        CommandError: It holds no numbers, or some beyond 64 bits with sign.

    Example:
        >>> import numpy as np
        >>> to_tensor(np.arange(3, dtype=np.uint16), torch.float32, "--data x.npz: array 'x'").dtype
        torch.int64
    """
    if array.dtype.kind not in "biuf":
        raise CommandError(f"{where} holds {array.dtype}; expected numbers")
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float64)).to(dtype)
    if array.dtype.kind == "b":
        return torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise CommandError(f"{where} holds {array.max()}; expected whole numbers below 2**63, as torch has them")
    return torch.from_numpy(array.astype(np.uint8 if array.dtype == np.uint8 else np.int64))
