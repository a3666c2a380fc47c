from __future__ import annotations

from quantsim.report.simulation_data import SensitivityRow, SensitivitySection, stages_of


def row(name: str, alone: float, removed: float = 0.0) -> SensitivityRow:
    return SensitivityRow(name=name, formats="", alone_db=1.0, without_db=1.0, alone_share=alone, removed_share=removed)


def test_rows_are_ranked_by_what_they_cost_alone() -> None:
    section = SensitivitySection(total_db=1.0, rows=(row("a", 0.1), row("b", 0.3, 0.4), row("c", 0.2)), kinds=())
    assert [each.name for each in section.ranked] == ["b", "c", "a"]
    assert section.largest_share == 0.4
    assert SensitivitySection(total_db=1.0, rows=(), kinds=()).largest_share > 0


def test_stages_are_as_deep_as_there_is_room_for() -> None:
    names = [f"enc.{index}.{part}" for index in range(3) for part in ("q", "k")] + ["head"]
    assert [(stage.name, stage.first, stage.last) for stage in stages_of(names, most=4)] == [
        ("enc.0", 0, 1),
        ("enc.1", 2, 3),
        ("enc.2", 4, 5),
        ("head", 6, 6),
    ]
    assert [stage.name for stage in stages_of(names, most=3)] == ["enc", "head"]
    assert len(stages_of(names, most=7)) == 7
    assert stages_of(names, most=1) == ()
    assert stages_of([]) == ()
