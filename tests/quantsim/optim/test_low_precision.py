from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from quantsim.errors import ConfigurationError
from quantsim.optim import LowPrecisionOptimizer
from quantsim.optim.state_tensors import map_state_tensors
from quantsim_encodings.formats import float_format

Make = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd plain": lambda p: torch.optim.SGD(p, lr=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4, history_size=3),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.to(dtype)


def problem(rows: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 8, generator=generator)
    return x, x[:, :1].sin() + 0.5 * x[:, 1:2]


def train(model: nn.Module, optimizer: Any, steps: int) -> list[float]:
    x, y = problem()
    x, y = (tensor.to(next(model.parameters()).dtype) for tensor in (x, y))
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        loss = optimizer.step(closure)
        losses.append(loss.item())
    return losses


def state_values(optimizer: Optimizer) -> dict[str, list[Tensor]]:
    """Copies of all tensors of the state that the rule is about."""
    found: dict[str, list[Tensor]] = {}

    def remember(name: str, values: Tensor) -> Tensor:
        found.setdefault(name, []).append(values.detach().clone())
        return values

    for entry in optimizer.state.values():
        map_state_tensors(dict(entry), remember)
    return found


def is_on(values: Tensor, dtype: Any) -> bool:
    """Whether every element is a number of a type of ml_dtypes."""
    array = values.detach().double().numpy()
    return bool(np.array_equal(array.astype(dtype).astype(np.float64), array))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_as_format_changes_nothing(name: str) -> None:
    plain, low = network(), network()
    expected = train(plain, OPTIMIZERS[name](plain.parameters()), 5)
    wrapped = LowPrecisionOptimizer(OPTIMIZERS[name](low.parameters()), "e8m23", "e8m23")
    assert train(low, wrapped, 5) == expected
    for one, other in zip(plain.parameters(), low.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_and_weights_are_numbers_of_the_format(name: str) -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = LowPrecisionOptimizer(OPTIMIZERS[name](model.parameters()), "e5m2", "bf16", seed=3)
    assert all(is_on(parameter, ml_dtypes.bfloat16) for parameter in model.parameters())
    losses = train(model, optimizer, 6)
    assert all(math.isfinite(loss) for loss in losses)
    assert all(is_on(parameter, ml_dtypes.bfloat16) for parameter in model.parameters())
    values = state_values(optimizer)
    assert bool(values) == (name != "sgd plain")
    assert all(is_on(item, ml_dtypes.float8_e5m2) for items in values.values() for item in items)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_scalars_of_the_state_are_exact() -> None:
    model = network()
    optimizer = LowPrecisionOptimizer(torch.optim.NAdam(model.parameters()), "e2m1")
    train(model, optimizer, 11)  # e2m1 holds neither 11 nor the product of momenta
    exact = network()
    plain = torch.optim.NAdam(exact.parameters())
    train(exact, plain, 11)
    for low, high in zip(optimizer.state.values(), plain.state.values(), strict=True):
        assert torch.equal(low["step"], high["step"])
        assert torch.equal(low["mu_product"], high["mu_product"])


@pytest.mark.parametrize("state_format", ["bf16", "mxfp8_e4m3"])
def test_it_trains_with_momentum_in_low_precision(state_format: str) -> None:
    losses = {}
    for name, format in (("plain", None), ("low", state_format)):
        model = network()
        optimizer = LowPrecisionOptimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), format, seed=1)
        losses[name] = train(model, optimizer, 150)[-1]
    assert losses["plain"] < 0.05
    assert losses["low"] < 2 * losses["plain"] + 0.01


def test_it_trains_with_weights_in_bfloat16_and_all_state_in_eight_bits() -> None:
    model = network()
    optimizer = LowPrecisionOptimizer(
        torch.optim.AdamW(model.parameters(), lr=0.01),
        {"exp_avg": "mxfp8_e4m3", "exp_avg_sq": "e5m2"},
        "bf16",
        seed=5,
    )
    losses = train(model, optimizer, 200)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(("format", "start"), [("e4m3fn", 1.0), ("bf16", 1.0), ("e5m2", -4.0)])
