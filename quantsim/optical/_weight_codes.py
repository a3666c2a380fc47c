"""Keeps what a kernel made of a weight while neither the weight nor its range changes.

A kept value is used only after the content was compared (see `quantsim.nn._parameter_cache`, whose means these are):
one product with a fixed vector, a tenth of the time of quantizing. It is made in the second call that finds weight and
range as they were, so that training, where both change in each step, pays nothing.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from quantsim.nn._parameter_cache import _fingerprint, _probe

__all__ = ["LARGEST_KEPT", "SMALLEST_KEPT", "WeightCodes"]

SMALLEST_KEPT: Final = 8192
"""Smaller weights are quantized each time: that is as fast as the comparison."""

LARGEST_KEPT: Final = 2**22
"""Larger weights are quantized each time, as their levels need as much memory as themselves."""


class WeightCodes:
    """What kernels made of one layer's weight; a copy of it, or a pickled one, is empty."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] | None = None
        self._ends: Tensor | None = None
        self._codes: dict[str, Any] | None = None
        self._content: tuple[Tensor, Tensor, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightCodes:
        return WeightCodes()

    def __reduce__(self) -> tuple[Any, ...]:
        return WeightCodes, ()

    def of(self, weight: Tensor, range: Tensor, *settings: Any) -> dict[str, Any] | None:
        """The dictionary that a kernel may use in this call, ``None`` where nothing is kept.

        Args:
            weight: The weight; its exact type leaves out what stands in for one under transforms and FSDP.
            range: The range that it is quantized in.
            settings: What else the codes depend on; tensors count by identity and version.
        """
        if (
            torch.compiler.is_compiling()
            or type(weight) is not nn.Parameter
            or weight.device.type != "cpu"
            or not SMALLEST_KEPT <= weight.numel() <= LARGEST_KEPT
            or weight.is_inference()
        ):
            return None
        versions = tuple(
            (id(each), each._version) if isinstance(each, Tensor) else (type(each), each) for each in settings
        )
        state = (weight.data_ptr(), weight._version, weight.dtype, weight.shape, weight.stride(), versions)
        known = state == self._state and self._ends is not None and torch.equal(self._ends, range)
        if not known:
            self._state, self._ends, self._codes, self._content = state, range.detach().clone(), None, None
            return None
        if self._content is not None and torch.equal(self._content[1], _fingerprint(weight, self._content[0])):
            return self._codes
        probe = _probe(weight)
        # The alias keeps the address from being given to another tensor.
        self._codes, self._content = {}, (probe, _fingerprint(weight, probe), weight.detach())
        return self._codes
