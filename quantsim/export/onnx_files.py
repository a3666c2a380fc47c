"""Files of an ONNX export: all appear whole, or none does."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantsim_encodings.document import EncodingsDocument, EncodingsVersion

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LARGEST_FILE", "OnnxFiles", "constant_bytes"]

LARGEST_FILE: Final = 1_800_000_000
"""Bytes of constants that go into the graph's own file (protobuf ends at 2 GiB); more go into one beside it."""


def constant_bytes(model: ir.Model) -> int:
    """How many bytes the constants of a graph take."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


@dataclass
class OnnxFiles:
    """Files that are written in a folder of their own, and moved to their place when all are there.

    Attributes:
        target: The graph; the folder's other files lie beside it.
    """

    target: Path

    def __post_init__(self) -> None:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.folder = self.target.parent / f".{self.target.name}.{secrets.token_hex(8)}.tmp"
        self.folder.mkdir()
        self.versions: dict[EncodingsVersion, str] = {}

    def graph(self, model: ir.Model, name: str) -> None:
        """Writes and checks a graph."""
        import onnx
        import onnx_ir as ir

        path = self.folder / name
        ir.save(model, path, external_data=f"{name}.data" if constant_bytes(model) > LARGEST_FILE else None)
        onnx.checker.check_model(str(path), full_check=True)

    def encodings(self, document: EncodingsDocument, name: str, version: EncodingsVersion) -> None:
        """Writes an encodings file."""
        from quantsim_encodings import write

        write(document, self.folder / name, version)
        self.versions[version] = name

    def commit(self) -> dict[str, int]:
        """Moves all files to their place; the graph last. Returns their sizes."""
        sizes: dict[str, int] = {}
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == self.target.name):
            sizes[path.name] = path.stat().st_size
            os.replace(path, self.target.with_name(path.name))
        return sizes

    def discard(self) -> None:
        """Removes what was not moved."""
        shutil.rmtree(self.folder, ignore_errors=True)