def test_small_updates_move_weights_on_average_and_are_lost_by_rounding_to_nearest(format: str, start: float) -> None:
    count, steps = 20_000, 8
    step_size = abs(start) * 2.0 ** -float_format(format).mantissa_bits  # to the next number above in magnitude
    update = step_size / 32

    def moved(rounding: str) -> Tensor:
        weight = nn.Parameter(torch.full((count,), start))
        optimizer = LowPrecisionOptimizer(torch.optim.SGD([weight], lr=1.0), None, format, rounding, seed=7)
        for _ in range(steps):
            weight.grad = torch.full((count,), -math.copysign(update, start))  # away from zero
            optimizer.step()
        return weight.detach().double()

    assert torch.equal(moved("nearest"), torch.full((count,), start, dtype=torch.float64))
    weights = moved("stochastic")
    assert len(weights.unique()) > 1
    # Sum of steps of variance at most u * d each (u the update, d the spacing), so the mean is known this well:
    deviation = math.sqrt(steps * update * step_size / count)
    assert abs(float(weights.mean()) - (start + math.copysign(steps * update, start))) < 5 * deviation


def test_weights_really_held_in_bfloat16_get_small_updates_too() -> None:
    count = 20_000
    weight = nn.Parameter(torch.ones(count, dtype=torch.bfloat16))
    address = weight.data_ptr()
    optimizer = LowPrecisionOptimizer(torch.optim.SGD([weight], lr=2.0**-12, momentum=0.0), seed=2)
    for _ in range(8):
        weight.grad = -torch.ones(count, dtype=torch.bfloat16)
        optimizer.step()
    assert weight.dtype is torch.bfloat16 and weight.grad is not None and weight.grad.dtype is torch.bfloat16
    assert weight.data_ptr() == address
    # torch alone rounds 1 + 2**-12 to 1 each time.
    expected, spacing = 1 + 8 * 2.0**-12, 2.0**-7
    assert abs(float(weight.detach().double().mean()) - expected) < 5 * math.sqrt(8 * 2.0**-12 * spacing / count)


