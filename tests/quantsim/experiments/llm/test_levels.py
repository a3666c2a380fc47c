from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm import levels
from quantsim.experiments.llm.arguments import parse
from quantsim.experiments.llm.levels import SweepVariant, parse_levels, parse_variants, run_sweep, sweep_config
from quantsim.experiments.llm.results import LanguageStage, read_language_results
from quantsim.transforms import parse_optical_arguments

Flags = Sequence[str]


def test_a_sweep_measures_every_point_once(
    tmp_path: Path, flags: Flags, float_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        *(*flags, "--output_dir", str(tmp_path), "--model_name_or_path", str(float_model)),
        *("--sweep_variants", "configured,no_noise", "--levels"),
    ]
    results = run_sweep(parse([*command, "4,256"]))
    assert [(item.settings.get("variant"), item.settings.get("levels")) for item in results] == [
        (None, None),
        ("configured", 4),
        ("configured", 256),
        ("no_noise", 4),
        ("no_noise", 256),
    ]
    reference, *points = results
    assert reference.stage is LanguageStage.TRAINED
    assert {point.stage for point in points} == {LanguageStage.POST_TRAINING}
    for coarse, fine in (points[:2], points[2:]):
        assert abs(fine.loss - reference.loss) < 0.2 * abs(coarse.loss - reference.loss)
    assert {path.name for path in tmp_path.iterdir()} >= {"levels.md", "levels.png", "levels.svg"}
    assert read_language_results(tmp_path / "quantsim_results.json") == results

    # What is there is not measured again, and one level more is one measurement more.
    measured: list[Any] = []
    calibrate = levels.calibrate_transformed

    def count(*args: Any, **kwargs: Any) -> Any:
        measured.append(args)
        return calibrate(*args, **kwargs)

    monkeypatch.setattr(levels, "calibrate_transformed", count)
    more = run_sweep(parse([*command, "4,16,256"]))
    assert len(measured) == 2
    assert [item for item in more if item.settings.get("levels") != 16] == results


def test_each_variant_is_understood_by_the_pass() -> None:
    base = {"attn": {"noise": "shot", "photons": 9.0}, "fc": None}
    for variant in SweepVariant:
        config = sweep_config(base, 32, variant)
        arguments: Any = parse_optical_arguments(config)
        assert arguments.attention.q_levels == 32
        assert arguments.linear is None
    assert base == {"attn": {"noise": "shot", "photons": 9.0}, "fc": None}
    assert sweep_config(base, 2, SweepVariant.NO_NOISE)["attn"]["photons"] is None


@pytest.mark.parametrize("text", ["", "1", "16,16", "16,x", "-4", "2.5", "²"])
def test_numbers_that_are_no_levels_are_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="whole numbers from 2"):
        parse_levels(text)


@pytest.mark.parametrize("text", ["", "noise", "no_noise,,loud"])
def test_unknown_variants_are_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="configured, no_noise, no_floor, row_range"):
        parse_variants(text)


def test_what_cannot_be_swept_is_told(tmp_path: Path, flags: Flags, float_model: Path) -> None:
    command = [*flags, "--output_dir", str(tmp_path), "--model_name_or_path", str(float_model), "--levels", "16"]
    with pytest.raises(ConfigurationError, match="optical, which has levels"):
        run_sweep(parse([*command, "--transform", "squeezelight"]))
    paths = tmp_path / "paths.yaml"
    paths.write_text("by: name\nlm_head: {}\n")
    with pytest.raises(ConfigurationError, match="'attn', 'fc' or both"):
        run_sweep(parse([*command, "--transform_config", str(paths)]))
    assert [path.name for path in tmp_path.iterdir()] == ["paths.yaml"]
