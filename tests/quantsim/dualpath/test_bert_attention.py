"""Self-attention of BERT, in transformers' place."""

from __future__ import annotations

import copy

import pytest
import torch

from quantsim.dualpath import MulShift, QBertSelfAttention, dequantize
from quantsim.errors import ConfigurationError
from quantsim.nn import compute_encodings

transformers = pytest.importorskip("transformers")
from transformers.models.bert.modeling_bert import BertSelfAttention  # noqa: E402


@pytest.fixture
def config():
    torch.manual_seed(0)
    return transformers.BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )


def mask_of(lengths: list[int], tokens: int) -> torch.Tensor:
    keep = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    return torch.where(keep, 0.0, torch.finfo(torch.float32).min)[:, None, None]


def pair(config, **settings):
    original = BertSelfAttention(config).eval()
    original.config._attn_implementation = "eager"
    module = QBertSelfAttention(config, **settings).eval()
    missing, unexpected = module.load_state_dict(original.state_dict(), strict=False)
    assert unexpected == []
    assert not any(name.startswith(("query.weight", "key.weight", "value.weight")) for name in missing)
    return original, module


def test_without_bits_it_is_the_module_of_transformers(config) -> None:
    original, module = pair(config)
    x, mask = torch.randn(2, 11, 32), mask_of([11, 6], 11)
    expected, found = original(x, mask), module(x, mask)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("with_output_quantizer", [True, False])
def test_integers_are_near_it(config, with_output_quantizer: bool) -> None:
    original, module = pair(config, wbit=8, abit=8)
    if not with_output_quantizer:
        module.yq = None
    x, mask = torch.randn(2, 40, 32), mask_of([40, 23], 40)
    with torch.no_grad():
        exact = original(x, mask)[0]
        with compute_encodings(module):
            module(x, mask)
        context, probabilities = module.inference()(x, mask)
    assert probabilities is None
    assert context.dtype == (torch.int8 if with_output_quantizer else torch.int16)
    found = dequantize(context, module.output_grid)
    assert float((found - exact).norm() / exact.norm()) < 0.04
    boolean = module(x, mask == 0)[0]
    assert torch.equal(boolean, context)


def test_it_takes_its_place_in_a_model(config) -> None:
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    other = copy.deepcopy(model)
    for layer in other.encoder.layer:
        module = QBertSelfAttention(config, layer_idx=layer.attention.self.layer_idx, wbit=8, abit=8).eval()
        module.load_state_dict(layer.attention.self.state_dict(), strict=False)
        layer.attention.self = module
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        with compute_encodings(other):
            torch.testing.assert_close(other(ids).last_hidden_state, model(ids).last_hidden_state, rtol=0.05, atol=0.05)
        torch.testing.assert_close(other(ids).last_hidden_state, model(ids).last_hidden_state, rtol=0.05, atol=0.1)


def test_parts_have_the_published_meaning(config) -> None:
    _, module = pair(config, wbit=8, abit=8)
    x = torch.randn(2, 6, 32)
    with compute_encodings(module):
        module(x)
    assert isinstance(module.qkv_deq, MulShift)
    assert module.transpose_for_scores(x).shape == (2, 4, 6, 8)
    for quantizer, layer in (("qquery", "query"), ("qkey", "key"), ("qvalue", "value")):
        assert getattr(module, quantizer) is getattr(module, layer).yq
    module.inference()
    ratio = float(module.qkv_deq.multiplier) / 2.0 ** int(module.qkv_deq.shift)
    assert ratio == pytest.approx(float(module.qvalue.scale) / float(module.yq.scale), rel=1e-6)


def test_head_masks_work_in_training_only(config) -> None:
    _, module = pair(config, wbit=8, abit=8)
    x, heads = torch.randn(2, 6, 32), torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(1, 4, 1, 1)
    with compute_encodings(module):
        module(x)
    context = module(x, head_mask=heads)[0]
    assert context[..., 8:16].abs().max().item() == 0.0
    with pytest.raises(ConfigurationError, match="head_mask"):
        module.inference()(x, head_mask=heads)


def test_other_position_embeddings_are_refused(config) -> None:
    assert QBertSelfAttention(config, "absolute").position_embedding_type == "absolute"
    with pytest.raises(ConfigurationError, match="relative_key"):
        QBertSelfAttention(config, "relative_key")
