from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from quantsim.errors import ConfigurationError
from quantsim.quantization.ranks import Ranks

# What two ranks do together is in tests/integration/test_distributed.py.


@pytest.fixture
def lone_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_without_a_process_group_there_are_no_ranks() -> None:
    assert Ranks.of("all") is None
    assert Ranks.of(None) is None


@pytest.mark.parametrize("choice", ["world", 3])
def test_other_choices_are_errors(choice: object) -> None:
    with pytest.raises(ConfigurationError, match="init_process_group"):
        Ranks.of(choice)  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("lone_rank")
def test_one_rank_is_alone() -> None:
    assert Ranks.of("all") is None
    assert Ranks.of(dist.group.WORLD) is None
    with pytest.raises(ConfigurationError, match="leave process_group out"):
        Ranks.of("everyone")  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("lone_rank")
def test_operations_leave_their_arguments_alone() -> None:
    ranks, values = Ranks(None), torch.tensor([[1.0, -2.0]])
    for operation in (ranks.smallest, ranks.largest, ranks.total, ranks.joined):
        result = operation(values)
        assert torch.equal(result, values)
        result.zero_()
        assert float(values[0, 0]) == 1.0
    assert ranks.joined(torch.empty(3, 0)).shape == (3, 0)
    assert ranks.everyone({"any": [1]}) == [{"any": [1]}]
