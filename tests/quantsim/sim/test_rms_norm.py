from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quantsim.sim import QuantizationSimModel, preset
from quantsim.sim.leaf import find_leaves
from quantsim.sim.rms_norm import is_rms_norm

OUTPUTS = preset("w8a8").model_copy(update={"activation_placement": "outputs"})


class TinyRMSNorm(nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class ShiftedRMSNorm(TinyRMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight * x


class GatedRMSNorm(TinyRMSNorm):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return super().forward(x) * torch.sigmoid(gate)


class ProjectedRMSNorm(TinyRMSNorm):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(4, 4)


class MatrixRMSNorm(TinyRMSNorm):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))


class Normalize(TinyRMSNorm):
    pass


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (TinyRMSNorm(), True),
        (ShiftedRMSNorm(), True),
        (GatedRMSNorm(), False),
        (ProjectedRMSNorm(), False),
        (MatrixRMSNorm(), False),
        (Normalize(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_norm_of_one_tensor_with_one_vector_is_meant(module: nn.Module, expected: bool) -> None:
    assert is_rms_norm(module) is expected


@pytest.mark.parametrize("norm", [TinyRMSNorm, ShiftedRMSNorm])
def test_it_is_one_module_with_one_output_quantizer(norm: type[TinyRMSNorm]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), norm(), nn.Linear(4, 2)).eval(), torch.randn(8, 4)
    sim = QuantizationSimModel(model, x, config=OUTPUTS)
    sim.compute_encodings([x])
    assert [place for place, _ in sim.quantizers() if place.startswith("1")] == ["1.output_quantizers[0]"]
    quantized = sim.module("1")
    with torch.no_grad():
        hidden = sim.module("0")(x)
        assert torch.equal(quantized(hidden), quantized.output_quantizers[0](model[1](hidden)))
        exact = model(x)
    assert torch.equal(sim.remove()(x), exact)


def test_rules_reach_it_by_op_and_by_class() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), TinyRMSNorm()).eval(), torch.randn(8, 4)
    for match in ({"op": "rms_norm"}, {"type": "TinyRMSNorm"}):
        rule = {"match": match, "weights": {"kind": "int", "bits": 16}}
        sim = QuantizationSimModel(model, x, config={"name": "norm", "rules": [rule]})
        assert [place for place, _ in sim.quantizers()] == ["1.param_quantizers['weight']"]
    by_op = QuantizationSimModel(
        model, x, config={"operations": {"rms_norm": {"params": {"weight": {"kind": "int", "bits": 8}}}}}
    )
    assert [place for place, _ in by_op.quantizers()] == ["1.param_quantizers['weight']"]


def test_it_can_be_excluded() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), TinyRMSNorm()).eval(), torch.randn(8, 4)
    config = OUTPUTS.model_copy(update={"exclude": preset("w8a8").model_validate({"exclude": ["1"]}).exclude})
    sim = QuantizationSimModel(model, x, config=config)
    assert [leaf.path for leaf in find_leaves(sim.model)] == ["0"]
