from __future__ import annotations

import pytest
import typer

from quantsim.cli.data_source import DataOptions
from quantsim.cli.options import data_options, require_data


def test_options_about_data_are_one_value() -> None:
    chosen = data_options(["a", "b"], "y", no_header=True, batch_size=2, max_tokens=8, limit=3)
    assert chosen == DataOptions(("a", "b"), "y", has_header=False, batch_size=2, max_tokens=8, limit=3)
    defaults = data_options(None, None, no_header=False, batch_size=16, max_tokens=128, limit=None)
    assert defaults == DataOptions()


@pytest.mark.parametrize(
    ("column", "label", "no_header", "option"),
    [(["a"], None, False, "--column"), (None, "y", False, "--label"), (None, None, True, "--no-header")],
)
def test_how_to_read_needs_something_to_read(
    column: list[str] | None, label: str | None, no_header: bool, option: str
) -> None:
    require_data("a.csv", column, label, no_header=no_header)
    with pytest.raises(typer.BadParameter, match=f"missing; {option} says how"):
        require_data(None, column, label, no_header=no_header)
