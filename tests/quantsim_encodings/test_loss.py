from __future__ import annotations

import pytest

from quantsim_encodings import Loss
from quantsim_encodings.loss import LossReport


def test_allowed_losses_are_apart_from_refused_ones() -> None:
    report = LossReport({"layout"})  # type: ignore[arg-type]
    report.name("$.encodings[0]", "fc.weight")
    report.lose(Loss.LAYOUT, "$.encodings[0]", "is per channel")
    report.lose(Loss.SYMMETRY, "$.encodings[0]", "is symmetric")
    report.refuse("$.encodings[1]", "is optical")
    assert [str(problem) for problem in report.accepted.problems] == ["$.encodings[0]: fc.weight is per channel"]
    assert [str(problem) for problem in report.refused.problems] == [
        "$.encodings[0]: fc.weight is symmetric (accept this with allow={'symmetry'})",
        "$.encodings[1]: is optical",
    ]


def test_unknown_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="everything"):
        LossReport({"everything"})  # type: ignore[arg-type]
