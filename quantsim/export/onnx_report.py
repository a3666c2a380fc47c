"""What an ONNX export did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantsim.export.onnx_coverage import GraphCoverage

__all__ = ["ExportedQuantizer", "OnnxExportReport"]


@dataclass(frozen=True)
class ExportedQuantizer:
    """One quantizer in the exported graph.

    Attributes:
        place: Where it sits in the model, such as ``"fc.param_quantizers['weight']"``.
        tensors: Names of the tensors that it quantizes; several if its module is called several times.
        data_type: ONNX's type of the codes; ``"decomposed"`` if it is written as the operations that it computes.
        is_constant: Whether its tensor is a constant, stored in the file in that type.
    """

    place: str
    tensors: tuple[str, ...]
    data_type: str
    is_constant: bool = False


@dataclass(frozen=True)
class OnnxExportReport:
    """What an ONNX export wrote; ``print`` shows it.

    Attributes:
        path: The graph with QuantizeLinear and DequantizeLinear.
        float_path: The same graph without any, if asked for.
        encodings: Encodings file of each version.
        quantizers: All quantizers in the graph.
        unreached: Places of quantizers that the example inputs do not reach; they are not in the graph.
        coverage: Which tensors have an encoding.
        name_map: Where each tensor's encoding belongs in the simulation, for ``load_encodings(name_map=...)``.
        size: Bytes of the graph's file, with external data.
        float_size: Bytes of the graph's constants in floating point.
        notes: What the exported graph does not show.
    """

    path: Path
    float_path: Path | None
    encodings: Mapping[str, Path]
    quantizers: tuple[ExportedQuantizer, ...]
    unreached: tuple[str, ...]
    coverage: GraphCoverage
    name_map: Mapping[str, tuple[str, ...]]
    size: int
    float_size: int
    notes: tuple[str, ...] = ()

    @property
    def decomposed(self) -> tuple[str, ...]:
        """Places of the quantizers that are written as the operations that they compute."""
        return tuple(each.place for each in self.quantizers if each.data_type == "decomposed")

    def __str__(self) -> str:
        types = Counter((each.data_type, each.is_constant) for each in self.quantizers)
        counts = ", ".join(
            f"{count} {data_type.lower()} {'constants' if is_constant else 'activations'}"
            for (data_type, is_constant), count in sorted(types.items())
        )
        lines = [
            f"{self.path}: {self.size / 1e6:.2f} MB (constants in floating point: {self.float_size / 1e6:.2f} MB)",
            f"quantizers: {counts or 'none'}",
            f"coverage: {self.coverage}",
        ]
        lines += [f"encodings {version}: {path}" for version, path in self.encodings.items()]
        if self.float_path is not None:
            lines.append(f"float graph: {self.float_path}")
        if self.unreached:
            lines.append(f"not reached by the example inputs: {', '.join(self.unreached)}")
        return "\n".join([*lines, *self.notes])
