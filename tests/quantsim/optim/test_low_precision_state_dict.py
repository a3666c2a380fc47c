from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.optim import LowPrecisionOptimizer

CASES: dict[str, dict[str, Any]] = {
    "state": {"state_format": "bf16"},
    "state by name": {"state_format": {"exp_avg": "mxfp8_e4m3", "exp_avg_sq": "bf16"}},
    "weights": {"state_format": "e5m2", "weight_format": "e4m3fn"},
    "masters": {"state_format": "bf16", "weight_format": "e4m3fn", "master_weights": True},
    "compact": {"state_format": "bf16", "weight_format": "bf16", "compact_state": True},
}


def network(dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.to(dtype)


def wrapped(model: nn.Module, arguments: dict[str, Any]) -> LowPrecisionOptimizer:
    return LowPrecisionOptimizer(torch.optim.AdamW(model.parameters(), lr=0.01), seed=4, **arguments)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 6, generator=generator).to(next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - x[:, :1].sin()).square().mean().backward()
        optimizer.step()


def everything(model: nn.Module, optimizer: LowPrecisionOptimizer) -> list[Tensor]:
    saved = optimizer.state_dict()
    tensors = [parameter.detach() for parameter in model.parameters()]
    tensors += [
        value
        for _, entry in sorted(saved["state"].items())
        for _, value in sorted(entry.items())
        if isinstance(value, Tensor)
    ]
    return [*tensors, *saved["low_precision"]["master_weights"].values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.dtype is b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_training_continues_bit_for_bit_where_it_was_saved(case: str, dtype: torch.dtype) -> None:
    model = network(dtype)
    optimizer = wrapped(model, CASES[case])
    train(model, optimizer, 4)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 4)
    for optimizer_first in (False, True):
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        again = network(dtype)
        resumed = wrapped(again, CASES[case])
        if optimizer_first:
            resumed.load_state_dict(saved["optimizer"])
        again.load_state_dict(saved["model"])
        if not optimizer_first:
            resumed.load_state_dict(saved["optimizer"])
        train(again, resumed, 4)
        assert same(everything(model, optimizer), everything(again, resumed))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_like_the_original(case: str, way: str) -> None:
    model = network(torch.bfloat16)
    optimizer = wrapped(model, CASES[case])
    torch.optim.lr_scheduler.StepLR(optimizer, 2)  # wraps `step` of this very object
    train(model, optimizer, 3)
    pair = (model, optimizer)
    other, copied = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert isinstance(copied, LowPrecisionOptimizer) and copied.param_groups[0]["params"][0] is next(other.parameters())
    before = everything(model, optimizer)
    train(other, copied, 3)
    assert same(before, everything(model, optimizer))
    train(model, optimizer, 3)
    assert same(everything(model, optimizer), everything(other, copied))


def test_the_state_of_a_bare_optimizer_is_taken_and_rounded() -> None:
    model = network(torch.float32)
    bare = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, bare, 3)
    optimizer = wrapped(network(torch.float32), {"state_format": "bf16"})
    optimizer.load_state_dict(bare.state_dict())
    for one, other in zip(bare.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(one["step"], other["step"])
        assert torch.equal(other["exp_avg"], other["exp_avg"].bfloat16().float())
        torch.testing.assert_close(other["exp_avg"], one["exp_avg"], rtol=2**-7, atol=0)


def test_a_bare_optimizer_takes_the_state_back() -> None:
    model = network(torch.float32)
    optimizer = wrapped(model, {"state_format": "bf16", "weight_format": "bf16"})
    train(model, optimizer, 3)
    bare = torch.optim.AdamW(model.parameters(), lr=0.01)
    bare.load_state_dict(optimizer.state_dict())
    train(model, bare, 1)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = network(torch.bfloat16)
    optimizer = wrapped(model, CASES["masters"])
    train(model, optimizer, 2)
    before = [tensor.clone() for tensor in everything(model, optimizer)]
    other = nn.Linear(3, 3)
    foreign = LowPrecisionOptimizer(torch.optim.AdamW(other.parameters()), "bf16").state_dict()
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(foreign)
    bad = optimizer.state_dict()
    bad["low_precision"]["master_weights"] = {0: torch.zeros(5)}
    with pytest.raises(ConfigurationError, match="do not fit"):
        optimizer.load_state_dict(bad)
    assert same(before, everything(model, optimizer))
    assert all(parameter.dtype is torch.bfloat16 for parameter in model.parameters())
