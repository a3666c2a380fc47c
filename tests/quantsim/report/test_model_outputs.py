from __future__ import annotations

import math
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.report.model_outputs import (
    OutputError,
    accuracy,
    compared_values,
    first_samples,
    main_output,
    read_batches,
)
from quantsim.sim.example_inputs import ModelInputs

Pair = namedtuple("Pair", ["mask", "scores"])


@dataclass
class Output:
    loss: Tensor
    hidden: Tensor


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (ONES, "output"),
        ({"hidden": torch.zeros(1), "logits": ONES}, "logits"),
        ({"loss": torch.tensor(1.0), "y": ONES}, "y"),
        ((torch.zeros(2, dtype=torch.int64), [ONES]), "output 0"),
        (Pair(torch.ones(2, dtype=torch.bool), ONES), "scores"),
        (Output(torch.tensor(1.0), ONES), "hidden"),
    ],
)
def test_the_main_output(output: Any, name: str) -> None:
    found = main_output(output)
    assert found is not None
    assert found[0] == name
    assert found[1] is ONES


def test_a_scalar_is_better_than_nothing() -> None:
    found = main_output({"loss": torch.tensor(2.0)})
    assert found is not None and found[0] == "loss"
    assert main_output((torch.tensor(1), None, "text")) is None


def test_masked_positions_do_not_count() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    inputs = ModelInputs.of({"input_ids": torch.zeros(2, 3), "attention_mask": mask})
    output = torch.arange(12.0).reshape(2, 3, 2)
    assert compared_values(inputs, output).tolist() == [[0, 1], [2, 3], [6, 7]]
    assert compared_values(inputs, torch.ones(2, 4)).shape == (2, 4)  # pooled: no positions
    assert compared_values(ModelInputs(), torch.ones(5)).shape == (1, 5)
    assert compared_values(ModelInputs(), torch.tensor(1.0)).shape == (1, 1)


def test_errors_add_up_over_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    near = exact + 0.1 * torch.randn(10, 4, generator=generator, dtype=torch.float64)
    error = OutputError()
    error.add(exact[:3], near[:3])
    error.add(exact[3:], near[3:])
    expected = 10 * math.log10(float(exact.square().sum() / (exact - near).square().sum()))
    assert error.sqnr_db == pytest.approx(expected)
    cosines = [float(a @ b / a.norm() / b.norm()) for a, b in zip(exact, near, strict=True)]
    assert error.cosine == pytest.approx(sum(cosines) / 10)


def test_edges_of_errors() -> None:
    equal, broken, masked = OutputError(), OutputError(), OutputError()
    equal.add(torch.zeros(1, 2).double(), torch.zeros(1, 2).double())
    assert (equal.sqnr_db, equal.cosine) == (math.inf, 1.0)
    broken.add(torch.ones(1, 2).double(), torch.tensor([[1.0, math.nan]]).double())
    assert broken.sqnr_db == -math.inf
    masked.add(torch.tensor([[1.0, -math.inf]]).double(), torch.tensor([[1.0, -math.inf]]).double())
    assert masked.sqnr_db == math.inf


def test_accuracy_over_batches_of_different_sizes() -> None:
    scores = torch.eye(3)
    outputs = [{"logits": scores}, {"logits": scores[:1]}]
    assert accuracy(outputs, [0, 1, 0, 0]) == 0.75
    assert accuracy(outputs, [torch.tensor([0, 1, 0]), torch.tensor([1])]) == 0.5
    assert accuracy(outputs, torch.tensor([0, -100, 2, -100])) == 1.0


def test_accuracy_of_positions_with_classes_last_or_second() -> None:
    labels = torch.tensor([[0, 1, 2, -100]])
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 3]]), 5).float()
    assert accuracy([scores], labels) == pytest.approx(2 / 3)
    assert accuracy([scores.transpose(1, 2)], labels) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], "labels of shape"),
        ([0.5, 1.0, 2.0], "integers"),
        ("abc", "class indices"),
        ([-100, -100, -100], "no label that counts"),
        (torch.zeros(3, 7, dtype=torch.int64), "batch 0"),
        (torch.tensor(1), "labels of shape"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        accuracy([torch.eye(3)], labels)


def test_outputs_without_classes() -> None:
    with pytest.raises(ConfigurationError, match="pass metric="):
        accuracy([torch.ones(3)], [0, 1, 2])
    with pytest.raises(ConfigurationError, match="NoneType"):
        accuracy([None], [0])


@pytest.mark.parametrize("batches", [torch.ones(2, 2), {"x": torch.ones(1)}, "abc", 3])
def test_what_is_no_series_of_batches(batches: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"data: the data is no series of batches"):
        read_batches(batches, where="data")


def test_no_batch_and_a_wrong_batch() -> None:
    with pytest.raises(ConfigurationError, match="no batch"):
        read_batches(iter(()), where="data")
    with pytest.raises(ConfigurationError, match="data: batch 1"):
        read_batches([torch.ones(1), 7], where="data")


def test_a_batch_is_cut_only_where_all_tensors_have_its_rows() -> None:
    both = ModelInputs.of({"x": torch.ones(8, 2), "mask": torch.ones(8), "flag": True})
    cut = dict(first_samples(both, 3).kwargs or {})
    assert (cut["x"].shape, cut["mask"].shape, cut["flag"]) == ((3, 2), (3,), True)
    uneven = ModelInputs.of((torch.ones(8, 2), torch.ones(1, 2)))
    assert first_samples(uneven, 3) is uneven
    assert first_samples(both, 8) is both
    scalar = ModelInputs.of(torch.tensor(1.0))
    assert first_samples(scalar, 1) is scalar
