"""Calibration against the plain forward of the same batches; and one weight's SQNR search.

In whole models the activations use the analyzer that is measured and the weights min-max: a weight is searched once,
however many batches are observed, so its search is measured by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import peers
import torch
from harness import Comparison, Figure, Options
from models import minilm, minilm_inputs, perceptron
from torch import nn

from quantsim.quantization.analyzers import (
    MinMaxEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
)
from quantsim.quantization.base import QuantizerBase
from quantsim.sim import QuantizationSimModel

GATES = {"min-max": 1.5, "percentile": 3.0, "sqnr": 3.0}
WEIGHT_SECONDS = 1.0


def analyzer(kind: str, quantizer: QuantizerBase) -> object:
    """A fresh analyzer of a kind for one quantizer."""
    shape = tuple(quantizer.shape)
    match kind:
        case "min-max":
            return MinMaxEncodingAnalyzer(shape)
        case "percentile":
            return PercentileEncodingAnalyzer(shape, percentile=99.9)
        case _:
            return SqnrEncodingAnalyzer(shape)


def simulation(model: nn.Module, example: object, kind: str) -> QuantizationSimModel:
    """A w8a8 simulation whose activation quantizers use one kind of analyzer, and its weights min-max."""
    sim = QuantizationSimModel(model, example, config="w8a8")
    for module in sim.model.modules():
        for container in ("input_quantizers", "output_quantizers"):
            for quantizer in getattr(module, container, ()):
                if quantizer is not None:
                    quantizer.encoding_analyzer = analyzer(kind, quantizer)
        for quantizer in getattr(module, "param_quantizers", {}).values():
            if quantizer is not None:
                quantizer.encoding_analyzer = analyzer("min-max", quantizer)
    return sim


def calibrate(sim: QuantizationSimModel, run: Callable[[nn.Module], object]) -> Callable[[], object]:
    """One whole calibration: observe every batch, then choose the ranges."""

    def call() -> object:
        with torch.no_grad():
            return sim.compute_encodings(run)

    return call


def whole_model(title: str, model: nn.Module, example: object, run: Callable[[nn.Module], object]) -> Comparison:
    """Each kind of analyzer on one model's batches."""

    def plain() -> object:
        with torch.no_grad():
            return run(model)

    functions: dict[str, Callable[[], object]] = {"plain forward": plain}
    functions |= {kind: calibrate(simulation(model, example, kind), run) for kind in GATES}
    return Comparison(title=title, baseline="plain forward", functions=functions, gates=GATES)


def seconds(function: Callable[[], object], rounds: int) -> float:
    """The fastest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def weight_search(shape: tuple[int, int], rounds: int, *, with_peers: bool) -> Iterator[Figure]:
    """The ranges of one weight, per channel, int8 symmetric."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
    ours: dict[str, Callable[[], object]] = {
        "min-max": lambda: MinMaxEncodingAnalyzer((shape[0], 1)),
        "percentile": lambda: PercentileEncodingAnalyzer((shape[0], 1), percentile=99.9),
        "sqnr": lambda: SqnrEncodingAnalyzer((shape[0], 1)),
    }

    def search(make: Callable[[], object]) -> Callable[[], object]:
        def call() -> object:
            observer = make()
            observer.update_stats(weight)
            return observer.compute_encodings(255, True)

        return call

    title = f"{shape[0]}x{shape[1]} weight, per channel"
    for kind, make in ours.items():
        gate = WEIGHT_SECONDS if kind == "sqnr" else None
        yield Figure(title=title, label=kind, value=seconds(search(make), rounds), unit="s", gate=gate)
    if with_peers:
        for kind, observer in peers.aimet_analyzers((shape[0], 1)).items():

            def call(observer: object = observer) -> object:
                observer.reset_stats()
                observer.update_stats(weight)
                return observer.compute_encodings(255, True)

            yield Figure(title=title, label=f"aimet {kind}", value=seconds(call, 1), unit="s")


def subject(options: Options) -> Iterator[Comparison | Figure]:
    """A perceptron, MiniLM, and one weight."""
    batches = [
        torch.randn(256, 1024, generator=torch.Generator().manual_seed(seed))
        for seed in range(1 if options.quick else 4)
    ]

    def run_perceptron(model: nn.Module) -> None:
        for batch in batches:
            model(batch)

    yield whole_model("perceptron 4 x 1024, 4 batches of 256", perceptron(), batches[0], run_perceptron)
    model = minilm()
    if model is not None:
        inputs = [minilm_inputs(batch=1 if options.quick else 8, length=128)] * (1 if options.quick else 4)

        def run_minilm(candidate: nn.Module) -> None:
            for batch in inputs:
                candidate(**batch)

        yield whole_model("MiniLM, 4 batches of 8 x 128", model, minilm_inputs(batch=1, length=16), run_minilm)
    size = 128 if options.quick else 1024
    yield from weight_search((size, size), 1 if options.quick else 3, with_peers=options.peers)
