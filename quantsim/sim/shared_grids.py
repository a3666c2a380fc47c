"""Tensors that are joined (`cat`, `stack`) get one grid, so that the result is on it without rounding again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.base import QuantizerBase
from quantsim_encodings.document import TensorReference

__all__ = ["SharedGrids", "share_quantizers"]


class SharedGrids:
    """Sets of tensors with one grid each, which grow together when they meet.

    Example:
        >>> from quantsim_encodings.document import TensorRole
        >>> a, b, c = (TensorReference(name, TensorRole.OUTPUT, "0") for name in "abc")
        >>> grids = SharedGrids()
        >>> grids.join([a, b])
        >>> grids.join([b, c])
        >>> [str(tensor) for tensor in grids.members(c)]
        ['a.output[0]', 'b.output[0]', 'c.output[0]']
    """

    def __init__(self) -> None:
        self._sets: dict[TensorReference, list[TensorReference]] = {}

    def __bool__(self) -> bool:
        return bool(self._sets)

    def join(self, tensors: Iterable[TensorReference]) -> None:
        """Says that all of these, and what they shared a grid with before, share one."""
        merged: dict[TensorReference, None] = {}
        for tensor in tensors:
            merged.update(dict.fromkeys(self._sets.get(tensor, [tensor])))
        members = list(merged)
        for tensor in members:
            self._sets[tensor] = members

    def members(self, tensor: TensorReference) -> list[TensorReference]:
        """All tensors that have the grid of this one, itself included."""
        return list(self._sets.get(tensor, [tensor]))

    def sets(self) -> list[list[TensorReference]]:
        """All sets of more than one."""
        distinct = {id(members): members for members in self._sets.values() if len(members) > 1}
        return list(distinct.values())


def share_quantizers(
    quantizers: Mapping[TensorReference, QuantizerBase], grids: SharedGrids, settings: Mapping[TensorReference, Any]
) -> dict[TensorReference, QuantizerBase]:
    """Puts one quantizer object in all places of a shared grid, and sets ranges that are known beforehand.

    Args:
        quantizers: By place.
        grids: Which share one. Those whose settings differ, because a rule changed one of them, are left alone.
        settings: Of the quantizers, by place.
    """
    result = dict(quantizers)
    for members in grids.sets():
        present = [tensor for tensor in members if tensor in result]
        if all(settings[tensor] == settings[present[0]] for tensor in present):
            result.update(dict.fromkeys(present, result[present[0]]))
    for tensor, quantizer in result.items():
        fixed = getattr(settings[tensor], "fixed_range", None)
        if fixed is not None:
            assert isinstance(quantizer, AffineQuantizerBase)  # only integer settings have one
            quantizer.set_range(*fixed)
            quantizer.freeze()
    return result
