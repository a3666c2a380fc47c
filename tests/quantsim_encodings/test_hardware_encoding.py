from __future__ import annotations

import pytest

from quantsim_encodings import (
    EncodingsError,
    FixedPointEncoding,
    FixedPointFormat,
    IntFormat,
    OpticalEncoding,
    OpticalFormat,
    PerChannel,
)

INT8 = IntFormat(-128, 127)


def optical(**changes) -> OpticalEncoding:
    return OpticalEncoding(**{"format": OpticalFormat(), "minimum": -1.0, "maximum": 2.0, **changes})


def fixed(**changes) -> FixedPointEncoding:
    arguments = {
        "format": FixedPointFormat(INT8),
        "multiplier": [2**30, 2**31 - 1],
        "shift": 33,
        "zero_point": 0,
        "granularity": PerChannel(0),
    }
    return FixedPointEncoding(**{**arguments, **changes})


def test_optical_encoding() -> None:
    encoding = optical(seed=7, quantiles=(0.001, 0.999))
    assert (float(encoding.minimum), float(encoding.maximum), encoding.smooth_factor) == (-1.0, 2.0, 0.9)
    assert encoding == optical(seed=7, quantiles=(0.001, 0.999)) != optical()
    assert optical(minimum=0.0, maximum=0.0).minimum == 0.0


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"format": INT8}, "$.format"),
        ({"minimum": float("nan")}, "$.minimum"),
        ({"minimum": 3.0}, "$.maximum"),
        ({"minimum": [1.0]}, "$.maximum"),
        ({"minimum": [], "maximum": []}, "$.maximum"),
        ({"seed": 1.5}, "$.seed"),
        ({"seed": 2**65}, "$.seed"),
        ({"smooth_factor": 1.5}, "$.smooth_factor"),
        ({"smooth_factor": float("nan")}, "$.smooth_factor"),
        ({"quantiles": (0.9, 0.1)}, "$.quantiles"),
        ({"quantiles": (0.1, 0.5, 0.9)}, "$.quantiles"),
        ({"minimum": [0.0, 0.0], "maximum": [1.0, 1.0]}, "$.granularity"),
    ],
)
def test_impossible_optical_encodings_are_refused(changes: dict, path: str) -> None:
    with pytest.raises(EncodingsError) as caught:
        optical(**changes)
    assert caught.value.problems[0].path == path


def test_fixed_point_encoding() -> None:
    assert fixed().shift.tolist() == [33, 33]
    small = fixed(format=FixedPointFormat(INT8, multiplier_bits=28, fraction_bits=12), multiplier=[1, 4096], shift=12)
    assert small.multiplier.tolist() == [1, 4096]
    with pytest.raises(ValueError, match="read-only"):
        small.shift[0] = 3


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"format": INT8}, "$.format"),
        ({"multiplier": [2**29, 2**30]}, "$.multiplier"),
        ({"multiplier": [2**31, 2**30]}, "$.multiplier"),
        ({"multiplier": [0.5, 2**30]}, "$.multiplier"),
        ({"multiplier": [1e30, 2**30]}, "$.multiplier"),
        ({"shift": 64}, "$.shift"),
        ({"shift": -1}, "$.shift"),
        ({"shift": [1, 2, 3]}, "$.shift"),
        ({"format": FixedPointFormat(INT8, fraction_bits=12)}, "$.shift"),
        ({"zero_point": 0.5}, "$.zero_point"),
        ({"zero_point": [[1, 2, 3]]}, "$.zero_point"),
    ],
)
def test_impossible_fixed_point_encodings_are_refused(changes: dict, path: str) -> None:
    with pytest.raises(EncodingsError) as caught:
        fixed(**changes)
    assert caught.value.problems[0].path == path
