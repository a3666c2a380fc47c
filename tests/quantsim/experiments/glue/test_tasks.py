"""The tasks of GLUE."""

from __future__ import annotations

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue import GLUE_TASKS, glue_task
from quantsim.experiments.glue.tasks import custom_task


def test_all_nine_tasks_are_there():
    assert set(GLUE_TASKS) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}


@pytest.mark.parametrize(
    ("name", "labels", "texts", "headline"),
    [
        ("cola", 2, 1, "matthews_correlation"),
        ("sst2", 2, 1, "accuracy"),
        ("mrpc", 2, 2, "accuracy"),
        ("stsb", 1, 2, "combined_score"),
        ("qqp", 2, 2, "accuracy"),
        ("mnli", 3, 2, "accuracy"),
        ("qnli", 2, 2, "accuracy"),
        ("rte", 2, 2, "accuracy"),
        ("wnli", 2, 2, "accuracy"),
    ],
)
def test_each_task_has_its_shape(name, labels, texts, headline):
    task = glue_task(name.upper())
    assert (task.num_labels, len(task.texts), task.headline) == (labels, texts, headline)


@pytest.mark.parametrize(
    ("spelling", "name"), [("SST-2", "sst2"), ("sst", "sst2"), ("STS-B", "stsb"), (" RTE ", "rte")]
)
def test_other_spellings_are_understood(spelling, name):
    assert glue_task(spelling).name == name


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"got 'mrcp'; expected one of cola.*did you mean 'mrpc'"):
        glue_task("mrcp")


def test_own_labels_make_a_classification():
    assert custom_task(("a", "b", "c")).num_labels == 3
