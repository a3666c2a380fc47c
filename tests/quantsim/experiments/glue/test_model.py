"""Loading a classifier, and what it is transformed by."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("transformers")

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue import System, glue_task
from quantsim.experiments.glue.arguments import parse
from quantsim.experiments.glue.model import load_classifier, system_of, transform_classifier, transform_config
from quantsim.experiments.transformed_model import TransformRecord
from quantsim.optical import OtLinear
from quantsim.optical.squeezelight import SqueezeLightLinear


@pytest.fixture
def arguments_for(tiny_roberta, tmp_path):
    def make(*flags, model=tiny_roberta, task="mnli"):
        base = ["--model_name_or_path", str(model), "--task_name", task, "--do_eval", "--output_dir", str(tmp_path)]
        return parse([*base, "--use_cpu", *flags])

    return make


def _batches(classifier):
    def make():
        return [dict(classifier.tokenizer(["w1 w2 w3", "w30 w31"], return_tensors="pt", padding=True))]

    return make


def test_a_new_head_has_the_labels_of_the_task(arguments_for):
    classifier = load_classifier(arguments_for(), glue_task("mnli"))
    assert classifier.labels == (0, 1, 2)
    assert classifier.model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    regression = load_classifier(arguments_for(task="stsb"), glue_task("stsb"))
    assert (regression.labels, regression.model.config.problem_type) == (None, "regression")


def test_the_order_of_a_fine_tuned_model_is_its_own(arguments_for, tmp_path):
    folder = tmp_path / "fine-tuned"
    first = load_classifier(arguments_for(), glue_task("mnli"))
    first.model.config.label2id = {"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2}
    first.model.config.id2label = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    first.model.save_pretrained(folder)
    first.tokenizer.save_pretrained(str(folder))
    assert load_classifier(arguments_for(model=folder), glue_task("mnli")).labels == (2, 1, 0)
    with pytest.raises(ConfigurationError, match=r"the model has a head for another task.*ignore_mismatched_sizes"):
        load_classifier(arguments_for(model=folder, task="cola"), glue_task("cola"))
    other = load_classifier(arguments_for("--ignore_mismatched_sizes", model=folder, task="cola"), glue_task("cola"))
    assert other.model.config.num_labels == 2


def test_weights_drawn_anew_differ(arguments_for):
    kept = load_classifier(arguments_for(), glue_task("mnli")).model.roberta.embeddings.word_embeddings.weight
    drawn = load_classifier(arguments_for("--reinitialize"), glue_task("mnli")).model
    assert not kept.equal(drawn.roberta.embeddings.word_embeddings.weight)


def test_no_such_model(arguments_for, tmp_path):
    with pytest.raises(ConfigurationError, match="the folder holds no model"):
        load_classifier(arguments_for(model=tmp_path), glue_task("mnli"))
    with pytest.raises(ConfigurationError, match="the model cannot be loaded; got no/such"):
        load_classifier(arguments_for(model="no/such"), glue_task("mnli"))


def test_length_is_what_the_model_takes(arguments_for):
    classifier = load_classifier(arguments_for(), glue_task("mnli"))
    assert (classifier.max_length(48), classifier.max_length(128)) == (48, 62)


def test_optics_take_all_but_the_head(arguments_for):
    arguments = arguments_for("--transform", "optical")
    classifier = load_classifier(arguments, glue_task("mnli"))
    model, record, fresh = transform_classifier(arguments, classifier, _batches(classifier))
    layers = {name for name, module in model.named_modules() if isinstance(module, OtLinear)}
    assert fresh and record is not None and system_of(record) is System.OPTICAL
    assert len(layers) == 6 and not any(name.startswith("classifier") for name in layers)
    assert all(
        quantizer.is_initialized() for name in layers for quantizer in model.get_submodule(name).input_quantizers
    )


@pytest.mark.parametrize("conversion", ["average", "least_squares"])
def test_squeezelight_takes_all_but_the_head(arguments_for, conversion):
    arguments = arguments_for("--transform", "squeezelight", "--squeezelight_conversion", conversion)
    classifier = load_classifier(arguments, glue_task("mnli"))
    model, record, _ = transform_classifier(arguments, classifier, _batches(classifier))
    layers = {name for name, module in model.named_modules() if isinstance(module, SqueezeLightLinear)}
    assert record is not None and system_of(record).value == f"squeezelight_{conversion}"
    assert len(layers) == 6 and not any(name.startswith("classifier") for name in layers)


def test_the_conversion_of_a_file_can_be_overridden(arguments_for, tmp_path):
    path = tmp_path / "rings.json"
    path.write_text(json.dumps({"by": "regex_name", r"roberta\..*dense": {"miniblock": 8, "method": "average"}}))
    flags = ("--transform", "squeezelight", "--transform_config", str(path))
    model = load_classifier(arguments_for(), glue_task("mnli")).model
    expected = {"by": "regex_name", r"roberta\..*dense": {"miniblock": 8, "method": "least_squares"}}
    assert transform_config(arguments_for(*flags, "--squeezelight_conversion", "least_squares"), model) == expected


def test_a_bad_parameter_names_the_file(arguments_for, tmp_path):
    path = tmp_path / "optics.yaml"
    path.write_text("fc: {q_levels: 1}\n")
    model = load_classifier(arguments_for(), glue_task("mnli")).model
    with pytest.raises(ConfigurationError, match=r"optics\.yaml.*q_levels"):
        transform_config(arguments_for("--transform_config", str(path)), model)


def test_a_transformed_model_keeps_its_transform(arguments_for, tiny_roberta, tmp_path):
    from quantsim.experiments.transformed_model import save_transform

    arguments = arguments_for("--transform", "optical")
    classifier = load_classifier(arguments, glue_task("mnli"))
    model, record, _ = transform_classifier(arguments, classifier, _batches(classifier))
    folder = tmp_path / "optical"
    model.save_pretrained(folder)
    classifier.tokenizer.save_pretrained(str(folder))
    save_transform(folder, record)

    saved = load_classifier(arguments_for(model=folder), glue_task("mnli"))
    assert isinstance(saved.record, TransformRecord)
    same = tmp_path / "same.yaml"
    same.write_text("attn: {q_levels: 256, q_quantiles: null}\nfc: {q_bypass: false}\n")  # defaults, spelled out
    for flags in ((), ("--transform", "optical"), ("--transform_config", str(same))):
        again, _, fresh = transform_classifier(arguments_for(*flags, model=folder), saved, _batches(saved))
        assert again is saved.model and not fresh
    other = tmp_path / "other.yaml"
    other.write_text("attn: {q_levels: 64}\nfc: {}\n")
    for flags in (("--transform_config", str(other)), ("--transform", "squeezelight")):
        with pytest.raises(ConfigurationError, match="transformed in another way already"):
            transform_classifier(arguments_for(*flags, model=folder), saved, _batches(saved))
    with pytest.raises(ConfigurationError, match=r"for another task; got .* with 3 outputs; expected 2, for cola"):
        load_classifier(arguments_for(model=folder, task="cola"), glue_task("cola"))
    with pytest.raises(ConfigurationError, match="--reinitialize"):
        load_classifier(arguments_for("--reinitialize", model=folder), glue_task("mnli"))
    shutil.rmtree(folder)
