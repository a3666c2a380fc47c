from __future__ import annotations

import subprocess
import sys

import pytest

import quantsim_encodings


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_every_public_name_is_there() -> None:
    assert len(set(quantsim_encodings.__all__)) == len(quantsim_encodings.__all__)
    for name in quantsim_encodings.__all__:
        assert getattr(quantsim_encodings, name) is not None
        assert name in dir(quantsim_encodings)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        quantsim_encodings.nothing  # noqa: B018


def test_import_is_lazy() -> None:
    heavy = "sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    assert run(f"import sys, quantsim_encodings, quantsim_encodings.formats; print({heavy})") == "[]"
    assert run(f"import sys, quantsim_encodings as q; q.EncodingEntry; print({heavy})") == "['numpy']"
    assert run(f"import sys, quantsim_encodings as q; q.read; print({heavy})") == "['numpy', 'pydantic']"
