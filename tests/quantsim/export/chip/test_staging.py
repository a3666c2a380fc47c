from __future__ import annotations

from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.export.chip import MANIFEST_FILE, ChipFolder, load_chip
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
    # A file of this name is in many folders that are not ours.
    other = tmp_path / "application"
    other.mkdir()
    (other / MANIFEST_FILE).write_text('{\n "name": "application",\n "sha256": "..."\n}')
    for path, words in (
        (other, "other things than an export"),
        (empty, "other things than an export"),
        (empty / "thesis.txt", "this is a file"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            require_place(path, overwrite=True)
    assert load_chip(chip.path).manifest == chip.manifest


def test_a_link_stays_and_its_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "chip"
    link.symlink_to(tmp_path / "disk", target_is_directory=True)
    with staging_folder(link) as staging:
        (staging / "new").touch()
    assert link.is_symlink()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["chip", "disk", "disk/new"]
