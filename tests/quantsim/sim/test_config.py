from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantsim.errors import ConfigurationError
from quantsim.sim.config import (
    MAX_CONFIG_BYTES,
    ActivationPlacement,
    AnalyzerKind,
    AnalyzerSetting,
    FloatSetting,
    GranularityKind,
    IntegerSetting,
    PlacementRule,
    SimulationConfig,
    load_config,
)
from quantsim.sim.patterns import ModulePattern

FULL: dict[str, Any] = {
    "name": "mine",
    "weights": {"kind": "int", "bits": 4, "granularity": "block", "block_size": 16, "decompressed_bits": 8},
    "activations": {"kind": "float", "format": "e5m2", "granularity": "token", "dynamic": True},
    "embeddings": {"kind": "int", "bits": 8, "analyzer": "min_max"},
    "activation_placement": "outputs",
    "rules": [{"match": "head", "weights": None, "params": {"bias": {"kind": "int", "bits": 16}}}],
    "exclude": ["pooler", {"regex": "x.*"}],
}


def test_plain_data_becomes_values() -> None:
    config = SimulationConfig.parse(FULL)
    assert config.weights == IntegerSetting(
        bits=4, granularity=GranularityKind.BLOCK, block_size=16, decompressed_bits=8
    )
    assert config.activations == FloatSetting(format="e5m2", granularity=GranularityKind.TOKEN, dynamic=True)
    assert config.embeddings is not None
    assert config.embeddings.analyzer == AnalyzerSetting(kind=AnalyzerKind.MIN_MAX)
    assert config.activation_placement is ActivationPlacement.OUTPUTS
    assert config.exclude == (ModulePattern(name="pooler"), ModulePattern(regex="x.*"))
    (rule,) = config.rules
    assert rule.match == ModulePattern(name="head")
    assert rule.model_fields_set == {"match", "weights", "params"}  # None is an order, absence is not


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_files_give_the_same_config(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"config{suffix}"
    path.write_text(json.dumps(FULL) if suffix == ".json" else yaml.safe_dump(FULL))
    assert load_config(path) == load_config(str(path)) == SimulationConfig.parse(FULL)


def test_the_forms_of_a_config() -> None:
    config = SimulationConfig(name="x")
    assert load_config(config) is config
    assert load_config("w8a8").name == "w8a8"
    assert load_config(FULL) == SimulationConfig.parse(FULL)
    nothing = load_config(None)
    assert (nothing.weights, nothing.activations, nothing.embeddings, nothing.rules) == (None, None, None, ())
    with pytest.raises(ConfigurationError, match="int: 8"):
        load_config(8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wieghts": None}, "wieghts"),
        ({"weights": {"kind": "int", "bits": 1}}, "greater than or equal to 2"),
        ({"weights": {"kind": "int", "bits": 99}}, "less than or equal to 32"),
        ({"weights": {"kind": "bool"}}, "kind"),
        ({"weights": {"kind": "int", "granularity": "block"}}, "block size"),
        ({"weights": {"kind": "int", "block_size": 8}}, "block size"),
        ({"weights": {"kind": "int", "granularity": "token", "dynamic": True}}, "run-time scales"),
        ({"embeddings": {"kind": "int", "granularity": "token", "dynamic": True}}, "embeddings"),
        ({"weights": {"kind": "int", "analyzer": "token_mse"}}, "tokens"),
        ({"activations": {"kind": "int", "dynamic": True}}, "per token"),
        ({"activations": {"kind": "int", "granularity": "token"}}, "per token"),
        (
            {"activations": {"kind": "int", "granularity": "token", "dynamic": True, "analyzer": "mse"}},
            "observes nothing",
        ),
        ({"activations": {"kind": "float", "format": "e9m9"}}, "e4m3fn"),
        ({"activations": {"kind": "int", "analyzer": {"kind": "mse", "percentile": 99}}}, "percentile"),
        ({"activations": {"kind": "int", "analyzer": {"kind": "min_max", "num_bins": 64}}}, "histogram"),
        ({"activations": {"kind": "int", "analyzer": {"kind": "percentile", "candidates": 9}}}, "candidates"),
        ({"activations": {"kind": "int", "analyzer": "best"}}, "exact_mse"),
        ({"weights": {"kind": "int", "decompressed_bits": 8}}, "LPBQ"),
        (
            {"weights": {"kind": "int", "granularity": "block", "block_size": 8, "decompressed_bits": 8}},
            "must exceed bits=8",
        ),
        ({"rules": [{"match": "a"}]}, "changes nothing"),
        ({"rules": [{"weights": None}]}, "match"),
        ({"rules": [{"match": "a", "params": {"bias": {"kind": "int", "analyzer": "token_mse"}}}]}, "bias"),
        ({"exclude": [{}]}, "empty pattern"),
    ],
    ids=str,
)
def test_wrong_fields_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SimulationConfig.parse(change, source="my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert words in str(caught.value)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError, match="3 wrong field") as caught:
        SimulationConfig.parse({"a": 1, "b": 2, "activation_placement": "everywhere"})
    for words in ("a:", "b:", "'operands' or 'outputs'"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "[1]", "holds no configuration"),
        ("a.yaml", "a: [", "cannot be read"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "cannot be read"),
        ("a.yaml", "", "holds no configuration"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.json", "\ud800", "cannot be read"),
    ],
    ids=["cut", "list", "cut yaml", "code", "empty", "deep", "no utf-8"],
)
def test_broken_files(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_missing_and_oversized_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_config(tmp_path / "none.json")
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigurationError, match="too large"):
        load_config(large)


