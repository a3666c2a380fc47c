from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.results import LanguageResult, LanguageStage, write_language_results
from quantsim.experiments.llm.summary import gather_results, stages_table, write_summary


def result(perplexity: float, stage: LanguageStage = LanguageStage.TRAINED, **settings: Any) -> LanguageResult:
    system = "original" if stage is LanguageStage.TRAINED else "optical"
    return LanguageResult(system=system, stage=stage, loss=1.0, perplexity=perplexity, blocks=1200, settings=settings)


TRAINED, CALIBRATED = result(5.0), result(5.5, LanguageStage.POST_TRAINING)
SWEEP = [
    result(5.1, calibration_batches=2),
    result(9.0, LanguageStage.POST_TRAINING, calibration_batches=2, variant="no_noise", levels=16),
]


def test_results_are_gathered_from_folders_and_files_once(tmp_path: Path) -> None:
    write_language_results(tmp_path / "a", [TRAINED, CALIBRATED])
    file = write_language_results(tmp_path / "b", [TRAINED, *SWEEP])
    assert gather_results([tmp_path / "a", file]) == [TRAINED, CALIBRATED, *SWEEP]
    with pytest.raises(ConfigurationError, match="cannot be read"):
        gather_results([tmp_path])


def test_markdown_has_both_tables(tmp_path: Path) -> None:
    text = write_summary(tmp_path / "new" / "page.md", [TRAINED, CALIBRATED, *SWEEP]).read_text()
    assert stages_table([TRAINED, CALIBRATED]) in text
    assert "| optical | calibrated, not trained | 5.500 | +10.00 % | 0 |" in text
    assert "| 16 | 9.000 |\n| float32 | 5.100 |" in text
    assert text.count("Measured on 1,200 blocks") == 2


def test_json_has_all_figures(tmp_path: Path) -> None:
    content = json.loads(write_summary(tmp_path / "all.json", [TRAINED, *SWEEP]).read_text())
    assert [LanguageResult.model_validate(each) for each in content["results"]] == [TRAINED, *SWEEP]
    assert set(content["versions"]) == {"python", "torch", "transformers"}


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no result"):
        write_summary(tmp_path / "a.md", [])
    with pytest.raises(ConfigurationError, match=r"\.md or \.json"):
        write_summary(tmp_path / "a.csv", [TRAINED])
