"""Reading, writing and validating encodings files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from quantsim_encodings._json import MAX_FILE_BYTES, check, format_json, parse, read_bytes
from quantsim_encodings._problems import ProblemCollector, show
from quantsim_encodings.conversion import to_json
from quantsim_encodings.document import EncodingsDocument, EncodingsVersion
from quantsim_encodings.errors import EncodingsError, Problem
from quantsim_encodings.loss import DEFAULT_ALLOWED, Loss
from quantsim_encodings.versions import codec_for
from quantsim_encodings.versions.model import validate_model

__all__ = ["dumps", "loads", "read", "validate", "write"]

Source = str | os.PathLike[str] | Mapping[str, Any]


def read(source: Source, *, max_bytes: int = MAX_FILE_BYTES) -> EncodingsDocument:
    """Reads encodings of any version.

    Args:
        source: Path of a file, or an already parsed JSON object.
        max_bytes: Larger files are rejected unread; parsing takes some twenty times their size in memory.

    Returns:
        The document; nothing of it is left out.

    Raises:
        EncodingsError: With all problems found, each with its JSON path, whatever is wrong with the file.
    """
    problems = ProblemCollector()
    if isinstance(source, Mapping):
        return _decode(check(source, problems), problems, None)
    name = str(source) if isinstance(source, (str, os.PathLike)) else None
    if name is None:
        raise EncodingsError(
            "cannot read encodings", [Problem("$", f"got {show(source)}, expected a path or a mapping")]
        )
    data = read_bytes(source, max_bytes)
    try:
        value = parse(data, problems)
    except EncodingsError as error:
        raise EncodingsError(error.summary, error.problems, source=name) from None
    return _decode(value, problems, name)


def loads(text: str | bytes) -> EncodingsDocument:
    """Reads encodings of any version from JSON text.

    Raises:
        EncodingsError: As :func:`read`.
    """
    if not isinstance(text, (str, bytes)):
        raise EncodingsError("cannot read encodings", [Problem("$", f"got {show(text)}, expected text or bytes")])
    problems = ProblemCollector()
    return _decode(parse(text, problems), problems, None)


def _decode(value: Any, problems: ProblemCollector, source: str | None) -> EncodingsDocument:
    summary = "cannot read encodings"
    version = _detect(value, problems)
    if version is None:
        problems.raise_if_any(summary, source)
        raise AssertionError("unreachable: an undetected version is a problem")
    codec = codec_for(version)
    model = validate_model(codec.model, value, problems)
    document = None if model is None else codec.decode(model, problems)
    problems.raise_if_any(f"{summary} of version {version.value}", source)
    assert document is not None
    return document


def _detect(value: Any, problems: ProblemCollector) -> EncodingsVersion | None:
    """Tells the version by the key ``version`` and, where AIMET leaves that ambiguous or out, by the structure."""
    if not isinstance(value, dict):
        problems.add("$", f"got {show(value)}, expected an object")
        return None
    declared = value.get("version")
    activations = value.get("activation_encodings")
    by_module = isinstance(activations, dict) and any(isinstance(item, dict) for item in activations.values())
    if declared is None and "version" not in value and "param_encodings" in value and isinstance(activations, dict):
        return EncodingsVersion.AIMET_TORCH
    if by_module and declared in ("0.6.1", "1.0.0"):
        return EncodingsVersion.AIMET_TORCH
    if declared == "1.0.0" and isinstance(activations, dict):
        return EncodingsVersion.AIMET_TORCH  # 1.0.0 by tensor name has lists.
    written = [version for version in EncodingsVersion if version is not EncodingsVersion.AIMET_TORCH]
    if isinstance(declared, str) and declared in written:
        return EncodingsVersion(declared)
    got = f"got {show(declared)}" if "version" in value else "is missing"
    problems.add("$.version", f"{got}, expected one of {', '.join(written)}")
    return None


def validate(source: Source, *, max_bytes: int = MAX_FILE_BYTES) -> list[Problem]:
    """Lists all problems of a file or parsed JSON object; an empty list means that it can be read.

    Args:
        source: Path of a file, or an already parsed JSON object.
        max_bytes: Larger files are rejected unread.
    """
    try:
        read(source, max_bytes=max_bytes)
    except EncodingsError as error:
        return list(error.problems) or [Problem("$", error.summary)]
    return []


def dumps(
    document: EncodingsDocument,
    version: EncodingsVersion | str | None = None,
    *,
    allow: Collection[Loss] = DEFAULT_ALLOWED,
    parameters: Collection[str] | None = None,
) -> str:
    """Gives the JSON text of a document; arguments and errors as in :func:`write`."""
    return format_json(to_json(document, version, allow=allow, parameters=parameters))


def write(
    document: EncodingsDocument,
    path: str | os.PathLike[str],
    version: EncodingsVersion | str | None = None,
    *,
    allow: Collection[Loss] = DEFAULT_ALLOWED,
    parameters: Collection[str] | None = None,
) -> None:
    """Writes a document; a reader sees the old file or the whole new one, never a part.

    Args:
        document: What to write.
        path: File to create or replace.
        version: Version to write; ``None`` is the document's own.
        allow: Kinds of information that may be lost, see ``convert``.
        parameters: Names of the tensors that are parameters, see ``convert``.

    Raises:
        EncodingsError: If the version cannot hold the encodings, with the list, or the file cannot be written.
    """
    text = dumps(document, version, allow=allow, parameters=parameters)
    target = Path(os.path.realpath(path))  # A symbolic link is followed, not replaced.
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o7777)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise EncodingsError(
            "cannot write encodings", [Problem("$", f"file cannot be written: {error}")], source=str(path)
        ) from error
