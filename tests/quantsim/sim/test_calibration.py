from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.sim.calibration import batch_runner, evaluation_mode


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        self.seen.append(len(x))
        return x * scale


def test_every_batch_is_run_in_any_form_and_only_once() -> None:
    model = Counting()
    batches = (batch for batch in [torch.zeros(1), (torch.zeros(2), 2.0), {"x": torch.zeros(3)}])
    batch_runner(batches, where="data")(model)
    assert model.seen == [1, 2, 3]


@pytest.mark.parametrize("data", [torch.zeros(2, 2), {"x": 1}, "text", 3])
def test_what_is_no_series_is_an_error(data: object) -> None:
    with pytest.raises(ConfigurationError, match="no series of batches"):
        batch_runner(data, where="data")  # type: ignore[arg-type]


def test_no_batch_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no batch"):
        batch_runner(iter([]), where="data")


def test_a_wrong_batch_is_named() -> None:
    with pytest.raises(ConfigurationError, match="batch 1"):
        batch_runner([torch.zeros(1), 3], where="data")(Counting())


def test_training_flags_return_one_by_one_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model.train()
    model[1].eval()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, True, False]
