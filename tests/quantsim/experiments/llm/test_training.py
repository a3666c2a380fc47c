from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.arguments import parse
from quantsim.experiments.llm.bytes_data import TextBlocks, byte_encoder
from quantsim.experiments.llm.model import ByteLlamaSize, new_byte_llama
from quantsim.experiments.llm.results import LanguageStage, read_language_results
from quantsim.experiments.llm.training import BestState, LanguageTrainer, load_blocks, perplexity, run
from quantsim.experiments.transformed_model import is_transformed, load_transformed

Flags = Sequence[str]


def arguments(flags: Flags, output: Path, *more: str) -> Any:
    return parse([*flags, "--output_dir", str(output), *more])


def test_measured_loss_is_the_mean_over_all_predicted_bytes(tmp_path: Path, flags: Flags) -> None:
    asked = arguments(flags, tmp_path, "--do_eval", "--per_device_eval_batch_size", "5")
    _, blocks = load_blocks(asked)
    model: Any = new_byte_llama(ByteLlamaSize(hidden_size=16, layers=1, heads=2, intermediate_size=32))
    measured = LanguageTrainer(model, asked.training, None, blocks).evaluate()
    with torch.no_grad():
        logits = model.eval()(input_ids=blocks.tokens).logits[:, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks.tokens[:, 1:].flatten())
    assert len(blocks) % 5  # the last batch is smaller
    assert measured["eval_loss"] == pytest.approx(losses.item(), rel=1e-6)
    assert measured["eval_perplexity"] == pytest.approx(losses.exp().item(), rel=1e-5)


def test_perplexity_is_by_byte() -> None:
    assert perplexity(math.log(16.0), 4.0) == pytest.approx(2.0)
    assert math.isnan(perplexity(math.nan))


def test_training_in_float_learns_and_is_saved(float_model: Path) -> None:
    (result,) = read_language_results(float_model / "quantsim_results.json")
    assert (result.system, result.stage, result.train_steps) == ("original", LanguageStage.TRAINED, 60)
    assert result.perplexity < 60  # 256 before, 27 different bytes in the text
    assert not is_transformed(float_model)
    assert AutoModelForCausalLM.from_pretrained(float_model).num_parameters() == result.parameters


def test_tuning_through_optics_and_evaluation_of_the_saved_folder(
    tmp_path: Path, flags: Flags, float_model: Path, optical_config: Path
) -> None:
    common = (*flags, "--model_name_or_path", str(float_model))
    (plain,) = run(arguments(common, tmp_path / "plain", "--do_eval"))
    assert plain.stage is LanguageStage.TRAINED
    assert not (tmp_path / "plain" / "model.safetensors").exists()
    tuning = ("--transform_config", str(optical_config), "--do_train", "--max_steps", "12")
    start, tuned = run(
        arguments(common, tmp_path / "optical", *tuning, "--eval_strategy", "steps", "--eval_steps", "6")
    )
    assert (start.stage, tuned.stage) == (LanguageStage.POST_TRAINING, LanguageStage.FINE_TUNED)
    assert start.loss != plain.loss  # optics have an effect,
    assert start.loss == pytest.approx(plain.loss, abs=0.2)  # but a small one
    assert tuned.loss < start.loss
    assert tuned.settings == {"config": {"attn": {"q_levels": 64}, "fc": {"q_levels": 64}}}
    (again,) = run(arguments([*flags, "--model_name_or_path", str(tmp_path / "optical")], tmp_path / "e", "--do_eval"))
    assert again.stage is LanguageStage.FINE_TUNED
    assert again.loss == tuned.loss
    # The calibrated model without training, too, can be saved and comes back as it was.
    (calibrated,) = run(arguments(common, tmp_path / "calibrated", *tuning[:2], "--do_eval"))
    assert calibrated.loss == start.loss
    (again,) = run(
        arguments([*flags, "--model_name_or_path", str(tmp_path / "calibrated")], tmp_path / "e2", "--do_eval")
    )
    assert again.loss == start.loss


