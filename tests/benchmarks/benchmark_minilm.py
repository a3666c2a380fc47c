"""A simulated all-MiniLM-L6-v2 (batch 32, 128 tokens) against its float32 self, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import peers
import torch
from harness import Comparison, Options
from models import minilm, minilm_inputs
from torch import nn

from quantsim.sim import QuantizationSimModel, preset

EAGER, COMPILED = 1.6, 1.25
MODULES_ONLY = 1.3
PRESETS = ("w8a8", "w8a8_dynamic", "w4a16_g32", "fp8_e4m3")
VARIANTS = {
    "w8a8, every output": {"activation_placement": "outputs"},
    "w8a8, modules only": {"functional_operations": False},
}


def forward(model: nn.Module | QuantizationSimModel, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    """A call without gradients."""

    def call() -> object:
        with torch.no_grad():
            return model(**inputs)

    return call


def subject(options: Options) -> Iterator[Comparison]:
    """Eager with every preset and with other places for quantizers, then compiled ``w8a8``."""
    model = minilm()
    if model is None:
        return
    inputs = minilm_inputs(batch=4 if options.quick else 32, length=128)
    simulations: dict[str, QuantizationSimModel] = {}
    configs = {name: preset(name) for name in PRESETS}
    configs |= {name: configs["w8a8"].model_copy(update=changes) for name, changes in VARIANTS.items()}
    for name, config in configs.items():
        sim = QuantizationSimModel(model, minilm_inputs(batch=1, length=16), config=config)
        with torch.no_grad():
            sim.compute_encodings(lambda simulated: simulated(**inputs))
        simulations[name] = sim
    functions = {"float32": forward(model, inputs)}
    functions |= {name: forward(sim.model, inputs) for name, sim in simulations.items()}
    if options.peers:
        torchao = peers.torchao_dynamic_model(model)
        if torchao is not None:
            functions["torchao w8a8 dynamic"] = forward(torchao, inputs)
        quanto = peers.quanto_model(model, lambda candidate: candidate(**inputs))
        if quanto is not None:
            functions["quanto w8a8"] = forward(quanto, inputs)
    yield Comparison(
        title="forward, eager",
        baseline="float32",
        functions=functions,
        gates={"w8a8": EAGER, "w8a8, modules only": MODULES_ONLY},
    )
    if not options.compiled:
        return
    torch.compiler.reset()
    compiled = {
        "float32 compiled": forward(torch.compile(model), inputs),
        "w8a8 compiled": forward(torch.compile(simulations["w8a8"].model), inputs),
        "w8a8, every output, compiled": forward(torch.compile(simulations["w8a8, every output"].model), inputs),
        "w8a8_dynamic compiled": forward(torch.compile(simulations["w8a8_dynamic"].model), inputs),
    }
    if options.peers and "torchao w8a8 dynamic" in functions:
        torchao = peers.torchao_dynamic_model(model)
        if torchao is not None:
            compiled["torchao compiled"] = forward(torch.compile(torchao), inputs)
    yield Comparison(
        title="forward, compiled", baseline="float32 compiled", functions=compiled, gates={"w8a8 compiled": COMPILED}
    )
