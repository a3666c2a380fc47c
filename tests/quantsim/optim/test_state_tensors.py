from __future__ import annotations

import torch

from quantsim.optim.state_tensors import map_state_tensors, state_names


def test_nested_tensors_are_replaced_and_everything_else_stays() -> None:
    history = [torch.ones(2), torch.ones(3)]
    entry = {
        "step": torch.tensor(1.0),
        "count": 3,
        "none": None,
        "momentum": torch.ones(2),
        "mask": torch.ones(2, dtype=torch.bool),
        "old": history,
        "pair": (torch.ones(1), 4),
    }
    map_state_tensors(entry, lambda _, values: values * 2)
    assert entry["old"] is history
    assert [item.tolist() for item in history] == [[2, 2], [2, 2, 2]]
    assert entry["step"].item() == 1 and entry["count"] == 3 and entry["none"] is None
    assert entry["mask"].dtype is torch.bool
    assert entry["pair"][0].tolist() == [2] and entry["pair"][1] == 4


def test_names_are_read_without_changing_anything() -> None:
    entry = {"a": [torch.ones(1)], "b": torch.ones(()), "c": torch.ones(2)}
    before = entry["a"][0]
    assert state_names(entry) == {"a", "c"}
    assert entry["a"][0] is before