def test_configs_cannot_be_changed() -> None:
    config = SimulationConfig(weights=IntegerSetting())
    for owner, field in ((config, "name"), (config.weights, "bits"), (PlacementRule(match="a", weights=None), "match")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(owner, field, 1)


@pytest.mark.parametrize(
    ("setting", "label"),
    [
        (IntegerSetting(bits=8, symmetric=False), "int8 asymmetric, tensor"),
        (IntegerSetting(bits=8, granularity="token", dynamic=True), "int8 symmetric, token (run time)"),
        (FloatSetting(format="e5m2", granularity="block", block_size=4), "e5m2, block of 4"),
    ],
)
def test_labels(setting: IntegerSetting | FloatSetting, label: str) -> None:
    assert setting.label == label


def test_a_rule_without_a_field_is_not_one_that_takes_it_away() -> None:
    values = {
        "rules": [{"match": {"op": "conv"}, "weights": None}],
        "operations": {"mul": {"outputs": None}, "softmax": {"inputs": {"kind": "int", "bits": 4}}},
    }
    config = SimulationConfig.parse(values)
    again = SimulationConfig.parse(json.loads(config.model_dump_json()))
    assert again == config
    assert [change.model_fields_set for change in again.operations.values()] == [{"outputs"}, {"inputs"}]
    assert again.rules[0].model_fields_set == {"match", "weights"}


def test_operations_are_known_ops_by_their_one_name() -> None:
    assert list(SimulationConfig.parse({"operations": {"__add__": {"outputs": None}}}).operations) == ["add"]
    with pytest.raises(ConfigurationError, match=r"operations.*unknown op 'concatt'"):
        SimulationConfig.parse({"operations": {"concatt": {"outputs": None}}})
    with pytest.raises(ConfigurationError, match="parameter cannot have run-time scales"):
        token = {"kind": "int", "granularity": "token", "dynamic": True}
        SimulationConfig.parse({"operations": {"linear": {"params": {"bias": token}}}})


def test_a_cache_needs_data_and_a_known_range_none() -> None:
    assert SimulationConfig.parse({"kv_cache": {"kind": "int"}}).needs_data
    fixed = {"kind": "int", "fixed_range": [0, 1]}
    assert not SimulationConfig.parse({"operations": {"softmax": {"outputs": fixed}}}).needs_data
