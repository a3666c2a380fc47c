"""States are checked before they are taken over, and a simulation's state carries its calibration."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from quantsim.errors import ShapeError
from quantsim.sim import PRESETS, QuantizationSimModel
from quantsim.sim.state import check_state


def test_names_and_shapes_are_checked_all_at_once() -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3), "q._extra_state": torch.zeros(5)}
    with pytest.raises(ShapeError) as caught:
        check_state(own, {"a": torch.zeros(4), "c": torch.zeros(1)}, strict=True, where="loader")
    for words in ("loader", "a: got (4,), expected (2,)", "missing: b", "unknown: c", "strict=False"):
        assert words in str(caught.value)
    check_state(own, {"b": torch.zeros(3), "c": torch.zeros(1)}, strict=False, where="loader")
    with pytest.raises(ShapeError, match="a: got"):
        check_state(own, {"a": torch.zeros(4)}, strict=False, where="loader")


def test_the_settings_of_quantizers_may_be_missing_and_may_differ_in_size() -> None:
    own = {"q.min": torch.zeros(()), "q._extra_state": torch.zeros(5)}
    check_state(own, {"q.min": torch.ones(())}, strict=True, where="loader")
    check_state(own, {"q.min": torch.ones(()), "q._extra_state": torch.zeros(7)}, strict=True, where="loader")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("subject", ["cnn", "bert"], indirect=True)
def test_a_state_goes_into_a_fresh_simulation(subject: Any, name: str, tmp_path: Path) -> None:
    sim = QuantizationSimModel(subject.model, subject.example, config=name)
    sim.compute_encodings(subject.batches)
    expected = subject.outputs(sim)
    torch.save(sim.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(subject.model)
    with torch.no_grad():
        for values in other.parameters():
            values.add_(1.0)
    fresh = QuantizationSimModel(other, subject.example, config=name)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert fresh.uncalibrated() == ()
    assert torch.equal(subject.outputs(fresh), expected)
    for (place, quantizer), (_, original) in zip(fresh.quantizers(), sim.quantizers(), strict=True):
        assert quantizer.get_encodings() == original.get_encodings(), place


def test_a_state_that_does_not_fit_changes_nothing(mlp: Any, frozen_copy: Any, assert_same_state: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    sim.compute_encodings(mlp.batches)
    before = frozen_copy(sim)
    other = QuantizationSimModel(mlp.model, mlp.example, config="w4a8")
    other.compute_encodings([mlp.batches[0] * 7])
    with pytest.raises(ShapeError, match=r"param_quantizers\.weight"):
        sim.load_state_dict(other.state_dict())
    assert_same_state(sim.state_dict(), before)
    with pytest.raises(ShapeError, match=r"param_quantizers\.weight"):
        sim.load_state_dict(other.state_dict(), strict=False)
    assert_same_state(sim.state_dict(), before)
    partial = {name: values for name, values in before.items() if name != "0.bias"}
    with pytest.raises(ShapeError, match=r"missing: 0\.bias"):
        sim.load_state_dict(partial)
    sim.load_state_dict(partial, strict=False)
    assert_same_state(sim.state_dict(), before)


def test_the_float_models_state_fits_without_strictness(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    sim.compute_encodings(mlp.batches)
    expected = mlp.outputs(sim)
    with torch.no_grad():
        sim.model[0].weight.zero_()
    sim.load_state_dict(mlp.model.state_dict(), strict=False)
    assert torch.equal(mlp.outputs(sim), expected)


def test_an_uncalibrated_state_leaves_the_simulation_uncalibrated(mlp: Any) -> None:
    sim, fresh = (QuantizationSimModel(mlp.model, mlp.example) for _ in range(2))
    fresh.load_state_dict(sim.state_dict())
    assert fresh.uncalibrated() == sim.uncalibrated() != ()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda sim: pickle.loads(pickle.dumps(sim))], ids=["copy", "pickle"])
def test_a_simulation_can_be_copied(cnn: Any, copier: Any) -> None:
    sim = QuantizationSimModel(cnn.model, cnn.example)
    sim.compute_encodings(cnn.batches)
    twin = copier(sim)
    expected = cnn.outputs(sim)
    assert torch.equal(cnn.outputs(twin), expected)
    twin.compute_encodings([cnn.batches[0] * 3])
    assert torch.equal(cnn.outputs(sim), expected)
    assert not torch.equal(cnn.outputs(twin), expected)
