from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.experiments.demo.workloads import Workload
from quantsim.experiments.optical_sweep import Hardware, SweepPoint, SweepSettings, run_sweep
from quantsim.experiments.optical_sweep.run import measure
from quantsim_encodings.formats import OpticalNoise

QUIET = Hardware(name="quiet", floor=None, noise=OpticalNoise.NONE)


def test_a_sweep_measures_every_engine_and_leaves_the_model_alone(workload: Workload) -> None:
    before = copy.deepcopy(workload.reference.state_dict())
    seen: list[SweepPoint] = []
    random_state = torch.get_rng_state()
    settings = SweepSettings(variants=(QUIET,), levels=(8, 256), photon_hardware=QUIET, photons=(0.1, 1e4))
    result = run_sweep(workload, settings, seen.append)

    assert tuple(seen) == (*result.levels, *result.photons)
    assert len(seen) == settings.runs
    assert [(point.levels, point.photons) for point in seen] == [(8, None), (256, None), (256, 0.1), (256, 1e4)]
    assert result.accuracy == 1.0
    assert result.hardware == {"quiet": "no floor, min–max, no noise, unit"}
    assert torch.equal(torch.get_rng_state(), random_state)
    after = workload.reference.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_more_levels_and_more_light_are_closer_to_float(workload: Workload) -> None:
    settings = SweepSettings(variants=(QUIET,), levels=(8, 64, 4096), photon_hardware=QUIET, photons=(0.1, 10.0, 1e4))
    result = run_sweep(workload, settings)
    levels, photons = ([point.sqnr_db for point in points] for points in (result.levels, result.photons))
    # Eight times as many levels are 18 dB; the first few do not count.
    assert levels[2] - levels[1] == pytest.approx(36, abs=6)
    assert levels[0] < levels[1]
    # A hundredfold budget is 20 dB of noise power, until the levels themselves limit it.
    assert photons[0] + 8 < photons[1] < photons[2]
    assert photons[2] < levels[2]
    assert result.levels[2].accuracy == 1.0
    assert result.levels[2].cosine > 0.9999


def test_the_same_point_twice_is_the_same_number(workload: Workload) -> None:
    with torch.no_grad():
        exact = workload.evaluate(workload.reference, lambda: None).outputs
    first, second = (measure(workload, exact, Hardware(name="h"), 64, 1.0) for _ in range(2))
    assert first.sqnr_db == second.sqnr_db


def test_a_model_without_attention_is_refused(workload: Workload) -> None:
    no_attention = Workload(**{**vars(workload), "reference": nn.Sequential(nn.Linear(4, 4))})
    with pytest.raises(ConfigurationError, match="attn"):
        measure(no_attention, torch.zeros(1, 1), QUIET, 64)
