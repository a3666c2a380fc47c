from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from quantsim.nn.pruning_masks import set_pruning_mask
from quantsim.quantization.sharded_tensors import is_sharded, local_parts, return_to_shards, whole, write

# Over two ranks: tests/integration/test_distributed.py.


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Any]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    yield distribute_tensor(torch.arange(4.0), init_device_mesh("cpu", (1,)), [Shard(0)])
    dist.destroy_process_group()


def test_plain_tensors_stay_themselves() -> None:
    values = torch.ones(2)
    assert not is_sharded(values)
    assert not is_sharded(3)
    assert whole(values) is values


def test_sharded_tensors_are_read_and_written(sharded: Any) -> None:
    assert is_sharded(sharded)
    assert torch.equal(whole(sharded), torch.arange(4.0))
    write(sharded, torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert is_sharded(sharded)
    assert whole(sharded).tolist() == [4.0, 3.0, 2.0, 1.0]


def test_fsdp_keeps_no_whole_parameters(sharded: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    model = nn.Linear(4, 4)
    fully_shard(model)
    with torch.no_grad():
        model(torch.ones(1, 4))
    assert not is_sharded(model.weight)
    return_to_shards(model)
    assert is_sharded(model.weight)
    return_to_shards(model)


def test_parts_lie_beside_each_other(sharded: Any) -> None:
    kept = torch.tensor([True, False, True, False])
    values, part = local_parts(sharded, kept)
    values.masked_fill_(~part, 7.0)
    assert whole(sharded).tolist() == [0.0, 7.0, 2.0, 7.0]


def test_masks_hold_on_sharded_parameters(sharded: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    model: Any = nn.Linear(8, 4)
    set_pruning_mask(model, torch.arange(32).reshape(4, 8) % 2 == 0)
    fully_shard(model)
    with torch.no_grad():
        model.weight.to_local().fill_(3.0)
    saved = model.state_dict()["weight"]
    assert is_sharded(saved)
    assert whole(saved).sum().item() == 16 * 3.0
    set_pruning_mask(model, model.weight.detach() > 5.0)
    assert not is_sharded(model.weight_pruning_mask)
    assert whole(model.state_dict()["weight"]).abs().sum().item() == 0.0
