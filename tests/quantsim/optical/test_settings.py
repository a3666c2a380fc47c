"""Settings of optical layers: what is taken, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from quantsim.errors import ConfigurationError
from quantsim.optical import OpticalSettings
from quantsim_encodings.formats import OpticalNoise


def test_defaults_are_the_published_ones() -> None:
    settings = OpticalSettings()
    assert (settings.q_levels, settings.q_lut_min, settings.q_quantiles) == (256, 0.020040, None)
    assert (settings.q_smooth_factor, settings.q_init_seed, settings.q_bypass) == (0.9, 0, False)
    assert settings.noise is OpticalNoise.DITHER


def test_yaml_values() -> None:
    values = {"q_levels": 16, "q_lut_min": None, "q_quantiles": [0.001, 0.999], "noise": "shot", "photons": 100}
    settings = OpticalSettings.parse(values, "fc")
    assert settings.q_quantiles == (0.001, 0.999)
    assert settings.photons == 100.0
    assert OpticalSettings.parse(settings, "fc") is settings
    assert OpticalSettings.parse(settings.model_dump(mode="json"), "fc") == settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"q_level": 256}, "q_level"),
        ({"q_levels": 1}, "q_levels"),
        ({"q_levels": 256.0}, "q_levels"),
        ({"q_levels": True}, "q_levels"),
        ({"q_levels": 2**24 + 1}, "q_levels"),
        ({"q_lut_min": 1.0}, "q_lut_min"),
        ({"q_lut_min": -0.1}, "q_lut_min"),
        ({"q_lut_min": False}, "q_lut_min"),
        ({"q_lut_min": float("nan")}, "q_lut_min"),
        ({"q_quantiles": [0.9, 0.1]}, "two rising numbers"),
        ({"q_quantiles": [0.5, 0.5]}, "two rising numbers"),
        ({"q_quantiles": [0.1]}, "q_quantiles"),
        ({"q_quantiles": [-0.1, 1.0]}, "two rising numbers"),
        ({"q_smooth_factor": 1.5}, "q_smooth_factor"),
        ({"q_init_seed": "x"}, "q_init_seed"),
        ({"q_bypass": "no"}, "q_bypass"),
        ({"noise": "loud"}, "noise"),
        ({"noise": "shot"}, "photons"),
        ({"photons": 10}, "photons"),
        ({"noise": "shot", "photons": 0}, "photons"),
        ({"noise": "shot", "photons": float("inf")}, "photons"),
        ({"ste": "none"}, "ste"),
        ({"attn_range": "column"}, "attn_range"),
    ],
)
def test_wrong_settings_name_the_field_and_the_place(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpticalSettings.parse(values, "pass_args['fc']")
    assert words in str(caught.value)
    assert str(caught.value).startswith("pass_args['fc']")
    assert "expected the fields q_levels" in str(caught.value)


def test_values_that_are_no_mapping() -> None:
    with pytest.raises(ConfigurationError, match="fc"):
        OpticalSettings.parse(256, "fc")  # pyright: ignore[reportArgumentType]


def test_layers_get_seeds_of_their_own() -> None:
    settings = OpticalSettings(q_init_seed=3)
    seeds = {settings.with_seed_number(number).q_init_seed for number in range(100)}
    assert len(seeds) == 100
    assert settings.with_seed_number(0) is settings


def test_linear_arguments_are_those_of_the_layer() -> None:
    arguments = OpticalSettings(q_levels=8).linear_arguments()
    assert "attn_range" not in arguments
    assert set(arguments) | {"attn_range"} == set(OpticalSettings.model_fields)
