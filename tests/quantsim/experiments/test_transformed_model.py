from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, RobertaConfig

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.experiments.transformed_model import (
    TRANSFORM_FILE,
    TransformKind,
    TransformRecord,
    apply_transform,
    calibrate_transformed,
    default_transform_config,
    is_transformed,
    load_transformed,
    preserved_noise,
    read_transform,
    save_transform,
    transform_saving_callback,
)
from quantsim.optical import OtLinear

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}


def roberta() -> Any:
    config = RobertaConfig(vocab_size=50, num_labels=3, pad_token_id=1, **SIZES)
    return AutoModelForSequenceClassification.from_config(config)


def llama(*, tied: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    config = LlamaConfig(vocab_size=50, num_key_value_heads=1, tie_word_embeddings=tied, **SIZES)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def batch(number: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    return {"input_ids": torch.randint(2, 50, (3, 12), generator=generator)}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch(9)).logits


def saved(model: Any, folder: Path, config: dict[str, Any], kind: TransformKind = TransformKind.OPTICAL) -> Path:
    model.save_pretrained(folder)
    save_transform(folder, config, kind)
    return folder


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_optical_llama_comes_back_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    config = {"attn": {"q_levels": 64, "attn_range": "row"}, "fc": {"q_levels": 128, "q_quantiles": [0.01, 0.99]}}
    model = apply_transform(llama(tied=tied), config)
    calibrate_transformed(model, [batch(0), batch(1)])
    model.train()(**batch(3)).logits.sum().backward()  # moves ranges and noise away from where they begin
    model.eval()
    folder = saved(model, tmp_path, config)
    random_before = torch.get_rng_state()
    again: Any = load_transformed(folder, AutoModelForCausalLM)
    assert torch.equal(torch.get_rng_state(), random_before)
    assert not again.training
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    for _ in range(2):  # the noise goes on alike
        assert torch.equal(logits(model), logits(again))


def test_a_saved_roberta_keeps_its_head_and_the_configuration_its_changes(tmp_path: Path) -> None:
    config = default_transform_config()
    model: Any = apply_transform(roberta(), config)
    assert type(model.classifier.dense) is nn.Linear
    assert type(model.roberta.encoder.layer[1].attention.output.dense) is OtLinear
    calibrate_transformed(model, [batch()])
    again: Any = load_transformed(
        saved(model.eval(), tmp_path, config), AutoModelForSequenceClassification, finetuning_task="cola"
    )
    assert again.config.finetuning_task == "cola"
    assert torch.equal(logits(model), logits(again))


def test_half_precision_and_shards_are_kept(tmp_path: Path) -> None:
    config = {"fc": {}}
    model: Any = apply_transform(llama(dtype=torch.bfloat16), config)
    calibrate_transformed(model, [batch()])
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    save_transform(tmp_path, config)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again: Any = load_transformed(tmp_path, AutoModelForCausalLM)
    assert again.lm_head.weight.dtype is torch.bfloat16
    assert again.model.layers[0].mlp.up_proj.input_quantizers[0].range.dtype is torch.float32
    assert torch.equal(logits(model.eval()), logits(again))


def test_a_static_error_map_is_kept(tmp_path: Path) -> None:
    config = {"by": "name", "model.layers.0.mlp.up_proj": {}}
    model: Any = apply_transform(llama(), config)
    model.model.layers[0].mlp.up_proj.set_error_map(1 + 0.01 * torch.randn(32, 16))
    calibrate_transformed(model, [batch()])
    again = load_transformed(saved(model.eval(), tmp_path, config), AutoModelForCausalLM)
    assert torch.equal(logits(model), logits(again))


def test_rings_come_back_without_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"by": "name", "roberta.encoder.layer.0.output.dense": {"method": "least_squares", "steps": 1}}
    model = apply_transform(roberta(), config, "squeezelight").eval()
    folder = saved(model, tmp_path, config, TransformKind.SQUEEZELIGHT)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights that are overwritten need no fit")

    monkeypatch.setattr("quantsim.optical.squeezelight.fit_rings", refuse)
    again = load_transformed(folder, AutoModelForSequenceClassification)
    assert torch.equal(logits(model), logits(again))
    assert read_transform(folder).config == config


