"""Every code block of the optical RoBERTa tutorial that quantsim was asked to be compatible with, run as written.

The shell runs each recipe, with its own variables and quoting. Changed are the program (``python run_glue.py`` is
``python -m quantsim.experiments.run_glue``), the folder, and what would come from the network: a small RoBERTa and
small data sets are made here.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from quantsim.optical import OpticalSettings, OtLinear
from quantsim.transforms import load_transform_config, optical_transformer_module_transform_pass

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("sklearn")

PAGE = (Path(__file__).parent / "roberta-optical-transformer.md.txt").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONFIG = next(code for kind, code in BLOCKS if kind == "yaml")
SINGLE, SEVERAL, EVALUATION, BASELINE = (code for kind, code in BLOCKS if kind == "bash")
DEFAULTS = re.findall(r"^- `(q_\w+)`: .*\(default: (.*)\)$", PAGE, re.MULTILINE)

WORDS = "the cat dog bird tree house sees finds likes paints red small old green".split()
TASKS = {
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "cola": ("sentence",),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small RoBERTa, three tasks of GLUE, and the page's configuration."""
    folder = tmp_path_factory.mktemp("recipes")
    _make_model(folder / "roberta-base")
    numbers = random.Random(0)
    for task, columns in TASKS.items():
        (folder / "data" / task).mkdir(parents=True)
        for part, count in (("train", 32), ("dev", 16)):
            rows = []
            for _ in range(count):
                label: Any = numbers.randint(0, 1)
                texts = {name: " ".join(numbers.choices(WORDS, k=6)) for name in columns}
                if label and len(columns) == 2:
                    texts["sentence2"] = texts["sentence1"]
                rows.append({**texts, "label": 5.0 * label if task == "stsb" else label})
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            (folder / "data" / task / f"{part}.jsonl").write_text(lines)
    (folder / "transform_cfg.yaml").write_text(CONFIG)
    return folder


def _make_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {word: number for number, word in enumerate(special + WORDS)}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokens.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # pyright: ignore[reportAttributeAccessIssue]
    names = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4, "cls": 0, "sep": 2}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, **{f"{name}_token": special[number] for name, number in names.items()}
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=132,
        type_vocab_size=1,
    )
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)


def expand(script: str, folder: Path, **changed: str) -> tuple[list[str], dict[str, str]]:
    """Lets the shell run a recipe up to the call of its program; returns the arguments and what was exported."""
    variables = SINGLE[SINGLE.index("# Set task parameters") : SINGLE.index("python run_glue.py")]
    lines = [f'{name}="{value}"' for name, value in changed.items()]
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{_TELL}' \"$@\"\n")
    program.chmod(0o755)
    before, _, after = script.partition("python run_glue.py")
    # The recipe's own variables first, then what would come from the network.
    steps = [variables, before, *lines, f"python run_glue.py{after}" if after else ""]
    text = "\n".join(steps).replace("cd experiments/roberta-optical-transformer", ":")
    text = text.replace("bash finetune_base.sh", "\n".join((*lines, "python finetune_base.sh")))
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eu", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return told["arguments"], told["exported"]


_TELL = (
    "import json, os, sys; names = ("
    + ", ".join(f'"{name}"' for name in ("USE_SINGLE_TASK", "TASK_LIST", "LR_LIST", "MODEL_NAME", "BATCH_SIZE"))
    + '); print(json.dumps({"arguments": sys.argv[1:], "exported": '
    + "{name: os.environ[name] for name in names if name in os.environ}}))"
)


