from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantsim.cli.metrics import metric_for, metric_named
from quantsim.cli.outcome import CommandError

LOGITS = [torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[5.0, 1.0]])]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([[0, 1], [0]], 1.0), ([[1, 1], [0]], 2 / 3), ([[-100, 0], [0]], 0.5), ([[0.0, 1.0], [0.0]], 1.0)],
)
def test_accuracy_counts_right_answers(labels: list[list[float]], expected: float) -> None:
    metric = metric_named("accuracy")
    assert metric.compute(LOGITS, [torch.tensor(each) for each in labels]) == pytest.approx(expected)


def test_accuracy_of_every_token_and_of_every_pixel() -> None:
    tokens = [torch.eye(3)[None, :2], torch.eye(3)[None]]  # of two lengths
    labels = [torch.tensor([[0, 1]]), torch.tensor([[0, 1, -100]])]
    assert metric_named("accuracy").compute(tokens, labels) == 1.0
    pixels = torch.zeros(2, 4, 5, 5)
    pixels[:, 3] = 1
    assert metric_named("accuracy").compute([pixels], [torch.full((2, 5, 5), 3)]) == 1.0


def test_values_are_compared_as_torch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    got, truth = torch.randn(10, 1, generator=generator), torch.randn(10, generator=generator)
    error = metric_named("mse").compute([got[:4], got[4:]], [truth[:4], truth[4:]])
    assert error == pytest.approx(float(torch.nn.functional.mse_loss(got[:, 0], truth)))
    correlation = metric_named("pearson").compute([got[:4], got[4:]], [truth[:4], truth[4:]])
    assert correlation == pytest.approx(float(torch.corrcoef(torch.stack([got[:, 0], truth]))[0, 1]), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "shape", "name"),
    [
        (torch.tensor([1]), (1, 3), "accuracy"),
        (torch.tensor([1.0]), (1, 3), "accuracy"),
        (torch.tensor([1]), (1, 1), "mse"),
        (torch.tensor([0.5]), (1, 1), "mse"),
        (torch.tensor([[0.5, 1.5]]), (1, 2), "mse"),
    ],
)
def test_what_suits_the_labels(labels: Tensor, shape: tuple[int, ...], name: str) -> None:
    assert metric_for([labels], [torch.zeros(shape)]).name == name


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "words"),
    [
        ("accuracy", torch.zeros(1, 2), torch.tensor([2]), "labels of batch 0: got class 2; expected 0 to 1"),
        ("accuracy", torch.zeros(1, 2), torch.tensor([-1]), "got class -1"),
        ("accuracy", torch.zeros(1, 2), torch.tensor([0.5]), "got fractions; expected classes"),
        ("accuracy", torch.zeros(3, 2), torch.tensor([1, 1]), r"outputs have shape \(3, 2\), labels \(2,\)"),
        ("accuracy", torch.zeros(()), torch.tensor([1]), r"outputs have shape \(\)"),
        ("mse", torch.zeros(3, 2), torch.tensor([1.0, 1.0, 1.0]), r"outputs have shape \(3, 2\), labels \(3,\)"),
    ],
)
def test_labels_that_do_not_fit(metric: str, outputs: Tensor, labels: Tensor, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        metric_named(metric).compute([outputs], [labels])


def test_a_function_of_the_users_gets_all_at_once(code: Path) -> None:
    metric = metric_named(f"{code}:errors")
    assert metric.name == "errors"
    assert metric.compute(LOGITS, [torch.tensor([1, 1]), torch.tensor([0])]) == 1.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("f1", "--metric f1: expected one of accuracy, mse, pearson, or code as"),
        ("{code}:none", "there is no function 'none'"),
        ("missing.py:f", "no such file"),
    ],
)
def test_metrics_that_are_none(code: Path, name: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        metric_named(name.format(code=code))


@pytest.mark.parametrize(("name", "words"), [("words", "ValueError: could not convert"), ("fails", "TypeError")])
def test_a_function_that_fails_is_named(code: Path, name: str, words: str) -> None:
    with pytest.raises(CommandError, match=f"{name}: the function failed: {words}"):
        metric_named(f"{code}:{name}").compute(LOGITS, [torch.tensor([1, 1]), torch.tensor([0])])


def test_batches_that_cannot_be_joined(code: Path) -> None:
    with pytest.raises(CommandError, match=r"the outputs of the batches have shapes \(2, 3\), \(4, 3\)"):
        metric_named(f"{code}:errors").compute([torch.zeros(1, 2, 3), torch.zeros(1, 4, 3)], [torch.zeros(1)] * 2)


def test_whole_numbers_of_the_shape_of_the_outputs_are_values() -> None:
    assert metric_for([torch.tensor([1.0, 2.0])], [torch.zeros(2)]).name == "mse"
    assert metric_for([torch.tensor([1, 2])], [torch.zeros(2)]).name == "mse"
