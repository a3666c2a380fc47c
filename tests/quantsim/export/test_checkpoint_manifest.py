"""The manifest reads back what it wrote, and refuses everything else with words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.export.checkpoint_manifest import CheckpointManifest, plain_config
from quantsim.sim import IntegerSetting, PlacementRule, QuantizationSimModel, SimulationConfig, preset, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_plain_config_of_every_preset(name: str) -> None:
    assert SimulationConfig.parse(plain_config(preset(name))) == preset(name)


def test_a_rules_missing_field_stays_missing() -> None:
    rules = (
        PlacementRule(match="0", weights=None),  # pyright: ignore[reportArgumentType]
        PlacementRule(match="0", params={"bias": IntegerSetting(bits=16)}),  # pyright: ignore[reportArgumentType]
    )
    config = preset("w8a8").model_copy(update={"rules": rules})
    again = SimulationConfig.parse(plain_config(config))
    assert again == config
    assert [rule.model_fields_set for rule in again.rules] == [rule.model_fields_set for rule in rules]


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    manifest = CheckpointManifest.of(QuantizationSimModel(nn.Linear(2, 2), torch.zeros(1, 2)), weights="folded")
    manifest.write(tmp_path / "quantsim.json")
    assert CheckpointManifest.read(tmp_path / "quantsim.json") == manifest
    assert manifest.weights == "folded"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[]", "valid dictionary"),
        ('{"version": 2}', "version: Input should be 1"),
        ('{"format": "other"}', "quantsim-checkpoint"),
        ('{"surprise": 1}', "surprise"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_refuses_what_is_no_manifest(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "quantsim.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        CheckpointManifest.read(path)


def test_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"got no quantsim\.json"):
        CheckpointManifest.read(tmp_path / "quantsim.json")
    with pytest.raises(ConfigurationError, match="got no such folder"):
        CheckpointManifest.read(tmp_path / "nowhere" / "quantsim.json")
