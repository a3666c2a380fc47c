from __future__ import annotations

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.optical_sweep import PHOTON_HARDWARE, VARIANTS, Hardware, SweepSettings
from quantsim.optical import OpticalSettings


def test_the_published_engine_has_the_defaults_of_the_optical_settings() -> None:
    arguments = VARIANTS[0].pass_args(256)
    assert arguments["attn"] == arguments["fc"]
    assert OpticalSettings.parse(arguments["fc"], "fc") == OpticalSettings()


def test_the_engines_cover_both_noises_both_ranges_of_attention_and_have_names() -> None:
    assert {hardware.noise.value for hardware in VARIANTS} == {"dither", "none"}
    assert {hardware.attn_range.value for hardware in VARIANTS} == {"unit", "row"}
    assert {hardware.floor is None for hardware in VARIANTS} == {True, False}
    assert len({hardware.name for hardware in VARIANTS}) == len({hardware.description for hardware in VARIANTS})
    assert {16, 64, 128, 256, 1024} <= set(SweepSettings().levels)


def test_photons_put_shot_noise_in_the_place_of_the_engines_own() -> None:
    assert PHOTON_HARDWARE.pass_args(64)["attn"]["noise"] == "dither"
    parsed = OpticalSettings.parse(PHOTON_HARDWARE.pass_args(64, 2.0)["attn"], "attn")
    assert (parsed.noise.value, parsed.photons, parsed.q_levels) == ("shot", 2.0, 64)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"levels": (1,)}, "q_levels.*got 1"),
        ({"photons": (0.0,)}, "photons.*positive"),
        ({"photons": (float("nan"),)}, "photons.*positive"),
        ({"variants": (Hardware(name="a"), Hardware(name="a"))}, "a name for each engine"),
        ({"variants": (Hardware(name="dark", floor=1.5),)}, "'dark'.*q_lut_min"),
    ],
)
def test_impossible_sweeps_are_refused_before_anything_runs(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SweepSettings(**wrong)  # pyright: ignore[reportArgumentType]
