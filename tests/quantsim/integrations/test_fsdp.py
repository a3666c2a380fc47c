from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.integrations.fsdp import make_ranges_shardable, shard_simulation
from quantsim.sim import QuantizationSimModel

# Training over two ranks: tests/integration/test_distributed.py.


@pytest.fixture
def lone_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def simulation(model: nn.Module | None = None) -> QuantizationSimModel:
    torch.manual_seed(0)
    return QuantizationSimModel(model or nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 4))


def test_ranges_without_a_dimension_get_one() -> None:
    sim, x = simulation(), torch.randn(8, 4)
    sim.compute_encodings([x])
    before, encodings = sim(x), sim.encodings()
    make_ranges_shardable(sim.model)
    assert all(value.dim() > 0 for value in sim.model.parameters())
    assert torch.equal(sim(x), before)
    sim.load_encodings(encodings)
    assert torch.equal(sim(x), before)
    plain = simulation()
    plain.model.load_state_dict(sim.state_dict())
    assert torch.equal(plain(x), before)


def test_without_a_process_group() -> None:
    with pytest.raises(ConfigurationError, match="torchrun"):
        shard_simulation(simulation())


@pytest.mark.usefixtures("lone_rank")
def test_blocks_and_root_are_sharded() -> None:
    from torch.distributed.fsdp import FSDPModule

    sim, x = simulation(), torch.randn(8, 4)
    sim.compute_encodings([x])
    before = sim(x).detach()
    model = shard_simulation(sim, ["0"], reshard_after_forward=True)
    assert [isinstance(module, FSDPModule) for module in (model, model[0], model[2])] == [True, True, False]
    torch.testing.assert_close(sim(x).detach(), before)
    sim(x).sum().backward()
    assert all(value.grad is not None for value in model.parameters())
    assert len(sim.encodings().entries) == 4


@pytest.mark.usefixtures("lone_rank")
def test_parameters_of_two_blocks_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(ConfigurationError, match=r"'0\.weight' is '1\.weight'"):
        shard_simulation(simulation(model), ["0", "1"])
