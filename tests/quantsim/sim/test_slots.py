from __future__ import annotations

import pytest

from quantsim.sim.slots import nearest_names, parse_slot, shown, slot_name
from quantsim_encodings.document import TensorReference, TensorRole

SLOTS = [
    TensorReference(module, role, key)
    for module in ("", "fc", "a.b.0")
    for role, key in ((TensorRole.INPUT, "0"), (TensorRole.OUTPUT, "12"), (TensorRole.PARAM, "weight"))
]


@pytest.mark.parametrize("slot", SLOTS, ids=str)
def test_names_are_read_back(slot: TensorReference) -> None:
    assert parse_slot(slot_name(slot)) == slot
    if slot.role is not TensorRole.PARAM:
        assert parse_slot(str(slot)) == slot


@pytest.mark.parametrize("text", ["", "fc", "fc.weight", "fc.output", "fc.output[]", "fc.outputs[0]", "fcoutput[0]x"])
def test_other_texts_are_no_slots(text: str) -> None:
    assert parse_slot(text) is None


def test_near_names_and_long_lists() -> None:
    assert nearest_names("encoder.fc", ["encoder.fc1", "zzz"]) == ["encoder.fc1"]
    assert nearest_names("qqq", ["encoder"]) == []
    assert shown([]) == ""
    assert shown(["a", "b"]) == "a, b"
    assert shown([str(i) for i in range(12)]).endswith("9 and 2 more")
