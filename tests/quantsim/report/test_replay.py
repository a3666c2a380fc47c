from __future__ import annotations

import torch
from torch import Tensor, nn

from quantsim.report.replay import OutputReplay


class Counting(nn.Linear):
    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(input)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = Counting(3, 3), Counting(3, 3), Counting(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.first(x))))


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_children())


@torch.no_grad()
def test_what_ran_before_the_change_does_not_run_again() -> None:
    model, x = Net(), torch.ones(2, 3)
    replay = OutputReplay(leaves(model))
    with replay.recording():
        before = model(x)
    assert replay.order == ("first", "twice", "last")
    model.twice.weight.mul_(2)
    expected = model(x)
    counts = {name: module.calls for name, module in leaves(model).items()}
    with replay.replaying(changed=["twice"]):
        assert torch.equal(model(x), expected)
    assert model.first.calls == counts["first"]
    assert model.twice.calls == counts["twice"] + 2
    assert model.last.calls == counts["last"] + 1
    assert not torch.equal(before, expected)
    assert "forward" not in model.first.__dict__


@torch.no_grad()
def test_a_change_of_what_never_ran_changes_nothing() -> None:
    model, x = Net(), torch.ones(2, 3)
    replay = OutputReplay(leaves(model))
    with replay.recording():
        expected = model(x)
    with replay.replaying(changed=["elsewhere"]):
        assert torch.equal(model(x), expected)
    assert model.last.calls == 1


class WritesIntoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Counting(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mul_(3))


@torch.no_grad()
def test_outputs_that_are_written_into_are_computed_again() -> None:
    model, x = WritesIntoOutputs(), torch.ones(2, 3)
    replay = OutputReplay(leaves(model))
    with replay.recording():
        expected = model(x)
    for _ in range(2):
        with replay.replaying(changed=["last"]):
            assert torch.equal(model(x), expected)
    assert model.first.calls == 3
    assert replay.first_output("first") is None


@torch.no_grad()
def test_modules_that_write_into_their_inputs_are_run_again() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.last = nn.ReLU(inplace=True), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = x * 1
            self.act(y)  # the result is in y
            return self.last(y)

    model, x = Net(), torch.tensor([[-1.0, 2.0, -3.0]])
    replay = OutputReplay(leaves(model))
    with replay.recording():
        expected = model(x)
    with replay.replaying(changed=["last"]):
        assert torch.equal(model(x), expected)


@torch.no_grad()
def test_beyond_the_memory_nothing_is_kept() -> None:
    model, x = Net(), torch.ones(2, 3)
    replay = OutputReplay(leaves(model), most_bytes=2 * 3 * 4)
    with replay.recording():
        expected = model(x)
    assert replay.first_output("first") is not None
    assert replay.first_output("last") is None
    with replay.replaying(changed=["last"]):
        assert torch.equal(model(x), expected)
    assert (model.first.calls, model.twice.calls) == (1, 4)


@torch.no_grad()
def test_a_forward_of_the_instance_is_put_back() -> None:
    model, x = Net(), torch.ones(2, 3)
    own = model.first.forward
    model.first.forward = lambda x: own(x) + 1  # as offloading hooks do
    mine = model.first.forward
    replay = OutputReplay(leaves(model))
    with replay.recording():
        expected = model(x)
    with replay.replaying(changed=["last"]):
        assert torch.equal(model(x), expected)
    assert model.first.__dict__["forward"] is mine


def test_tensors_without_a_count_of_writes_are_not_kept() -> None:
    model = Net()
    replay = OutputReplay(leaves(model))
    with torch.inference_mode(), replay.recording():
        model(torch.ones(2, 3))
    assert replay.first_output("first") is None