def test_evaluation_is_repeated_where_noise_is_preserved() -> None:
    model = apply_transform(llama(), {"attn": {}, "fc": {}})
    calibrate_transformed(model, [batch()])
    model.eval()
    with preserved_noise(model):
        first = logits(model)
        assert not torch.equal(first, logits(model))
    with preserved_noise(model):
        assert torch.equal(first, logits(model))


def test_calibration_needs_data_and_changes_no_mode() -> None:
    model: Any = apply_transform(llama(), {"fc": {}}).train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ConfigurationError, match="nothing to calibrate with"):
        calibrate_transformed(model, [])
    with pytest.raises(ConfigurationError, match="nothing to calibrate with"):
        calibrate_transformed(model, [batch()], limit=0)
    layer = model.model.layers[1].mlp.up_proj
    assert layer.input_quantizers[0].range.isnan().all()
    seen = iter([batch(0), batch(1), batch(2)])
    report = calibrate_transformed(model, seen, limit=2)
    assert len(report.calibrated) == 2 * 14
    assert len(list(seen)) <= 1  # no more is taken than is used, but for the one that shows the limit
    assert [module.training for module in model.modules()] == modes
    assert layer.input_quantizers[0].range.isfinite().all()


def test_what_was_never_calibrated_says_so() -> None:
    with pytest.raises(NotCalibratedError, match="q_proj"):
        logits(apply_transform(llama(), {"fc": {}}).eval())


def test_a_failing_pass_leaves_the_model_as_it_was() -> None:
    model = llama()
    before = list(model.modules())
    with pytest.raises(ConfigurationError, match="q_level"):
        apply_transform(model, {"fc": {"q_level": 3}})
    with pytest.raises(ConfigurationError, match="'optical' or 'squeezelight'"):
        apply_transform(model, {"fc": {}}, "optic")
    assert list(model.modules()) == before


def test_default_arguments_fit_both_transforms() -> None:
    for kind in TransformKind:
        record = TransformRecord.of(default_transform_config(kind), kind)
        assert record.quantsim


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no transformed model"),
        ("{", "not valid"),
        ("[]", "not valid"),
        (json.dumps({"version": 2, "kind": "optical", "config": {"fc": {}}}), "version"),
        (json.dumps({"kind": "optic", "config": {"fc": {}}}), "kind"),
        (json.dumps({"kind": "optical", "config": {"fc": {"q_levels": 1}}}), "q_levels"),
    ],
)
def test_a_wrong_record_is_told(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / TRANSFORM_FILE).write_text(content)
    assert is_transformed(tmp_path) is (content is not None)
    with pytest.raises(ConfigurationError, match=words):
        load_transformed(tmp_path, AutoModelForCausalLM)


def test_tensors_that_do_not_fit_are_told(tmp_path: Path) -> None:
    config = {"fc": {}}
    model = llama()
    model.save_pretrained(tmp_path / "float")
    save_transform(tmp_path / "float", config)
    with pytest.raises(ConfigurationError, match=r"missing: .*range"):
        load_transformed(tmp_path / "float", AutoModelForCausalLM)
    apply_transform(model, config).save_pretrained(tmp_path / "other")  # pyright: ignore[reportCallIssue]
    save_transform(tmp_path / "other", {"attn": {}})
    with pytest.raises(ConfigurationError, match=r"unknown: "):
        load_transformed(tmp_path / "other", AutoModelForCausalLM)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_transformed(tmp_path / "other", AutoModelForCausalLM)
    (tmp_path / "other" / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="no weights"):
        load_transformed(tmp_path / "other", AutoModelForCausalLM)


def test_every_checkpoint_gets_the_record(tmp_path: Path) -> None:
    class State:
        global_step = 7
        is_world_process_zero = True

    class Arguments:
        output_dir = str(tmp_path)

    (tmp_path / "checkpoint-7").mkdir()
    record = TransformRecord.of({"fc": {}})
    callback: Any = transform_saving_callback(record)
    callback.on_save(Arguments, State, None)
    assert read_transform(tmp_path / "checkpoint-7") == record
