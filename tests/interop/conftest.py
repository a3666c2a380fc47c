"""The recorder's programs run in another environment and are not collected; the modules shared with it are importable
by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

collect_ignore = [
    "build_environment.py",
    "live_oracle.py",
    "onnx_oracle.py",
    "record_model.py",
    "record_vectors.py",
    "torchvision_stub",
]

from vector_file import VectorFile  # noqa: E402 - found through the path above


@pytest.fixture(scope="session")
def affine_vectors() -> VectorFile:
    """Quantizers: settings, ranges, scales, offsets, outputs, gradients."""
    return VectorFile.load(HERE / "vectors" / "affine.npz")


@pytest.fixture(scope="session")
def analyzer_vectors() -> VectorFile:
    """Encoding analyzers: settings and the ranges they choose."""
    return VectorFile.load(HERE / "vectors" / "analyzers.npz")
