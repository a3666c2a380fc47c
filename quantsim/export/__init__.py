"""Hands a simulation over: checkpoints, programs, ONNX files with their encodings, folders for integer hardware."""

from __future__ import annotations

from quantsim.export.checkpoint import load_simulation, save_pretrained
from quantsim.export.chip import ChipFolder, MemoryTiling, load_chip, nn2chip
from quantsim.export.onnx import export_onnx, read_name_map
from quantsim.export.onnx_report import ExportedQuantizer, OnnxExportReport
from quantsim.export.torch_export import LoadedProgram, export_program, load_program

__all__ = [
    "ChipFolder",
    "ExportedQuantizer",
    "LoadedProgram",
    "MemoryTiling",
    "OnnxExportReport",
    "export_onnx",
    "export_program",
    "load_chip",
    "load_program",
    "load_simulation",
    "nn2chip",
    "read_name_map",
    "save_pretrained",
]
