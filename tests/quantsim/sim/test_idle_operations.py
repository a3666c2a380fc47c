"""Operation modules without quantizers are reported as the functions they stand for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.sim import QuantizationSimModel
from quantsim.sim.idle_operations import find_idle_operations


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return F.scaled_dot_product_attention(y, y, y) + y + y


def _idle(config: object) -> dict[str, tuple[int, int]]:
    sim = QuantizationSimModel(Attend(), torch.randn(1, 3, 4), config)  # pyright: ignore[reportArgumentType]
    holding = {name.split(".input_q")[0].split(".param_q")[0].split(".output_q")[0] for name, _ in sim.quantizers()}
    idle = [path for path, _ in sim.quantized_modules() if path not in holding]
    found = find_idle_operations(sim.model, idle, holding, {} if sim._run is None else sim._run.calls)
    return {operation.operation: (operation.count, operation.multiplies) for operation in found.operations}


def test_attention_without_quantizers_is_one_operation() -> None:
    assert _idle({"weights": None}) == {"add": (2, 0), "scaled_dot_product_attention": (1, 2)}


def test_what_is_left_of_attention_is_named() -> None:
    assert _idle("w8a8") == {"add": (2, 0), "softmax": (1, 0)}
