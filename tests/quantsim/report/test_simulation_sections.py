from __future__ import annotations

import torch
from torch import Tensor, nn

from quantsim import QuantizationSimModel
from quantsim.report.simulation_sections import (
    coverage_section,
    dispatch_rows,
    encodings_rows,
    environment,
    format_words,
)
from quantsim.sim import SimulationConfig, preset


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.first(self.table(tokens))
        return self.last(x @ x.transpose(-1, -2) @ x).softmax(-1)


TOKENS = torch.tensor([[1, 2, 3]])


def simulation(**changes: object) -> QuantizationSimModel:
    config = SimulationConfig.parse({**preset("w8a8").model_dump(mode="json"), **changes})
    sim = QuantizationSimModel(Net().eval(), TOKENS, config=config)
    sim.compute_encodings([TOKENS])
    return sim


def test_coverage_by_class_and_reasons() -> None:
    section = coverage_section(simulation())
    rows = {row.op: (row.modules, row.weights, row.activations, row.parameters) for row in section.rows}
    assert rows == {"Linear": (2, 2, 2, 108), "MatMul": (2, 0, 2, 0), "Embedding": (1, 0, 0, 72)}
    left = {row.op: row for row in section.unquantized}
    assert set(left) == {"Embedding", "softmax in Net"}
    assert left["Embedding"].where == ("table",)
    assert "look-up" in left["Embedding"].reason
    assert left["softmax in Net"].where == ("(model)",)
    assert "no operand of a matrix product" in left["softmax in Net"].reason


def test_reasons_come_from_the_configuration() -> None:
    def reason(op: str, **changes: object) -> str:
        rows = coverage_section(simulation(**changes)).unquantized
        return next(row.reason for row in rows if row.op == op)

    assert "excludes it" in reason("Linear", exclude=["first"])
    assert "`functional_operations` off" in reason("matmul in Net", functional_operations=False)
    assert "a rule" in reason("matmul in Net", rules=[{"match": {"op": "matmul"}, "inputs": None}])
    assert "leaves activations in floating point" in reason("softmax in Net", activations=None)


def test_multiplications_come_first() -> None:
    rows = coverage_section(simulation(functional_operations=False)).unquantized
    assert rows[0].op == "matmul in Net"
    assert len(rows[0].where) == 2


def test_dispatch_counts_equal_answers() -> None:
    rows = dispatch_rows(simulation())
    assert {row.op: row.modules for row in rows} == {"linear": 2, "matmul": 2}
    assert all(row.reason and row.source for row in rows)


def test_a_kernel_has_a_name() -> None:
    sim = simulation()
    sim.module("first").set_kernel(lambda *args, **kwargs: None)
    named = [row for row in dispatch_rows(sim) if "lambda" in (row.kernel or "")]
    assert [(row.op, row.modules) for row in named] == [("linear", 1)]


def test_encodings_by_kind() -> None:
    rows = encodings_rows(simulation())
    found = {(row.tensors, row.format): (row.count, row.state) for row in rows}
    assert found["weights", "int8 symmetric, per channel"] == (2, "calibrated")
    assert found["inputs", "uint8 asymmetric, per tensor"] == (6, "calibrated")
    sizes = {row.tensors: row.stored_bytes for row in rows}
    assert sizes == {"weights": 8 * 8 + 4 * 8 + (8 + 4) * 4, "inputs": 0}


def test_formats_in_words_are_by_tensor() -> None:
    words = format_words(simulation())
    assert {str(tensor) for tensor in words} >= {"first.weight", "last.input[0]"}


def test_the_environment_names_versions() -> None:
    facts = dict(environment())
    assert facts["torch"].startswith("2.")
    assert "threads" in facts["Machine"]
