"""Results as lines of JSON."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from quantsim.experiments.glue import RunResult, Stage, System, append_result, read_results


def _result(**changes):
    values = {
        "system": System.OPTICAL,
        "stage": Stage.FINE_TUNED,
        "task": "cola",
        "seed": 3,
        "metrics": {"matthews_correlation": 0.1 + 0.2},
        "headline": 0.1 + 0.2,
        "train_steps": 60,
        "seconds": 1.5,
        "settings": {"learning_rate": 1e-5, "transform": {"config": {"fc": {}}}},
    }
    return RunResult(**{**values, **changes})


def test_what_is_appended_is_read_in_order_and_to_the_last_bit(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    first, second = _result(), _result(system=System.RANDOM, stage=Stage.POST_TRAINING, headline=0.0)
    append_result(path, first)
    append_result(path, second)
    assert read_results(path) == [first, second]
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_is_not_there_holds_no_results(tmp_path):
    assert read_results(tmp_path / "none.jsonl") == []


def test_a_line_that_was_cut_off_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    append_result(path, _result())
    path.write_text(path.read_text() + '\n{"system": "opt')
    with pytest.raises(ValueError, match=r"results\.jsonl, line 3: .*Delete the line"):
        read_results(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"headline": float("nan")},
        {"headline": float("inf")},
        {"system": "laser"},
        {"train_steps": -1},
        {"task": ""},
        {"unknown": 1},
    ],
)
def test_what_is_no_result_is_refused(changes):
    with pytest.raises(ValidationError):
        _result(**changes)


def test_results_do_not_change():
    with pytest.raises(ValidationError):
        _result().seed = 4
