"""JSON Schemas of all versions, generated from the pydantic models.

``python -m quantsim_encodings.schemas`` writes them anew into ``encodings/schemas/``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from quantsim_encodings.document import EncodingsVersion
from quantsim_encodings.versions import codec_for

__all__ = ["SCHEMA_FOLDER", "json_schema", "regenerate"]

SCHEMA_FOLDER: Final = Path(__file__).resolve().parents[1] / "schemas"
"""Where the repository keeps the generated schemas."""


def json_schema(version: EncodingsVersion | str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a version.

    It describes the types and keys of a file; what no schema can say (that arrays are rectangular, that lengths
    agree) only ``validate`` checks.

    Raises:
        ValueError: If there is no such version.

    Example:
        >>> json_schema("2.0.0")["properties"]["version"]["const"]
        '2.0.0'
    """
    version = EncodingsVersion(version)
    schema = codec_for(version).model.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Quantization encodings, version {version.value}",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def schema_text(version: EncodingsVersion) -> str:
    """The text of a version's schema file."""
    return json.dumps(json_schema(version), indent=2, ensure_ascii=False) + "\n"


def regenerate(folder: Path = SCHEMA_FOLDER) -> tuple[Path, ...]:
    """Writes the schema of each version into a folder and returns the files' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for version in EncodingsVersion:
        path = folder / f"{version.value}.schema.json"
        path.write_text(schema_text(version), encoding="utf-8")
        paths.append(path)
    return tuple(paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m quantsim_encodings.schemas", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SCHEMA_FOLDER, help="where to write the schemas")
    for path in regenerate(parser.parse_args(arguments).folder):
        sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
