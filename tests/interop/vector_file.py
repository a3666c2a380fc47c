"""The recorded vectors' file: many small named arrays in one compressed npz (numpy only: both environments import
this file).

Arrays of one dtype lie end to end in one flat array, and an index (JSON) says where each begins and its shape: a
thousand separate npz members would be mostly headers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class VectorFile:
    """Cases' settings by name, and arrays by name (``<case>/<what>`` or ``inputs/<name>``)."""

    cases: Mapping[str, dict[str, Any]]
    arrays: Mapping[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write the npz."""
        flat: dict[str, list[np.ndarray]] = {}
        index: dict[str, tuple[str, int, tuple[int, ...]]] = {}
        ends: dict[str, int] = {}
        for name, array in self.arrays.items():
            dtype = str(array.dtype)
            start = ends.get(dtype, 0)
            index[name] = (dtype, start, array.shape)
            ends[dtype] = start + array.size
            flat.setdefault(dtype, []).append(array.ravel())
        header = json.dumps({"cases": dict(self.cases), "index": index}).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            header=np.frombuffer(header, dtype=np.uint8),
            **{dtype: np.concatenate(parts) for dtype, parts in flat.items()},  # type: ignore[arg-type]
        )

    @classmethod
    def load(cls, path: Path) -> VectorFile:
        """Read the npz."""
        with np.load(path) as stored:
            header = json.loads(stored["header"].tobytes())
            flat = {dtype: stored[dtype] for dtype in stored.files if dtype != "header"}
        arrays = {
            name: flat[dtype][start : start + int(np.prod(shape, dtype=np.int64))].reshape(shape)
            for name, (dtype, start, shape) in header["index"].items()
        }
        return cls(header["cases"], arrays)
