"""What the documents show is what happens: every Python block of the README and of docs/ is run."""

from __future__ import annotations

import doctest
import linecache
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")


def relative(path: Path) -> str:
    """`path` as seen from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of `page`, each with the line its code starts on."""
    text = page.read_text()
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in BLOCK.finditer(text)]


def run_block(page: Path, line: int, code: str, names: dict[str, object]) -> None:
    """Run one block in `names`: as a doctest where it has prompts, else as a script."""
    if ">>>" in code:
        test = doctest.DocTestParser().get_doctest(code, names, relative(page), str(page), line - 1)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        said: list[str] = []
        runner.run(test, out=said.append, clear_globs=False)
        names.update(test.globs)
        assert runner.summarize(verbose=False).failed == 0, "".join(said)
    else:
        file_name = f"<{relative(page)}:{line}>"
        source = "\n" * (line - 1) + code
        # Code that looks at its own source (dataclasses, torch.compile) finds it here.
        linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
        exec(compile(source, file_name, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=relative)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": f"page_{page.stem}"}
    monkeypatch.setitem(sys.modules, f"page_{page.stem}", type(sys)(f"page_{page.stem}"))
    for line, code in blocks(page):
        run_block(page, line, code, names)


def test_the_readme_has_an_example_of_about_fifteen_lines() -> None:
    lengths = [len([line for line in code.splitlines() if line.strip()]) for _, code in blocks(ROOT / "README.md")]
    assert lengths, "README.md shows no Python"
    assert lengths[0] <= 18


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    assert broken == []


def test_every_make_target_a_document_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)`", page.read_text())}
    assert {"demo", "test", "check", "docs", "bench"} <= targets
    assert named <= targets


def test_nothing_is_left_to_be_written() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|TBD|XXX|lorem ipsum|coming soon|to be written)\b", re.IGNORECASE)
    found = [f"{relative(page)}: {match.group()}" for page in PAGES for match in unfinished.finditer(page.read_text())]
    assert found == []


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    # Stands in for an old interpreter: says a version of its own, for whatever check it is asked to run.
    old.write_text(f"""#!/bin/sh
shift
exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1, 'final', 0)
$1"
""")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", str(ROOT), f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "test"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()
