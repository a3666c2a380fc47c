from __future__ import annotations

from pathlib import Path

import quantsim.nn
from quantsim.nn import stubs


def test_stubs_are_current() -> None:
    folder = Path(quantsim.nn.__file__).parent
    for name, text in stubs.stub_texts().items():
        assert (folder / name).read_text(encoding="utf-8") == text, "run `python -m quantsim.nn.stubs`"


def test_stubs_are_valid_and_complete(tmp_path: Path) -> None:
    stubs.write_stubs(tmp_path)
    text = (tmp_path / "quantized_modules.pyi").read_text()
    compile(text, "quantized_modules.pyi", "exec")
    compile((tmp_path / "functional_modules.pyi").read_text(), "functional_modules.pyi", "exec")
    for name in quantsim.nn.quantized_modules.__all__:
        assert f"class {name}(" in text
