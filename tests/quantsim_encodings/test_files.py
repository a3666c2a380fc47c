from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from quantsim_encodings import (
    AffineEncoding,
    EncodingEntry,
    EncodingsDocument,
    EncodingsError,
    EncodingsVersion,
    IntFormat,
    PerTensor,
    Problem,
    dumps,
    files,
    loads,
    read,
    validate,
    write,
)

DATA = Path(__file__).parent / "data"
REAL = sorted(path for path in DATA.iterdir() if path.suffix in (".encodings", ".json"))
ENCODING = AffineEncoding(IntFormat(-128, 127), 0.5, 0, True, PerTensor())  # type: ignore[arg-type]
DOCUMENT = EncodingsDocument(EncodingsVersion.QUANTSIM, (EncodingEntry(ENCODING, name="x", parameter=False),))


def without_ranges(value: object) -> object:
    """A JSON value without ``min`` and ``max``, which only repeat what scale and offset say, to a last bit or so."""
    if isinstance(value, dict):
        redundant = {"min", "max"} if "scale" in value else set()
        return {key: without_ranges(item) for key, item in value.items() if key not in redundant}
    return [without_ranges(item) for item in value] if isinstance(value, list) else value


def ranges(value: object) -> list[tuple[float, float, float]]:
    """All (min, max, scale) of a JSON value."""
    if isinstance(value, dict):
        if "min" in value and "scale" in value:
            return [(value["min"], value["max"], value["scale"])]
        return [found for item in value.values() for found in ranges(item)]
    return [found for item in value for found in ranges(item)] if isinstance(value, list) else []


def expected_version(path: Path) -> EncodingsVersion:
    return (
        EncodingsVersion(path.stem.partition("_")[2]) if path.suffix == ".encodings" else EncodingsVersion.AIMET_TORCH
    )


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_files_are_detected_and_written_back_equal(path: Path, tmp_path: Path) -> None:
    assert validate(path) == []
    document = read(path)
    assert document.version is expected_version(path)
    assert len(document) > 8
    value = json.loads(path.read_text())
    copy = tmp_path / "copy"
    write(document, copy)
    written = json.loads(copy.read_text())
    # AIMET's own min and max may give another scale when it loads them again; ours never do.
    assert without_ranges(written) == without_ranges(value)
    for (low, high, scale), (expected_low, expected_high, _) in zip(ranges(written), ranges(value), strict=True):
        assert low == pytest.approx(expected_low, rel=1e-6, abs=1e-4 * scale)
        assert high == pytest.approx(expected_high, rel=1e-6, abs=1e-4 * scale)
    assert read(copy) == document
    assert read(value) == loads(path.read_bytes()) == loads(path.read_text()) == document


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_floats_of_real_files_keep_their_text(path: Path) -> None:
    def numbers(text: str) -> list[str]:
        found: list[str] = []
        json.loads(text, parse_float=lambda number: found.append(repr(float(number))))
        redundant = {repr(end) for low, high, _ in ranges(json.loads(text)) for end in (low, high)}
        return sorted(number for number in found if number not in redundant)

    assert numbers(dumps(read(path))) == numbers(path.read_text())


@pytest.mark.parametrize(
    ("value", "version"),
    [
        ({"activation_encodings": {}, "param_encodings": {}}, "aimet-torch"),
        ({"activation_encodings": {"a": {}}, "param_encodings": {}, "version": "0.6.1"}, "aimet-torch"),
        ({"activation_encodings": {"a": {}}, "param_encodings": {}, "version": "1.0.0"}, "aimet-torch"),
        ({"activation_encodings": {}, "param_encodings": {}, "version": "1.0.0"}, "aimet-torch"),
        ({"activation_encodings": {}, "param_encodings": {}, "version": "0.6.1"}, "0.6.1"),
        ({"activation_encodings": [], "param_encodings": [], "version": "1.0.0"}, "1.0.0"),
        ({"encodings": [], "version": "2.0.0"}, "2.0.0"),
        ({"encodings": [], "version": "2.1.0"}, "2.1.0"),
        ({"encodings": [], "version": "quantsim-1"}, "quantsim-1"),
    ],
)
def test_version_is_detected(value: dict, version: str) -> None:
    document = read(value)
    assert document.version == version
    assert len(document) == 0
    assert loads(dumps(document)).version == version


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], Problem("$", "got an array of 0 values, expected an object")),
        (3, Problem("$", "got 3, expected an object")),
        ({}, Problem("$.version", "is missing, expected one of quantsim-1, 0.6.1, 1.0.0, 2.0.0, 2.1.0")),
        ({"version": None}, Problem("$.version", "got null, expected one of quantsim-1, 0.6.1, 1.0.0, 2.0.0, 2.1.0")),
        (
            {"version": "3.0.0"},
            Problem("$.version", 'got "3.0.0", expected one of quantsim-1, 0.6.1, 1.0.0, 2.0.0, 2.1.0'),
        ),
        (
            {"version": "aimet-torch"},
            Problem("$.version", 'got "aimet-torch", expected one of quantsim-1, 0.6.1, 1.0.0, 2.0.0, 2.1.0'),
        ),
    ],
)
def test_unknown_versions_are_refused(value: object, problem: Problem) -> None:
    with pytest.raises(EncodingsError) as caught:
        loads(json.dumps(value))
    assert caught.value.problems == (problem,)