def run(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Runs the experiment in this process, in the recipe's folder."""
    from quantsim.experiments.run_glue import main

    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with torch.random.fork_rng():
        return main([*arguments, "--data_dir", "data", "--use_cpu", "--report_to", "none", "--disable_tqdm", "true"])


def stages(results: list[Any]) -> list[tuple[str, str, str]]:
    return [(result.task, result.system.value, result.stage.value) for result in results]


def test_every_block_of_the_page_is_found() -> None:
    assert [kind for kind, _ in BLOCKS] == ["yaml", "bash", "bash", "bash", "bash"] and PAGE.count("```") == 10
    assert [name for name, _ in DEFAULTS] == list(OpticalSettings.model_fields)[: len(DEFAULTS)] and len(DEFAULTS) == 6


def test_the_configuration_is_the_default_and_is_read(home: Path) -> None:
    config = load_transform_config(home / "transform_cfg.yaml")
    assert list(config) == ["attn", "fc"]
    for values in config.values():
        settings = OpticalSettings.parse(values, "config")
        assert settings == OpticalSettings()
        for name, default in DEFAULTS:
            assert getattr(settings, name) == yaml.safe_load(default)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(home / "roberta-base")
    optical_transformer_module_transform_pass(model, config)
    assert sum(isinstance(module, OtLinear) for module in model.modules()) == 12
    assert sum(type(module).__name__ == "OtRobertaSelfAttention" for module in model.modules()) == 2
    assert not any(isinstance(module, OtLinear) for module in model.classifier.modules())


def test_single_task_then_evaluation_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _ = expand(SINGLE, home, MODEL_NAME="./roberta-base")
    assert arguments[:3] == ["run_glue.py", "--model_name_or_path", "./roberta-base"]
    assert arguments[-8:] == [
        "--evaluation_strategy", "epoch", "--save_strategy", "epoch", "--logging_steps", "50", "--seed", "42"
    ]  # fmt: skip
    results = run(arguments[1:], home, monkeypatch)
    assert stages(results) == [("mrpc", "optical", "post_training"), ("mrpc", "optical", "fine_tuned")]
    start, end = results
    assert set(end.metrics) >= {"accuracy", "f1"} and end.headline >= start.headline and end.seed == 42
    assert end.train_steps == 6
    output = home / "output" / "mrpc_optical"
    assert (output / "model.safetensors").is_file() and (output / "quantsim_results.json").is_file()
    # What was saved holds ranges and seeds. Noise goes by the place in a batch, and the recipe's batches are larger.
    arguments, _ = expand(EVALUATION, home, MODEL_NAME="./output/mrpc_optical")
    assert "--do_train" not in arguments and "--transform_config" in arguments
    again = run(arguments[1:], home, monkeypatch)
    assert len(again) == 1 and again[0].metrics == pytest.approx(end.metrics, abs=1e-3)
    again = run([*arguments[1:], "--per_device_eval_batch_size", "8"], home, monkeypatch)
    assert again[0].metrics == end.metrics


def test_evaluation_only_of_a_float_model_calibrates_the_optics(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _ = expand(EVALUATION, home, MODEL_NAME="./roberta-base")
    results = run(arguments[1:], home, monkeypatch)
    assert stages(results) == [("mrpc", "optical", "post_training")]
    assert 0.0 <= results[0].metrics["accuracy"] <= 1.0


def test_baseline_without_a_configuration(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _ = expand(BASELINE, home, MODEL_NAME="./roberta-base")
    assert "--transform_config" not in arguments
    results = run(arguments[1:], home, monkeypatch)
    assert stages(results) == [("mrpc", "original", "fine_tuned")]
    assert (home / "output" / "mrpc_baseline" / "model.safetensors").is_file()


def test_several_tasks_with_learning_rates_of_their_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantsim.experiments.glue.finetune_base import arguments_from_environment

    arguments, exported = expand(SEVERAL, home, MODEL_NAME="./roberta-base")
    assert arguments == ["finetune_base.sh"]
    assert exported["TASK_LIST"] == "stsb mrpc cola" and exported["LR_LIST"] == "1e-3 2e-5 1e-5"
    # Three epochs each would be the same thing over again.
    flags = arguments_from_environment({**exported, "TRANSFORM_CONFIG": "transform_cfg.yaml", "NUM_EPOCHS": "1"})
    results = run(flags, home, monkeypatch)
    assert stages(results) == [
        (task, "optical", stage) for task in ("stsb", "mrpc", "cola") for stage in ("post_training", "fine_tuned")
    ]
    assert [result.settings["learning_rate"] for result in results[::2]] == [1e-3, 2e-5, 1e-5]
    assert set(results[0].metrics) >= {"pearson", "spearmanr"} and set(results[4].metrics) >= {"matthews_correlation"}
    for start, end in zip(results[::2], results[1::2], strict=True):
        assert end.headline >= start.headline  # also at a learning rate at which the published run collapsed


@pytest.mark.slow
def test_the_module_is_a_program(home: Path) -> None:
    script = SINGLE.replace("cd experiments/roberta-optical-transformer", ":")
    script = script.replace('"FacebookAI/roberta-base"  ', '"./roberta-base"').replace('"3"', '"1"')
    script = script.replace(
        "python run_glue.py", f"{sys.executable} -m quantsim.experiments.run_glue --data_dir data --use_cpu"
    )
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mrpc, optical, fine tuned: " in done.stdout
