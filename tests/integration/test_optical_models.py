"""Whole models of transformers on optics: calibrated, copied, saved, exchanged as encodings, compiled, exported."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.nn import compute_encodings
from quantsim.optical import OtLinear
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim.sim import QuantizationSimModel, SimulationConfig
from quantsim.transforms import optical_transformer_module_transform_pass

transformers = pytest.importorskip("transformers")

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(3, 60, (3, 10), generator=GENERATOR)
MASK = torch.ones_like(IDS)
MASK[1, 7:] = 0
TEXT = {"input_ids": IDS, "attention_mask": MASK}
IMAGES = {"pixel_values": torch.randn(3, 3, 16, 16, generator=GENERATOR)}
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
LLAMA: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]] = {
    "Llama": ("LlamaForCausalLM", LLAMA, TEXT),
    "Roberta": ("RobertaForSequenceClassification", SIZES, TEXT),
    "Bert": ("BertForSequenceClassification", SIZES, TEXT),
    "Mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 4, "head_dim": 8}, TEXT),
    "Qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}, TEXT),
    "DistilBert": (
        "DistilBertForSequenceClassification",
        {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 40},
        TEXT,
    ),
    "Electra": ("ElectraForSequenceClassification", {**SIZES, "embedding_size": 32}, TEXT),
    "ViT": ("ViTForImageClassification", {**SIZES, "image_size": 16, "patch_size": 4}, IMAGES),
    "Dinov2": ("Dinov2ForImageClassification", {**SIZES, "image_size": 16, "patch_size": 4, "mlp_ratio": 2}, IMAGES),
}
KINDS = {"attn": {"q_levels": 256}, "fc": {"q_levels": 256}}
FINE = {"q_levels": 2**16, "q_lut_min": None, "noise": "none"}


def make(family: str) -> Any:
    torch.manual_seed(0)
    name, settings, _ = FAMILIES[family]
    known = {
        key: value for key, value in settings.items() if not (family in ("ViT", "Dinov2") and key in ("vocab_size",))
    }
    model = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**known)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(8.0)  # as large as those of trained models, so that layers matter beside embeddings
    return model


def optical(family: str, pass_args: dict[str, Any] | None = None, *, calibrate: bool = True) -> Any:
    model = optical_transformer_module_transform_pass(make(family), pass_args or KINDS)
    if calibrate:
        with torch.no_grad(), compute_encodings(model):
            model(**FAMILIES[family][2])
    return model


@torch.no_grad()
def logits(model: nn.Module, family: str) -> Tensor:
    return model(**FAMILIES[family][2]).logits


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def quantizers(model: nn.Module) -> list[OpticalQuantizeDequantize]:
    return [module for module in model.modules() if isinstance(module, OpticalQuantizeDequantize)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_nears_its_float_model_with_many_levels_and_moves_with_few(family: str) -> None:
    expected = logits(make(family), family)
    fine = optical(family, {"attn": {**FINE, "attn_range": "row"}, "fc": FINE})
    linears = [module for module in fine.modules() if isinstance(module, OtLinear)]
    attentions = sum(hasattr(module, "optical_core") for module in fine.modules())
    assert len(linears) >= 8 and attentions == 2
    assert all(each.is_initialized() for each in quantizers(fine))
    coarse = {"q_levels": 8, "noise": "none"}
    errors = [
        float((logits(model, family) - expected).norm() / expected.norm())
        for model in (fine, optical(family), optical(family, {"attn": coarse, "fc": coarse}))
    ]
    assert errors[0] < 0.01 and 2 * errors[0] < errors[1] < 0.3 and 2 * errors[1] < errors[2] < 10.0, errors


@pytest.mark.parametrize("family", ["Llama", "Roberta", "Bert", "ViT"])
def test_copies_pickles_and_states_continue_where_the_model_stands(family: str) -> None:
    model = optical(family)
    logits(model, family)  # the noise has moved on
    other = optical(family, calibrate=False)
    other.load_state_dict(model.state_dict())
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other]
    expected = [logits(model, family) for _ in range(2)]
    assert not torch.equal(*expected)
    for twin in twins:
        assert all(torch.equal(logits(twin, family), each) for each in expected)


@pytest.mark.parametrize("family", ["Llama", "Roberta"])
def test_encodings_carry_all_ranges_and_seeds_to_another_model(family: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "q_levels": 128,
        "q_smooth_factor": 0.8,
        "noise": "shot",
        "photons": 50.0,
        "ste": "clipped",
    }
    pass_args = {"attn": {**settings, "q_levels": 512}, "fc": settings}
    sims = []
    for calibrate in (True, False):
        model = optical(family, pass_args, calibrate=calibrate)
        sims.append(QuantizationSimModel(model, config=SimulationConfig(name="as it is"), in_place=True))
    first, second = sims
    first.save_encodings(tmp_path / "optical.json")
    report = second.load_encodings(tmp_path / "optical.json")
    found = quantizers(first.model)
    assert len(report.loaded) == len(found) and report.created == () and report.fingerprint_matches
    again = quantizers(second.model)
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one.range, other.range) and torch.equal(one.seed, other.seed)
        assert (one.format, one.photons, one.ste, one.smooth_factor) == (
            other.format,
            other.photons,
            other.ste,
            other.smooth_factor,
        )
    assert {each.levels for each in again} == {128, 512}
    for _ in range(2):
        assert torch.equal(logits(first.model, family), logits(second.model, family))


def test_encodings_bring_optics_to_a_layer_that_had_none() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    layer = OtLinear.from_linear(linear, noise="none")
    with compute_encodings(layer):
        layer(torch.randn(20, 6))
    document = QuantizationSimModel(layer.eval(), config=SimulationConfig(name="optical")).encodings()
    plain = QuantizationSimModel(linear.eval(), config=SimulationConfig(name="plain"))
    assert len(plain.load_encodings(document).created) == 3
    x = torch.randn(5, 6)
    # Its bias is added before the output is quantized, where an optical layer adds it afterwards.
    torch.testing.assert_close(plain(x), layer(x), rtol=0, atol=float(linear.bias.detach().abs().max()) + 0.05)
    assert all(torch.equal(plain(x), plain(x)) and quantizer.levels == 256 for quantizer in quantizers(plain.model))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "Roberta"])
def test_compiles_as_one_graph(family: str) -> None:
    model = optical(family, {"attn": {"noise": "none"}, "fc": {"noise": "none"}})
    expected = logits(model, family)
    compiled: Any = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    got = compiled(**FAMILIES[family][2]).logits.detach()
    assert cosine(got, expected) > 0.9999  # a tie of a sum may fall to the other level


@pytest.mark.slow
def test_exports_with_ranges_and_noise() -> None:
    model = optical("Roberta")
    model.config.return_dict = False
    exported = torch.export.export(copy.deepcopy(model), (), TEXT, strict=False)
    runs = exported.module()
    with torch.no_grad():
        for _ in range(2):
            expected = model(**TEXT)[0]
            assert cosine(runs(**TEXT)[0], expected) > 0.999
    ranges = [name for name in exported.state_dict if name.endswith(".range")]
    assert len(ranges) == len(quantizers(model))


def test_trains_in_half_precision_and_keeps_ranges_in_float32() -> None:
    model = optical("Llama", calibrate=False).to(torch.bfloat16).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(12):
        loss = model(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(each.range.dtype is torch.float32 and each.seed.dtype is torch.int64 for each in quantizers(model))


def test_generates_with_a_cache_on_calibrated_optics() -> None:
    model = optical("Llama", {"by": "regex_name", ".*self_attn|.*proj": {"q_levels": 4096, "noise": "none"}})
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        cached = model.generate(IDS[:1], use_cache=True, **settings)
        whole = model.generate(IDS[:1], use_cache=False, **settings)
    assert torch.equal(cached, whole) and cached.shape == (1, 16)
