from __future__ import annotations

import pytest

from quantsim.report.data import Histogram, LayerRow, LayerSection, RangeRow, RangeSection, grid_reach


def row(module: str) -> RangeRow:
    return RangeRow(
        module=module, tensor="weight", observed_low=-1, observed_high=1, grid_low=-1, grid_high=1, format="int8"
    )


def histogram(edges: tuple[float, ...], counts: tuple[int, ...]) -> Histogram:
    return Histogram(title="h", caption="", scheme="a", edges=edges, counts=counts, grid=(0.0,), unit="code")


def test_values_half_a_step_beyond_the_grid_are_still_rounded_to_it() -> None:
    assert grid_reach((-8.0, -7.0, 6.0, 7.0)) == (-8.5, 7.5)
    assert grid_reach((0.0, 1.0, 4.0)) == (-0.5, 5.5)  # a float grid: the last step counts at each end
    assert grid_reach((3.0,)) == (3.0, 3.0)


def test_first_rows_leave_the_section_alone() -> None:
    section = RangeSection(title="model", rows=(row("a"), row("b"), row("c")))
    assert [shown.module for shown in section.first(2).rows] == ["a", "b"]
    assert section.first(9) == section
    assert len(section.rows) == 3


@pytest.mark.parametrize(("edges", "counts"), [((0.0,), ()), ((0.0, 1.0), (1, 2)), ((0.0, 1.0, 2.0), (1,))])
def test_bins_lie_between_edges(edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{len(edges)} edges; expected one more than its {len(counts)} bins"):
        histogram(edges, counts)
    assert histogram((0.0, 1.0), (1,)).counts == (1,)


def test_every_layer_has_a_figure_or_none_for_each_scheme() -> None:
    layers = (
        LayerRow(module="a", op="Linear", sqnr_db=(30.0, None)),
        LayerRow(module="b", op="Linear", sqnr_db=(3.0,)),
    )
    assert LayerSection(title="m", schemes=("w8", "w4"), layers=layers[:1]).layers == layers[:1]
    with pytest.raises(ValueError, match=r"layer 'b' has 1 figures; expected one for each of \('w8', 'w4'\)"):
        LayerSection(title="m", schemes=("w8", "w4"), layers=layers)
