from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.model import ByteLlamaSize, load_language_model, new_byte_llama
from quantsim.experiments.transformed_model import apply_transform, calibrate_transformed, save_transform

TINY = ByteLlamaSize(hidden_size=16, layers=1, heads=2, intermediate_size=32)


def test_a_new_model_predicts_bytes() -> None:
    model = new_byte_llama(TINY)
    ids = torch.arange(10)[None]
    result: Any = model(input_ids=ids, labels=ids)
    assert result.logits.shape == (1, 10, 256)
    assert result.past_key_values is None
    assert abs(result.loss.item() - torch.tensor(256.0).log().item()) < 0.1


@pytest.mark.parametrize("size", [ByteLlamaSize(hidden_size=15, heads=5), ByteLlamaSize(heads=0)])
def test_heads_that_do_not_fit_are_told(size: ByteLlamaSize) -> None:
    with pytest.raises(ConfigurationError, match="twice the heads"):
        new_byte_llama(size)


def test_float_and_transformed_folders_are_told_apart(tmp_path: Path) -> None:
    model: Any = new_byte_llama(TINY)
    model.save_pretrained(tmp_path / "float")
    loaded = load_language_model(str(tmp_path / "float"))
    assert loaded.record is None
    assert loaded.tokenizer is None
    assert list(loaded.encode("ab")) == [97, 98]
    assert loaded.model.config.use_cache is False
    apply_transform(model, {"fc": {}})
    calibrate_transformed(model, [{"input_ids": torch.arange(8)[None]}])
    model.save_pretrained(tmp_path / "optical")
    save_transform(tmp_path / "optical", {"fc": {}})
    loaded = load_language_model(str(tmp_path / "optical"))
    assert loaded.record is not None
    assert loaded.record.config == {"fc": {}}
    assert "OtLinear" in {type(module).__name__ for module in loaded.model.modules()}


def test_a_tokenizer_in_the_folder_is_used(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no tokenizer.*with 3 tokens"):
        load_language_model(str(tmp_path))
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "light": 1, "ring": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path))
    assert list(loaded.encode("ring light dark")) == [2, 1, 0]
    assert loaded.tokenizer is not None


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"folder with config\.json"):
        load_language_model(str(tmp_path))
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        load_language_model(str(tmp_path / "missing"))
