"""Text for language models: the standard library's docstrings, or files of the user's, cut into equal blocks."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from quantsim.errors import ConfigurationError
from quantsim.experiments.demo import CorpusError
from quantsim.experiments.demo.docstrings import read_docstrings

__all__ = ["Encoder", "LanguageText", "TextBlocks", "byte_encoder", "docstring_text", "file_text"]

Encoder = Callable[[str], Sequence[int]]
"""Turns a text into numbers of tokens."""

_VALIDATION_SHARE: Final = 9
"""One docstring of so many is kept for validation."""


@dataclass(frozen=True)
class LanguageText:
    """What a model learns from and what it is measured on.

    Attributes:
        train: Text to learn from, and to calibrate on.
        validation: Text to measure on.
        source: Where the texts are from, in a few words.
    """

    train: str
    validation: str
    source: str


class TextBlocks(Dataset[dict[str, Tensor]]):
    """Blocks of equally many tokens, one after the other; a tail that fills no block is left out.

    Each item has ``input_ids`` and ``labels``, int64 of shape ``(block_size,)``, both the same: a causal language
    model shifts labels itself, so it predicts ``block_size - 1`` tokens of each block.

    Args:
        text: The text.
        encode: Makes tokens of it.
        block_size: Tokens of a block.
        limit: Number of blocks to keep, spread evenly over the text; default: all.
        name: What errors call the text.

    Attributes:
        tokens: int64 of shape (blocks, block_size).
        bytes_per_token: Length of the whole text in UTF-8 over its number of tokens; 1 where tokens are bytes.

    Raises:
        ConfigurationError: The text does not fill one block, or a number is out of bounds.

    Example:
        >>> blocks = TextBlocks("abcdefg", byte_encoder, block_size=3)
        >>> len(blocks), blocks[1]["input_ids"].tolist(), blocks.bytes_per_token
        (2, [100, 101, 102], 1.0)
    """

    def __init__(
        self, text: str, encode: Encoder, *, block_size: int, limit: int | None = None, name: str = "text"
    ) -> None:
        if block_size < 2:
            raise ConfigurationError(
                where="block_size", got=str(block_size), expected="at least 2, as the first token is not predicted"
            )
        if limit is not None and limit < 1:
            raise ConfigurationError(where=f"number of blocks of the {name}", got=str(limit), expected="at least 1")
        tokens = torch.tensor(encode(text), dtype=torch.int64)
        count = len(tokens) // block_size
        if count == 0:
            raise ConfigurationError(
                f"the {name} is too short",
                where=name,
                got=f"{len(tokens)} tokens",
                expected=f"at least one block of {block_size}",
                fix="give a longer text or a smaller --block_size",
            )
        self.bytes_per_token = len(text.encode()) / len(tokens)
        blocks = tokens[: count * block_size].reshape(count, block_size)
        if limit is not None and limit < count:
            blocks = blocks[torch.arange(limit) * count // limit]
        self.tokens = blocks

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        block = self.tokens[index]
        return {"input_ids": block, "labels": block}

    def batches(self, count: int, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Batches of ``input_ids`` for calibration, of blocks that are spread evenly over the text.

        Args:
            count: Number of batches; fewer come if the text has too few blocks.
            batch_size: Blocks of a batch.

        Example:
            >>> blocks = TextBlocks("abcdefgh", byte_encoder, block_size=2)
            >>> [batch["input_ids"][:, 0].tolist() for batch in blocks.batches(2, 1)]
            [[97], [101]]
        """
        wanted = min(len(self), count * batch_size)
        if wanted < 1:
            return
        chosen = torch.arange(wanted) * len(self) // wanted
        for rows in chosen.split(batch_size):
            yield {"input_ids": self.tokens[rows]}


def byte_encoder(text: str) -> Sequence[int]:
    """The bytes of a text in UTF-8: 256 different tokens.

    Example:
        >>> list(byte_encoder("aä"))
        [97, 195, 164]
    """
    return list(text.encode())


def docstring_text(root: Path | None = None) -> LanguageText:
    """Docstrings of the standard library, one a line; every ninth is for validation.

    They are parsed, nothing is imported. One Python version gives one text; another version gives another.

    Args:
        root: Folder to read; default: this Python's standard library.

    Raises:
        CorpusError: There are too few docstrings.
    """
    texts = [entry.text for entry in read_docstrings(root)]
    if len(texts) < _VALIDATION_SHARE:
        raise CorpusError(
            f"the standard library gave {len(texts)} docstrings, at least {_VALIDATION_SHARE} are needed. "
            "Run a Python that was installed with its library's sources, or give --train_file and --validation_file."
        )
    held_back = _VALIDATION_SHARE - 1
    return LanguageText(
        train="\n".join(text for number, text in enumerate(texts) if number % _VALIDATION_SHARE != held_back),
        validation="\n".join(text for number, text in enumerate(texts) if number % _VALIDATION_SHARE == held_back),
        source=f"docstrings of the standard library of Python {platform.python_version()}",
    )


def file_text(train_file: str | Path, validation_file: str | Path) -> LanguageText:
    """Two plain text files in UTF-8.

    Args:
        train_file: What to learn from.
        validation_file: What to measure on.

    Raises:
        ConfigurationError: A file is missing, is no text or is empty.
    """
    train, validation = (
        _read(Path(path), flag) for path, flag in ((train_file, "--train_file"), (validation_file, "--validation_file"))
    )
    return LanguageText(train, validation, f"{Path(train_file).name}, {Path(validation_file).name}")


def _read(path: Path, flag: str) -> str:
    fix = "give a plain text file in UTF-8"
    if not path.is_file():
        raise ConfigurationError("no such file", where=flag, got=str(path), expected="a readable file", fix=fix)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError("the file is no text", where=flag, got=f"{path}: {error}", fix=fix) from None
    if not text.strip():
        raise ConfigurationError("the file is empty", where=flag, got=str(path), fix=fix)
    return text
