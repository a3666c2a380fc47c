from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from quantsim.experiments.demo.settings import DEMO_PRESETS, DemoSettings
from quantsim.sim import preset_names

AMOUNTS = ("test_per_package", "train_per_package", "pairs")


def test_a_quick_run_uses_a_quarter_of_the_texts_and_nothing_else_changes() -> None:
    full, quick = DemoSettings(), DemoSettings.quick_run()
    assert [4 * getattr(quick, name) for name in AMOUNTS] == [getattr(full, name) for name in AMOUNTS]
    different = {field.name for field in fields(full) if getattr(full, field.name) != getattr(quick, field.name)}
    assert different == {*AMOUNTS, "calibration_texts", "quick"}
    assert quick.calibration_texts < full.calibration_texts


def test_a_quick_run_writes_where_it_is_told() -> None:
    assert DemoSettings.quick_run(Path("elsewhere")).output == Path("elsewhere")
    assert DemoSettings.quick_run().output == DemoSettings().output


def test_presets_are_known_to_the_simulation_and_named_once() -> None:
    assert DemoSettings().presets == DEMO_PRESETS
    assert set(DEMO_PRESETS) <= set(preset_names())
    assert len(set(DEMO_PRESETS)) == len(DEMO_PRESETS)


def test_settings_are_fixed_and_named() -> None:
    with pytest.raises(FrozenInstanceError):
        DemoSettings().seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        DemoSettings(Path("out"))  # type: ignore[misc]
