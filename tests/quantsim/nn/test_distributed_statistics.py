from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim.dualpath import QBase
from quantsim.errors import NonFiniteError, RankError
from quantsim.nn.distributed_statistics import calibrate_together
from quantsim.nn.observation import CalibrationReport, QuantizerPlace, observe
from quantsim.quantization import affine
from quantsim.quantization.ranks import Ranks

# With processes: tests/integration/test_distributed.py.


class Told(Ranks):
    """This rank and another one, whose part the test speaks."""

    def __init__(self, other: Any = None, smallest: float = 0.0, largest: float = 0.0) -> None:
        super().__init__(None)
        self.__dict__.update(other=other, heard=[], ends=(smallest, largest))

    def everyone(self, value: Any) -> list[Any]:
        self.__dict__["heard"].append(value)
        return [value, value if self.__dict__["other"] is None else self.__dict__["other"]]

    def smallest(self, values: Tensor) -> Tensor:
        return values.clamp(max=self.__dict__["ends"][0])

    def largest(self, values: Tensor) -> Tensor:
        return values.clamp(min=self.__dict__["ends"][1])


def place(location: str = "q") -> QuantizerPlace:
    return QuantizerPlace(location, "0", affine.QuantizeDequantize((), 8, False))


def test_statistics_of_the_other_rank_count() -> None:
    here, report = place(), CalibrationReport()
    with calibrate_together(Told(smallest=-1.0, largest=3.0)) as joint, observe([here], report, joint):
        here.quantizer(torch.tensor([2.0]))
    assert report.calibrated == ["q"]
    assert (float(here.quantizer.min), float(here.quantizer.max)) == (-1.0, 3.0)


def test_inner_observations_are_left_to_the_outer_one() -> None:
    here, ranks = place(), Told(smallest=-1.0, largest=3.0)
    here.quantizer.begin_observation()
    with calibrate_together(ranks) as joint, observe([here], CalibrationReport(), joint):
        here.quantizer(torch.tensor([2.0]))
    assert ranks.__dict__["heard"][0].places == ()
    here.quantizer.finish_observation()
    assert float(here.quantizer.max) == 2.0


def test_alone_nothing_is_said() -> None:
    here = place()
    with calibrate_together(None) as joint, observe([here], CalibrationReport(), joint):
        here.quantizer(torch.tensor([2.0]))
    assert float(here.quantizer.max) == 2.0
    with pytest.raises(KeyError), calibrate_together(None):
        raise KeyError


def test_a_failure_is_told_once() -> None:
    here, ranks = place(), Told()
    with pytest.raises(NonFiniteError), calibrate_together(ranks) as joint, observe([here], CalibrationReport(), joint):
        here.quantizer(torch.tensor([float("nan")]))
    (said,) = ranks.__dict__["heard"]
    assert "NonFiniteError" in said.failure
    assert not here.quantizer.is_observing


def test_a_failure_after_the_exchange_is_not_told_again() -> None:
    ranks = Told()
    with pytest.raises(KeyError), calibrate_together(ranks) as joint:
        joint.unite([])
        raise KeyError
    assert len(ranks.__dict__["heard"]) == 1


def test_a_failure_is_kept_quiet_where_nobody_can_listen() -> None:
    ranks = Told()
    with pytest.raises(KeyError), calibrate_together(ranks, announce_failures=False):
        raise KeyError
    assert ranks.__dict__["heard"] == []


@pytest.mark.parametrize("failure", ["ValueError: bad batch", None])
def test_what_the_other_rank_says(failure: str | None) -> None:
    here, ranks = place("here"), Told()
    with pytest.raises(KeyError), calibrate_together(ranks):
        raise KeyError
    said = ranks.__dict__["heard"][0]
    ranks.__dict__["other"] = type(said)(failure=failure, places=("there",), samples=(3,))
    with (
        pytest.raises(RankError, match="bad batch" if failure else "here, there"),
        calibrate_together(ranks) as joint,
        observe([here], CalibrationReport(), joint),
    ):
        here.quantizer(torch.tensor([2.0]))
    assert not here.quantizer.is_initialized()
    assert not here.quantizer.is_observing


def test_observers_of_ones_own_are_not_united_in_silence() -> None:
    quantizer = QBase(8)
    quantizer.set_qparams(0.5)
    quantizer.observer = lambda x: (x.max() / 255, torch.zeros(()))
    with (
        pytest.raises(RankError, match=r"observer.*process_group=None"),
        calibrate_together(Told()) as joint,
        observe([QuantizerPlace("own", "0", quantizer)], CalibrationReport(), joint),
    ):
        quantizer(torch.tensor([2.0]))
    assert float(quantizer.scale) == 0.5
    assert not quantizer.is_observing
