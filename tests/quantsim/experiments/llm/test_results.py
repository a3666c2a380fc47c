from __future__ import annotations

from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.results import (
    RESULTS_FILE,
    LanguageResult,
    LanguageStage,
    read_language_results,
    write_language_results,
)


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    results = [
        LanguageResult(
            system="optical",
            stage=LanguageStage.POST_TRAINING,
            loss=1.25,
            perplexity=float("inf"),
            blocks=3,
            settings={"levels": 16, "config": {"fc": None}},
        ),
        LanguageResult(system="original", stage=LanguageStage.TRAINED, loss=1.0, perplexity=2.7, blocks=3, seed=4),
    ]
    path = write_language_results(tmp_path / "new", results)
    assert path == tmp_path / "new" / RESULTS_FILE
    assert read_language_results(path)[1] == results[1]
    assert read_language_results(path)[0].settings == results[0].settings
    assert [each.name for each in path.parent.iterdir()] == [RESULTS_FILE]


@pytest.mark.parametrize("content", [None, "{", "3", '[{"system": "optical"}]'])
def test_what_cannot_be_read_is_told(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / RESULTS_FILE
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_language_results(path)
