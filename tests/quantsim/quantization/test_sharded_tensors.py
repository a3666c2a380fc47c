from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from quantsim.quantization.sharded_tensors import is_sharded, return_to_shards, whole, write

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
