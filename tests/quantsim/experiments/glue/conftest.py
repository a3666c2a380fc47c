"""A very small RoBERTa with its tokenizer, and tasks that it learns in seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

_WORDS = [f"w{number}" for number in range(40)]


def _sentence(label: int, generator: random.Random) -> str:
    """Words of the one half of the vocabulary, or of the other."""
    return " ".join(generator.choices(_WORDS[20:] if label else _WORDS[:20], k=generator.randint(4, 8)))


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("tiny") / "roberta"
    vocabulary = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *_WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    special = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "cls": "<s>", "sep": "</s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=62, **{f"{name}_token": token for name, token in special.items()}
    )
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of ``cola``, ``stsb`` and ``mnli``, each in GLUE's own form."""
    root = tmp_path_factory.mktemp("tiny-data")
    generator = random.Random(0)
    for part, count in (("train", 192), ("dev", 48)):
        labels = [number % 2 for number in range(count)]
        cola = "".join(f"src\t{label}\t{'' if label else '*'}\t{_sentence(label, generator)}\n" for label in labels)
        (root / "cola").mkdir(exist_ok=True)
        (root / "cola" / f"{part}.tsv").write_text(cola)
        rows = [f"{_sentence(label, generator)}\t{_sentence(1, generator)}\t{5.0 * label}" for label in labels]
        (root / "stsb").mkdir(exist_ok=True)
        (root / "stsb" / f"{part}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    names = ("entailment", "neutral", "contradiction")
    (root / "mnli").mkdir()
    for part in ("train", "dev_matched", "dev_mismatched"):
        rows = [f"{_sentence(number % 2, generator)}\tw1 w2\t{names[number % 3]}" for number in range(24)]
        (root / "mnli" / f"{part}.tsv").write_text("\n".join(["sentence1\tsentence2\tgold_label", *rows]) + "\n")
    return root
