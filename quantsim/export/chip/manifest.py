"""``manifest.json`` of a chip folder: the integer graph in words that any language reads, and a digest of each file."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import version as version_of_package
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quantsim.dualpath.integer_graph import IntegerOp
from quantsim.errors import ConfigurationError
from quantsim.export.chip.formulas import WORDS
from quantsim.export.chip.memory_files import MemoryFormat
from quantsim.export.chip.memory_layout import MemoryLayout, MemoryTiling

__all__ = [
    "MANIFEST_FILE",
    "BatchLength",
    "ChipConstant",
    "ChipCoverage",
    "ChipFile",
    "ChipGrid",
    "ChipManifest",
    "ChipMemory",
    "ChipNode",
    "ChipValue",
    "FloatOperation",
    "digest_of_file",
]

MANIFEST_FILE: Final = "manifest.json"

_LARGEST: Final = 256 * 1024 * 1024
_DIGEST: Final = re.compile(rb'\A\{\n "sha256": "([0-9a-f]{64})",\n')
_BEGINNING: Final = re.compile(_DIGEST.pattern + rb' "format": "quantsim-chip",\n')
_FIX: Final = "export the model again, or copy the whole folder again"

_Strict = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BatchLength(BaseModel):
    """A length that grows with the batch."""

    model_config = _Strict

    batch: int = Field(ge=1)
    """How many times the size of the batch."""


Length = int | BatchLength


def _require_inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or not parts.parts:
        raise ValueError(f"got {path!r}, expected the name of a file inside the folder")
    return path


class ChipFile(BaseModel):
    """What a file must be."""

    model_config = _Strict

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ChipMemory(BaseModel):
    """One memory, and the files that hold it."""

    model_config = _Strict

    layout: MemoryLayout
    words: int
    """Lines of the text files."""
    word_bits: int
    files: dict[MemoryFormat, str] = {}


class ChipGrid(BaseModel):
    """What integers stand for: ``real = (integer - zero_point) * scale``."""

    model_config = _Strict

    scale: float | tuple[float, ...]
    zero_point: int
    low: int
    high: int
    axis: int | None = None


class ChipValue(BaseModel):
    """A tensor of integers between nodes, and its test vector."""

    model_config = _Strict

    name: str
    shape: tuple[Length, ...]
    dtype: str
    grid: ChipGrid | None = None
    memory: ChipMemory
    """The test vector, its shape that of the example's batch."""


class ChipConstant(BaseModel):
    """A constant of a node."""

    model_config = _Strict

    tensor: str
    """Its name in ``weights.safetensors``."""
    dtype: str
    """The type that executors are given it in; the file has the narrowest."""
    memory: ChipMemory


class ChipNode(BaseModel):
    """One op."""

    model_config = _Strict

    name: str
    op: IntegerOp
    module: str = ""
    """Path of the module that it comes from."""
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = {}
    constants: dict[str, ChipConstant] = {}


class FloatOperation(BaseModel):
    """An operation of the model that is not in the folder."""

    model_config = _Strict

    module: str
    operation: str
    reason: str


class ChipCoverage(BaseModel):
    """How much of the model the nodes compute."""

    model_config = _Strict

    integer: int
    total: int
    integer_multiplications: int
    multiplications: int
    floating: tuple[FloatOperation, ...] = ()


