"""Models of transformers, made here from small configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.nn import BaseQuantizationMixin, QuantizedLinear
from quantsim.transforms import float_precision_module_transform_pass

transformers = pytest.importorskip("transformers")

IDS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def llama(*, tied: bool) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config).eval()


def roberta(kind: str = "RobertaForSequenceClassification") -> Any:
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=40,
    )
    return getattr(transformers, kind)(config).eval()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@torch.no_grad()
def test_llama_by_regular_expression() -> None:
    model = llama(tied=False)
    expected = model(IDS).logits
    pass_args = {
        "by": "regex_name",
        r".*self_attn\..*": {"format": "bf16"},
        r".*mlp\..*_proj": {"exp_bits": 4, "sig_bits": 3},
    }
    assert float_precision_module_transform_pass(model, pass_args) is model
    quantized = {path for path, module in model.named_modules() if isinstance(module, BaseQuantizationMixin)}
    assert quantized == {
        f"model.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in (
            *(f"self_attn.{part}_proj" for part in "qkvo"),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        )
    }
    assert 0.99 < cosine(model(IDS).logits, expected) < 1
    generated = model.generate(IDS[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert generated.shape == (1, 12)


def test_tied_weights_stay_tied_and_the_head_is_left_out_by_default() -> None:
    model = llama(tied=True)
    float_precision_module_transform_pass(model, {"by": "regex_name", "default": {"format": "e4m3fn"}})
    assert type(model.lm_head) is torch.nn.Linear
    assert isinstance(model.model.embed_tokens, BaseQuantizationMixin)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.train()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    assert model.lm_head.weight.grad is not None
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_head_is_replaced_when_it_is_named() -> None:
    model = llama(tied=True)
    float_precision_module_transform_pass(model, {"by": "name", "lm_head": {"format": "bf16"}})
    assert type(model.lm_head) is QuantizedLinear
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.get_output_embeddings() is model.lm_head
    assert torch.isfinite(model(IDS).logits).all()


@torch.no_grad()
def test_roberta_with_a_classifier() -> None:
    model = roberta()
    expected = model(IDS + 0).logits
    float_precision_module_transform_pass(
        model, {"by": "regex_name", r"classifier\..*": None, "default": {"format": "mxfp8_e4m3"}}
    )
    assert type(model.classifier.dense) is torch.nn.Linear
    assert isinstance(model.roberta.encoder.layer[0].attention.self.query, BaseQuantizationMixin)
    assert isinstance(model.roberta.encoder.layer[0].output.LayerNorm, BaseQuantizationMixin)
    assert cosine(model(IDS).logits, expected) > 0.9


def test_the_head_of_a_masked_language_model_is_left_out() -> None:
    model = roberta("RobertaForMaskedLM")
    float_precision_module_transform_pass(model, {"by": "name", "default": {"format": "bf16"}})
    assert type(model.lm_head.decoder) is torch.nn.Linear
    assert model.lm_head.decoder.weight is model.roberta.embeddings.word_embeddings.weight
    assert not any(isinstance(module, BaseQuantizationMixin) for module in model.lm_head.modules())
    assert isinstance(model.roberta.embeddings.word_embeddings, BaseQuantizationMixin)


def test_wrong_names_are_said() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'model\.layers\.0\.self_attn\.q_proj'"):
        float_precision_module_transform_pass(
            llama(tied=False), {"by": "name", "model.layers.0.self_atn.q_proj": {"format": "bf16"}}
        )


def test_it_is_saved_and_loaded_as_tensors(tmp_path: Any) -> None:
    from safetensors.torch import load_model, save_model

    pass_args = {"by": "regex_name", "default": {"format": "e5m2", "rmode": "stochastic", "seed": 1}}
    model = float_precision_module_transform_pass(llama(tied=True), pass_args)
    save_model(model, str(tmp_path / "model.safetensors"))
    torch.manual_seed(7)
    other = float_precision_module_transform_pass(llama(tied=True), pass_args)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    load_model(other, str(tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, other(IDS).logits)