def test_all_problems_are_reported_at_once_with_paths(tmp_path: Path) -> None:
    path = tmp_path / "bad.encodings"
    path.write_text(
        """{"version": "2.0.0", "producer": {"package": 3}, "colour": "red", "encodings": [
        {"name": "a", "name": "b", "output_dtype": "int8", "y_scale": NaN},
        {"name": "c", "output_dtype": "int8", "y_scale": [0.5, "x"], "axis": 0},
        {"name": "d", "output_dtype": "int8"},
        {"name": "e", "output_dtype": "int8", "y_scale": [[0.5, 0.5], [0.5]], "axis": 0, "block_size": 2},
        7]}"""
    )
    problems = validate(path)
    assert [(problem.path, problem.message) for problem in problems] == [
        ("$.colour", "is an unknown key"),
        ("$.encodings[0].name", "occurs more than once, expected each key once"),
        ("$.encodings[0].y_scale", "got NaN, expected a finite number"),
        ("$.encodings[1].y_scale[1]", 'got "x", expected a number'),
        ("$.encodings[2].y_scale", "is missing"),
        ("$.encodings[3].y_scale[1]", "got an array of 1 values, expected 2 as in its neighbours"),
        ("$.encodings[4]", "got 7, expected an object"),
        ("$.producer.package", "got 3, expected a valid string"),
        ("$.producer.version", "is missing"),
    ]
    with pytest.raises(EncodingsError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: cannot read encodings of version 2.0.0: 9 problems\n  $.colour:")
    assert list(caught.value.problems) == problems


def test_meaning_is_checked_at_once_too() -> None:
    problems = validate(
        {
            "version": "2.0.0",
            "encodings": [
                {"name": "a", "output_dtype": "int8", "y_scale": -0.5},
                {"name": "a", "output_dtype": "int99", "y_scale": 0.5},
                {"name": "b", "output_dtype": "uint8", "y_scale": [0.5, 0.5], "y_zero_point": [1], "axis": 0},
            ],
        }
    )
    assert [problem.path for problem in problems] == [
        "$.encodings[0]",
        "$.encodings[1].name",
        "$.encodings[1].output_dtype",
        "$.encodings[2].y_zero_point",
    ]


@pytest.mark.parametrize("source", [3, None, ["a"], b"x"])
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(EncodingsError, match="expected"):
        read(source)  # type: ignore[arg-type]
    assert len(validate(source)) == 1  # type: ignore[arg-type]


def test_loads_takes_text_only() -> None:
    with pytest.raises(EncodingsError, match="expected text or bytes"):
        loads(3)  # type: ignore[arg-type]


def test_size_limit_can_be_raised(tmp_path: Path) -> None:
    path = DATA / "m_2.0.0.encodings"
    assert len(validate(path, max_bytes=100)) == 1
    with pytest.raises(EncodingsError, match="expected at most 100; max_bytes= admits more"):
        read(path, max_bytes=100)
    assert len(read(path, max_bytes=10**10)) == 10


def test_error_of_bad_text_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "truncated.encodings"
    path.write_bytes((DATA / "m_2.0.0.encodings").read_bytes()[:-10])
    with pytest.raises(EncodingsError, match=r"truncated\.encodings: cannot read encodings: 1 problem") as caught:
        read(path)
    assert "is not JSON" in caught.value.problems[0].message
    with pytest.raises(EncodingsError, match="missing"):
        read(tmp_path / "missing")


def test_write_replaces_atomically_and_keeps_permissions(tmp_path: Path) -> None:
    path = tmp_path / "x.encodings"
    write(DOCUMENT, path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(0o600)
    write(DOCUMENT, path, "1.0.0")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(path).version is EncodingsVersion.AIMET_1_0_0
    assert os.listdir(tmp_path) == ["x.encodings"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_write_follows_symbolic_links(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    write(DOCUMENT, link)
    assert link.is_symlink()
    assert read(target) == DOCUMENT


def test_failed_writes_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.encodings"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(EncodingsError, match="No space left on device"):
        write(DOCUMENT, path)
    with pytest.raises(EncodingsError, match="cannot hold"):
        write(DOCUMENT, path, "aimet-torch")
    monkeypatch.undo()
    with pytest.raises(EncodingsError, match="cannot be written"):
        write(DOCUMENT, tmp_path / "no" / "folder")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.encodings"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(DOCUMENT, tmp_path / "x.encodings")
    assert os.listdir(tmp_path) == []
