"""Peak memory of a no-grad W8A8 forward against float32's, by torch's own allocation events.

Two figures: what one forward allocates at its highest point (``during forward``), and that plus every tensor that was
alive before it (``with persistent tensors``: weights, ranges, quantised weights that are kept).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import torch
from harness import Figure, Options
from models import minilm, minilm_inputs, perceptron
from torch import nn

from quantsim.sim import QuantizationSimModel

GATE = 1.15
MEBIBYTE = 2**20


def persistent_bytes() -> int:
    """Bytes of every tensor storage that Python can reach."""
    gc.collect()
    sizes: dict[int, int] = {}
    for candidate in gc.get_objects():
        # Compiled code leaves fake tensors behind, which are subclasses without memory.
        if type(candidate) in (torch.Tensor, nn.Parameter) and candidate.device.type == "cpu":
            storage = candidate.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that one call has allocated at any time, from the profiler's allocation events in order."""
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        result = call()
        del result
    results = profile.profiler.kineto_results  # pyright: ignore[reportOptionalMemberAccess]
    events = sorted(
        (event for event in results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns()
    )
    if not events:
        raise RuntimeError("the profiler recorded no allocations")
    held = peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure(call: Callable[[], object]) -> tuple[int, int]:
    """(during forward, with persistent tensors), after two calls that fill any cache."""
    with torch.no_grad():
        call()
        call()
    before = persistent_bytes()
    peak = peak_bytes(call)
    return peak, before + peak


def figures(title: str, model: nn.Module, example: object, run: Callable[[nn.Module], object]) -> Iterator[Figure]:
    """Measure float32, turn the same model into a simulation (in place, so that no copy is counted), measure again."""
    other = persistent_bytes() - sum(
        tensor.untyped_storage().nbytes() for tensor in [*model.parameters(), *model.buffers()]
    )
    plain = measure(lambda: run(model))
    sim = QuantizationSimModel(model, example, config="w8a8", in_place=True)
    with torch.no_grad():
        sim.compute_encodings(run)
    simulated = measure(lambda: run(sim.model))
    for index, label in enumerate(("during forward", "with persistent tensors")):
        shared = other if index else 0  # what the program itself holds is not the model's
        ours, theirs = simulated[index] - shared, plain[index] - shared
        note = f"float32 {theirs / MEBIBYTE:.1f} MiB, w8a8 {ours / MEBIBYTE:.1f} MiB"
        yield Figure(title=title, label=label, value=ours / theirs, unit="x", gate=GATE, note=note)


def subject(options: Options) -> Iterator[Figure]:
    """A perceptron (large batch) and MiniLM."""
    batch = torch.randn(256 if options.quick else 4096, 1024)
    yield from figures("perceptron 4 x 1024, batch 4096", perceptron(), batch, lambda model: model(batch))
    model = minilm()
    if model is not None:
        inputs = minilm_inputs(batch=4 if options.quick else 32, length=128)
        yield from figures(
            "MiniLM 32 x 128", model, minilm_inputs(batch=1, length=16), lambda candidate: candidate(**inputs)
        )
