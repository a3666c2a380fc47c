"""Comparison bit by bit, and the choice of a backend that skips with the registry's own reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

from quantsim_kernels import Backend, Scheme, explain, force_backend

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class SameBits(Protocol):
    def __call__(self, actual: Tensor, expected: Tensor) -> None: ...


class Forced(Protocol):
    def __call__(self, backend: Backend, op: str, scheme: Scheme, *operands: Any) -> Any: ...


@pytest.fixture
def assert_same_bits() -> SameBits:
    """Equal in shape, dtype and every bit, so that -0 differs from 0; all NaN count as one."""

    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        both_nan = actual.isnan() & expected.isnan()
        same = actual.contiguous().view(BITS[actual.element_size()]) == expected.contiguous().view(
            BITS[expected.element_size()]
        )
        wrong = ~(same | both_nan)
        assert not wrong.any(), f"{int(wrong.sum())} differ, first: {actual[wrong][:4]} != {expected[wrong][:4]}"

    return check


@pytest.fixture
def forced() -> Forced:
    """``with forced(backend, op, scheme, *operands)``: forces the backend or skips with its objection."""

    @contextmanager
    def enter(backend: Backend, op: str, scheme: Scheme, *operands: Any) -> Iterator[None]:
        with force_backend(backend):
            decisions = [d for d in explain(op, scheme, *operands) if d.kernel.backend is backend]
            if not any(decision.chosen for decision in decisions):
                pytest.skip(f"{backend}: {decisions[0].reason}")
            yield

    return enter
