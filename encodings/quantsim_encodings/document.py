"""The encodings of a whole model as one value, whatever version of file they come from or go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quantsim_encodings.encoding import Encoding
from quantsim_encodings.errors import EncodingsError, Problem

__all__ = [
    "EncodingEntry",
    "EncodingsDocument",
    "EncodingsVersion",
    "Producer",
    "TensorReference",
    "TensorRole",
]


class EncodingsVersion(StrEnum):
    """Versions of encodings files that can be read and written."""

    QUANTSIM = "quantsim-1"
    """quantsim's own: holds every format, granularity and annotation."""
    AIMET_0_6_1 = "0.6.1"
    """AIMET, by ONNX tensor name, one dictionary for each scale."""
    AIMET_1_0_0 = "1.0.0"
    """AIMET, by ONNX tensor name, flattened scales."""
    AIMET_2_0_0 = "2.0.0"
    """AIMET, by ONNX tensor name, shaped scales with axis and block size."""
    AIMET_2_1_0 = "2.1.0"
    """Like 2.0.0 with nested scales (LPBQ, NVFP4)."""
    AIMET_TORCH = "aimet-torch"
    """The JSON that AIMET's ``QuantizationSimModel.load_encodings`` reads, by module and parameter name."""


class TensorRole(StrEnum):
    """What a tensor is to its module."""

    INPUT = "input"
    OUTPUT = "output"
    PARAM = "param"


@dataclass(frozen=True)
class TensorReference:
    """Where in the torch model a tensor lives.

    Args:
        module: Path of the module, as ``named_modules`` gives it; ``""`` is the model itself.
        role: Input, output or parameter.
        key: Index of the input or output (``"0"``) or name of the parameter (``"weight"``).

    Example:
        >>> str(TensorReference("encoder.0", TensorRole.OUTPUT, "0"))
        'encoder.0.output[0]'
        >>> str(TensorReference("encoder.0", TensorRole.PARAM, "weight"))
        'encoder.0.weight'
    """

    module: str
    role: TensorRole
    key: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", TensorRole(self.role))

    def __str__(self) -> str:
        last = self.key if self.role is TensorRole.PARAM else f"{self.role.value}[{self.key}]"
        return f"{self.module}.{last}" if self.module else last


@dataclass(frozen=True)
class EncodingEntry:
    """One tensor's encoding, how it is named, and how it came about.

    Args:
        encoding: The encoding.
        tensor: Where the tensor lives in the torch model, if known.
        name: The tensor's name in an exported graph (ONNX), if known.
        frozen: Whether calibration must not overwrite it.
        learnable: Whether training may change it.
        analyzer: Name of the encoding analyzer that chose the range.
        samples: How many samples the analyzer saw.
        parameter: Whether the tensor is a parameter, where ``tensor`` does not say; ``None`` if unknown.

    Raises:
        EncodingsError: If there is neither ``tensor`` nor ``name``, or ``samples`` is negative.
    """

    encoding: Encoding
    tensor: TensorReference | None = None
    name: str | None = None
    frozen: bool = False
    learnable: bool = True
    analyzer: str | None = None
    samples: int | None = None
    parameter: bool | None = None

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        if not isinstance(self.encoding, Encoding):
            problems.append(Problem("$.encoding", f"got {type(self.encoding).__name__}, expected an Encoding"))
        if self.tensor is None and not self.name:
            problems.append(Problem("$", "has neither tensor nor name, expected at least one"))
        if self.samples is not None and self.samples < 0:
            problems.append(Problem("$.samples", f"got {self.samples}, expected a count"))
        if problems:
            raise EncodingsError("invalid EncodingEntry", problems)
        if self.tensor is not None:
            object.__setattr__(self, "parameter", self.tensor.role is TensorRole.PARAM)

    @property
    def label(self) -> str:
        """The tensor's name for people: place in the model, else name in the graph."""
        return str(self.tensor) if self.tensor is not None else self.name or ""

    @property
    def graph_name(self) -> str | None:
        """Name in an exported graph; a parameter without one goes by its name in the model."""
        if self.name:
            return self.name
        if self.tensor is not None and self.tensor.role is TensorRole.PARAM:
            return str(self.tensor)
        return None


@dataclass(frozen=True)
class Producer:
    """Program that computed the encodings.

    Args:
        package: Its name.
        version: Its version.
    """

    package: str
    version: str


@dataclass(frozen=True)
class EncodingsDocument:
    """All encodings of a model.

    Args:
        version: Version of the file it was read from or is meant for.
        entries: One for each tensor, in file order.
        producer: Program that computed the encodings, if known.
        model_fingerprint: Digest of the model they belong to, if known.
        excluded_layers: Layers left out of quantization.
        quantizer_args: AIMET's record of its global settings, if any: a JSON object.
        declared_version: What a torch-side AIMET file says in ``version``, if anything.

    Example:
        >>> from quantsim_encodings import AffineEncoding, IntFormat, PerTensor
        >>> encoding = AffineEncoding(IntFormat(-128, 127), 0.5, 0, True, PerTensor())
        >>> document = EncodingsDocument(EncodingsVersion.QUANTSIM, (EncodingEntry(encoding, name="x"),))
        >>> document.find("x").encoding.format.bits
        8
    """

    version: EncodingsVersion
    entries: tuple[EncodingEntry, ...]
    producer: Producer | None = None
    model_fingerprint: str | None = None
    excluded_layers: tuple[str, ...] = ()
    quantizer_args: Mapping[str, Any] | None = None
    declared_version: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", EncodingsVersion(self.version))
        object.__setattr__(self, "entries", tuple(self.entries))
        object.__setattr__(self, "excluded_layers", tuple(self.excluded_layers))

    def __iter__(self) -> Iterator[EncodingEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, key: str | TensorReference) -> EncodingEntry:
        """Looks an entry up by tensor reference, by graph name, or by label.

        Raises:
            KeyError: If there is none.
        """
        for entry in self.entries:
            if (entry.tensor == key) if isinstance(key, TensorReference) else (key in (entry.name, entry.label)):
                return entry
        raise KeyError(f"no encoding for {str(key)!r} among {len(self.entries)} entries")
