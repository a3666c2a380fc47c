"""Gradient checkpointing: a forward that is computed again has the range and the noise of its first time."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantsim.optical import OtLinear
from quantsim.optical.attention import OpticalAttentionCore
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim.quantization.optical._recomputation import MOST_NOTES, Notes, inside_backward, inside_checkpoint


class Block(nn.Module):
    """Two optical layers with attention between; every forward is noted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = OtLinear(8, 8), OtLinear(8, 8, q_init_seed=5)
        self.core = OpticalAttentionCore(q_init_seed=9)
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        y = self.second(self.core(h, h, h)[0])
        self.outputs.append(y.detach().clone())
        return y.square()  # what it saves makes a checkpoint compute up to here again


def run(block: Block, batches: list[Tensor], checkpointed: bool) -> list[Tensor]:
    """Gradients after one backward through the forwards of all batches."""
    losses = []
    for x in batches:
        y = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)
        assert isinstance(y, Tensor)
        losses.append(y.mean())
    torch.stack(losses).sum().backward()
    return [parameter.grad for parameter in block.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("frozen", [False, True])
def test_ranges_and_noise_are_those_of_the_first_time(frozen: bool) -> None:
    batches = [torch.randn(2, 3, 8, requires_grad=True) for _ in range(3)]
    plain = Block()
    with torch.no_grad():
        plain(torch.randn(2, 3, 8))
    plain.train(not frozen)
    plain.outputs.clear()
    saving = copy.deepcopy(plain)
    expected, actual = run(plain, batches, False), run(saving, batches, True)
    assert len(saving.outputs) == 6, "each forward ran twice"
    for mine, theirs in zip(saving.outputs[:3], plain.outputs, strict=True):
        assert torch.equal(mine, theirs)
    for again, first in zip(saving.outputs[3:], reversed(saving.outputs[:3]), strict=True):
        assert torch.equal(again, first)
    for mine, theirs in zip(actual, expected, strict=True):
        assert torch.equal(mine, theirs)
    for (name, mine), theirs in zip(saving.state_dict().items(), plain.state_dict().values(), strict=True):
        if isinstance(mine, Tensor):
            assert torch.equal(mine, theirs), name


def test_the_reentrant_form_moves_no_range_twice() -> None:
    layer = OtLinear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    output = checkpoint(layer, x, use_reentrant=True)
    assert isinstance(output, Tensor)
    before = {name: value.clone() for name, value in layer.state_dict().items() if isinstance(value, Tensor)}
    output.sum().backward()
    assert x.grad is not None
    for name, value in before.items():
        assert torch.equal(layer.state_dict()[name], value), name


def test_nothing_is_noted_without_a_checkpoint() -> None:
    quantizer = OpticalQuantizeDequantize(noise="dither")
    quantizer(torch.randn(5, requires_grad=True)).sum().backward()
    assert not quantizer._notes._calls
    assert not inside_backward() and not inside_checkpoint()


def test_notes_are_few_and_stay_with_their_quantizer() -> None:
    notes = Notes()
    for number in range(MOST_NOTES + 5):
        x = torch.tensor([0.0, float(number)])
        notes.note(x, x * 2, torch.tensor(number))
    assert len(notes._calls) == MOST_NOTES
    found = notes.look_up(torch.tensor([0.0, 20.0]), torch.zeros(2))
    assert found.tolist() == [0.0, 40.0] and int(notes.seed(torch.tensor(-1))) == 20
    missing = notes.look_up(torch.tensor([0.0, 1.0]), torch.ones(2))
    assert missing.tolist() == [1.0, 1.0] and int(notes.seed(torch.tensor(-1))) == -1
    ways: list[Any] = [copy.deepcopy(notes), pickle.loads(pickle.dumps(notes))]
    assert all(not each._calls for each in ways)
