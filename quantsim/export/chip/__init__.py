"""Folders for hardware: memory images, test vectors and a manifest of a model that computes integers only."""

from __future__ import annotations

from quantsim.export.chip.folder import ChipFolder, Difference, Replay, load_chip
from quantsim.export.chip.manifest import MANIFEST_FILE, ChipManifest
from quantsim.export.chip.memory_files import MemoryFormat, decode_memory, encode_memory
from quantsim.export.chip.memory_layout import FirstCode, MemoryLayout, MemoryTiling, TileOrder
from quantsim.export.chip.verilog import fully_connected_test_bench
from quantsim.export.chip.writer import nn2chip

__all__ = [
    "MANIFEST_FILE",
    "ChipFolder",
    "ChipManifest",
    "Difference",
    "FirstCode",
    "MemoryFormat",
    "MemoryLayout",
    "MemoryTiling",
    "Replay",
    "TileOrder",
    "decode_memory",
    "encode_memory",
    "fully_connected_test_bench",
    "load_chip",
    "nn2chip",
]
