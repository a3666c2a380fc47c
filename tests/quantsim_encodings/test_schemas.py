from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from quantsim_encodings import EncodingsVersion, convert, dumps, json_schema, read, schemas
from quantsim_encodings.schemas import SCHEMA_FOLDER, regenerate, schema_text

DATA = Path(__file__).parent / "data"
REAL = sorted(path for path in DATA.iterdir() if path.suffix in (".encodings", ".json"))


@pytest.mark.parametrize("version", EncodingsVersion)
def test_kept_schemas_are_current(version: EncodingsVersion) -> None:
    kept = (SCHEMA_FOLDER / f"{version.value}.schema.json").read_text(encoding="utf-8")
    assert kept == schema_text(version), "run `python -m quantsim_encodings.schemas`"


def test_there_is_no_other_schema() -> None:
    assert {path.name for path in SCHEMA_FOLDER.iterdir()} == {f"{v.value}.schema.json" for v in EncodingsVersion}


@pytest.mark.parametrize("version", EncodingsVersion)
def test_schemas_are_valid_and_refuse_other_files(version: EncodingsVersion) -> None:
    schema = json_schema(version.value)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not validator.is_valid({})
    assert not validator.is_valid({"version": "9"})
    for path in REAL:
        assert validator.is_valid(json.loads(path.read_text())) == (read(path).version is version), path.name


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_our_own_files_fit_their_schema(path: Path) -> None:
    document = convert(read(path), "quantsim-1")
    jsonschema.validate(json.loads(dumps(document)), json_schema("quantsim-1"))


def test_command_line_writes_the_schemas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schemas.main([str(tmp_path / "schemas")]) == 0
    assert len(list((tmp_path / "schemas").iterdir())) == len(EncodingsVersion)
    assert capsys.readouterr().out.count("wrote ") == len(EncodingsVersion)
    assert len(regenerate(tmp_path)) == len(EncodingsVersion)


def test_unknown_version() -> None:
    with pytest.raises(ValueError, match="not a valid EncodingsVersion"):
        json_schema("9")
