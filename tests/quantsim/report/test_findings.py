from __future__ import annotations

import math

import pytest

from quantsim.report.data import Tone
from quantsim.report.findings import find
from quantsim.report.simulation_data import KindRow, SensitivityRow, SensitivitySection, TensorRow
from quantsim.sim import Coverage


def coverage(total: int | None = 4, quantized: int | None = 4, uncalled: tuple[str, ...] = ()) -> Coverage:
    return Coverage(
        quantized=(),
        without_quantizers=(),
        excluded=(),
        uncalled=uncalled,
        operations=(),
        multiplications=total,
        quantized_multiplications=quantized,
    )


def tensor(ratio: float = 1.0, clipped: float | None = 0.0) -> TensorRow:
    return TensorRow(module="m", tensor="input 0", format="int8", outlier_ratio=ratio, clipped=clipped)


def section(shares: list[float], *, removed: float = 0.0, without_db: float = 20.0) -> SensitivitySection:
    rows = tuple(
        SensitivityRow(
            name=f"m{index}",
            formats="",
            alone_db=20.0,
            without_db=without_db if index == 0 else 20.0,
            alone_share=share,
            removed_share=removed if index == 0 else 0.0,
        )
        for index, share in enumerate(shares)
    )
    return SensitivitySection(total_db=20.0, rows=rows, kinds=())


def kinds(weights: float, activations: float) -> SensitivitySection:
    rows = (
        KindRow(name="weights", count=1, alone_db=weights, alone_share=0.5),
        KindRow(name="activations", count=1, alone_db=activations, alone_share=0.5),
    )
    return SensitivitySection(total_db=20.0, rows=(), kinds=rows)


def texts(*arguments: object) -> str:
    return "\n".join(finding.text for finding in find(*arguments))


def test_multiplications_and_modules_that_are_left_out() -> None:
    found = find(coverage(9, 7, ("a", "b")), (), None)
    assert [finding.tone for finding in found] == [Tone.WARNING, Tone.WARNING]
    assert "2 of 9 matrix multiplications" in found[0].text
    assert "2 modules with quantizers did not run" in found[1].text
    assert find(coverage(None, None), (), None) == ()


@pytest.mark.parametrize(
    ("weights", "activations", "said"),
    [
        (30.0, 20.0, "The activations cost most: alone they leave 20.0 dB, the weights alone 30.0 dB. More bits for"),
        (20.0, 22.0, "The weights cost most: alone they leave 20.0 dB, the activations alone 22.0 dB."),
        (20.0, 20.5, ""),
        (math.inf, 20.0, ""),
    ],
)
def test_weights_against_activations(weights: float, activations: float, said: str) -> None:
    text = texts(coverage(), (), kinds(weights, activations))
    assert text.startswith(said) and bool(text) == bool(said)
    assert ("More bits" in text) == ("More bits" in said)


def test_how_the_noise_is_spread() -> None:
    assert "One module of 4 makes half of all noise: `m0`" in texts(coverage(), (), section([0.9, 0.1, 0.1, 0.1]))
    assert "2 of 4 modules make half" in texts(coverage(), (), section([0.3, 0.3, 0.3, 0.2]))
    assert texts(coverage(), (), section([0.0, 0.0, 0.0, 0.0])) == ""


def test_the_first_candidate_for_more_bits() -> None:
    found = find(coverage(), (), section([0.5, 0.5], removed=0.6, without_db=24.0))
    assert "from 20.0 to 24.0 dB" in found[0].text and found[0].tone is Tone.WARNING
    assert "rise" not in texts(coverage(), (), section([0.5, 0.5], removed=0.05, without_db=20.2))


def test_outliers_clipping_or_neither() -> None:
    text = texts(coverage(), (tensor(ratio=30.0), tensor(clipped=0.034), tensor()), None)
    assert "One tensor with outliers" in text and "30 times" in text
    assert "One quantizer clips more" in text and "3.4 %" in text
    good = find(coverage(), (tensor(),), None)
    assert [finding.tone for finding in good] == [Tone.GOOD]
    # A grid that moves with the data neither clips nor is stretched for good.
    assert find(coverage(), (tensor(ratio=30.0, clipped=None),), None) == ()


def test_the_only_module_leaves_no_error() -> None:
    texts = [each.text for each in find(coverage(), (), section([1.0], removed=1.0, without_db=math.inf))]
    assert "Without the quantizers of `m0` no error would be left: the first candidate for more bits." in texts
