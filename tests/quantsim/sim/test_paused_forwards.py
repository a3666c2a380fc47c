from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.sim.paused_forwards import run_in_turns


class Note(nn.Module):
    """Adds its name and the batch to a list."""

    def __init__(self, name: str, notes: list[str]) -> None:
        super().__init__()
        self.name, self.notes = name, notes

    def forward(self, x: Tensor) -> Tensor:
        self.notes.append(f"{self.name}{int(x)}")
        return x


class Net(nn.Module):
    """Blocks with code between them that decides what comes next."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.a, self.b, self.c = (Note(name, notes) for name in "abc")
        self.notes = notes

    def forward(self, x: Tensor) -> Tensor:
        kept = x * 10
        y = self.a(x)
        self.notes.append(f"between{int(x)}")
        if int(x) != 2:
            y = self.b(y)
        return self.c(self.a(y)) + kept


def blocks(net: nn.Module) -> dict[str, nn.Module]:
    return dict(net.named_children())


def test_each_block_runs_for_all_forwards_in_one_turn() -> None:
    notes: list[str] = []
    net, results, turns = Net(notes), {}, []

    def run(value: int) -> None:
        results[value] = float(net(torch.tensor(float(value))))

    @contextmanager
    def turn(path: str, block: nn.Module) -> Iterator[None]:
        assert block is blocks(net)[path]
        turns.append(path)
        notes.append(f"<{path}")
        yield
        notes.append(">")

    run_in_turns(blocks(net), [partial(run, value) for value in (1, 2, 3)], turn)
    assert results == {1: 11.0, 2: 22.0, 3: 33.0}
    # Batch 2 skips b and runs on to c; the others' second call of a is a turn of its own.
    assert turns == ["a", "b", "a", "c"]
    assert notes[:9] == ["<a", "a1", "between1", "a2", "between2", "a2", "a3", "between3", ">"]
    assert sorted(note for note in notes if note.startswith("c")) == ["c1", "c2", "c3"]
    assert not net.a._forward_pre_hooks


def test_forwards_without_any_block_just_run() -> None:
    notes: list[str] = []
    net = Net(notes)
    seen = []
    run_in_turns(blocks(net), [lambda: seen.append(1)])
    run_in_turns(blocks(net), [])
    assert seen == [1]
    net(torch.tensor(2.0))
    assert notes == ["a2", "between2", "a2", "c2"]


@pytest.mark.parametrize("at", ["start", "between", "turn"])
def test_an_error_ends_all_forwards(at: str) -> None:
    notes: list[str] = []
    net, cleaned = Net(notes), []
    threads = threading.active_count()

    def run(value: int) -> None:
        try:
            if at == "start" and value == 2:
                raise KeyError(at)
            net(torch.tensor(float(value)))
        finally:
            cleaned.append(value)

    def fail(module: nn.Module, args: Any) -> None:
        if at == "between" and int(args[0]) == 3:
            raise KeyError(at)

    @contextmanager
    def turn(path: str, block: nn.Module) -> Iterator[None]:
        if at == "turn" and path == "b":
            raise KeyError(at)
        yield

    net.b.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match=at):
        run_in_turns(blocks(net), [partial(run, value) for value in (1, 2, 3)], turn)
    assert threading.active_count() == threads
    assert sorted(cleaned) == ([1, 2] if at == "start" else [1, 2, 3])
    assert len(net.a._forward_pre_hooks) == 0 and len(net.b._forward_pre_hooks) == 1


def test_what_belongs_to_the_thread_is_taken_along() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)
    linear, found = nn.Linear(2, 2), []

    def run() -> None:
        found.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), variable.get()))
        found.append(linear(torch.ones(1, 2)).dtype)

    token = variable.set(5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        run_in_turns({"0": linear}, [run])
    variable.reset(token)
    with torch.inference_mode():
        run_in_turns({"0": linear}, [run])
    run_in_turns({"0": linear}, [run])
    assert found == [
        (False, False, 5),
        torch.bfloat16,
        (False, True, 0),
        torch.float32,
        (True, False, 0),
        torch.float32,
    ]