def test_equal_seeds_give_equal_runs_and_torch_random_numbers_are_left_alone() -> None:
    runs = []
    for seed in (1, 1, 2):
        model = network()
        before = torch.get_rng_state()
        train(model, LowPrecisionOptimizer(torch.optim.Adam(model.parameters()), "bf16", "e4m3fn", seed=seed), 4)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append(torch.cat([parameter.flatten() for parameter in model.parameters()]).detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_each_tensor_is_rounded_with_noise_of_its_own() -> None:
    weights = [nn.Parameter(torch.ones(512)) for _ in range(2)]
    optimizer = LowPrecisionOptimizer(torch.optim.SGD(weights, lr=1.0), None, "e4m3fn", seed=0)
    for weight in weights:
        weight.grad = torch.full((512,), -(2.0**-4))  # half a step
    optimizer.step()
    up = torch.stack([weight.detach() > 1 for weight in weights])
    assert 0.35 < float((up[0] == up[1]).float().mean()) < 0.65


def test_learning_rate_schedulers() -> None:
    model, plain = network(), network()
    inner = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    wrapped = LowPrecisionOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), "fp32")
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(item, max_lr=0.1, total_steps=6) for item in (inner, wrapped)]
    rates: list[list[float]] = [[], []]
    for _ in range(5):
        for rate, scheduler, item, net in zip(rates, schedulers, (inner, wrapped), (plain, model), strict=True):
            train(net, item, 1)
            scheduler.step()
            rate.append(item.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradient_scaler_unscales_and_skips_steps_with_infinite_gradients() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = LowPrecisionOptimizer(torch.optim.AdamW([weight], lr=0.5, fused=True), "bf16", "bf16")
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((weight * 3.0).sum()).backward()
    scaler.unscale_(optimizer)
    assert weight.grad is not None and torch.equal(weight.grad, torch.full((4,), 3.0))
    scaler.step(optimizer)
    scaler.update()
    after = weight.detach().clone()
    assert not torch.equal(after, torch.ones(4))
    optimizer.zero_grad()
    assert weight.grad is None
    scaler.scale((weight * math.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight, after)
    assert scaler.get_scale() == 4.0


def test_a_closure_sees_rounded_weights() -> None:
    model = network(torch.bfloat16)
    optimizer = LowPrecisionOptimizer(
        torch.optim.LBFGS(model.parameters(), max_iter=3, line_search_fn="strong_wolfe"), master_weights=True
    )
    x, y = (tensor.bfloat16() for tensor in problem())
    seen: list[torch.dtype] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        seen.extend(parameter.dtype for parameter in model.parameters())
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    assert set(seen) == {torch.bfloat16} and len(seen) > 4
    assert optimizer.step(closure).item() < first


def test_a_failing_closure_leaves_the_weights_as_they_were() -> None:
    model = network(torch.bfloat16)
    optimizer = LowPrecisionOptimizer(torch.optim.Adam(model.parameters()), "bf16", compact_state=True)
    train(model, optimizer, 2)
    before = copy.deepcopy(model.state_dict())
    kept = state_values(optimizer)

    def closure() -> Tensor:
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        optimizer.step(closure)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.dtype is torch.bfloat16 for parameter in model.parameters())
    for name, values in state_values(optimizer).items():
        assert all(a.dtype is torch.bfloat16 and torch.equal(a, b) for a, b in zip(values, kept[name], strict=True))
    train(model, optimizer, 1)


def test_groups_may_have_formats_of_their_own() -> None:
    model = network()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    exact = [vector.detach().clone() for vector in vectors]
    groups = [{"params": matrices}, {"params": vectors, "weight_format": None, "state_format": "fp16"}]
    optimizer = LowPrecisionOptimizer(torch.optim.SGD(groups, lr=0.01, momentum=0.9), "e5m2", "e4m3fn")
    assert all(torch.equal(old, new) for old, new in zip(exact, vectors, strict=True))
    train(model, optimizer, 3)
    assert all(is_on(matrix, ml_dtypes.float8_e4m3fn) for matrix in matrices)
    assert not any(is_on(vector, ml_dtypes.bfloat16) for vector in vectors if vector.numel() > 4)
    for vector in vectors:
        momentum = optimizer.state[vector]["momentum_buffer"]
        assert is_on(momentum, np.float16) and (vector.numel() < 4 or not is_on(momentum, ml_dtypes.float8_e5m2))


def test_a_group_is_added() -> None:
    first, second = nn.Parameter(torch.full((4,), 1.01)), nn.Parameter(torch.full((4,), 1.01))
    optimizer = LowPrecisionOptimizer(torch.optim.SGD([first], lr=0.5, momentum=0.9), "bf16", "e4m3fn")
    optimizer.add_param_group({"params": second, "lr": 0.25})
    assert torch.equal(second, torch.ones(4))
    assert optimizer.optimizer.param_groups[1]["lr"] == 0.25
    with pytest.raises(ConfigurationError, match="no such format"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "weight_format": "e4m3ff"})
    assert len(optimizer.param_groups) == 2
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [first]})
    first.grad, second.grad = torch.ones(4), torch.ones(4)
    optimizer.step()
    assert torch.equal(first, torch.full((4,), 0.5)) and torch.equal(second, torch.full((4,), 0.75))


