from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NonFiniteError
from quantsim.sim import QuantizationSimModel, SequentialCalibration


class Unet(nn.Module):
    """Blocks whose results are used again much later, functional operations and a random order of use."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.down = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2)])
        self.up = nn.ModuleList([nn.Linear(16, 8) for _ in range(2)])
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x, kept = self.stem(x).softmax(-1), []
        for block in self.down:
            kept.append(x)
            x = block(x) + x
        for block in self.up:
            x = block(torch.cat([x, kept.pop()], -1))
        return x


@pytest.fixture
def batches() -> list[Tensor]:
    return list(torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0)))


def simulation(config: Any = "w8a8") -> QuantizationSimModel:
    torch.manual_seed(0)
    return QuantizationSimModel(Unet(), torch.ones(1, 4), config=config)


def ranges(sim: QuantizationSimModel) -> dict[str, Tensor]:
    return {name: value for name, value in sim.model.state_dict().items() if name.endswith(("min", "max"))}


def assert_equal_ranges(sim: QuantizationSimModel, other: QuantizationSimModel) -> None:
    expected, got = ranges(sim), ranges(other)
    assert expected.keys() == got.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, got[name])] == []


@pytest.mark.parametrize(
    "choice",
    [
        True,
        "down",
        ["stem", "up.1"],
        SequentialCalibration(batches_at_once=1),
        SequentialCalibration(batches_at_once=3, device="cpu"),
    ],
)
def test_the_ranges_are_those_of_plain_calibration(choice: Any, batches: list[Tensor]) -> None:
    plain, blockwise = simulation(), simulation()
    plain.compute_encodings(batches)
    report = blockwise.compute_encodings(iter(batches), sequential=choice)
    assert report.unobserved == []
    assert_equal_ranges(plain, blockwise)
    counted: Any = blockwise.model
    assert counted.calls == plain.model.calls  # each batch's code between blocks ran once


def test_a_block_is_on_the_device_in_its_turn_only(batches: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    sim, moves = simulation(), []
    blocks = dict(sim.model.down.named_children())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    def record(module: nn.Module, *arguments: Any, **named: Any) -> nn.Module:
        moves.extend(name for name, block in blocks.items() if block is module)
        return module

    monkeypatch.setattr(nn.Module, "to", record)
    sim.compute_encodings(batches, sequential=SequentialCalibration(blocks="down", device="cpu"))
    assert moves == ["0", "0", "1", "1"]  # there and back, once for all batches


def test_inputs_and_outputs_follow_the_device() -> None:
    """The device without memory stands for an accelerator."""
    seen: list[tuple[str, str]] = []
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    for block in model:
        block.register_forward_hook(
            lambda module, args, output: seen.append((args[0].device.type, module.weight.device.type))
        )
    calibration = SequentialCalibration(blocks=["1"], device="meta")
    with pytest.raises(NotImplementedError, match="meta"):  # nothing comes back from there
        calibration.run(model, [torch.ones(1, 2)], where="data")
    assert seen == [("cpu", "cpu"), ("meta", "meta")]


@pytest.mark.parametrize("data", [None, torch.ones(2, 4), {"x": torch.ones(2, 4)}, "text", lambda model: None])
def test_only_batches_will_do(data: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs the batches themselves"):
        simulation().compute_encodings(data, sequential=True)


def test_no_batch_and_wrong_batches_are_named(batches: list[Tensor]) -> None:
    sim = simulation()
    with pytest.raises(ConfigurationError, match="no batch"):
        sim.compute_encodings(iter([]), sequential=True)
    with pytest.raises(ConfigurationError, match="batch 3"):
        sim.compute_encodings([*batches[:3], 7], sequential=SequentialCalibration(batches_at_once=2))
    with pytest.raises(ConfigurationError, match="too few batches"):
        SequentialCalibration(batches_at_once=0)
    with pytest.raises(ConfigurationError, match="how to calibrate"):
        sim.compute_encodings(batches, sequential=3)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert sim.uncalibrated()


def test_an_error_in_a_block_changes_nothing(batches: list[Tensor]) -> None:
    sim = simulation()
    sim.compute_encodings(batches)
    before = {name: value.clone() for name, value in ranges(sim).items()}

    def bad() -> Iterator[Tensor]:
        yield from batches[:2]
        yield torch.full((5, 4), torch.inf)

    with pytest.raises(NonFiniteError, match="stem"):
        sim.compute_encodings(bad(), sequential=True)
    assert all(torch.equal(value, before[name]) for name, value in ranges(sim).items())


def test_choices() -> None:
    assert SequentialCalibration.of(None) is None
    assert SequentialCalibration.of(False) is None
    assert SequentialCalibration.of(True) == SequentialCalibration()
    assert SequentialCalibration.of("layers") == SequentialCalibration(blocks="layers")
