"""The weights that an optimizer steps: the parameters themselves, or wider copies that stand in for them.

A parameter is rounded after each step. If it is held in float16 or bfloat16, or has a master copy, its ``data`` is
another tensor while the optimizer steps, and its own memory again afterwards, at the same address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.optim.stored_format import RoundingJob, SeededRounding, StoredFormat
from quantsim_encodings.formats import RoundingMode

__all__ = ["WorkingWeights"]


@dataclass
class _Swapped:
    """A parameter during a step.

    Attributes:
        format: What it is rounded to.
        held: Its own memory.
        gradient: Its own gradient, if that had to be widened.
    """

    format: StoredFormat
    held: Tensor | None = None
    gradient: Tensor | None = None


@dataclass
class WorkingWeights:
    """Puts wider weights in the parameters' place for a step, and rounds them back.

    Attributes:
        masters: float32 copies that last, by parameter.
    """

    masters: dict[Tensor, Tensor] = field(default_factory=dict)
    _versions: dict[Tensor, int] = field(default_factory=dict)
    _swapped: dict[Tensor, _Swapped] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # Versions count writes to one tensor in one process; copies start anew.
        return {"masters": self.masters, "_versions": {}, "_swapped": {}}

    def adopt(self, parameter: Tensor, format: StoredFormat, rounding: SeededRounding, *, keep_master: bool) -> None:
        """Rounds a parameter to nearest, and keeps what it was before as its master if that is asked for."""
        with torch.no_grad():
            if keep_master:
                self.masters[parameter] = parameter.detach().clone().to(_wide(parameter.dtype))
            rounding.round_(parameter, format, RoundingMode.NEAREST_EVEN)
        self._versions[parameter] = parameter._version

    def held_dtype(self, parameter: Tensor) -> torch.dtype:
        """Dtype of a parameter's own memory."""
        swapped = self._swapped.get(parameter)
        return parameter.dtype if swapped is None or swapped.held is None else swapped.held.dtype

    def step_dtype(self, parameter: Tensor) -> torch.dtype:
        """Dtype that a parameter's step is computed in."""
        return _wide(parameter.dtype)

    def enter(self, formats: Iterable[tuple[Tensor, StoredFormat]]) -> None:
        """Puts wide weights and gradients in place.

        Args:
            formats: The parameters that are rounded, with their formats.
        """
        for parameter, format in list(formats):
            swapped = _Swapped(format)
            self._swapped[parameter] = swapped
            master = self.masters.get(parameter)
            if master is not None and self._versions.get(parameter) != parameter._version:
                _take_over_changes(master, parameter, format)
            if master is None and _wide(parameter.dtype) == parameter.dtype:
                continue
            swapped.held = parameter.data
            self._place(parameter, swapped, parameter.data.to(_wide(parameter.dtype)) if master is None else master)

    def leave(self, rounding: SeededRounding, *, commit: bool) -> None:
        """Gives the parameters their own memory back.

        Args:
            rounding: How the stepped weights are rounded.
            commit: Whether wide weights are rounded into the parameters; else those stay what they were.
        """
        jobs = []
        for parameter, swapped in self._swapped.items():
            if swapped.held is None:
                jobs.append(RoundingJob(parameter, parameter, swapped.format))
                continue
            wide = parameter.data
            self._restore(parameter, swapped)
            # A master without a gradient did not move; rounding it anew would only move the weight about.
            if commit and (parameter not in self.masters or parameter.grad is not None):
                jobs.append(RoundingJob(parameter, wide, swapped.format, keeps_source=parameter in self.masters))
        rounding.round_all(jobs)
        for parameter in self.masters:
            self._versions[parameter] = parameter._version
        self._swapped.clear()

    @contextmanager
    def shown(self, rounding: SeededRounding) -> Iterator[None]:
        """During a step, gives the parameters rounded weights in their own memory, for a closure to compute with."""
        wide: dict[Tensor, Tensor] = {}
        try:
            jobs = []
            for parameter, swapped in self._swapped.items():
                if swapped.held is None:
                    jobs.append(RoundingJob(parameter, parameter, swapped.format))
                    continue
                wide[parameter] = parameter.data
                self._restore(parameter, swapped)
                jobs.append(RoundingJob(parameter, wide[parameter], swapped.format, keeps_source=True))
            rounding.round_all(jobs)
            yield
        finally:
            for parameter, values in wide.items():
                self._place(parameter, self._swapped[parameter], values)

    def check_masters(self, masters: Mapping[Tensor, Tensor]) -> None:
        """Raises unless loaded master weights fit the parameters.

        Raises:
            ConfigurationError: A shape differs.
        """
        for parameter, master in masters.items():
            if parameter in self.masters and master.shape != parameter.shape:
                raise ConfigurationError(
                    "loaded master weights do not fit",
                    where="load_state_dict",
                    got=f"shape {tuple(master.shape)}",
                    expected=f"shape {tuple(parameter.shape)}",
                )

    def load_masters(self, masters: Mapping[Tensor, Tensor]) -> None:
        """Takes loaded master weights over; those of parameters that have none here are left out."""
        for parameter, master in masters.items():
            if parameter in self.masters:
                self.masters[parameter].copy_(master)
                # Weights that were not loaded with them are noticed, and win.
                self._versions.pop(parameter, None)

    @staticmethod
    def _place(parameter: Tensor, swapped: _Swapped, wide: Tensor) -> None:
        gradient = parameter.grad
        if gradient is not None and gradient.dtype != wide.dtype:
            swapped.gradient = gradient
            parameter.grad = None
            parameter.data = wide
            parameter.grad = gradient.to(wide.dtype)
        else:
            swapped.gradient = None
            parameter.data = wide

    @staticmethod
    def _restore(parameter: Tensor, swapped: _Swapped) -> None:
        assert swapped.held is not None
        gradient, swapped.gradient = swapped.gradient, None
        if gradient is not None:
            dropped = parameter.grad is None
            parameter.grad = None
            parameter.data = swapped.held
            parameter.grad = None if dropped else gradient
        else:
            parameter.data = swapped.held


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _take_over_changes(master: Tensor, parameter: Tensor, format: StoredFormat) -> None:
    """Sets the master to the weight wherever the weight is no rounding of it: someone else wrote the weight."""
    with torch.no_grad():
        weight = parameter.to(master.dtype)
        plain = SeededRounding(RoundingMode.NEAREST_EVEN)
        # Towards both sides, and to nearest: block formats may clip on the way up.
        is_rounding = torch.zeros_like(weight, dtype=torch.bool)
        for mode in (RoundingMode.DOWN, RoundingMode.UP, RoundingMode.NEAREST_EVEN):
            is_rounding |= plain.rounded(master.clone(), format, mode) == weight
        master.copy_(torch.where(is_rounding, master, weight))