def test_compact_state_is_held_in_the_types_of_torch() -> None:
    runs = []
    for compact in (False, True):
        model = network()
        optimizer = LowPrecisionOptimizer(
            torch.optim.AdamW(model.parameters(), lr=0.01),
            {"exp_avg": "e5m2", "exp_avg_sq": "bf16"},
            compact_state=compact,
        )
        losses = train(model, optimizer, 5)
        entry = optimizer.state[next(model.parameters())]
        runs.append((losses, entry["exp_avg"].float(), entry["exp_avg_sq"].float()))
        if compact:
            assert (entry["exp_avg"].dtype, entry["exp_avg_sq"].dtype) == (torch.float8_e5m2, torch.bfloat16)
            assert entry["step"].dtype is torch.float32
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1]) and torch.equal(runs[0][2], runs[1][2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_master_weights_keep_what_the_weights_cannot(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.ones(16, dtype=dtype))
    optimizer = LowPrecisionOptimizer(
        torch.optim.SGD([weight], lr=2.0**-10), None, "e4m3fn", "nearest", master_weights=True
    )
    seen = []
    for _ in range(80):
        weight.grad = -torch.ones(16, dtype=dtype)
        optimizer.step()
        seen.append(weight[0].item())
    # 1 + 80/1024 is nearer to 1.125 than to 1; the tie at 64/1024 goes to the even code, 1.
    assert seen[63] == 1.0 and seen[64] == 1.125 and seen[-1] == 1.125
    assert weight.dtype is dtype


def test_weights_written_from_outside_win_over_their_masters() -> None:
    weight = nn.Parameter(torch.linspace(1, 2, 8))
    optimizer = LowPrecisionOptimizer(torch.optim.SGD([weight], lr=0.0), None, "e4m3fn", master_weights=True)
    masters = torch.linspace(1, 2, 8)
    with torch.no_grad():
        weight[:4] = 5.0
    weight.grad = torch.zeros(8)
    optimizer.step()
    assert torch.equal(weight[:4], torch.full((4,), 5.0))
    saved = optimizer.state_dict()["low_precision"]["master_weights"][0]
    assert torch.equal(saved, torch.cat((torch.full((4,), 5.0), masters[4:])))


def test_parameters_without_a_gradient_stay() -> None:
    model = network(torch.bfloat16)
    optimizer = LowPrecisionOptimizer(torch.optim.Adam(model.parameters()), "bf16", master_weights=True)
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_hooks_of_torch_run() -> None:
    model = network()
    optimizer = LowPrecisionOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), "bf16")
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "mine": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "mine"})
    train(model, optimizer, 1)
    assert calls == ["before", "after"]
    saved = optimizer.state_dict()
    assert saved["mine"] == 1
    optimizer.load_state_dict(saved)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"state_format": "e4m3fnuz"}, ["state_format", "'e4m3fnuz'", "e4m3fn", "mxfp8"]),
        ({"state_format": "e4m33"}, ["state_format", "e4m33", "23 fraction bits", "float32"]),
        ({"state_format": 8}, ["state_format", "8"]),
        ({"state_format": {"exp_avg": "nonsense"}}, ["exp_avg", "nonsense"]),
        ({"weight_format": "e20m3"}, ["weight_format", "e20m3"]),
        ({"rounding": "sideways"}, ["rounding", "sideways", "stochastic"]),
        ({"rounding": 12}, ["rounding", "12"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_changes(arguments: dict[str, Any], words: list[str]) -> None:
    weight = nn.Parameter(torch.full((3,), 1.01))
    with pytest.raises(ConfigurationError) as raised:
        LowPrecisionOptimizer(torch.optim.Adam([weight]), **{"weight_format": "e4m3fn", **arguments})
    for word in words:
        assert word in str(raised.value)
    assert torch.equal(weight, torch.full((3,), 1.01))


def test_what_cannot_be_wrapped_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2))
    inner = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(ConfigurationError, match=r"torch.optim.Optimizer"):
        LowPrecisionOptimizer([weight], "bf16")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="not wrapped yet"):
        LowPrecisionOptimizer(LowPrecisionOptimizer(inner, "bf16"), "bf16")
    with pytest.raises(ConfigurationError, match="differentiable"):
        LowPrecisionOptimizer(torch.optim.SGD([weight], lr=0.1, differentiable=True), "bf16")
    with pytest.raises(ConfigurationError, match="complex64"):
        LowPrecisionOptimizer(torch.optim.SGD([nn.Parameter(torch.ones(2) * 1j)], lr=0.1), "bf16")
    with pytest.raises(ConfigurationError, match="cannot hold"):
        LowPrecisionOptimizer(torch.optim.SGD([nn.Parameter(torch.ones(2).half())], lr=0.1), None, "bf16")


def test_names_of_state_are_checked_when_the_optimizer_has_state() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = LowPrecisionOptimizer(torch.optim.Adam([weight]), {"exp_avgg": "bf16"})
    weight.grad = torch.ones(2)
    with pytest.raises(ConfigurationError, match=r"exp_avgg.*exp_avg_sq"):
        optimizer.step()


def test_zero_dimensional_and_empty_parameters() -> None:
    for format in ("e4m3fn", "mxfp8_e4m3"):
        scalar, empty = nn.Parameter(torch.tensor(1.01)), nn.Parameter(torch.empty(0, 3))
        optimizer = LowPrecisionOptimizer(torch.optim.Adam([scalar, empty], lr=0.5), format, format)
        scalar.grad, empty.grad = torch.tensor(1.0), torch.empty(0, 3)
        optimizer.step()
        assert scalar.item() == 0.5


def test_the_text_form_says_what_is_held_how() -> None:
    weight = nn.Parameter(torch.ones(2))
    text = repr(LowPrecisionOptimizer(torch.optim.SGD([weight], lr=0.1), "bf16", "e4m3fn", "nearest"))
    for word in ("LowPrecisionOptimizer", "bf16", "e4m3fn", "nearest_even", "SGD", "lr: 0.1"):
        assert word in text
