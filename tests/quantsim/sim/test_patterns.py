from __future__ import annotations

import pytest
from pydantic import ValidationError
from torch import nn

from quantsim.sim.patterns import ModulePattern


class MyLinear(nn.Linear):
    """A class of the user's own."""


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ({"name": "encoder.0"}, "encoder.0", True),
        ({"name": "encoder.0"}, "encoder.01", False),
        ({"name": "encoder.*.fc"}, "encoder.a.b.fc", True),
        ({"name": "encoder.?"}, "encoder.12", False),
        ({"name": "ENCODER.0"}, "encoder.0", False),
        ({"name": ""}, "", True),
        ({"name": ""}, "a", False),
        ({"regex": r"encoder\.\d+"}, "encoder.12", True),
        ({"regex": r"encoder\.\d"}, "encoder.12", False),
        ({"regex": "encoder"}, "my.encoder", False),
        ({"type": "Linear"}, "x", True),
        ({"type": "MyLinear"}, "x", True),
        ({"type": "torch.nn.modules.linear.Linear"}, "x", True),
        ({"type": "Lin"}, "x", False),
        ({"name": "x", "type": "Linear"}, "x", True),
        ({"name": "x", "type": "Conv2d"}, "x", False),
        ({"name": "y", "regex": "x"}, "x", False),
    ],
    ids=str,
)
def test_matching(pattern: dict[str, str], path: str, expected: bool) -> None:
    assert ModulePattern(**pattern).matches(path, MyLinear(1, 1)) is expected


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValidationError, match="empty pattern"):
        ModulePattern()
    with pytest.raises(ValidationError, match="no regular expression"):
        ModulePattern(regex="(")
    with pytest.raises(ValidationError, match="nmae"):
        ModulePattern(nmae="x")  # type: ignore[call-arg]


def test_text_shows_only_what_was_given() -> None:
    assert str(ModulePattern(name="a", type="Linear")) == "name='a', type='Linear'"
