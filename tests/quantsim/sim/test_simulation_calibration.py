"""Calibration: what it needs, what it leaves as it was, and that it is all or nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import NonFiniteError, NotCalibratedError
from quantsim.sim import QuantizationSimModel, SimulationConfig


def test_the_forms_of_calibration_agree(mlp: Any) -> None:
    sims = [QuantizationSimModel(mlp.model, mlp.example) for _ in range(3)]
    with sims[0].compute_encodings() as report:
        for batch in mlp.batches:
            sims[0].model(batch)
    assert sims[1].compute_encodings(lambda model: [model(batch) for batch in mlp.batches]) == report
    assert sims[2].compute_encodings(iter(mlp.batches)) == report
    assert report.calibrated == ["0.input_quantizers[0]", "2.input_quantizers[0]"]
    outputs = [mlp.outputs(sim) for sim in sims]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_min_max_ranges_are_those_of_the_data(mlp: Any) -> None:
    config = SimulationConfig.parse(
        {"activations": {"kind": "int", "symmetric": False, "analyzer": "min_max"}, "weights": {"kind": "int"}}
    )
    sim = QuantizationSimModel(mlp.model, mlp.example, config=config)
    sim.compute_encodings(mlp.batches)
    data = torch.cat(mlp.batches)
    first = sim.module("0").input_quantizers[0]
    step = float(first.get_scale().detach())
    assert abs(float(first.get_min().detach()) - float(data.min())) <= step
    assert abs(float(first.get_max().detach()) - float(data.max())) <= step
    weight = sim.module("0").param_quantizers["weight"]
    largest = float(mlp.model[0].weight.detach().abs().max())
    assert float(weight.get_scale().detach()) == pytest.approx(largest / 127.5, rel=0.01)


def test_gradients_training_flags_and_statistics_are_left_alone(cnn: Any) -> None:
    cnn.model.train()
    sim = QuantizationSimModel(cnn.model, cnn.example)
    assert sim.model.training
    mean = sim.model[1].running_mean.clone()
    assert torch.equal(mean, cnn.model[1].running_mean)  # the example run was none of training
    seen = []
    with sim.compute_encodings():
        seen.append(sim.model(cnn.batches[0]).requires_grad)
        assert not sim.model.training
    assert seen == [False]
    assert all(module.training for module in sim.model.modules() if not list(module.children()))
    assert torch.equal(sim.model[1].running_mean, mean)
    assert all(values.grad is None for values in sim.model.parameters())


def test_activations_pass_unquantized_and_weights_quantized_meanwhile(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    first, results = sim.module("0"), []

    def run(model: Any) -> None:
        results.append(model[0](mlp.example))
        model(mlp.example)

    sim.compute_encodings(run)
    with torch.no_grad():
        weight = first.param_quantizers["weight"](first.weight)
    assert not torch.equal(weight, first.weight)
    assert torch.equal(results[0], nn.functional.linear(mlp.example, weight, first.bias))


@pytest.mark.parametrize("stage", ["fresh", "calibrated"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None], ids=["nan", "inf", "exception"])
def test_a_failure_leaves_all_as_it_was(
    mlp: Any, stage: str, bad: float | None, frozen_copy: Any, assert_same_state: Any
) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    if stage == "calibrated":
        sim.compute_encodings(mlp.batches)
    sim.compute_param_encodings()
    before, uncalibrated = frozen_copy(sim), sim.uncalibrated()
    samples = Counter({place: quantizer.samples_seen for place, quantizer in sim.quantizers()})
    batch = mlp.batches[0].clone()
    if bad is not None:
        batch[2, 3] = bad

    def run(model: nn.Module) -> None:
        model(mlp.batches[1] * 50)
        model(batch)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError if bad is None else NonFiniteError) as caught:
        sim.compute_encodings(run)
    if bad is not None:
        assert "0.input_quantizers[0]" in str(caught.value)
    assert_same_state(sim.state_dict(), before)
    assert sim.uncalibrated() == uncalibrated
    assert samples == Counter({place: quantizer.samples_seen for place, quantizer in sim.quantizers()})
    assert not any(quantizer.is_observing for _, quantizer in sim.quantizers())
    if stage == "fresh":
        with pytest.raises(NotCalibratedError):
            sim(mlp.example)
    # The batches of the failed calibration left no trace in the statistics.
    sim.compute_encodings(mlp.batches)
    twin = QuantizationSimModel(mlp.model, mlp.example)
    twin.compute_encodings(mlp.batches)
    assert torch.equal(mlp.outputs(sim), mlp.outputs(twin))


def test_a_batch_that_the_model_refuses_changes_nothing(mlp: Any, frozen_copy: Any, assert_same_state: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    sim.compute_encodings(mlp.batches)
    before = frozen_copy(sim)
    with pytest.raises(RuntimeError):
        sim.compute_encodings([mlp.batches[0] * 9, torch.zeros(1, 3)])
    assert_same_state(sim.state_dict(), before)


class Branching(nn.Module):
    """Reaches its second layer only when asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.rarely = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, deep: bool = False) -> Tensor:
        return self.rarely(self.always(x)) if deep else self.always(x)


def test_quantizers_that_see_no_data_are_reported() -> None:
    x = torch.randn(2, 4)
    sim = QuantizationSimModel(Branching(), (x, True))
    with pytest.warns(UserWarning, match=r"rarely\.input_quantizers\[0\]"):
        report = sim.compute_encodings([x])
    assert report.calibrated == ["always.input_quantizers[0]"]
    assert report.unobserved == ["rarely.input_quantizers[0]"] == list(sim.uncalibrated())
    assert sim(x).shape == (2, 4)
    with pytest.raises(NotCalibratedError, match=r"rarely\.input_quantizers\[0\]"):
        sim(x, deep=True)


def test_uncalibrated_use_names_all_quantizers_at_once(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    with pytest.raises(NotCalibratedError) as caught:
        sim(mlp.example)
    for words in (
        "2 quantizers",
        "0.input_quantizers[0]",
        "2.input_quantizers[0]",
        "compute_encodings",
        "load_encodings",
    ):
        assert words in str(caught.value)


def test_frozen_quantizers_keep_their_range(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    sim.compute_encodings(mlp.batches)
    first, second = (sim.module(path).input_quantizers[0] for path in ("0", "2"))
    first.freeze()
    before = first.get_encodings(), second.get_encodings()
    sim.compute_encodings([mlp.batches[0] * 3])
    assert first.get_encodings() == before[0]
    assert second.get_encodings() != before[1]