class ChipManifest(BaseModel):
    """All that a chip folder says, but for the integers."""

    model_config = _Strict

    format: Literal["quantsim-chip"] = "quantsim-chip"
    version: Literal[1] = 1
    quantsim: str = ""
    """Version of quantsim that wrote it."""
    rounding: Literal["half_away_from_zero"] = "half_away_from_zero"
    """Of every rounded shift and division."""
    accumulator: Literal["int32"] = "int32"
    """Holds every sum of products; what it is multiplied by makes 64 bits."""
    words: dict[str, str] = WORDS
    """What the words of the formulas mean."""
    formulas: dict[IntegerOp, str] = {}
    """What the ops among the nodes compute."""
    tiling: MemoryTiling
    batch: int = Field(ge=1)
    """Size of the batch of the test vectors."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[ChipNode, ...]
    """In the order of computation."""
    values: tuple[ChipValue, ...]
    """The inputs, then each node's output."""
    coverage: ChipCoverage | None = None
    """None if the folder was made from a graph alone."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""
    files: dict[str, ChipFile]
    """All files of the folder but this one."""

    @model_validator(mode="after")
    def _known_files(self) -> Self:
        for path in self.files:
            _require_inside(path)
        memories = [value.memory for value in self.values]
        memories += [constant.memory for node in self.nodes for constant in node.constants.values()]
        for memory in memories:
            for path in memory.files.values():
                if path not in self.files:
                    raise ValueError(f"files: {path} is a memory's, but has no digest")
        return self

    @classmethod
    def made_by(cls, **fields: Any) -> Self:
        """A manifest of this version of quantsim."""
        return cls(quantsim=version_of_package("quantsim"), **fields)

    def write(self, folder: Path) -> None:
        """Writes the file; its first line is the digest of everything behind it."""
        body = _short_lists(self.model_dump_json(indent=1)).removeprefix("{").encode("utf-8")
        digest = hashlib.sha256(body).hexdigest()
        (folder / MANIFEST_FILE).write_bytes(f'{{\n "sha256": "{digest}",'.encode("ascii") + body + b"\n")

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder's file of that name begins as one that `write` made."""
        path = folder / MANIFEST_FILE
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _BEGINNING.match(file.read(256)) is not None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the file of a folder.

        Raises:
            ConfigurationError: There is none, it was changed, or it is of another version.
        """
        path = folder / MANIFEST_FILE
        where = str(path)
        if not path.is_file():
            raise ConfigurationError(
                "the folder holds no finished export",
                where=str(folder),
                got=f"no {MANIFEST_FILE}" if folder.is_dir() else "no such folder",
                expected="a folder that nn2chip wrote",
                fix="give another folder, or export the model again",
            )
        if path.stat().st_size > _LARGEST:
            size = f"{path.stat().st_size} bytes"
            raise ConfigurationError("the file is too large", where=where, got=size, expected=f"<= {_LARGEST}")
        data = path.read_bytes()
        begin = _DIGEST.match(data)
        if begin is None or not data.endswith(b"\n"):
            raise ConfigurationError(
                "the file was changed or is not from nn2chip",
                where=where,
                got="no digest in its first line" if begin is None else "no newline at its end",
                expected=f"what nn2chip wrote as {MANIFEST_FILE}",
                fix=_FIX,
            )
        digest = hashlib.sha256(data[begin.end() - 1 : -1]).hexdigest()
        if digest != begin[1].decode("ascii"):
            raise ConfigurationError(
                "the file was changed",
                where=where,
                got=f"SHA-256 {digest}",
                expected=begin[1].decode("ascii"),
                fix=_FIX,
            )
        try:
            fields = json.loads(data)
            del fields["sha256"]
            return cls.model_validate(fields)
        except ValidationError as error:
            got = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or '(whole)'}: {item['msg']}"
                for item in error.errors(include_url=False)[:5]
            )
        except (ValueError, RecursionError) as error:
            got = " ".join(str(error).split())
        raise ConfigurationError(
            "the file says nothing that this version understands",
            where=where,
            got=got,
            expected="version 1 of quantsim's chip folders",
            fix="read it with the version of quantsim that wrote it",
        )

    def require_files(self, folder: Path) -> None:
        """Refuses a folder of which a file is missing or was changed.

        Raises:
            ConfigurationError: Names all such files.
        """
        broken: list[str] = []
        for name, file in self.files.items():
            path = folder / name
            if not path.is_file():
                broken.append(f"{name}: missing")
            elif path.stat().st_size != file.bytes:
                broken.append(f"{name}: {path.stat().st_size} bytes, expected {file.bytes}")
            elif (digest := digest_of_file(path)) != file.sha256:
                broken.append(f"{name}: SHA-256 {digest}, expected {file.sha256}")
        if broken:
            more = f"; and {len(broken) - 10} more" if len(broken) > 10 else ""
            raise ConfigurationError(
                "files are missing or were changed",
                where=str(folder),
                got="; ".join(broken[:10]) + more,
                expected="the files that nn2chip wrote",
                fix=_FIX,
            )


def _short_lists(text: str) -> str:
    """JSON with each list of numbers, and of such lists, on one line; no string is touched, for none has a newline."""
    text = re.sub(r'\{\n\s+"batch": (\d+)\n\s*\}', r'{"batch": \1}', text)
    number = r"[-+.0-9eE]+"
    row = rf'(?:{number}|\{{"batch": \d+\}}|\[(?:{number}(?:, {number})*)?\])'
    for _ in range(2):
        text = re.sub(rf"\[\n\s+({row}(?:,\s+{row})*)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return text


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
