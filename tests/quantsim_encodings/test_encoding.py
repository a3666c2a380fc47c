from __future__ import annotations

import dataclasses

from quantsim_encodings import encoding


def test_every_encoding_has_format_and_granularity() -> None:
    classes = [getattr(encoding, name) for name in encoding.__all__ if name != "Encoding"]
    assert len(classes) == 8
    for cls in classes:
        assert issubclass(cls, encoding.Encoding)
        assert {"format", "granularity"} <= {field.name for field in dataclasses.fields(cls)}
