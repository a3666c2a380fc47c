"""Two tasks made of the sentences of docstrings.

``cola``, in the format of CoLA's own files: is the sentence as it was written (1), or are its words shuffled (0)? The
full stop and the capital letter of the first word stay in place; only the order of words tells.
``mrpc``, in the format of MRPC in GLUE: is the second text what follows the first in a docstring (1), or is it of
another docstring (0)? Each text is there once with either answer. As in MRPC itself, right pairs share words: at least
one that few texts have.
"""

from __future__ import annotations

import itertools
import platform
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from quantsim.experiments.demo import CorpusError
from quantsim.experiments.demo.docstrings import Docstring

__all__ = ["SentencePair", "cola_examples", "mrpc_examples", "sentences_of"]

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_SENTENCE: Final = re.compile(
    r'[A-Z][^"]*[.!?]'
)  # no quotation marks: any reader of tables takes the files as they are
_WORDS: Final = range(5, 27)
_PASSAGE_WORDS: Final = 15  # less ("See above for details.") fits anything
_WORD: Final = re.compile(r"[a-z_]{4,}")
_RARE: Final = 0.05  # of all texts


@dataclass(frozen=True)
class SentencePair:
    """Two texts.

    Attributes:
        first: A sentence.
        second: A sentence or several.
        follows: Whether ``second`` follows ``first`` in a docstring.
    """

    first: str
    second: str
    follows: bool


def sentences_of(docstring: Docstring) -> tuple[str, ...]:
    """Whole sentences of 5 to 26 words, in order.

    Example:
        >>> sentences_of(Docstring("io", ("Read up to n bytes. Returns what is there now.", ">>> read(3)")))
        ('Read up to n bytes.', 'Returns what is there now.')
    """
    prose = (text for text in docstring.paragraphs if not text.startswith((">>>", "...")))
    parts = (part for text in prose for part in _SENTENCE_END.split(text))
    return tuple(part for part in parts if len(part.split()) in _WORDS and _SENTENCE.fullmatch(part))


def cola_examples(
    docstrings: Sequence[Docstring], train: int, dev: int, generator: random.Random
) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Training and validation examples of ``cola``: a text, and whether it is as it was written.

    Args:
        docstrings: Where the sentences come from.
        train: Training examples.
        dev: Validation examples.
        generator: Of the sampling.

    Raises:
        CorpusError: There are too few sentences.
    """
    distinct = sorted({text for entry in docstrings for text in sentences_of(entry)})
    usable = [text for text in distinct if len(set(text.split()[1:])) > 2]  # else there is no other order
    _require(len(usable), train + dev, "sentences")
    chosen = generator.sample(usable, train + dev)
    examples = [
        (text, True) if number % 2 else (_shuffled(text, generator), False) for number, text in enumerate(chosen)
    ]
    return examples[:train], examples[train:]


def _shuffled(sentence: str, generator: random.Random) -> str:
    """The words in another order; the capital letter stays in front, the full stop at the end."""
    words = sentence[:-1].split()
    if words[0][1:].islower():  # not a name such as IPv4 or HTTPError
        words[0] = words[0].lower()
    order = list(words)
    while order == words:
        generator.shuffle(order)
    text = " ".join(order)
    return text[0].upper() + text[1:] + sentence[-1]


def mrpc_examples(
    docstrings: Sequence[Docstring], train: int, dev: int, generator: random.Random
) -> tuple[list[SentencePair], list[SentencePair]]:
    """Training and validation examples of ``mrpc``; a docstring serves one of them.

    Args:
        docstrings: Where the texts come from.
        train: Training examples; even.
        dev: Validation examples; even.
        generator: Of the sampling.

    Raises:
        CorpusError: There are too few pairs.
    """
    candidates = [_following_pairs(sentences_of(entry)) for entry in docstrings]
    uses = Counter(text for pairs in candidates for text in {text for pair in pairs for text in pair})
    unique = [[pair for pair in pairs if uses[pair[0]] == uses[pair[1]] == 1] for pairs in candidates]
    by_docstring = _sharing_words(unique)
    _require(2 * sum(map(len, by_docstring)), train + dev, "pairs of sentences")
    generator.shuffle(by_docstring)
    parts: list[list[tuple[str, str]]] = []
    remaining: Iterator[list[tuple[str, str]]] = iter(by_docstring)
    for size in (dev, train):  # a docstring serves one of them
        pairs: list[tuple[str, str]] = []
        while len(pairs) < size // 2:
            found = next(remaining, None)
            _require(2 * len(pairs) if found is None else size, size, "pairs of sentences")
            pairs += found or []
        parts.append(pairs[: size // 2])
    return _with_wrong_answers(parts[1], generator), _with_wrong_answers(parts[0], generator)


def _following_pairs(sentences: Sequence[str]) -> list[tuple[str, str]]:
    """Each sentence and what follows it in the docstring: as many sentences as make it 15 words or more."""
    pairs = []
    for number, sentence in enumerate(sentences):
        words = list(itertools.accumulate(len(text.split()) for text in sentences[number + 1 :]))
        needed = next((count for count, total in enumerate(words, 1) if total >= _PASSAGE_WORDS), None)
        if needed is not None:
            pairs.append((sentence, " ".join(sentences[number + 1 : number + 1 + needed])))
    return pairs


def _sharing_words(by_docstring: Sequence[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
    """The pairs whose texts share a word that few texts have; docstrings without such a pair are left out."""
    words = {text: _stems(text) for pairs in by_docstring for pair in pairs for text in pair}
    uses = Counter(word for found in words.values() for word in found)
    rare = {word for word, count in uses.items() if count <= max(2, _RARE * len(words))}
    sharing = ([pair for pair in pairs if words[pair[0]] & words[pair[1]] & rare] for pairs in by_docstring)
    return [pairs for pairs in sharing if pairs]


def _stems(text: str) -> set[str]:
    return {word.rstrip("s") for word in _WORD.findall(text.lower())}


def _with_wrong_answers(pairs: Sequence[tuple[str, str]], generator: random.Random) -> list[SentencePair]:
    """Each pair, and each first sentence with the second one of another pair."""
    order = generator.sample(range(len(pairs)), len(pairs))
    following = dict(zip(order, (*order[1:], order[0]), strict=True))
    examples = [SentencePair(first, second, True) for first, second in pairs]
    examples += [SentencePair(pairs[row][0], pairs[other][1], False) for row, other in following.items()]
    generator.shuffle(examples)
    return examples


def _require(found: int, wanted: int, what: str) -> None:
    if found < wanted:
        raise CorpusError(
            f"the standard library of Python {platform.python_version()} gave {found} {what} for {wanted} examples. "
            "Run a Python that was installed with its library's sources, or ask for fewer."
        )
