from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from quantsim.errors import ConfigurationError
from quantsim.export.chip import ChipFolder, ChipManifest
from quantsim.export.chip.manifest import MANIFEST_FILE, _short_lists


def test_it_is_read_as_it_was_written(chip: ChipFolder, tmp_path: Path) -> None:
    chip.manifest.write(tmp_path)
    assert ChipManifest.read(tmp_path) == chip.manifest
    assert (tmp_path / MANIFEST_FILE).read_bytes() == (chip.path / MANIFEST_FILE).read_bytes()


def test_it_says_what_hardware_needs(chip: ChipFolder) -> None:
    plain = json.loads((chip.path / MANIFEST_FILE).read_text())
    assert plain["rounding"] == "half_away_from_zero"
    assert [node["op"] for node in plain["nodes"]] == ["convolution", "clamp", "add", "mean", "linear"]
    conv, head = plain["nodes"][0], plain["nodes"][-1]
    assert conv["attributes"]["padding"] == [[1, 1], [1, 1]]
    assert head["constants"]["weight"]["memory"]["layout"]["bits"] == 4
    assert head["constants"]["bias"]["memory"]["word_bits"] == 32
    assert head["constants"]["multiplier"]["memory"]["layout"]["signed"]
    image = plain["values"][0]
    assert (image["shape"], image["grid"]["scale"]) == ([{"batch": 1}, 4, 6, 6], 0.02)
    assert set(plain["formulas"]) == {"convolution", "clamp", "add", "mean", "linear"}


def test_lists_of_numbers_take_one_line(chip: ChipFolder) -> None:
    text = (chip.path / MANIFEST_FILE).read_text()
    assert '"padding": [[1, 1], [1, 1]],' in text
    assert '"shape": [{"batch": 1}, 4, 6, 6],' in text
    assert not re.search(r"^\s*-?\d+,?$", text, re.MULTILINE)


def test_lists_of_other_things_are_left_as_they_are() -> None:
    # A pattern that can split a row of numbers in many ways would try them all here.
    text = json.dumps([[list(range(100, 140)), None], 5], indent=1)
    assert json.loads(_short_lists(text)) == json.loads(text)


def test_any_byte_changed_is_noticed(chip: ChipFolder) -> None:
    path = chip.path / MANIFEST_FILE
    good = path.read_bytes()
    for place in (*range(120), *range(120, len(good), 499), len(good) - 1):
        for mask in (0x01, 0x20, 0x07):
            changed = bytearray(good)
            changed[place] ^= mask
            path.write_bytes(changed)
            with pytest.raises(ConfigurationError, match=MANIFEST_FILE):
                ChipManifest.read(chip.path)
    for changed in (good[:-1], good + b"\n", good + b" ", b" " + good, b"", good.replace(b"\n", b"\r\n")):
        path.write_bytes(changed)
        with pytest.raises(ConfigurationError, match=MANIFEST_FILE):
            ChipManifest.read(chip.path)
    path.write_bytes(good)
    assert ChipManifest.read(chip.path) == chip.manifest


def test_other_versions_are_refused_though_whole(chip: ChipFolder) -> None:
    path = chip.path / MANIFEST_FILE
    lines = path.read_bytes().split(b"\n", 2)[2].replace(b'"version": 1', b'"version": 2')
    digest = hashlib.sha256(b"\n" + lines[:-1]).hexdigest()
    path.write_bytes(f'{{\n "sha256": "{digest}",\n'.encode() + lines)
    with pytest.raises(ConfigurationError, match=r"got version: Input should be 1"):
        ChipManifest.read(chip.path)


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        ChipManifest.read(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=f"got no {MANIFEST_FILE}"):
        ChipManifest.read(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "mem/../../x", "", "mem\\x"])
def test_files_lie_inside_the_folder(chip: ChipFolder, name: str) -> None:
    fields = chip.manifest.model_dump()
    fields["files"] = {**fields["files"], name: {"sha256": "0" * 64, "bytes": 0}}
    with pytest.raises(ValidationError, match="inside the folder"):
        ChipManifest.model_validate(fields)


def test_memories_have_digests(chip: ChipFolder) -> None:
    fields = chip.manifest.model_dump(mode="json")
    del fields["files"]["mem/0000_block.conv.weight.hex"]
    with pytest.raises(ValidationError, match=r"mem/0000_block.conv.weight.hex is a memory's, but has no digest"):
        ChipManifest.model_validate(fields)


def test_all_broken_files_are_named(chip: ChipFolder) -> None:
    (chip.path / "vectors.safetensors").unlink()
    (chip.path / "mem/0004_head.bias.bin").write_bytes(b"")
    with pytest.raises(ConfigurationError) as raised:
        chip.manifest.require_files(chip.path)
    assert "vectors.safetensors: missing" in str(raised.value)
    assert "mem/0004_head.bias.bin: 0 bytes, expected 40" in str(raised.value)
