"""Metrics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from quantsim.errors import ShapeError
from quantsim.experiments.glue import glue_task
from quantsim.experiments.glue.metrics import is_constant, metrics_of, predictions_of


@pytest.fixture
def binary():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 200)
    return np.where(generator.random(200) < 0.7, labels, 1 - labels), labels


def test_matthews_correlation_by_its_formula(binary):
    given, right = binary
    tp, tn = ((given == 1) & (right == 1)).sum(), ((given == 0) & (right == 0)).sum()
    fp, fn = ((given == 1) & (right == 0)).sum(), ((given == 0) & (right == 1)).sum()
    expected = (tp * tn - fp * fn) / np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    found = metrics_of(glue_task("cola"), given, right)
    assert found["matthews_correlation"] == pytest.approx(expected, abs=1e-12)
    assert found["accuracy"] == (given == right).mean()


@pytest.mark.parametrize("task", ["mrpc", "qqp"])
def test_f1_by_its_formula(binary, task):
    given, right = binary
    tp, wrong = ((given == 1) & (right == 1)).sum(), (given != right).sum()
    assert metrics_of(glue_task(task), given, right)["f1"] == pytest.approx(2 * tp / (2 * tp + wrong))


def test_correlations_by_their_formulas():
    generator = np.random.default_rng(2)
    right = generator.random(50)
    given = right + generator.normal(0, 0.3, 50)
    found = metrics_of(glue_task("stsb"), given, right)
    ranks = [np.argsort(np.argsort(values)) for values in (given, right)]
    assert found["pearson"] == pytest.approx(np.corrcoef(given, right)[0, 1])
    assert found["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["combined_score"] == pytest.approx((found["pearson"] + found["spearmanr"]) / 2)


@pytest.mark.parametrize("task", ["mnli", "rte", "qnli", "sst2", "wnli"])
def test_the_others_are_judged_by_accuracy(task):
    assert metrics_of(glue_task(task), [0, 1, 1, 0], [0, 1, 0, 0]) == {"accuracy": 0.75}


def test_what_is_undefined_counts_as_zero():
    assert metrics_of(glue_task("cola"), [1, 1], [0, 1])["matthews_correlation"] == 0.0
    assert metrics_of(glue_task("mrpc"), [0, 0], [0, 1])["f1"] == 0.0
    assert metrics_of(glue_task("stsb"), [np.nan, 1.0], [0.0, 1.0])["combined_score"] == 0.0


def test_predictions_are_the_largest_output_or_the_number():
    assert predictions_of(glue_task("mnli"), ([[0, 2, 1], [3, 2, 1]], "hidden states")).tolist() == [1, 0]
    assert predictions_of(glue_task("stsb"), [[0.5], [4.0]]).tolist() == [0.5, 4.0]


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"outputs of shape \(1, 2\); expected \(n, 3\)"):
        predictions_of(glue_task("mnli"), [[0.0, 1.0]])
    with pytest.raises(ShapeError, match="as many of both"):
        metrics_of(glue_task("rte"), [0, 1], [0])


def test_a_collapse_is_seen():
    assert is_constant([0.25, 0.25])
    assert is_constant([np.nan, 0.25])
    assert not is_constant([0.25, 0.5])
