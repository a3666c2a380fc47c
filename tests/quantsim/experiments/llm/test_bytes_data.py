from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.experiments.demo import CorpusError
from quantsim.experiments.llm.bytes_data import TextBlocks, byte_encoder, docstring_text, file_text


def test_blocks_are_the_text_in_order_without_its_tail() -> None:
    text = "Grüße, " * 9
    blocks = TextBlocks(text, byte_encoder, block_size=10)
    assert bytes(blocks.tokens.flatten().tolist()) == text.encode()[: 10 * len(blocks)]
    assert len(blocks) == len(text.encode()) // 10
    assert blocks[3]["input_ids"].equal(blocks[3]["labels"])
    assert blocks[3]["labels"].dtype is torch.int64


def test_a_limit_keeps_blocks_from_all_over_the_text() -> None:
    text = "".join(chr(97 + number) * 4 for number in range(20))
    blocks = TextBlocks(text, byte_encoder, block_size=4, limit=5)
    assert [chr(int(row[0])) for row in blocks.tokens] == list("aeimq")
    assert len(TextBlocks(text, byte_encoder, block_size=4, limit=100)) == 20


def test_batches_are_spread_and_stop_where_the_text_does() -> None:
    blocks = TextBlocks("abcdefgh" * 2, byte_encoder, block_size=2)
    batches = list(blocks.batches(2, 2))
    assert [batch["input_ids"].shape for batch in batches] == [(2, 2), (2, 2)]
    assert batches[1]["input_ids"].equal(blocks.tokens[[4, 6]])
    assert sum(len(batch["input_ids"]) for batch in blocks.batches(100, 3)) == 8
    assert list(blocks.batches(0, 3)) == []


def test_bytes_per_token_of_another_encoder() -> None:
    blocks = TextBlocks("a b c d", lambda text: [ord(word) for word in text.split()], block_size=2)
    assert blocks.bytes_per_token == 7 / 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"block_size": 1}, "at least 2"),
        ({"block_size": 9}, "got 3 tokens.*smaller --block_size"),
        ({"block_size": 2, "limit": 0}, "blocks of the text: got 0"),
    ],
)
def test_what_makes_no_block_is_told(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TextBlocks("abc", byte_encoder, **arguments)


def test_docstrings_are_split_into_parts_that_share_none(tmp_path: Path) -> None:
    names = [f"function_{number:02}" for number in range(20)]
    source = "\n".join(
        f'def {name}():\n    """What the function {name} does, in a sentence long enough."""' for name in names
    )
    (tmp_path / "module.py").write_text(source)
    text = docstring_text(tmp_path)
    assert text.validation.splitlines() == [
        f"What the function {names[number]} does, in a sentence long enough." for number in (8, 17)
    ]
    assert len(text.train.splitlines()) == 18
    assert not set(text.train.splitlines()) & set(text.validation.splitlines())
    assert "Python 3" in text.source
    (tmp_path / "module.py").write_text("")
    with pytest.raises(CorpusError, match="gave 0 docstrings"):
        docstring_text(tmp_path)


def test_a_package_of_the_standard_library_gives_text_to_learn_from() -> None:
    text = docstring_text(Path(sysconfig.get_path("stdlib")) / "email")
    assert len(text.train.encode()) > 20_000
    assert 0.05 < len(text.validation) / (len(text.train) + len(text.validation)) < 0.2


def test_files(tmp_path: Path) -> None:
    train, validation = tmp_path / "train.txt", tmp_path / "validation.txt"
    train.write_text("learn", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"--validation_file: no such file"):
        file_text(train, validation)
    validation.write_text(" \n")
    with pytest.raises(ConfigurationError, match="is empty"):
        file_text(train, validation)
    validation.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="no text"):
        file_text(train, validation)
    validation.write_text("measure")
    assert file_text(train, validation).validation == "measure"
