"""Models as people have them are simulated without an edit: everything quantized, or listed; compiled; taken off."""

from __future__ import annotations

import copy
import pickle
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from zoo_models import ZOO, SparseMixture, ZooModel

from quantsim.errors import NotCalibratedError
from quantsim.sim import QuantizationSimModel, SimulationConfig, preset
from quantsim.sim.operations import op_of_module

OPERANDS = preset("w8a8")
"""What a matrix engine reads is rounded."""
EVERYWHERE = OPERANDS.model_copy(update={"activation_placement": "outputs"})
"""Every result is rounded, as on an integer accelerator."""
CONFIGS = {"operands": OPERANDS, "outputs": EVERYWHERE}


@dataclass(frozen=True)
class Simulated:
    """A model of the zoo, float and simulated, and what both give."""

    zoo: ZooModel
    model: nn.Module
    exact: Tensor
    sim: QuantizationSimModel
    quantized: Tensor


def float_model(zoo: ZooModel) -> nn.Module:
    torch.manual_seed(0)
    return zoo.build().eval()


def simulate(zoo: ZooModel, config: SimulationConfig) -> Simulated:
    model = float_model(zoo)
    exact = zoo.first_tensor(model)
    sim = QuantizationSimModel(model, (zoo.args, zoo.kwargs), config=config)
    sim.compute_encodings([(zoo.args, zoo.kwargs)])
    return Simulated(zoo, model, exact, sim, zoo.first_tensor(sim))


@cache
def simulated(name: str, placement: str) -> Simulated:
    """One simulation for all tests that leave it as it is."""
    return simulate(ZOO[name], CONFIGS[placement])


def signal_to_noise(exact: Tensor, quantized: Tensor) -> float:
    """In decibels."""
    return float(20 * torch.log10(exact.norm() / (exact - quantized).norm()))


def float_operations(sim: QuantizationSimModel) -> dict[str, int]:
    """Calls of torch functions that no quantizer reaches, by function."""
    counts: Counter[str] = Counter()
    for operation in sim.coverage.operations:
        counts[operation.operation] += operation.count
    return dict(counts)


def float_modules(sim: QuantizationSimModel) -> dict[str, int]:
    """Modules without a quantizer, by op."""
    return dict(Counter(op_of_module(sim.module(path)) or path for path in sim.coverage.without_quantizers))


@pytest.mark.parametrize("placement", CONFIGS)
@pytest.mark.parametrize("name", ZOO)
def test_every_matrix_product_is_quantized_and_the_model_still_works(name: str, placement: str) -> None:
    one = simulated(name, placement)
    coverage = one.sim.coverage
    assert coverage.multiplications == coverage.quantized_multiplications
    assert coverage.uncalled == ()
    assert one.sim.uncalibrated() == ()
    assert not torch.equal(one.quantized, one.exact)
    # Random weights without residuals lose most: MobileNet's 52 convolutions in a row.
    assert signal_to_noise(one.exact, one.quantized) > (5 if name == "mobilenet" else 14)


@pytest.mark.parametrize("name", ZOO)
def test_what_stays_in_floating_point_is_what_the_preset_says(name: str) -> None:
    sim = simulated(name, "operands").sim
    assert float_operations(sim) == ZOO[name].float_operations
    assert float_modules(sim) == ZOO[name].float_modules


@pytest.mark.parametrize("name", ZOO)
def test_nothing_stays_in_floating_point_when_results_are_rounded(name: str) -> None:
    sim = simulated(name, "outputs").sim
    assert float_operations(sim) == {}
    # Norms between a convolution and a ReLU: both go into the convolution, and the ReLU rounds.
    folded = {"resnet": {"batch_norm": 9}, "unet": {"batch_norm": 10}}
    assert float_modules(sim) == folded.get(name, {})


COMPILED = [name for name in ZOO if name != "sparse_mixture"]
QUICKLY_COMPILED = ("bert", "llama", "lstm", "unet")


@pytest.mark.parametrize(
    "name", [name if name in QUICKLY_COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in COMPILED]
)
def test_compiles_in_one_piece_to_the_same_numbers(name: str) -> None:
    one = simulated(name, "outputs")
    torch.compiler.reset()
    compiled = torch.compile(one.sim.model, fullgraph=True, backend="aot_eager")
    assert torch.equal(one.zoo.first_tensor(compiled), one.quantized)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "lstm", "unet"])
