"""A real text corpus that every Python has: the docstrings of the standard library.

The files are parsed with :mod:`ast`; nothing is imported, so nothing runs. Files are visited in sorted order, equal
texts are kept once, and sampling draws from its own generator: one Python version, one corpus. Another Python version
has other docstrings, so a figure measured on this corpus belongs to the version that
:attr:`DocstringCorpus.python_version` names.
"""

from __future__ import annotations

import ast
import platform
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CorpusError", "Docstring", "DocstringCorpus", "RetrievalPair", "build_corpus", "read_docstrings"]

_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "lib-dynload", "idle_test", "test", "tests"}
)
_MINIMUM_TEXT_CHARACTERS = 40
_MINIMUM_SUMMARY_WORDS = 5
_MINIMUM_PASSAGE_WORDS = 20  # shorter passages ("Returns None.") fit many summaries equally well
_WHITESPACE = re.compile(r"\s+")


class CorpusError(RuntimeError):
    """The standard library found on this machine does not hold enough docstrings for the corpus that was asked for."""


@dataclass(frozen=True)
class Docstring:
    """One docstring.

    Attributes:
        package: Top-level package or module that holds it, such as ``"asyncio"``.
        paragraphs: Its paragraphs in order, white space collapsed, never empty.
    """

    package: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole docstring on one line."""
        return " ".join(self.paragraphs)


@dataclass(frozen=True)
class RetrievalPair:
    """A query and the passage that answers it.

    Attributes:
        summary: First paragraph of a docstring: the query.
        passage: Second paragraph of the same docstring: what has to be found among all passages.
    """

    summary: str
    passage: str


@dataclass(frozen=True, kw_only=True)
class DocstringCorpus:
    """Texts of the demo. No docstring serves two of the parts.

    Attributes:
        packages: Class names; the label of a text is an index into it.
        train_texts, train_labels: What the linear probe learns from.
        test_texts, test_labels: What accuracy is measured on; equally many texts of each package.
        pairs: Summary and next paragraph of docstrings for retrieval.
        calibration_texts: What ranges are measured on.
        python_version: Version of Python whose standard library was read.
    """

    packages: tuple[str, ...]
    train_texts: tuple[str, ...]
    train_labels: tuple[int, ...]
    test_texts: tuple[str, ...]
    test_labels: tuple[int, ...]
    pairs: tuple[RetrievalPair, ...]
    calibration_texts: tuple[str, ...]
    python_version: str


def _paragraphs(docstring: str) -> tuple[str, ...]:
    collapsed = (_WHITESPACE.sub(" ", part).strip() for part in re.split(r"\n\s*\n", docstring))
    return tuple(part for part in collapsed if part)


def _source_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            yield path


def read_docstrings(root: Path | None = None) -> tuple[Docstring, ...]:
    """Every docstring below ``root`` that is at least 40 characters long, each text once, in a fixed order.

    Args:
        root: Folder to read; default: this Python's standard library, without its tests and installed packages.

    Returns:
        Docstrings of modules, classes and functions, in order of path and line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = "A sentence about sockets, long enough to keep."
        ...     _ = Path(folder, "socket.py").write_text(f'"{text}"')
        ...     read_docstrings(Path(folder))[0].package
        'socket'
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    found: list[Docstring] = []
    seen: set[str] = set()
    for path in _source_files(root):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a template or a deliberately broken sample: it holds no docstring to read
        package = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            entry = Docstring(package, _paragraphs(ast.get_docstring(node) or ""))
            if len(entry.text) >= _MINIMUM_TEXT_CHARACTERS and entry.text not in seen:
                seen.add(entry.text)
                found.append(entry)
    return tuple(found)


def _is_prose(paragraph: str, minimum_words: int) -> bool:
    return len(paragraph.split()) >= minimum_words and not paragraph.startswith((">>>", "..."))