def test_tuning_never_ends_below_its_start(
    tmp_path: Path, flags: Flags, float_model: Path, optical_config: Path
) -> None:
    ruinous = (
        *("--model_name_or_path", str(float_model), "--transform_config", str(optical_config), "--do_train"),
        *("--max_steps", "4", "--learning_rate", "30", "--max_grad_norm", "0", "--lr_scheduler_type", "constant"),
    )
    start, tuned = run(arguments(flags, tmp_path / "kept", *ruinous))
    assert tuned.loss == start.loss
    assert (tuned.kept_step, tuned.train_steps) == (0, 4)
    again = load_transformed(tmp_path / "kept", AutoModelForCausalLM)
    assert all(value.isfinite().all() for value in again.state_dict().values() if value.is_floating_point())
    start, ruined = run(arguments(flags, tmp_path / "ruined", *ruinous, "--keep_best", "false"))
    assert not ruined.loss <= start.loss  # it may be NaN


def test_checkpoints_of_a_transformed_model_can_be_loaded(
    tmp_path: Path, flags: Flags, float_model: Path, optical_config: Path
) -> None:
    more = ("--model_name_or_path", str(float_model), "--transform_config", str(optical_config), "--do_train")
    run(arguments(flags, tmp_path, *more, "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1"))
    assert {
        type(module).__name__ for module in load_transformed(tmp_path / "checkpoint-1", AutoModelForCausalLM).modules()
    } >= {
        "OtLinear",
        "OtLlamaAttention",
    }


def test_one_seed_gives_one_result(tmp_path: Path, flags: Flags, float_model: Path, optical_config: Path) -> None:
    more = (
        *("--model_name_or_path", str(float_model), "--transform_config", str(optical_config)),
        *("--do_train", "--max_steps", "3", "--seed", "3"),
    )
    first = run(arguments(flags, tmp_path / "a", *more))
    torch.rand(3)
    second = run(arguments(flags, tmp_path / "b", *more))
    assert [each.loss for each in first] == [each.loss for each in second]


def test_a_model_is_not_replaced_or_transformed_otherwise_unasked(
    tmp_path: Path, flags: Flags, float_model: Path, optical_config: Path
) -> None:
    to_optics = ("--model_name_or_path", str(float_model), "--transform_config", str(optical_config), "--do_eval")
    run(arguments(flags, tmp_path, *to_optics))
    with pytest.raises(ConfigurationError, match="--overwrite_output_dir"):
        run(arguments(flags, tmp_path, *to_optics))
    run(arguments(flags, tmp_path, *to_optics, "--overwrite_output_dir"))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"fc": {"q_levels": 16}}))
    changed = ("--model_name_or_path", str(tmp_path), "--transform_config", str(other), "--do_eval")
    with pytest.raises(ConfigurationError, match="transformed in another way already"):
        run(arguments(flags, tmp_path / "new", *changed))


def test_the_best_state_ignores_what_is_no_number() -> None:
    model = torch.nn.Linear(2, 2)
    best = BestState(model, 1.0)
    kept = model.weight.detach().clone()
    state: Any = type("State", (), {"global_step": 5})()
    nothing: Any = None
    with torch.no_grad():
        model.weight.fill_(7.0)
    best.on_evaluate(nothing, state, nothing, {"eval_loss": math.nan}, model=model)
    best.restore(model)
    assert torch.equal(model.weight, kept)
    with torch.no_grad():
        model.weight.fill_(8.0)
    best.on_evaluate(nothing, state, nothing, {"eval_loss": 0.5}, model=model)
    assert (best.step, best.loss) == (5, 0.5)
    with torch.no_grad():
        model.weight.fill_(9.0)
    best.restore(model)
    assert model.weight.eq(8.0).all()


def test_a_limit_on_blocks_is_kept(tmp_path: Path, flags: Flags) -> None:
    asked = arguments(flags, tmp_path, "--do_eval", "--max_train_samples", "7", "--max_eval_samples", "3")
    train, validation = load_blocks(asked)
    assert (len(train), len(validation)) == (7, 3)
    assert isinstance(train, TextBlocks)
    assert byte_encoder("a") == [97]
