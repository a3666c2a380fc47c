"""Triton without a GPU: a test file's cases under the interpreter, and ahead-of-time compilation.

Both need a process of their own, because Triton reads TRITON_INTERPRET when it is first imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMPILE = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

results = {}
for name, module, kernel, signature, constants, architecture, pointers in json.loads(sys.stdin.read()):
    kernels = importlib.import_module("quantsim_kernels.triton." + module)
    compiled = triton.compile(
        ASTSource(
            fn=getattr(kernels, kernel), signature={**getattr(kernels, signature), **pointers}, constexprs=constants
        ),
        target=GPUTarget("cuda", architecture, 32),
        options={"enable_fp_fusion": False},
    )
    results[name] = {"ptx": compiled.asm["ptx"], "cubin": len(compiled.asm["cubin"])}
print(json.dumps(results))
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cases marked ``interpreted`` run only in the process that the fixture starts."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        here = str(Path(__file__).parent)
        items[:] = [
            item
            for item in items
            if not (str(item.path).startswith(here) and item.name.split("[")[0].endswith("interpreted"))
        ]


def run(arguments: list[str], text: str | None, interpret: bool) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, *arguments], input=text, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.fixture
def run_interpreted() -> Callable[[str], str]:
    """Runs the cases of a file whose names end in ``interpreted`` under the interpreter; returns pytest's output."""
    pytest.importorskip("triton")

    def start(path: str) -> str:
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore::RuntimeWarning",
            "-k",
            "interpreted and not under_the",
        ]
        return run(["-m", "pytest", path, *options], None, True)

    return start


@pytest.fixture
def compile_ahead() -> Callable[[list[tuple[Any, ...]]], dict[str, Any]]:
    """Compiles kernels for given architectures: (name, module, kernel, signature, constants, architecture, types)."""
    pytest.importorskip("triton")
    return lambda jobs: json.loads(run(["-c", COMPILE], json.dumps(jobs), False))
