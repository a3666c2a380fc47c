"""Building the simulation of a 12-layer BERT, beyond the deep copy that it contains."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Iterator

import torch
from harness import Figure, Options
from models import bert

from quantsim.sim import QuantizationSimModel

GATE_SECONDS = 0.5


def subject(options: Options) -> Iterator[Figure]:
    """Deep copy and build in turn; the fastest of each."""
    model = bert(2 if options.quick else 12)
    if model is None:
        return
    tokens = torch.arange(1000, 1008)[None]
    copies: list[float] = []
    builds: list[float] = []
    for _ in range(1 if options.quick else 4):
        gc.collect()
        start = time.perf_counter()
        clone = copy.deepcopy(model)
        copies.append(time.perf_counter() - start)
        del clone
        gc.collect()
        start = time.perf_counter()
        sim = QuantizationSimModel(model, {"input_ids": tokens}, config="w8a8")
        builds.append(time.perf_counter() - start)
        del sim
    title = "12-layer BERT"
    yield Figure(title=title, label="deep copy alone", value=min(copies), unit="s")
    yield Figure(title=title, label="build, deep copy within", value=min(builds), unit="s")
    yield Figure(
        title=title, label="build beyond the deep copy", value=min(builds) - min(copies), unit="s", gate=GATE_SECONDS
    )
