from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.cli.comparison import Closeness, main_output, main_tensor, outputs
from quantsim.cli.console import progress_console
from quantsim.cli.outcome import CommandError
from quantsim.errors import ConfigurationError


def test_closeness_is_that_of_all_rows_together() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    y = x + 0.1 * torch.randn(6, 5, dtype=torch.float64, generator=generator)
    closeness = Closeness()
    closeness.add(x[:2], y[:2], {})
    closeness.add(x[2:].reshape(2, 2, 5), y[2:].reshape(2, 2, 5), None)
    assert closeness.sqnr_db == pytest.approx(float(10 * torch.log10(x.square().sum() / (x - y).square().sum())))
    assert closeness.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(x, y).mean()))


def test_padding_does_not_count() -> None:
    x, mask = torch.ones(1, 3, 2), torch.tensor([[1, 1, 0]])
    y = x.clone()
    y[0, 2] = -7
    closeness = Closeness()
    closeness.add(x, y, {"attention_mask": mask})
    assert (closeness.sqnr_db, closeness.cosine) == (math.inf, pytest.approx(1.0))


def test_nothing_to_compare() -> None:
    assert math.isnan(Closeness().sqnr_db)
    silent = Closeness()
    silent.add(torch.zeros(1, 2), torch.ones(1, 2), None)
    assert math.isnan(silent.sqnr_db)
    assert math.isnan(silent.cosine)


class _WithLoss(dict[str, Any]):
    """As the outputs of transformers: the loss comes first."""


@pytest.mark.parametrize(
    "output",
    [
        torch.arange(4.0),
        (torch.tensor(3), torch.arange(4.0)),
        {"hidden": torch.arange(4.0)},
        {"loss": torch.tensor(1.0), "logits": torch.arange(4.0)},
        _WithLoss(loss=torch.tensor(1.0), logits=torch.arange(4.0)),
    ],
)
def test_the_tensor_that_counts(output: object) -> None:
    assert main_tensor(output, "x").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("output", ["text", None, torch.tensor(1), {}, {"a": [torch.tensor(1)]}])
def test_there_is_none(output: object) -> None:
    with pytest.raises(CommandError, match="on batch 3; expected a floating-point tensor in it"):
        main_tensor(output, "batch 3")


def test_a_model_that_fails_is_told_with_the_batch() -> None:
    console = progress_console()
    with pytest.raises(CommandError, match=r"the model fails on batch 1: RuntimeError: mat1"):
        outputs(nn.Linear(3, 1), [torch.zeros(1, 3), torch.zeros(1, 4)], console, "x")
    with pytest.raises(CommandError, match="the model fails on the examples: "):
        outputs(nn.Linear(3, 1), [torch.zeros(1, 4)], console, "x", "the examples")
    with pytest.raises(ConfigurationError, match="batch 0: cannot be read as arguments"):
        outputs(nn.Linear(3, 1), [3], console, "x")


def test_no_gradients_are_kept() -> None:
    [result] = outputs(nn.Linear(3, 1), [torch.zeros(1, 3)], progress_console(), "x")
    assert not result.requires_grad
    assert main_output(nn.Identity(), torch.zeros(2), "x").shape == (2,)


def test_rows_of_zeros_that_agree_are_alike() -> None:
    closeness = Closeness()
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    closeness.add(x, x.clone(), None)
    assert (closeness.sqnr_db, closeness.cosine) == (math.inf, 1.0)


def test_masked_scores_do_not_count() -> None:
    closeness = Closeness()
    closeness.add(torch.tensor([[3.0, 4.0, -math.inf]]), torch.tensor([[3.0, 3.5, -math.inf]]), None)
    assert closeness.sqnr_db == pytest.approx(20.0)


def test_nothing_finite_is_no_agreement() -> None:
    closeness = Closeness()
    closeness.add(torch.full((2, 3), math.nan), torch.full((2, 3), math.nan), None)
    assert math.isnan(closeness.sqnr_db) and math.isnan(closeness.cosine)


def test_a_loss_before_the_output_does_not_count() -> None:
    assert main_tensor((torch.tensor(0.5), torch.arange(4.0)), "x").tolist() == [0, 1, 2, 3]
