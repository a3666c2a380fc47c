from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from quantsim.experiments.demo.workloads import Measured, Workload
from quantsim.experiments.optical_sweep import SweepPoint, SweepResult


@pytest.fixture
def workload() -> Workload:
    """A BERT of one layer, with labels of its own making: FP32 is always right."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
        model = BertModel(config).eval()
    tokens = torch.randint(50, (16, 12), generator=generator)  # calibrated on the same: nothing is clipped

    def outputs(encoder: Callable[..., Any]) -> torch.Tensor:
        return encoder(input_ids=tokens).pooler_output

    with torch.no_grad():
        labels = outputs(model).argmax(dim=1)

    def evaluate(encoder: Callable[..., Any], on_step: Callable[[], None]) -> Measured:
        on_step()
        given = outputs(encoder)
        return Measured(float((given.argmax(dim=1) == labels).double().mean()), None, given)

    return Workload(
        model="bert",
        title="A tiny BERT",
        task="Made-up tokens.",
        reference=model,
        example_inputs={"input_ids": tokens},
        calibrate=lambda simulation: simulation(input_ids=tokens),
        evaluate=evaluate,
        evaluation_steps=1,
        forward=lambda module: module(input_ids=tokens),
    )


@pytest.fixture
def result() -> SweepResult:
    def point(hardware: str, levels: int, photons: float | None, sqnr: float) -> SweepPoint:
        return SweepPoint(
            hardware=hardware,
            levels=levels,
            photons=photons,
            accuracy=0.5,
            retrieval_at_1=0.25,
            cosine=0.9876,
            sqnr_db=sqnr,
            seconds=1.0,
        )

    return SweepResult(
        title="Model",
        task="A task.",
        versions={"torch": "2"},
        hardware={"a": "engine a", "b": "engine b"},
        accuracy=0.75,
        retrieval_at_1=0.5,
        levels=(point("a", 16, None, 1.25), point("a", 256, None, float("inf")), point("b", 16, None, 3.0)),
        photons=(point("b", 256, 0.5, 4.0), point("b", 256, 10.0, 5.0)),
    )
