"""``from_pretrained`` gives simulated models, and reads back what ``save_pretrained`` wrote."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from quantsim.errors import ConfigurationError, NotCalibratedError  # noqa: E402
from quantsim.export import load_simulation  # noqa: E402
from quantsim.integrations import transformers as integration  # noqa: E402
from quantsim.integrations.transformers import QuantSimHfConfig, example_inputs_of, simulation_of  # noqa: E402
from quantsim.sim import QuantizationSimModel, preset  # noqa: E402

SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def bert() -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=99, num_labels=3, **SMALL))


def llama() -> Any:
    config = transformers.LlamaConfig(vocab_size=99, num_key_value_heads=2, tie_word_embeddings=True, **SMALL)
    return transformers.LlamaForCausalLM(config)


def vit() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL))


def t5() -> Any:
    config = transformers.T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.disable_progress_bar()


def float_model(make: Any, folder: Path) -> Any:
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(folder)
    return model


def inputs_for(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(values.shape, generator=generator) if values.is_floating_point() else values
        for name, values in example_inputs_of(model).items()
    }


def first(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


@pytest.mark.parametrize("make", [bert, llama, vit, t5])
def test_from_pretrained_equals_a_simulation_and_comes_back_calibrated(tmp_path: Path, make: Any) -> None:
    model = float_model(make, tmp_path / "float")
    inputs = inputs_for(model)
    simulated = type(model).from_pretrained(tmp_path / "float", quantization_config=QuantSimHfConfig(preset="w8a8"))
    sim = simulation_of(simulated)
    assert sim.model is simulated
    assert isinstance(simulated, type(model))
    with pytest.raises(NotCalibratedError):
        simulated(**inputs)
    sim.compute_encodings([inputs])
    direct = QuantizationSimModel(model, example_inputs_of(model), config="w8a8")
    direct.compute_encodings([inputs])
    expected = first(simulated, inputs)
    assert torch.equal(first(direct, inputs), expected)
    assert not torch.equal(first(model, inputs), expected)

    simulated.save_pretrained(tmp_path / "saved")
    names = set(os.listdir(tmp_path / "saved"))
    assert names >= {"config.json", "encodings.json", "model.safetensors", "quantsim.json"}
    again = type(model).from_pretrained(tmp_path / "saved")
    assert torch.equal(first(again, inputs), expected)
    assert str(simulation_of(again).summary()) == str(sim.summary())

    direct.save_pretrained(tmp_path / "direct")  # one that transformers did not make
    loaded = load_simulation(tmp_path / "direct")
    assert torch.equal(first(loaded, inputs), expected)
    assert type(loaded.model).__name__ == type(model).__name__
    assert "quantization_config" not in model.config.__dict__

    restored = again.dequantize()
    assert type(restored) is type(model)
    assert torch.equal(first(restored, inputs), first(model, inputs))
    restored.save_pretrained(tmp_path / "restored")
    assert "quantsim.json" not in os.listdir(tmp_path / "restored")


def calibrated_bert(folder: Path, config: str = "w8a8") -> Any:
    float_model(bert, folder / "float")
    model = transformers.BertForSequenceClassification.from_pretrained(
        folder / "float", quantization_config=QuantSimHfConfig(config)
    )
    simulation_of(model).compute_encodings([inputs_for(model)])
    return model


def test_copies_and_pickles_have_simulations_of_their_own(tmp_path: Path) -> None:
    model = calibrated_bert(tmp_path)
    inputs = inputs_for(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert simulation_of(other).model is other
        with torch.no_grad():
            other.classifier.bias += 1
        other.save_pretrained(tmp_path / "other")
        again = type(model).from_pretrained(tmp_path / "other")
        assert torch.equal(first(again, inputs), first(other, inputs))
        assert not torch.equal(first(again, inputs), first(model, inputs))


def test_shards_and_a_second_save_over_them(tmp_path: Path) -> None:
    model = calibrated_bert(tmp_path)
    inputs = inputs_for(model)
    model.save_pretrained(tmp_path / "saved", max_shard_size="100KB")
    assert "model.safetensors.index.json" in os.listdir(tmp_path / "saved")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(first(again, inputs), first(model, inputs))
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(tmp_path / "saved")
    assert "model.safetensors.index.json" not in os.listdir(tmp_path / "saved")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(first(again, inputs), first(model, inputs))


def test_training_step_then_save(tmp_path: Path) -> None:
    model = calibrated_bert(tmp_path)
    assert model.hf_quantizer.is_trainable
    assert model.hf_quantizer.is_qat_trainable
    inputs = inputs_for(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert model.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    optimizer.step()
    model.eval()
    model.save_pretrained(tmp_path / "saved", state_dict=model.state_dict())  # as the Trainer does
    again = type(model).from_pretrained(tmp_path / "saved")
    assert torch.equal(first(again, inputs), first(model, inputs))


def test_encodings_in_a_float_models_folder_calibrate_it(tmp_path: Path) -> None:
    model = calibrated_bert(tmp_path)
    simulation_of(model).save_encodings(tmp_path / "float" / "encodings.json")
    again = type(model).from_pretrained(tmp_path / "float", quantization_config=QuantSimHfConfig("w8a8"))
    assert torch.equal(first(again, inputs_for(model)), first(model, inputs_for(model)))


def test_the_attention_of_the_saved_simulation_is_used(tmp_path: Path) -> None:
    float_model(bert, tmp_path / "float")
    model = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "float", quantization_config=QuantSimHfConfig("w8a8"), attn_implementation="eager"
    )
    inputs = inputs_for(model)
    simulation_of(model).compute_encodings([inputs])
    assert any("matmul_0" in place for place, _ in simulation_of(model).quantizers())
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    assert again.config._attn_implementation == "eager"
    assert torch.equal(first(again, inputs), first(model, inputs))


def test_own_example_inputs_are_used_and_not_saved(tmp_path: Path) -> None:
    float_model(vit, tmp_path / "float")
    config = QuantSimHfConfig("w8a8", example_inputs={"pixel_values": torch.zeros(3, 3, 32, 32)})
    model = transformers.ViTModel.from_pretrained(tmp_path / "float", quantization_config=config)
    assert simulation_of(model)._run is not None
    assert "example_inputs" not in model.config.to_dict()["quantization_config"]


def test_another_class_is_refused_with_the_right_one(tmp_path: Path) -> None:
    calibrated_bert(tmp_path).save_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigurationError, match=r"BertForSequenceClassification\.from_pretrained"):
        transformers.AutoModel.from_pretrained(tmp_path / "saved")


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    calibrated_bert(tmp_path).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "quantsim.json").unlink()
    with pytest.raises(ConfigurationError, match=r"the rest of it is missing.*no quantsim\.json"):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved")


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="w8a8"):
        QuantSimHfConfig("w8a")
    with pytest.raises(ConfigurationError, match="another quantization method"):
        QuantSimHfConfig(quant_method="gptq")
    with pytest.raises(ConfigurationError, match="not simulated"):
        simulation_of(bert())
    audio = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            **SMALL, num_conv_pos_embedding_groups=4, conv_dim=(8,), conv_stride=(5,), conv_kernel=(10,)
        )
    )
    with pytest.raises(ConfigurationError, match="main input 'input_values'"):
        example_inputs_of(audio)
    model = calibrated_bert(tmp_path)
    with pytest.raises(ConfigurationError, match="push_to_hub"):
        model.save_pretrained(tmp_path / "saved", push_to_hub=True)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["logging"]}))
    with pytest.raises(ConfigurationError, match="no such model"):
        integration.load_model(tmp_path)


def test_importing_twice_registers_once() -> None:
    # In a process of its own: the classes of a module that is loaded again are others than those that tests hold.
    code = "import importlib; from quantsim.integrations import transformers; importlib.reload(transformers)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_round_trip() -> None:
    config = QuantSimHfConfig(preset("w4a16_g32"), attn_implementation="eager")
    again = QuantSimHfConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.config == config.config
    assert again.attn_implementation == "eager"


@pytest.mark.slow
def test_without_the_import_the_folder_loads_as_the_float_model_and_transformers_says_so(tmp_path: Path) -> None:
    calibrated_bert(tmp_path).save_pretrained(tmp_path / "saved")
    code = (
        "import sys; from transformers import AutoModelForSequenceClassification as A\n"
        f"model = A.from_pretrained({str(tmp_path / 'saved')!r})\n"
        "print(type(model.classifier).__name__, 'quantsim' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["Linear", "False"]
    assert "Unknown quantization type, got quantsim" in result.stdout + result.stderr