def _retrieval_candidates(docstrings: Iterable[Docstring]) -> dict[Docstring, RetrievalPair]:
    """Docstrings whose summary and passage appear nowhere else, so that each query has one right answer."""
    pairs = {
        entry: RetrievalPair(*entry.paragraphs[:2])
        for entry in docstrings
        if len(entry.paragraphs) > 1
        and _is_prose(entry.paragraphs[0], _MINIMUM_SUMMARY_WORDS)
        and _is_prose(entry.paragraphs[1], _MINIMUM_PASSAGE_WORDS)
    }
    uses = Counter(paragraph for pair in pairs.values() for paragraph in (pair.summary, pair.passage))
    return {entry: pair for entry, pair in pairs.items() if uses[pair.summary] == uses[pair.passage] == 1}


def build_corpus(
    *,
    packages: int = 20,
    train_per_package: int = 40,
    test_per_package: int = 20,
    pairs: int = 400,
    calibration: int = 64,
    seed: int = 0,
    root: Path | None = None,
) -> DocstringCorpus:
    """Draws the demo's texts from the standard library.

    Retrieval pairs are drawn first, over the whole library. The classes are the ``packages`` top-level packages with
    the most docstrings left; each gives ``test_per_package`` texts to measure on and ``train_per_package`` to learn
    from. Calibration texts are drawn from what remains, over all packages.

    Args:
        packages: Number of classes.
        train_per_package: Training texts of each class.
        test_per_package: Test texts of each class.
        pairs: Number of retrieval pairs.
        calibration: Number of calibration texts.
        seed: Seed of the sampling; the global generator is not touched.
        root: Folder to read; default: the standard library.

    Raises:
        CorpusError: The library has too few docstrings; says which part ran short.
    """
    generator = random.Random(seed)
    docstrings = read_docstrings(root)
    candidates = _retrieval_candidates(docstrings)
    chosen = generator.sample(list(candidates), min(pairs, len(candidates)))
    taken = set(chosen)
    by_package: dict[str, list[Docstring]] = {}
    for entry in docstrings:
        if entry not in taken:
            by_package.setdefault(entry.package, []).append(entry)

    wanted = train_per_package + test_per_package
    ranked = sorted(by_package, key=lambda name: (-len(by_package[name]), name))[:packages]
    small = [f"{name} ({len(by_package[name])})" for name in ranked if len(by_package[name]) < wanted]
    if len(chosen) < pairs or len(ranked) < packages or small:
        raise CorpusError(
            f"the corpus needs {pairs} retrieval pairs and {packages} packages with at least {wanted} docstrings each; "
            f"the standard library gave {len(chosen)} pairs and {len(ranked)} packages "
            f"(too small: {', '.join(small) or 'none'}). Run a Python that was installed with its library's sources, "
            "or ask for fewer pairs, packages or texts."
        )

    names = tuple(sorted(ranked))
    train: list[tuple[str, int]] = []
    test: list[tuple[str, int]] = []
    remaining = [entry for name in sorted(by_package) if name not in names for entry in by_package[name]]
    for label, name in enumerate(names):
        shuffled = generator.sample(by_package[name], len(by_package[name]))
        test += [(entry.text, label) for entry in shuffled[:test_per_package]]
        train += [(entry.text, label) for entry in shuffled[test_per_package:wanted]]
        remaining += shuffled[wanted:]
    if len(remaining) < calibration:
        raise CorpusError(
            f"the standard library left {len(remaining)} calibration texts; {calibration} were asked for. "
            "Ask for fewer."
        )
    return DocstringCorpus(
        packages=names,
        train_texts=tuple(text for text, _ in train),
        train_labels=tuple(label for _, label in train),
        test_texts=tuple(text for text, _ in test),
        test_labels=tuple(label for _, label in test),
        pairs=tuple(candidates[entry] for entry in chosen),
        calibration_texts=tuple(entry.text for entry in generator.sample(remaining, calibration)),
        python_version=platform.python_version(),
    )
