"""What gradient checkpointing needs: a forward that runs again in the backward finds its own range and noise.

`torch.utils.checkpoint` throws activations away and computes them once more while gradients flow. A range that follows
the data must not move a second time then, and the noise must be that of the first time. So a quantizer notes, while a
checkpoint packs what is computed, the range and the seed that each batch got; inside a backward it looks these up by
what tells batches apart, their ends and their sum, which are the same bits again. Nothing of it waits for a device.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["MOST_NOTES", "Notes", "identity_of", "inside_backward", "inside_checkpoint"]

MOST_NOTES: Final = 64
"""Calls of one quantizer that are kept: the most that may lie between a forward and its backward."""


def inside_backward() -> bool:
    """Whether autograd runs a backward in this thread, so that a forward is one that is computed again."""
    return torch._C._current_graph_task_id() != -1


def inside_checkpoint() -> bool:
    """Whether somebody, as a checkpoint does, packs what autograd saves."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)  # pyright: ignore[reportAttributeAccessIssue]
    return hooks is not None


def identity_of(x: Tensor) -> Tensor:
    """Smallest value, largest value and sum, float64: what tells a batch from others."""
    values = x.detach()
    return torch.stack([*(end.to(torch.float64) for end in torch.aminmax(values)), values.sum(dtype=torch.float64)])


class Notes:
    """The last calls of one quantizer; a copy of it, or a pickled one, is empty."""

    def __init__(self) -> None:
        self._calls: deque[list[Tensor]] = deque(maxlen=MOST_NOTES)
        self._found: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Notes:
        return Notes()

    def __reduce__(self) -> tuple[Any, ...]:
        return Notes, ()

    def note(self, x: Tensor, range: Tensor, seed: Tensor) -> None:
        """Adds a call: its batch, its range, and where the noise stands."""
        self._calls.appendleft([identity_of(x), range.detach().clone(), seed.clone()])

    def look_up(self, x: Tensor, range: Tensor) -> Tensor:
        """The range of the last call with this batch, ``range`` where there is none."""
        self._found = None
        if not self._calls:
            return range.clone()
        same = (torch.stack([call[0] for call in self._calls]) == identity_of(x)).all(1)
        self._found = same
        return self._chosen([call[1] for call in self._calls], range)

    def seed(self, seed: Tensor) -> Tensor:
        """The seed of the call that `look_up` found, ``seed`` where it found none."""
        return seed.clone() if self._found is None else self._chosen([call[2] for call in self._calls], seed)

    def _chosen(self, values: list[Tensor], otherwise: Tensor) -> Tensor:
        assert self._found is not None
        first = self._found.to(torch.int32).argmax()  # the latest, as they are in that order
        chosen = torch.stack(values).index_select(0, first.reshape(1))[0]
        return torch.where(self._found.any(), chosen, otherwise)
