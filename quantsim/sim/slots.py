"""Names of the places that hold quantizers: one text form, written and read here only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["nearest_names", "parse_slot", "shown", "slot_name"]

_CONTAINERS: Final = {
    TensorRole.INPUT: "input_quantizers",
    TensorRole.OUTPUT: "output_quantizers",
    TensorRole.PARAM: "param_quantizers",
}
_SLOT: Final = re.compile(
    r"(?:(?P<module>.*)\.)?(?P<container>input|output|param)(?:_quantizers)?\[(?P<key>[^\[\]]+)\]"
)


def slot_name(slot: TensorReference) -> str:
    """Where the quantizer of a tensor lives, as one would write it in Python.

    Example:
        >>> (
        ...     slot_name(TensorReference("fc", TensorRole.PARAM, "weight")),
        ...     slot_name(TensorReference("", TensorRole.INPUT, "0")),
        ... )
        ("fc.param_quantizers['weight']", 'input_quantizers[0]')
    """
    key = repr(slot.key) if slot.role is TensorRole.PARAM else slot.key
    place = f"{_CONTAINERS[slot.role]}[{key}]"
    return f"{slot.module}.{place}" if slot.module else place


def parse_slot(text: str) -> TensorReference | None:
    """The reverse of :func:`slot_name`, and of ``str(TensorReference(...))`` for activations; None for other texts.

    Example:
        >>> parse_slot("encoder.0.output_quantizers[1]") == parse_slot("encoder.0.output[1]")
        True
        >>> parse_slot("encoder.0.output[1]")
        TensorReference(module='encoder.0', role=<TensorRole.OUTPUT: 'output'>, key='1')
    """
    found = _SLOT.fullmatch(text)
    if found is None:
        return None
    return TensorReference(found["module"] or "", TensorRole(found["container"]), found["key"].strip("'\""))


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Known names most like ``name``, nearest first; empty when none is near.

    Example:
        >>> nearest_names("encoder.layers.0", ["encoder.layer.0", "pooler"])
        ['encoder.layer.0']
    """
    from difflib import get_close_matches

    return get_close_matches(name, list(known), n=count, cutoff=0.5)


def shown(names: Sequence[str], separator: str = ", ", limit: int = 10) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> shown(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    more = len(names) - limit
    return separator.join(names[:limit]) + (f" and {more} more" if more > 0 else "")
