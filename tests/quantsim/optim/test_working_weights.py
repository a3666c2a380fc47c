from __future__ import annotations

import torch
from torch import nn

from quantsim.optim.stored_format import SeededRounding, stored_format
from quantsim.optim.working_weights import WorkingWeights
from quantsim_encodings.formats import RoundingMode

BF16 = stored_format("bf16")
NEAREST = SeededRounding(RoundingMode.NEAREST_EVEN)


def test_narrow_weights_are_wide_inside_a_step_only() -> None:
    parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    parameter.grad = torch.full((4,), 0.5, dtype=torch.bfloat16)
    gradient, address, version = parameter.grad, parameter.data_ptr(), parameter._version
    weights = WorkingWeights()
    weights.adopt(parameter, BF16, NEAREST, keep_master=False)
    weights.enter([(parameter, BF16)])
    assert parameter.dtype is torch.float32 and parameter.grad.dtype is torch.float32
    assert weights.held_dtype(parameter) is torch.bfloat16
    with torch.no_grad():
        parameter.add_(1.0)
    weights.leave(NEAREST, commit=True)
    assert parameter.dtype is torch.bfloat16 and parameter.data_ptr() == address
    assert parameter.grad is gradient
    assert torch.equal(parameter, torch.full((4,), 2.0, dtype=torch.bfloat16))
    assert parameter._version > version  # autograd and caches see the write


def test_without_commit_the_weights_are_what_they_were() -> None:
    parameter = nn.Parameter(torch.ones(4, dtype=torch.float16))
    weights = WorkingWeights()
    weights.enter([(parameter, stored_format("fp16"))])
    with torch.no_grad():
        parameter.add_(1.0)
    weights.leave(NEAREST, commit=False)
    assert torch.equal(parameter, torch.ones(4, dtype=torch.float16))


def test_a_closure_sees_what_the_model_will_hold() -> None:
    parameter = nn.Parameter(torch.ones(4))
    weights = WorkingWeights()
    weights.adopt(parameter, BF16, NEAREST, keep_master=True)
    weights.enter([(parameter, BF16)])
    with torch.no_grad():
        parameter.add_(2.0**-10)
    with weights.shown(NEAREST):
        assert torch.equal(parameter, torch.ones(4))
        parameter.grad = torch.ones(4)
    assert torch.equal(parameter, torch.full((4,), 1 + 2.0**-10))
    weights.leave(NEAREST, commit=True)
    assert torch.equal(parameter, torch.ones(4))
    assert torch.equal(weights.masters[parameter], torch.full((4,), 1 + 2.0**-10))
