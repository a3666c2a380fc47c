from __future__ import annotations

import pytest
import torch

from quantsim_kernels.triton.availability import launch_objection


def test_objections_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    objection = launch_objection(torch.ones(2))
    assert objection is not None
    assert "CUDA tensors only" in objection
    monkeypatch.setattr("quantsim_kernels.triton.availability.is_interpreted", lambda: True)
    assert launch_objection(torch.ones(2)) is None
    assert launch_objection(torch.ones(2), zero_point_shift=0.5) == "it has no zero_point_shift"
    monkeypatch.setattr("quantsim_kernels.triton.availability.is_installed", lambda: False)
    assert launch_objection(torch.ones(2)) == "the package triton is not installed"
