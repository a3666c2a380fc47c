from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim.sim.module_kinds import ModuleKind, channel_axis, is_weight, kind_of, operand_inputs


@pytest.mark.parametrize(
    ("op", "module", "kind"),
    [
        ("linear", nn.Linear(2, 2), ModuleKind.MULTIPLYING),
        ("lstm", nn.LSTM(2, 2), ModuleKind.MULTIPLYING),
        ("conv_transpose2d", nn.ConvTranspose2d(1, 1, 1), ModuleKind.MULTIPLYING),
        ("embedding", nn.Embedding(2, 2), ModuleKind.EMBEDDING),
        ("max_pool2d", nn.MaxPool2d(2), ModuleKind.GRID_KEEPING),
        ("multi_head_attention", nn.MultiheadAttention(2, 1), ModuleKind.COMPOSITE),
        ("mse_loss", nn.MSELoss(), ModuleKind.LOSS),
        ("layer_norm", nn.LayerNorm(2), ModuleKind.OTHER),
        ("relu", nn.ReLU(), ModuleKind.OTHER),
        (None, nn.Linear(2, 2), ModuleKind.MULTIPLYING),
        (None, nn.LayerNorm(2), ModuleKind.OTHER),
    ],
    ids=str,
)
def test_kinds(op: str | None, module: nn.Module, kind: ModuleKind) -> None:
    assert kind_of(op, module, dict(module.named_parameters())) is kind


def test_weights_and_their_axes() -> None:
    matrix = torch.zeros(2, 3)
    assert is_weight("weight", matrix)
    assert is_weight("weight_ih_l0", matrix)
    assert not is_weight("bias", matrix)
    assert not is_weight("weight", torch.zeros(3))
    assert not is_weight("weight", matrix.long())
    assert channel_axis("linear", matrix) == 0
    assert channel_axis("conv_transpose1d", torch.zeros(2, 3, 4)) == 1
    assert channel_axis("linear", torch.zeros(3)) is None


def test_a_cell_state_is_no_operand() -> None:
    assert operand_inputs("lstm", ("input", "h", "c")) == {0, 1}
    assert operand_inputs("gru", ("input", "h")) == {0, 1}
    assert operand_inputs("linear", ("input",)) == {0}
