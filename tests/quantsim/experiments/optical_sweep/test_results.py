from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.optical_sweep import SweepResult


def test_results_survive_their_file(result: SweepResult, tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    result.save(path)
    assert SweepResult.load(path) == result
    assert json.loads(path.read_text())["levels"][1]["sqnr_db"] is None  # JSON has no infinity


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"levels": [{"hardware": "a"}], "photons": []}'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        SweepResult.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.json"):
        SweepResult.load(tmp_path / "nowhere.json")
