"""Models of transformers, made here from small configurations, on optical hardware."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import compute_encodings
from quantsim.optical import OtLinear
from quantsim.transforms import optical_transformer_module_transform_pass

transformers = pytest.importorskip("transformers")

IDS = torch.randint(2, 64, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 6:] = 0
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
KINDS = {"attn": {"q_levels": 1024, "q_quantiles": None}, "fc": {"q_levels": 4096}}


def make(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    family = name.split("For")[0].removesuffix("Model")
    config = getattr(transformers, f"{family}Config")(**SIZES, **settings)
    return getattr(transformers, name)(config).eval()


def kinds(model: nn.Module) -> dict[str, str]:
    return {path: type(module).__name__ for path, module in model.named_modules() if type(module).__name__[:2] == "Ot"}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@torch.no_grad()
@pytest.mark.parametrize("family", ["Roberta", "Bert"])
def test_sequence_classifiers_by_kind_of_layer(family: str) -> None:
    model = make(f"{family}ForSequenceClassification")
    expected = model(IDS, attention_mask=MASK).logits
    parameters = dict(model.named_parameters())
    assert optical_transformer_module_transform_pass(model, KINDS) is model
    found = kinds(model)
    assert sum(kind == f"Ot{family}SelfAttention" for kind in found.values()) == 2
    assert {path for path, kind in found.items() if kind == "OtLinear"} == {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and not path.startswith("classifier")
    }
    assert all(value is parameters[name] for name, value in model.named_parameters())
    with compute_encodings(model):
        model(IDS, attention_mask=MASK)
    got = model(IDS, attention_mask=MASK).logits
    assert torch.isfinite(got).all() and cosine(got, expected) > 0.97


def test_only_linear_layers_or_only_attention() -> None:
    model = make("RobertaModel")
    optical_transformer_module_transform_pass(model, {"fc": {}})
    assert set(kinds(model).values()) == {"OtLinear"}
    model = make("RobertaModel")
    optical_transformer_module_transform_pass(model, {"attn": {}, "fc": None})
    assert set(kinds(model).values()) == {"OtRobertaSelfAttention"}


def test_tied_weights_stay_tied() -> None:
    model = make("LlamaForCausalLM", tie_word_embeddings=True)
    optical_transformer_module_transform_pass(model, {"by": "name", "default": {}})
    assert type(model.lm_head) is nn.Linear and model.lm_head.weight is model.model.embed_tokens.weight
    optical_transformer_module_transform_pass(model, {"by": "name", "lm_head": {}})
    assert type(model.lm_head) is OtLinear and model.lm_head.weight is model.model.embed_tokens.weight


def test_unmatched_patterns_name_what_is_near() -> None:
    model = make("LlamaForCausalLM")
    before = dict(model.named_modules())
    with pytest.raises(ConfigurationError, match=r"matches no module.*did you mean 'model\.layers\.0\.self_attn'"):
        optical_transformer_module_transform_pass(model, {"by": "name", "model.layers.0.self_atn": {}, "default": {}})
    with pytest.raises(ConfigurationError, match=r"does not replace.*model\.layers\.0\.mlp\.gate_proj"):
        optical_transformer_module_transform_pass(model, {"by": "name", "model.layers.0.mlp": {}})
    assert dict(model.named_modules()) == before


def test_a_pass_that_fails_at_an_attention_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantsim.optical.attention import OtLlamaAttention

    def fails(*_: Any, **__: Any) -> Any:
        raise ConfigurationError("out of luck", where="OtLlamaAttention")

    model = make("LlamaForCausalLM")
    before = {path: id(module) for path, module in model.named_modules()}
    monkeypatch.setattr(OtLlamaAttention, "from_attention", fails)
    with pytest.raises(ConfigurationError, match=r"model\.layers\.0\.self_attn \(OtLlamaAttention\)"):
        optical_transformer_module_transform_pass(model, {"by": "name", "default": {}})
    assert {path: id(module) for path, module in model.named_modules()} == before


@torch.no_grad()
def test_the_last_pass_wins_and_ranges_are_saved() -> None:
    model = make("LlamaForCausalLM")
    optical_transformer_module_transform_pass(model, {"by": "name", "default": {"q_levels": 16}})
    optical_transformer_module_transform_pass(model, {"by": "name", "default": {"q_levels": 512, "noise": "none"}})
    assert sum(kind == "OtLlamaAttention" for kind in kinds(model).values()) == 2
    assert {module.settings.q_levels for module in model.modules() if isinstance(module, OtLinear)} == {512}
    with compute_encodings(model):
        model(IDS)
    expected = model(IDS).logits
    again = make("LlamaForCausalLM")
    optical_transformer_module_transform_pass(again, {"by": "name", "default": {"q_levels": 512, "noise": "none"}})
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(IDS).logits, expected)


@torch.no_grad()
def test_other_models_go_through_the_attention_interface() -> None:
    model = make("Qwen2ForCausalLM", num_key_value_heads=2)
    expected = model(IDS, attention_mask=MASK).logits
    attention = type(model.model.layers[0].self_attn)
    config = model.config._attn_implementation
    pass_args = {"by": "regex_name", ".*self_attn": {"q_levels": 4096, "attn_range": "row"}}
    optical_transformer_module_transform_pass(model, pass_args)
    assert kinds(model) == {} and model.config._attn_implementation == config
    assert all(type(layer.self_attn) is attention for layer in model.model.layers)
    with compute_encodings(model):
        model(IDS, attention_mask=MASK)
    got = model(IDS, attention_mask=MASK).logits
    assert not torch.equal(got, expected) and cosine(got, expected) > 0.99
