"""Two processes on half of the data each against one process on all of it: calibration, errors, training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NonFiniteError, NotCalibratedError, RankError
from quantsim.nn import QuantizedReLU, compute_encodings
from quantsim.quantization import affine
from quantsim.quantization.ranks import Ranks
from quantsim.sim import IntegerSetting, QuantizationSimModel, preset

RANKS = 2
TwoRanks = Callable[..., list[Any]]
"""Runs a function below on two ranks: the fixture of conftest.py."""


def mine(values: Tensor) -> Tensor:
    """This rank's half."""
    return values.chunk(RANKS)[dist.get_rank()]


def ranges(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items() if name.endswith(("min", "max"))}


# ---------------------------------------------------------------- simulations


class Mixture(nn.Module):
    """A router and experts: some see no tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x[:, 0] > 0).long()
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                result = result.index_add(0, rows, expert(x[rows]))
        return result


class Tower(nn.Module):
    """Layers with normalisation, residuals and functional operations."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.layers = nn.ModuleList([Layer() for _ in range(3)])
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


def tower(config: Any = "w8a8") -> tuple[QuantizationSimModel, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x, y = Tower(), torch.randn(16, 8), torch.randn(16, 4)
    return QuantizationSimModel(model, x[:1], config=config), x, y


def min_max() -> Any:
    config = preset("w8a8")
    activations = IntegerSetting(bits=8, symmetric=False, analyzer="min_max")
    return config.model_copy(update={"name": "min-max", "activations": activations})


def scenario_simulation(kind: str, sequential: bool) -> Any:
    config = min_max() if kind == "min-max" else kind
    (alone, x, _), (together, _, _) = tower(config), tower(config)
    batches = [batch for half in x.chunk(RANKS) for batch in half.split(3)]
    alone.compute_encodings(batches, process_group=None)
    report = together.compute_encodings(mine(x).split(3), sequential=sequential)
    return ranges(alone.model), ranges(together.model), report.unobserved


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("kind", ["min-max", "w8a8"])
def test_half_the_data_each_gives_the_ranges_of_all(two_ranks: TwoRanks, kind: str, sequential: bool) -> None:
    for alone, together, unobserved in two_ranks(scenario_simulation, kind, sequential):
        assert len(alone) > 20
        assert unobserved == []
        for name, value in alone.items():
            if kind == "min-max":
                assert torch.equal(value, together[name]), name
            else:
                torch.testing.assert_close(value, together[name], rtol=1e-5, atol=1e-6, msg=name)


def scenario_experts() -> Any:
    torch.manual_seed(0)
    model, x = Mixture(), torch.randn(32, 8)
    x[:, 0] = torch.where(torch.arange(32) < 16, 1.0, -1.0)  # rank 0 feeds expert 1, rank 1 feeds expert 0
    alone, together = (QuantizationSimModel(model, x, config=min_max()) for _ in range(2))
    with pytest.warns(UserWarning, match="experts.2"):
        alone.compute_encodings([x], process_group=None)
    with pytest.warns(UserWarning, match="experts.2"):
        report = together.compute_encodings([mine(x)])
    return ranges(alone.model), ranges(together.model), report.calibrated, report.unobserved


def test_experts_without_tokens_on_a_rank(two_ranks: TwoRanks) -> None:
    first, second = two_ranks(scenario_experts)
    assert first[2:] == second[2:]
    assert first[3] and all("experts.2" in place for place in first[3])
    assert not any("experts.2" in place for place in first[2])
    for alone, together, *_ in (first, second):
        assert len(alone) == len(together)
        for name, value in alone.items():
            assert torch.equal(value.nan_to_num(7.0), together[name].nan_to_num(7.0)), name


def scenario_choice_of_group() -> Any:
    first, second = dist.new_group([0]), dist.new_group([1])
    own = (first, second)[dist.get_rank()]
    found = []
    for group in (None, own, "all", dist.group.WORLD):
        quantizer = affine.QuantizeDequantize((), 8, False)
        relu = QuantizedReLU()
        relu.input_quantizers[0] = quantizer
        with compute_encodings(relu, process_group=group):
            relu(torch.tensor([1.0 + dist.get_rank()]))
        found.append(float(quantizer.max))
    wrong = (second, first)[dist.get_rank()]
    for choice in (wrong, "world", 3):
        with pytest.raises(ConfigurationError, match="process_group"):
            Ranks.of(choice)  # pyright: ignore[reportArgumentType]
    return found


def test_the_group_can_be_chosen(two_ranks: TwoRanks) -> None:
    assert two_ranks(scenario_choice_of_group) == [[1.0, 1.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]]


# ---------------------------------------------------------------- failing together


def scenario_failure(kind: str) -> Any:
    sim, x, _ = tower()
    sim.compute_encodings([x], process_group=None)
    before = ranges(sim.model)
    own = mine(x) * 3
    data: list[Tensor] = [own]
    if dist.get_rank() == 1:
        data = {"nan": [own, own * float("nan")], "no batch": [], "wrong shape": [own[:, :3]]}[kind]
    error: Exception | None = None
    try:
        sim.compute_encodings(data)
    except Exception as raised:
        error = raised
    unchanged = all(torch.equal(value, before[name]) for name, value in ranges(sim.model).items())
    sim.compute_encodings([own])  # the ranks are still in step
    return type(error), str(error), unchanged, ranges(sim.model)


@pytest.mark.parametrize(
    "kind, expected", [("nan", NonFiniteError), ("no batch", ConfigurationError), ("wrong shape", RuntimeError)]
)
def test_an_error_on_one_rank_is_one_on_all(two_ranks: TwoRanks, kind: str, expected: type[Exception]) -> None:
    first, second = two_ranks(scenario_failure, kind)
    assert first[0] is RankError
    assert f"rank 1: {expected.__name__}" in first[1]
    assert second[0] is expected
    assert first[2] and second[2]
    assert all(torch.equal(value, second[3][name]) for name, value in first[3].items())


def scenario_different_models() -> Any:
    sim, x, _ = tower("w8a8" if dist.get_rank() == 0 else "w4a16_g32")
    with pytest.raises(RankError) as caught:
        sim.compute_encodings([mine(x)])
    return str(caught.value), len(sim.uncalibrated()) > 0


def test_ranks_with_other_quantizers(two_ranks: TwoRanks) -> None:
    first, second = two_ranks(scenario_different_models)
    assert "process_group=None" in first[0]
    assert "embed.input_quantizers[0]" in first[0] and "embed.input_quantizers[0]" in second[0]
    assert first[1]


# ---------------------------------------------------------------- training

STEPS = 3


def train(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def one_process(config: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    sim, x, y = tower(config)
    sim.compute_encodings([x], process_group=None)
    before = {name: value.detach().clone() for name, value in sim.model.named_parameters()}
    train(sim.model, x, y)
    return before, {name: value.detach().clone() for name, value in sim.model.named_parameters()}


def largest_difference(expected: dict[str, Tensor], got: dict[str, Tensor]) -> float:
    assert expected.keys() == got.keys()
    return max(float((got[name].reshape(value.shape) - value).detach().abs().max()) for name, value in expected.items())


def scenario_ddp(config: str) -> Any:
    before, expected = one_process(config)
    sim, x, y = tower(config)
    sim.compute_encodings([mine(x)])
    model = nn.parallel.DistributedDataParallel(sim.model)
    train(model, mine(x), mine(y))
    got = {name: value.detach().clone() for name, value in sim.model.named_parameters()}
    return largest_difference(expected, got), _moved_ranges(before, expected)


def scenario_fsdp(config: str, calibrate_sharded: bool) -> Any:
    from quantsim.integrations.fsdp import shard_simulation

    before, expected = one_process(config)
    sim, x, y = tower(config)
    if not calibrate_sharded:
        sim.compute_encodings([mine(x)])
    model = shard_simulation(sim)
    if calibrate_sharded:
        sim.compute_encodings([mine(x)])
    sharded = dict(model.named_parameters())
    assert all(type(value).__name__ == "DTensor" for value in sharded.values())
    start = largest_difference(before, {name: value.full_tensor() for name, value in sharded.items()})
    train(model, mine(x), mine(y))
    parts: dict[str, Any] = dict(model.named_parameters())
    got = {name: value.detach().full_tensor() for name, value in parts.items()}
    with torch.no_grad():
        output = sim(x)
    reference, *_ = tower(config)
    with torch.no_grad():
        for name, value in reference.model.named_parameters():
            value.copy_(expected[name])
    exported = len(sim.encodings().entries)  # read from sharded ranges
    with torch.no_grad():
        close = float((output - reference(x)).abs().max())
    return start, largest_difference(expected, got), _moved_ranges(before, expected), close, exported


def _moved_ranges(before: dict[str, Tensor], after: dict[str, Tensor]) -> int:
    return sum(name.endswith(("min", "max")) and not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("config", ["w8a8", "fp8_e4m3"])
def test_training_under_ddp_equals_one_process(two_ranks: TwoRanks, config: str) -> None:
    for difference, moved in two_ranks(scenario_ddp, config):
        assert difference < 1e-5
        assert moved > 10 or config != "w8a8"


@pytest.mark.parametrize("calibrate_sharded", [False, True])
@pytest.mark.parametrize("config", ["w8a8", "fp8_e4m3"])
def test_training_under_fsdp2_equals_one_process(two_ranks: TwoRanks, config: str, calibrate_sharded: bool) -> None:
    for start, difference, moved, output, exported in two_ranks(scenario_fsdp, config, calibrate_sharded):
        assert start < 1e-6
        assert difference < 1e-5
        assert moved > 10 or config != "w8a8"
        assert output < 1e-4
        assert exported > 10


def scenario_uncalibrated_fsdp() -> Any:
    from torch.distributed.fsdp import fully_shard

    from quantsim.integrations.fsdp import make_ranges_shardable

    sim, x, _ = tower("w4a16_g32")
    make_ranges_shardable(sim.model)
    fully_shard(sim.model)
    try:
        sim(x)
    except NotCalibratedError as error:
        return str(error)
    return None


def test_sharded_weights_are_not_calibrated_in_a_forward(two_ranks: TwoRanks) -> None:
    for message in two_ranks(scenario_uncalibrated_fsdp):
        assert "compute_param_encodings()" in message
