"""The registry: order, predicates, reasons, forcing, errors."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from typing import Any

import pytest
import torch

import quantsim_kernels
from quantsim_kernels import (
    Backend,
    KernelUnavailableError,
    Registry,
    Scheme,
    affine_quantize_dequantize,
    explain,
    float_cast,
    force_backend,
    forced_backend,
    registry,
)

OP = "affine_quantize_dequantize"


def objects_to_negative(x: int, **arguments: Any) -> str | None:
    return "x is negative" if x < 0 else None


@pytest.fixture
def mine() -> Registry:
    """Two kernels of one op: a picky fast one and a reference."""
    made = Registry()

    @made.register(op="root", scheme=Scheme.AFFINE, backend=Backend.TORCH, predicate=objects_to_negative, priority=10)
    def fast(x: int) -> str:
        """The fast one.

        More text.
        """
        return f"fast {x}"

    @made.register(op="root", scheme="affine", backend="reference")
    def slow(x: int) -> str:
        return f"slow {x}"

    return made


def test_highest_priority_that_accepts_is_selected(mine: Registry) -> None:
    kernel = mine.select("root", Scheme.AFFINE, 4)
    assert kernel is not None
    assert kernel.backend is Backend.TORCH
    assert kernel(4) == "fast 4"
    assert mine.select("root", Scheme.AFFINE, -4) is mine.candidates("root", Scheme.AFFINE)[1]


def test_description_is_the_first_line_of_the_docstring(mine: Registry) -> None:
    assert [kernel.description for kernel in mine.kernels()] == ["The fast one.", ""]


def test_explain_says_why_for_every_candidate(mine: Registry) -> None:
    chosen, passed_over = mine.explain("root", Scheme.AFFINE, 4)
    assert chosen.chosen
    assert not passed_over.chosen
    assert "torch kernel comes first (priority 10)" in passed_over.reason
    refused, fallback = mine.explain("root", Scheme.AFFINE, -4)
    assert (refused.reason, fallback.chosen) == ("x is negative", True)
    with force_backend(Backend.TORCH):
        assert "force_backend('torch')" in mine.explain("root", Scheme.AFFINE, 4)[1].reason
    assert str(refused) == "torch (priority 10): not chosen, x is negative"


def test_unknown_pairs_have_no_kernel(mine: Registry) -> None:
    assert mine.select("root", Scheme.FLOAT, 4) is None
    assert mine.explain("other", Scheme.AFFINE, 4) == ()
    assert mine.has_kernels("root", Scheme.AFFINE)
    assert not mine.has_kernels("root", Scheme.MX)
    with pytest.raises(KernelUnavailableError, match="no kernel is registered"):
        mine.require("other", Scheme.AFFINE)


def test_require_lists_the_reasons(mine: Registry) -> None:
    with force_backend("torch"), pytest.raises(KernelUnavailableError, match="x is negative"):
        mine.require("root", Scheme.AFFINE, -1)


def test_equal_priorities_keep_their_order(mine: Registry) -> None:
    @mine.register(op="root", scheme=Scheme.AFFINE, backend=Backend.INTEGER)
    def later(x: int) -> str:
        return "later"

    assert [kernel.backend for kernel in mine.candidates("root", Scheme.AFFINE)] == [
        Backend.TORCH,
        Backend.REFERENCE,
        Backend.INTEGER,
    ]
    assert mine.backends("root") == (Backend.REFERENCE, Backend.TORCH, Backend.INTEGER)
    assert mine.unregister(later) == 1
    assert mine.unregister(later) == 0
    assert mine.backends("root") == (Backend.REFERENCE, Backend.TORCH)


def test_registering_the_same_function_twice_is_refused(mine: Registry) -> None:
    function = mine.candidates("root", Scheme.AFFINE)[0].function
    with pytest.raises(ValueError, match="already the torch kernel of op 'root'"):
        mine.register(op="root", scheme=Scheme.AFFINE, backend=Backend.TORCH)(function)
    assert len(mine.candidates("root", Scheme.AFFINE)) == 2


@pytest.mark.parametrize(
    "wrong", [{"op": ""}, {"scheme": "roman"}, {"backend": "abacus"}], ids=["op", "scheme", "backend"]
)
def test_bad_names_are_refused(mine: Registry, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"empty name|not a valid"):
        mine.register(**{"op": "root", "scheme": "affine", "backend": "torch", **wrong})


def test_forcing_is_scoped_and_restored_after_an_error() -> None:
    assert forced_backend() is None
    with force_backend(Backend.REFERENCE):
        with contextlib.suppress(ZeroDivisionError), force_backend("torch"):
            assert forced_backend() is Backend.TORCH
            raise ZeroDivisionError
        assert forced_backend() is Backend.REFERENCE
    assert forced_backend() is None
    with pytest.raises(ValueError, match="got 'abacus', expected one of reference, torch"), force_backend("abacus"):
        pass


def test_forcing_does_not_leak_into_other_threads() -> None:
    seen: list[Backend | None] = []
    with force_backend(Backend.REFERENCE):
        fresh = contextvars.Context()
        thread = threading.Thread(target=lambda: fresh.run(lambda: seen.append(forced_backend())))
        thread.start()
        thread.join()
    assert seen == [None]


def test_own_ops_are_registered_with_a_reference() -> None:
    assert set(quantsim_kernels.ops()) >= {
        "affine_dequantize",
        "affine_dynamic_quantize_dequantize",
        "affine_quantize",
        "affine_quantize_dequantize",
        "float_cast",
        "float_dynamic_quantize_dequantize",
        "float_quantize_dequantize",
    }
    for op in quantsim_kernels.ops():
        assert Backend.REFERENCE in quantsim_kernels.backends(op), op
    assert quantsim_kernels.backends(OP) == (Backend.REFERENCE, Backend.TORCH, Backend.TRITON, Backend.INTEGER)
    assert all(kernel.description for kernel in registry.kernels())


def test_plain_cpu_tensors_get_the_torch_kernel() -> None:
    decisions = {
        decision.kernel.backend: decision
        for decision in explain(OP, Scheme.AFFINE, torch.ones(2), torch.ones(()), None, -8, 7, None)
    }
    assert decisions[Backend.TORCH].chosen
    assert "CUDA" in decisions[Backend.TRITON].reason
    meta = explain(OP, Scheme.AFFINE, torch.ones(2, device="meta"), torch.ones(()), None, -8, 7, None)
    assert next(decision for decision in meta if decision.chosen).kernel.backend is Backend.REFERENCE


def test_a_newly_registered_kernel_is_used_at_once_and_gone_when_removed() -> None:
    def constant(x: torch.Tensor, *operands: Any, **arguments: Any) -> torch.Tensor:
        return torch.full_like(x, 42.0)

    x, scale = torch.ones(2), torch.ones(())
    registry.register(op=OP, scheme=Scheme.AFFINE, backend=Backend.INTEGER, priority=99)(constant)
    try:
        assert affine_quantize_dequantize(x, scale, None, -8, 7).tolist() == [42.0, 42.0]
    finally:
        assert registry.unregister(constant) == 1
    assert affine_quantize_dequantize(x, scale, None, -8, 7).tolist() == [1.0, 1.0]


def test_forcing_a_backend_that_cannot_run_says_why() -> None:
    with force_backend("integer"), pytest.raises(KernelUnavailableError, match="force_backend"):
        float_cast(torch.ones(2), "e4m3fn")


def test_schemes_of_an_op(mine: Registry) -> None:
    assert mine.schemes("root") == {Scheme.AFFINE}
    assert mine.schemes("branch") == frozenset()

    @mine.register(op="root", scheme=Scheme.FLOAT, backend=Backend.REFERENCE)
    def root(x: int) -> int:
        return x

    assert mine.schemes("root") == {Scheme.AFFINE, Scheme.FLOAT}
    mine.unregister(root)
    assert mine.schemes("root") == {Scheme.AFFINE}


def test_screens_are_asked_before_operands_are_made(mine: Registry) -> None:
    assert mine.may_select("root", Scheme.AFFINE, 3)  # kernels without a screen may always run
    assert not mine.may_select("root", Scheme.FLOAT, 3)
    asked: list[int] = []

    def screen(x: int) -> bool:
        asked.append(x)
        return x > 0

    @mine.register(op="root", scheme=Scheme.FLOAT, backend=Backend.REFERENCE, screen=screen)
    def root(x: int) -> int:
        return x

    assert mine.may_select("root", Scheme.FLOAT, 3)
    assert not mine.may_select("root", Scheme.FLOAT, -3)
    assert asked == [3, -3]


def test_a_kernel_on_request_runs_only_where_its_backend_is_forced() -> None:
    mine = Registry()

    @mine.register(op="double", scheme=Scheme.AFFINE, backend=Backend.INTEGER, on_request=True)
    def double(x: int) -> int:
        return 2 * x

    assert mine.select("double", Scheme.AFFINE, 3) is None
    (decision,) = mine.explain("double", Scheme.AFFINE, 3)
    assert not decision.chosen
    assert decision.reason == "it runs on request only: force_backend('integer')"
    with force_backend("reference"):
        assert mine.select("double", Scheme.AFFINE, 3) is None
    with force_backend("integer"):
        kernel = mine.select("double", Scheme.AFFINE, 3)
    assert kernel is not None
    assert kernel(3) == 6
