from __future__ import annotations

import random
from pathlib import Path

import pytest

from quantsim.experiments.demo.docstrings import CorpusError, build_corpus, read_docstrings

PASSAGE = "It is there to be found again among many others, so that it is at least twenty words long, which is easy."


def write_module(root: Path, name: str, texts: list[str]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(f"def f{index}():\n    {text!r}\n" for index, text in enumerate(texts)))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for package in ("alpha", "beta", "gamma"):
        texts = [
            f"Summary number {index} of the package {package}.\n\nPassage {index} of {package}. {PASSAGE}"
            for index in range(30)
        ]
        write_module(tmp_path, f"{package}/module.py", texts)
    return tmp_path


def test_reads_each_text_once_and_in_order(tmp_path: Path) -> None:
    write_module(tmp_path, "b.py", ["The text of b, which is long enough to be kept."])
    write_module(tmp_path, "a/x.py", ["The text of a, which is long enough to be kept.", "short"])
    write_module(tmp_path, "c.py", ["The text of b, which is long enough to be kept."])
    assert [entry.package for entry in read_docstrings(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("folder", ["test", "tests", "site-packages", "idle_test"])
def test_skips_tests_and_installed_packages(tmp_path: Path, folder: str) -> None:
    write_module(tmp_path, f"{folder}/x.py", ["A text in a folder that is to be left alone."])
    write_module(tmp_path, f"package/{folder}/x.py", ["Another text in a folder that is to be left alone."])
    assert read_docstrings(tmp_path) == ()


def test_files_that_do_not_parse_are_passed_over_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "null.py").write_bytes(b"x = '\0'")
    (tmp_path / "runs.py").write_text('"""A text in a module that would stop the run."""\nraise SystemExit(1)\n')
    assert [entry.package for entry in read_docstrings(tmp_path)] == ["runs"]


def test_white_space_is_collapsed_and_paragraphs_kept(tmp_path: Path) -> None:
    write_module(tmp_path, "a.py", ["First paragraph\n    over two lines of text.\n\n\n  Second   paragraph.  "])
    assert read_docstrings(tmp_path)[0].paragraphs == ("First paragraph over two lines of text.", "Second paragraph.")


def test_the_parts_share_no_docstring(library: Path) -> None:
    corpus = build_corpus(packages=3, train_per_package=6, test_per_package=4, pairs=12, calibration=5, root=library)
    pair_texts = {f"{pair.summary} {pair.passage}" for pair in corpus.pairs}
    parts = [set(corpus.train_texts), set(corpus.test_texts), set(corpus.calibration_texts), pair_texts]
    assert [len(part) for part in parts] == [18, 12, 5, 12]
    assert len(set().union(*parts)) == sum(len(part) for part in parts)
    assert [corpus.test_labels.count(label) for label in range(3)] == [4, 4, 4]
    assert all(
        corpus.packages[label] in text for text, label in zip(corpus.test_texts, corpus.test_labels, strict=True)
    )


def test_same_seed_same_corpus_and_the_global_generator_is_left_alone(library: Path) -> None:
    def build(seed: int) -> object:
        return build_corpus(
            packages=3, train_per_package=6, test_per_package=4, pairs=8, calibration=5, seed=seed, root=library
        )

    random.seed(3)
    before = random.getstate()
    first = build(0)
    assert random.getstate() == before
    assert build(0) == first
    assert build(1) != first


def test_each_query_has_one_right_answer(library: Path) -> None:
    twins = [f"A summary that is there twice.\n\nVersion {index}. {PASSAGE}" for index in range(2)]
    write_module(library, "delta.py", twins)
    corpus = build_corpus(packages=3, train_per_package=2, test_per_package=2, pairs=60, calibration=5, root=library)
    assert len({pair.summary for pair in corpus.pairs}) == len({pair.passage for pair in corpus.pairs}) == 60
    assert "A summary that is there twice." not in {pair.summary for pair in corpus.pairs}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"packages": 4}, "3 packages"),
        ({"train_per_package": 40}, "alpha"),
        ({"pairs": 1000}, "1000 retrieval pairs"),
        ({"calibration": 1000}, "1000 were asked for"),
    ],
)
def test_too_small_a_library_is_an_error_that_names_the_part(
    library: Path, arguments: dict[str, int], named: str
) -> None:
    sizes = {"packages": 3, "train_per_package": 3, "test_per_package": 2, "pairs": 6, "calibration": 5} | arguments
    with pytest.raises(CorpusError, match=named):
        build_corpus(**sizes, root=library)


@pytest.mark.slow
def test_the_standard_library_is_large_enough() -> None:
    corpus = build_corpus()
    assert len(corpus.packages) == 20
    assert len(corpus.test_texts) == len(corpus.pairs) == 400
    assert not set(corpus.calibration_texts) & (set(corpus.test_texts) | set(corpus.train_texts))
