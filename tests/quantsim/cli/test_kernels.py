from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import quantsim_kernels

Run = Callable[..., Any]


def test_the_table_holds_every_kernel(run: Run) -> None:
    done = run("kernels", "list")
    assert done.code == 0
    for kernel in quantsim_kernels.registry.kernels():
        assert f"{kernel.op} ({kernel.scheme.value})" in done.out
        assert kernel.backend.value in done.out


def test_json_holds_every_kernel_in_order(run: Run) -> None:
    rows = json.loads(run("kernels", "list", "--json").out)
    expected = [(kernel.op, kernel.backend.value, kernel.priority) for kernel in quantsim_kernels.registry.kernels()]
    assert [(row["op"], row["backend"], row["priority"]) for row in rows] == expected


def test_one_op_alone(run: Run) -> None:
    rows = json.loads(run("kernels", "list", "--op", "affine_quantize", "--json").out)
    assert {row["op"] for row in rows} == {"affine_quantize"}
    assert {row["backend"] for row in rows} == {
        backend.value for backend in quantsim_kernels.backends("affine_quantize")
    }


def test_an_unknown_op_is_answered_with_near_ones(run: Run) -> None:
    done = run("kernels", "list", "--op", "affine_quantise")
    assert done.code == 1
    assert "did you mean affine_quantize" in done.err


def test_eighty_columns_are_enough(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("kernels", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.rstrip().endswith("with gradients it is the reference.") for line in lines)
    assert not any("`" in line for line in lines)  # no marks of reStructuredText