def test_compiled_code_is_nearer_to_the_simulation_than_the_simulation_to_the_model(name: str) -> None:
    """Fused code adds up in another order, which moves single values by a step of their grid."""
    one = simulated(name, "outputs")
    torch.compiler.reset()
    compiled = one.zoo.first_tensor(torch.compile(one.sim.model, fullgraph=True))
    assert signal_to_noise(one.quantized, compiled) > signal_to_noise(one.exact, one.quantized) + 3


def test_an_lstm_compiles_after_it_was_copied_and_stored() -> None:
    """torch refuses classes that derive from its LSTM unless it is told not to; a loaded model tells it again."""
    config = torch._dynamo.config
    one = simulated("lstm", "operands")
    for again in (copy.deepcopy(one.sim.model), pickle.loads(pickle.dumps(one.sim.model))):
        with config.patch(allow_rnn=False):
            third = copy.deepcopy(again)
            assert config.allow_rnn
            compiled = torch.compile(third, fullgraph=True, backend="eager")
            assert torch.equal(one.zoo.first_tensor(compiled), one.quantized)


@pytest.mark.parametrize("placement", CONFIGS)
@pytest.mark.parametrize("name", ZOO)
def test_taken_off_it_leaves_no_trace(name: str, placement: str) -> None:
    one = simulate(ZOO[name], CONFIGS[placement])
    plain = one.sim.remove()
    assert torch.equal(one.zoo.first_tensor(plain), one.exact)
    assert [type(module) for module in plain.modules()] == [type(module) for module in one.model.modules()]
    assert [*plain.state_dict()] == [*one.model.state_dict()]


@pytest.mark.parametrize("name", ZOO)
def test_copies_compute_the_same_and_are_independent(name: str) -> None:
    one = simulated(name, "outputs")
    copied = copy.deepcopy(one.sim.model)
    stored = pickle.loads(pickle.dumps(one.sim.model))
    assert torch.equal(one.zoo.first_tensor(copied), one.quantized)
    assert torch.equal(one.zoo.first_tensor(stored), one.quantized)
    with torch.no_grad():
        for values in copied.parameters():
            values.zero_()
    assert torch.equal(one.zoo.first_tensor(one.sim), one.quantized)


@pytest.mark.parametrize("configured", [True, False], ids=["configured", "bare"])
@pytest.mark.parametrize("name", ZOO)
def test_encodings_give_the_same_simulation_again(name: str, configured: bool, tmp_path: Path) -> None:
    one = simulated(name, "outputs")
    one.sim.save_encodings(tmp_path / "model.json")
    again = QuantizationSimModel(one.model, (one.zoo.args, one.zoo.kwargs), config=EVERYWHERE if configured else None)
    again.load_encodings(tmp_path / "model.json")
    assert torch.equal(one.zoo.first_tensor(again), one.quantized)
    if configured:
        assert shared_places(again) == shared_places(one.sim)


def shared_places(sim: QuantizationSimModel) -> set[frozenset[str]]:
    """Places with one quantizer, where there is more than one."""
    places: dict[int, set[str]] = {}
    for place, quantizer in sim.quantizers():
        places.setdefault(id(quantizer), set()).add(place)
    return {frozenset(group) for group in places.values() if len(group) > 1}


def test_experts_that_see_no_token_are_named_before_and_after() -> None:
    torch.manual_seed(0)
    model, few, many = SparseMixture().eval(), torch.randn(2, 16), torch.randn(64, 16)
    sim = QuantizationSimModel(model, many, config=OPERANDS)
    with pytest.warns(UserWarning, match="saw no data"):
        report = sim.compute_encodings([few])
    unseen = {tuple(place.split(".")[:2]) for place in report.unobserved}
    assert unseen < {("experts", str(index)) for index in range(8)}
    assert len(unseen) >= 4
    sim(few)  # goes where calibration went
    with pytest.raises(NotCalibratedError, match=r"experts\.\d\.0"):
        sim(many)
    sim.compute_encodings([few, many])
    assert sim.uncalibrated() == ()
    assert torch.isfinite(sim(many)).all()
