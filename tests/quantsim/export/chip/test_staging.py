from __future__ import annotations

from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.export.chip import ChipFolder, load_chip
from quantsim.export.chip.staging import require_place, staging_folder


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "chip"
    with staging_folder(target) as staging:
        (staging / "file").write_text("text")
        assert not target.exists()
        assert staging.parent == target.parent
    assert (target / "file").read_text() == "text"
    assert [path.name for path in target.parent.iterdir()] == ["chip"]
    assert target.stat().st_mode == target.parent.stat().st_mode


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "chip"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), staging_folder(target) as staging:
        (staging / "new").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["chip", "old"]


def test_an_earlier_one_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "chip"
    target.mkdir()
    (target / "old").touch()
    with staging_folder(target) as staging:
        (staging / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["chip", "new"]


def test_only_exports_are_overwritten(chip: ChipFolder, tmp_path: Path) -> None:
    require_place(tmp_path / "nothing", overwrite=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    require_place(empty, overwrite=False)
    require_place(chip.path, overwrite=True)
    with pytest.raises(ConfigurationError, match="pass overwrite=True"):
        require_place(chip.path, overwrite=False)
    (empty / "thesis.txt").write_text("important")
    for path, words in ((empty, "other things than an export"), (empty / "thesis.txt", "this is a file")):
        with pytest.raises(ConfigurationError, match=words):
            require_place(path, overwrite=True)
    assert load_chip(chip.path).manifest == chip.manifest
