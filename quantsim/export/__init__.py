"""Hands a simulation over: checkpoints, programs, ONNX files, with the encodings that belong to them."""

from __future__ import annotations

from quantsim.export.checkpoint import load_simulation, save_pretrained
from quantsim.export.onnx import export_onnx, read_name_map
from quantsim.export.onnx_report import ExportedQuantizer, OnnxExportReport
from quantsim.export.torch_export import LoadedProgram, export_program, load_program

__all__ = [
    "ExportedQuantizer",
    "LoadedProgram",
    "OnnxExportReport",
    "export_onnx",
    "export_program",
    "load_program",
    "load_simulation",
    "read_name_map",
    "save_pretrained",
]
