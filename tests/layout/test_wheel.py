"""One distribution ships exactly the three packages, and installs from nothing but its wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without a network: hatchling is taken from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("quantsim-*.whl")
    return zipfile.ZipFile(path)


def test_exactly_three_top_level_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {"quantsim", "quantsim_kernels", "quantsim_encodings"}


def test_every_source_file_is_shipped(wheel: zipfile.ZipFile) -> None:
    shipped = set(wheel.namelist())
    for folder in (ROOT, ROOT / "kernels", ROOT / "encodings"):
        for package in folder.glob("quantsim*"):
            if package.is_dir():
                ours = {p.relative_to(folder).as_posix() for p in package.rglob("*.py") if "__pycache__" not in p.parts}
                assert ours - shipped == set()


def test_no_tests_are_shipped(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if "test" in Path(name).name] == []


def test_the_wheel_says_it_is_typed(wheel: zipfile.ZipFile) -> None:
    markers = {name for name in wheel.namelist() if name.endswith("py.typed")}
    assert markers == {"quantsim/py.typed", "quantsim_kernels/py.typed", "quantsim_encodings/py.typed"}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    text = wheel.read(metadata).decode()
    for extra in ("hf", "onnx", "report", "demo", "dev"):
        assert f"Provides-Extra: {extra}\n" in text
    assert "License-Expression: Apache-2.0\n" in text
    (scripts,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "quantsim = quantsim.cli.main:main" in wheel.read(scripts).decode()
