"""The self-test finds exact products exact, and inexact ones not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_kernels.torch.integer import _exactness

CPU = torch.device("cpu")


def test_this_cpu_is_exact() -> None:
    assert _exactness.matmul_is_exact(CPU)
    assert _exactness.convolution_is_exact(CPU)


def test_lost_bits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, conv2d = torch.matmul, F.conv2d

    def half_sums(a: Tensor, b: Tensor) -> Tensor:
        return matmul(a, b) if a.dtype is torch.float64 else matmul(a.double(), b.double()).bfloat16().float()

    def transformed(x: Tensor, w: Tensor, **settings: Any) -> Tensor:
        return conv2d(x, w, **settings) * (1 if x.dtype is torch.float64 else 1 + 2**-22)

    monkeypatch.setattr(torch, "matmul", half_sums)
    monkeypatch.setattr(F, "conv2d", transformed)
    for cached in (_exactness._matmul, _exactness._convolution):
        cached.cache_clear()
    try:
        assert not _exactness.matmul_is_exact(CPU)
        assert not _exactness.convolution_is_exact(CPU)
    finally:
        for cached in (_exactness._matmul, _exactness._convolution):
            cached.cache_clear()


def test_each_precision_is_tried_once() -> None:
    _exactness._matmul.cache_clear()
    before = torch.get_float32_matmul_precision()
    try:
        for _ in range(2):
            for precision in ("highest", "medium"):
                torch.set_float32_matmul_precision(precision)
                _exactness.matmul_is_exact(CPU)
    finally:
        torch.set_float32_matmul_precision(before)
    assert _exactness._matmul.cache_info().misses == 2
