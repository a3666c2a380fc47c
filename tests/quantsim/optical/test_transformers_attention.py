"""Optical attention in small models of transformers with their real architectures."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from quantsim.errors import ConfigurationError, NotCalibratedError, UnknownModuleError
from quantsim.nn import compute_encodings
from quantsim.optical.attention import OpticalAttentionCore, OtBertSelfAttention, OtLlamaAttention
from quantsim.optical.transformers_attention import (
    OtRobertaSelfAttention,
    convert_attention,
    is_interface_attention,
    use_optical_attention,
)

ENCODER: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def llama(implementation: str = "eager") -> Any:
    torch.manual_seed(1)
    given: dict[str, Any] = {**ENCODER, "num_key_value_heads": 2, "attn_implementation": implementation}
    config = LlamaConfig(**given)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():  # attention that is not even
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def encoder(kind: str, implementation: str = "eager") -> Any:
    torch.manual_seed(2)
    if kind == "gpt2":
        sizes: dict[str, Any] = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
        return GPT2Model(GPT2Config(**sizes, attn_implementation=implementation)).eval()  # pyright: ignore[reportCallIssue]
    classes = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}
    config_class, model_class = classes[kind]
    return model_class(config_class(**ENCODER, attn_implementation=implementation)).eval()


def make(kind: str, implementation: str = "eager") -> Any:
    return llama(implementation) if kind == "llama" else encoder(kind, implementation)


def optical(model: Any, **q: Any) -> Any:
    """The same weights, with every attention layer optical."""
    made = copy.deepcopy(model)
    for name, module in list(made.named_modules()):
        if is_interface_attention(module):
            parent, _, own = name.rpartition(".")
            setattr(made.get_submodule(parent), own, convert_attention(module, name=name, **q))
    return made


def tokens() -> dict[str, Tensor]:
    torch.manual_seed(4)
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, :4] = 0
    mask[2, :7] = 0
    return {"input_ids": torch.randint(3, 50, (3, 12)), "attention_mask": mask}


def calibrate(model: Any, **given: Tensor) -> Any:
    with compute_encodings(model):
        model(**(given or tokens()))
    return model


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta", "gpt2"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_bypass_equals_eager_attention_bit_for_bit(kind: str, implementation: str) -> None:
    model = make(kind)
    bypassed = optical(make(kind, implementation), q_bypass=True)
    for given in (tokens(), {"input_ids": tokens()["input_ids"]}):
        assert torch.equal(model(**given)[0], bypassed(**given)[0])
    assert sum(isinstance(each, OpticalAttentionCore) for each in bypassed.modules()) == 2


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta", "gpt2"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_many_levels_approach_the_float_model_with_padding_and_causality(kind: str, implementation: str) -> None:
    model = make(kind)
    fine = calibrate(optical(make(kind, implementation), q_levels=2**18, q_lut_min=None, noise="none"))
    given = tokens()
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(fine(**given)[0][seen], model(**given)[0][seen], atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
def test_256_levels_stay_close(kind: str) -> None:
    model = make(kind)
    result = calibrate(optical(model))(**tokens())[0]
    exact = model(**tokens())[0]
    seen = tokens()["attention_mask"].bool()
    assert torch.cosine_similarity(result[seen].flatten(), exact[seen].flatten(), 0) > 0.98
    assert not torch.allclose(result[seen], exact[seen], atol=1e-5)


def test_padding_changes_nothing_for_the_tokens_that_count() -> None:
    model = calibrate(optical(encoder("bert"), noise="none"))
    given = tokens()
    other = dict(given, input_ids=torch.where(given["attention_mask"].bool(), given["input_ids"], 9))
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(model(**given)[0][seen], model(**other)[0][seen], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_decoding_with_a_cache_equals_the_whole_sequence(implementation: str) -> None:
    model = optical(llama(implementation), q_levels=2**16, q_lut_min=None, noise="none")
    ids = tokens()["input_ids"]
    calibrate(model, input_ids=ids)
    whole = model(input_ids=ids).logits
    first = model(input_ids=ids[:, :5], use_cache=True)
    steps, cache = [first.logits], first.past_key_values
    for place in (slice(5, 8), slice(8, 9), slice(9, 12)):  # several tokens at once as well
        result = model(input_ids=ids[:, place], past_key_values=cache, use_cache=True)
        steps.append(result.logits)
        cache = result.past_key_values
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=0.02, rtol=0.02)


def test_uncalibrated_evaluation_names_the_layer() -> None:
    with pytest.raises(NotCalibratedError, match=r"model\.layers\.0\.self_attn\.optical_core\.input_quantizers\[0\]"):
        optical(llama())(**tokens())
    layer = OtLlamaAttention(llama().config, 1)
    assert layer.optical_core.module_path == "OtLlamaAttention(layer_idx=1).optical_core"


def test_ranges_freeze_in_evaluation_and_move_in_training() -> None:
    model = calibrate(optical(encoder("roberta")))
    core = model.encoder.layer[0].attention.self.optical_core

    def ranges() -> Tensor:
        return torch.stack([values.clone() for values in core.ranges.values()])

    before = ranges()
    model(**tokens())
    assert torch.equal(before, ranges())
    model.train()(input_ids=tokens()["input_ids"].flip(1))
    assert not torch.equal(before, ranges())


def test_ranges_survive_saving_and_evaluation_alone() -> None:
    model = calibrate(optical(llama()))
    state = copy.deepcopy(model.state_dict())
    fresh = optical(llama(), q_init_seed=5)
    fresh.load_state_dict(state)
    assert torch.equal(model(**tokens()).logits, fresh(**tokens()).logits)
    expected = copy.deepcopy(fresh)(**tokens()).logits
    assert torch.equal(pickle.loads(pickle.dumps(fresh))(**tokens()).logits, expected)


def test_training_step_reaches_the_projections() -> None:
    model = optical(llama()).train()
    ids = tokens()["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            assert projection.weight.grad is not None and bool(projection.weight.grad.isfinite().all())
            assert projection.weight.grad.abs().max() > 0


def test_classes_share_parameters_and_leave_the_original_alone() -> None:
    model = llama()
    attention = model.model.layers[0].self_attn
    made = OtLlamaAttention.from_attention(attention, q_levels=64)
    assert made.q_proj is attention.q_proj and "optical_core" not in dict(attention.named_children())
    assert attention.config._attn_implementation == "eager" and attention.config is model.config
    assert made.q_bypass is False and made.optical_core.settings.q_levels == 64
    assert OtLlamaAttention.from_attention(made, q_levels=32).optical_core.settings.q_levels == 32
    assert isinstance(convert_attention(encoder("bert").encoder.layer[0].attention.self), OtBertSelfAttention)
    assert isinstance(convert_attention(encoder("roberta").encoder.layer[0].attention.self), OtRobertaSelfAttention)
    assert convert_attention(made) is made


def test_one_optical_layer_among_float_ones() -> None:
    model = llama()
    mixed = copy.deepcopy(model)
    mixed.model.layers[1].self_attn = convert_attention(mixed.model.layers[1].self_attn, q_bypass=True)
    use_optical_attention(mixed)
    assert torch.equal(mixed(**tokens()).logits, model(**tokens()).logits)
    assert mixed.config._attn_implementation == "quantsim_optical"


def test_wrong_use_is_refused() -> None:
    with pytest.raises(UnknownModuleError, match="Linear"):
        convert_attention(nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="BertSelfAttention"):
        OtLlamaAttention.from_attention(encoder("bert").encoder.layer[0].attention.self)
    with pytest.raises(ConfigurationError, match="q_level"):
        OtLlamaAttention(llama().config, 0, q_level=5)
    with pytest.raises(ConfigurationError, match="Sequential"):
        use_optical_attention(nn.Sequential())
    layer = OtLlamaAttention(llama().config, 0)
    from quantsim.optical.transformers_attention import optical_attention_forward

    q = torch.randn(2, 4, 3, 8)
    with pytest.raises(ConfigurationError, match="use_optical_attention"):
        optical_attention_forward(layer, q, q, q, torch.ones(2, 3))
    with pytest.raises(ConfigurationError, match="softcap"):
        optical_attention_forward(layer, q, q, q, None, softcap=3.0)
