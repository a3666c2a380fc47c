"""The switch for compiled kernels, what is compiled, and what happens where that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim_encodings.formats import RoundingMode, float_format
from quantsim_kernels.torch import compilation
from quantsim_kernels.torch import float_cast as fast
from quantsim_kernels.torch.compilation import compiled_kernels, compiled_kernels_enabled, lazily_compiled

E4M3 = float_format("e4m3fn")
SEED = torch.tensor(77)


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("enabled", "failed", "worked"):
        monkeypatch.setattr(compilation._State, name, False)
    monkeypatch.setattr(compilation, "COMPILED_ELEMENTS", 1000)
    yield
    torch.compiler.reset()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was given to torch.compile, which compiles nothing here."""
    seen: list[Any] = []

    def compile(function: Any, **options: Any) -> Any:
        seen.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    return seen


def test_the_switch_sets_at_once_and_restores_behind_a_block() -> None:
    assert not compiled_kernels_enabled()
    with compiled_kernels():
        assert compiled_kernels_enabled()
        with compiled_kernels(False):
            assert not compiled_kernels_enabled()
        assert compiled_kernels_enabled()
    assert not compiled_kernels_enabled()
    compiled_kernels(True)
    assert compiled_kernels_enabled()
    with pytest.raises(TypeError, match=r"compiled_kernels\(enabled\): got 1, expected True or False"):
        compiled_kernels(1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("on", True), ("0", False), ("", False)])
def test_the_environment_variable_is_read_at_import(text: str, expected: bool) -> None:
    assert compilation._from_environment(text) is expected


def test_a_wrong_environment_variable_is_named() -> None:
    environment = {**os.environ, "QUANTSIM_COMPILED_KERNELS": "maybe"}
    run = subprocess.run(
        [sys.executable, "-c", "import quantsim_kernels"], env=environment, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "QUANTSIM_COMPILED_KERNELS: got 'maybe', expected 1 or 0" in run.stderr


def test_only_large_tensors_under_the_switch_are_compiled_once_for_each_constant(compilations: list[Any]) -> None:
    scaled = lazily_compiled(lambda x, factor, y: x * factor if y is None else x * factor + y)
    x = torch.ones(2000)
    scaled(x, 2.0, None)
    assert not compilations
    with compiled_kernels():
        scaled(torch.ones(999), 2.0, None)
        assert not compilations
        for factor in (2.0, 3.0, 2.0):
            assert torch.equal(scaled(x, factor, None), x * factor)
        assert len(compilations) == 2
        assert torch.equal(scaled(x, 2.0, x), 3 * x)
        assert torch.equal(scaled(x.view(40, 50), 2.0, None), 2 * x.view(40, 50))
        assert len(compilations) == 4
    # Torch limits recompilations by code object.
    assert len({id(function.__code__) for function in compilations}) == 4


def test_a_failing_compiler_warns_once_and_leaves_the_eager_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def compile(function: Any, **options: Any) -> Any:
        def fail(*tensors: Tensor) -> Tensor:
            attempts.append(function)
            raise RuntimeError("no C++ compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    x = torch.randn(3000)
    expected = fast.float_cast(x, E4M3, RoundingMode.UP)
    with compiled_kernels():
        with pytest.warns(RuntimeWarning, match=r"torch\.compile failed \(RuntimeError: no C\+\+ compiler\)"):
            assert torch.equal(fast.float_cast(x, E4M3, RoundingMode.UP), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(fast.float_cast(x, E4M3, RoundingMode.UP), expected)
        assert not compiled_kernels_enabled()
    assert len(attempts) == 1


def test_an_error_of_the_function_itself_is_the_callers(compilations: list[Any]) -> None:
    divided = lazily_compiled(lambda x, shape: x.view(shape))
    with compiled_kernels(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            divided(torch.ones(2000), (7, 3))
        assert compiled_kernels_enabled()


def test_compiled_kernels_give_the_bits_of_the_eager_ones(assert_same_bits) -> None:
    # Sizes with a tail behind the last whole vector; infinities, NaN and subnormals among them.
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 500.0, -1e-3, 1e-40])
    x = torch.cat([torch.randn(4999) * 0.05, special])
    rows = x[:5000].view(40, 125).nan_to_num(posinf=3.0, neginf=-3.0)
    scale = torch.rand(40, 1) + 0.1
    nearest, stochastic = (RoundingMode.NEAREST_EVEN, None), (RoundingMode.STOCHASTIC, SEED)

    def results() -> list[Tensor]:
        found = [
            fast.float_cast(x, E4M3, *nearest[:1], False, False, None),
            fast.float_cast(x[:-3], E4M3, stochastic[0], True, False, SEED),
            fast.float_cast(x.to(torch.bfloat16), float_format("e5m2"), stochastic[0], False, False, SEED),
            fast.quantize_dequantize(rows, scale, E4M3, None, *stochastic),
            fast.dynamic_quantize_dequantize(rows, E4M3, None, *nearest),
        ]
        mine = x.clone()
        assert fast.float_cast(mine, E4M3, stochastic[0], True, False, SEED, inplace=True) is mine
        return [*found, mine]

    eager = results()
    with compiled_kernels(), warnings.catch_warnings():
        warnings.filterwarnings("error", "compiled kernels")
        compiled = results()
    for actual, expected in zip(compiled, eager, strict=True):
        assert_same_bits(actual, expected)


def test_pieces_of_a_compiled_cast_keep_their_numbers(
    compilations: list[Any], monkeypatch: pytest.MonkeyPatch, assert_same_bits
) -> None:
    x = torch.randn(50, 100)
    expected = fast.float_cast(x, E4M3, RoundingMode.STOCHASTIC, True, False, SEED)
    monkeypatch.setattr(fast, "COMPILED_PIECE_ELEMENTS", 1536)
    with compiled_kernels():
        assert_same_bits(fast.float_cast(x, E4M3, RoundingMode.STOCHASTIC, True, False, SEED), expected)
    assert compilations
