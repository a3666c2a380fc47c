"""What a Python process sees: nothing shadowed, nothing heavy imported, nothing said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("triton", "transformers", "matplotlib", "typer", "rich")
SECONDS_BEYOND_TORCH = 0.5
# An import computes and hardly waits, so its processor time is what it takes on an idle machine. What noise is left
# (shared caches) only ever adds: the least of a few runs is the nearest to the truth.
ROUNDS = 6


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would slow or colour a measured child: coverage, paths, thread counts."""
    dropped = ("COV_", "COVERAGE_", "PYTHON", "PYTEST_")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)} | extra


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, outside the repository, and return its output."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean_environment(**environment),
        cwd=Path(sys.prefix),
        timeout=240,
        check=False,
    )


def test_python_starts_with_the_repository_on_its_path() -> None:
    done = run_python(
        "import encodings, sys; assert 'utf_8' in dir(encodings) or encodings.search_function('utf-8')",
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr


def test_transformers_does_not_take_our_folder_for_the_kernels_package() -> None:
    code = "from transformers.utils import is_kernels_available; print(is_kernels_available())"
    done = run_python(code, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
    assert done.stdout.strip() == "False", done.stderr


# The package alone is lazy; its two main parts are what a user really waits for.
@pytest.mark.parametrize("imported", ["quantsim", "quantsim.nn, quantsim.sim"])
def test_import_loads_nothing_heavy(imported: str) -> None:
    code = f"import json, sys, {imported}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    baseline = f"import json, sys, torch; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done, torch_alone = run_python(code), run_python(baseline)
    assert done.returncode == 0, done.stderr
    ours = set(json.loads(done.stdout)) - set(json.loads(torch_alone.stdout))
    assert ours == set()


@pytest.mark.parametrize("package", ["quantsim.nn, quantsim.sim", "quantsim_kernels", "quantsim_encodings"])
def test_import_says_nothing(package: str) -> None:
    done = run_python(f"import torch, warnings; warnings.simplefilter('error'); import {package}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_of_encodings_does_not_load_torch() -> None:
    done = run_python("import sys, quantsim_encodings; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_import_draws_no_random_numbers_and_keeps_settings() -> None:
    code = """
import random, numpy, torch


def state():
    draws = (torch.get_rng_state().sum().item(), random.getstate(), numpy.random.get_state()[1].sum())
    return draws, torch.initial_seed(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()


before = state()
import quantsim
assert before == state()
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("imported", ["quantsim", "quantsim.nn, quantsim.sim"])
def test_import_is_quick(imported: str) -> None:
    code = f"""
import time, torch
start = time.process_time()
import {imported}
print(time.process_time() - start)
"""
    seconds: list[float] = []
    for _ in range(ROUNDS):
        done = run_python(code)
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stdout))
        if min(seconds) <= SECONDS_BEYOND_TORCH:
            break
    assert min(seconds) <= SECONDS_BEYOND_TORCH, f"import {imported} took {min(seconds):.2f} s beyond torch"
