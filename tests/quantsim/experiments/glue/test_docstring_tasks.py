from __future__ import annotations

import random

import pytest

from quantsim.experiments.demo import CorpusError
from quantsim.experiments.demo.docstrings import Docstring
from quantsim.experiments.glue.docstring_tasks import (
    _sharing_words,
    cola_examples,
    mrpc_examples,
    sentences_of,
)

DOCSTRINGS = [
    Docstring(
        "package",
        (
            f"The {name} of it reads all bytes.",
            f"It then gives the {name} back to whoever asked for it, as long as it stays open for reading.",
        ),
    )
    for name in ("socket", "parser", "tree", "queue", "window", "codec", "event", "thread", "lock", "index", "field")
]


def test_a_shuffle_has_the_same_words_in_another_order() -> None:
    train, dev = cola_examples(DOCSTRINGS, 12, 8, random.Random(0))
    written = {text for entry in DOCSTRINGS for text in sentences_of(entry)}
    by_words = {tuple(sorted(text.lower()[:-1].split())): text for text in written}
    for text, right in (*train, *dev):
        original = by_words[tuple(sorted(text.lower()[:-1].split()))]
        assert (text == original) is right
        assert (text[0].isupper(), text[-1]) == (True, ".")
    assert [sum(right for _, right in part) for part in (train, dev)] == [6, 4]


def test_right_pairs_follow_each_other_and_wrong_ones_do_not() -> None:
    train, dev = mrpc_examples(DOCSTRINGS, 12, 8, random.Random(0))
    right = {sentences_of(entry) for entry in DOCSTRINGS}
    for pair in (*train, *dev):
        assert ((pair.first, pair.second) in right) is pair.follows
    assert {pair.first for pair in train}.isdisjoint(pair.first for pair in dev)


def test_too_few() -> None:
    with pytest.raises(CorpusError, match="22 sentences for 40 examples"):
        cola_examples(DOCSTRINGS, 32, 8, random.Random(0))
    with pytest.raises(CorpusError, match="22 pairs of sentences for 40 examples"):
        mrpc_examples(DOCSTRINGS, 32, 8, random.Random(0))


def test_right_pairs_share_a_word_that_few_texts_have() -> None:
    texts = [(f"This gives number{letter} of it.", f"Then it gives number{letter} back.") for letter in "abcdefgh"]
    others = [(f"This gives {letter * 5} of it.", f"Then it gives {letter * 6} back.") for letter in "abcdefgh"]
    assert _sharing_words([texts[:4], others[:4], texts[4:]]) == [texts[:4], texts[4:]]


def test_sentences_are_whole_and_of_prose() -> None:
    entry = Docstring("x", ("Read all of the file. Too short. It is what is left of it", ">>> A b c d e f."))
    assert sentences_of(entry) == ("Read all of the file.",)
