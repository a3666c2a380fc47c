"""The Triton kernels: the shared backend tests under the interpreter, and ahead-of-time compilation without a GPU.

Both need a process of their own: Triton reads TRITON_INTERPRET when it is first imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

SHARED_TESTS = Path(__file__).parents[1] / "test_affine.py"

COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from quantsim_kernels.triton import _affine_kernels as kernels

name, architecture, half = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "bfloat16"
common = {"HAS_OFFSET": True, "PRECISION": 2 if half else 0, "RATIO_PRECISION": 0, "WIDE_INDEX": False}
if name == "forward":
    kernel, signature = kernels.forward_kernel, dict(kernels.FORWARD_SIGNATURE)
    constants = {**common, "OPERATION": 2, "ELEMENTS": 1024}
else:
    kernel, signature = kernels.backward_kernel, dict(kernels.BACKWARD_SIGNATURE)
    constants = {**common, "ROWS": 32, "COLUMNS": 32}
if half:
    for pointer in ("x_pointer", "y_pointer", "grad_pointer", "dx_pointer"):
        if pointer in signature:
            signature[pointer] = "*i16"
compiled = triton.compile(
    ASTSource(fn=kernel, signature=signature, constexprs=constants),
    target=GPUTarget("cuda", architecture, 32),
    options={"enable_fp_fusion": False},
)
print(json.dumps({"ptx": compiled.asm["ptx"], "cubin": len(compiled.asm["cubin"])}))
"""


def test_shared_backend_tests_pass_under_the_interpreter() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            str(SHARED_TESTS),
            "-k",
            "triton and not importing",
            "-q",
            "-p",
            "no:cacheprovider",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    counts = dict(reversed(pair.split()) for pair in re.findall(r"\d+ (?:passed|skipped|failed)", done.stdout))
    # 16 shapes x 4 dtypes for quantize-dequantize, and as many for the two single steps.
    assert int(counts["passed"]) == 128, done.stdout[-2000:]
    assert "skipped" not in counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_kernels_compile_ahead_of_time(name: str, architecture: int, dtype: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, name, str(architecture), dtype],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert f".target sm_{architecture}" in result["ptx"]
    assert result["cubin"] > 0
    # Exactness: a correctly rounded division, no fused products.
    assert "div.rn.f32" in result["ptx"]
    assert "fma.rn.f32" not in result["ptx"]
