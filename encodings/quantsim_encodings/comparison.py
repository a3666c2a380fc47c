"""Differences between two documents, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from quantsim_encodings._problems import show
from quantsim_encodings.document import EncodingEntry, EncodingsDocument, EncodingsVersion
from quantsim_encodings.encoding import AffineEncoding, Encoding
from quantsim_encodings.granularity import Flattened
from quantsim_encodings.layout import layout_of

__all__ = ["Difference", "diff"]

_ANNOTATIONS = ("frozen", "learnable", "analyzer", "samples")
_LAYOUT_FIELDS = frozenset({"granularity", "block_size"})


@dataclass(frozen=True)
class Difference:
    """One thing in which two documents differ.

    Args:
        tensor: Label of the tensor, or ``""`` for the document itself.
        field: What differs; ``"presence"`` if only one document describes the tensor.
        left: The first document's value, as text.
        right: The second document's value, as text.
    """

    tensor: str
    field: str
    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.tensor or 'document'}: {self.field}: {self.left} -> {self.right}"


def diff(left: EncodingsDocument, right: EncodingsDocument, *, relative_tolerance: float = 0.0) -> list[Difference]:
    """Compares two documents of any versions.

    Tensors are matched by their place in the model if both documents say it, else by name. Shapes of scales that only
    differ by dimensions of 1 are equal, and a layout that one side does not know is compared in row-major order.
    Annotations are compared if both documents are of quantsim's own version.

    Args:
        left: The first document.
        right: The second document.
        relative_tolerance: How far numbers may differ, relative to the larger.

    Returns:
        All differences, in the order of the first document; empty if there are none.
    """
    others = _Index(right)
    matched: set[int] = set()
    result: list[Difference] = []
    own = left.version is right.version is EncodingsVersion.QUANTSIM
    for entry in left.entries:
        index = others.find(entry)
        if index is None or index in matched:
            result.append(Difference(entry.label, "presence", "present", "absent"))
            continue
        matched.add(index)
        result += _entry_differences(entry, right.entries[index], relative_tolerance, annotations=own)
    for index, entry in enumerate(right.entries):
        if index not in matched:
            result.append(Difference(entry.label, "presence", "absent", "present"))
    if own:
        result += _fields(left, right, ("producer", "model_fingerprint", "excluded_layers", "quantizer_args"))
    return result


class _Index:
    """Finds a document's entries by place in the model and by name."""

    def __init__(self, document: EncodingsDocument) -> None:
        self._by_key: dict[object, int] = {}
        for index, entry in enumerate(document.entries):
            for key in _keys(entry):
                self._by_key.setdefault(key, index)

    def find(self, entry: EncodingEntry) -> int | None:
        return next((self._by_key[key] for key in _keys(entry) if key in self._by_key), None)


def _keys(entry: EncodingEntry) -> Iterator[object]:
    if entry.tensor is not None:
        yield entry.tensor
    if entry.graph_name is not None:
        yield entry.graph_name


def _fields(left: Any, right: Any, names: tuple[str, ...], tensor: str = "") -> list[Difference]:
    pairs = ((name, getattr(left, name), getattr(right, name)) for name in names)
    return [Difference(tensor, name, _text(a), _text(b)) for name, a, b in pairs if a != b]


def _entry_differences(
    left: EncodingEntry, right: EncodingEntry, tolerance: float, *, annotations: bool
) -> Iterator[Difference]:
    a, b = left.encoding, right.encoding
    label = left.label
    if type(a) is not type(b):
        yield Difference(label, "kind", a.label, b.label)
        if not (isinstance(a, AffineEncoding) and isinstance(b, AffineEncoding)):
            return
    layout_known = not isinstance(a.granularity, Flattened) and not isinstance(b.granularity, Flattened)
    if layout_known and _layout_key(a) != _layout_key(b):
        yield Difference(label, "granularity", str(a.granularity), str(b.granularity))
    names = {field.name for field in fields(_as_dataclass(a))} & {field.name for field in fields(_as_dataclass(b))}
    for field in fields(_as_dataclass(a)):
        if field.name not in names or field.name in _LAYOUT_FIELDS:
            continue
        x, y = getattr(a, field.name), getattr(b, field.name)
        if not _equal(x, y, tolerance, flat=not layout_known):
            yield Difference(label, field.name, *_texts(x, y, tolerance))
    if annotations:
        yield from _fields(left, right, _ANNOTATIONS, label)


def _as_dataclass(encoding: Encoding) -> Any:
    return encoding


def _layout_key(encoding: Encoding) -> object:
    scale = getattr(encoding, "scale", None)
    shape = () if scale is None else scale.shape
    layout = layout_of(encoding.granularity, getattr(encoding, "block_size", None), shape)
    return layout if layout is not None else encoding.granularity


def _equal(left: Any, right: Any, tolerance: float, *, flat: bool) -> bool:
    if left is None or right is None:
        # A cast without scale is one with scale 1.
        other = right if left is None else left
        return other is None or (isinstance(other, np.ndarray) and bool((other == 1).all()))
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        a, b = (array.reshape(-1) if flat else np.squeeze(array) for array in (left, right))
        if a.shape != b.shape:
            return False
        if tolerance == 0.0:
            return np.array_equal(a, b)
        limit = tolerance * np.maximum(np.abs(a), np.abs(b))
        return bool((np.abs(a.astype(np.float64) - b) <= limit).all())
    return bool(left == right)


def _texts(left: Any, right: Any, tolerance: float) -> tuple[str, str]:
    """Shows arrays by the first element in which they differ."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.size != right.size:
            return f"{left.size} values", f"{right.size} values"
        a, b = left.reshape(-1), right.reshape(-1)
        different = np.flatnonzero(np.abs(a.astype(np.float64) - b) > tolerance * np.maximum(np.abs(a), np.abs(b)))
        if different.size == 0:
            return f"shape {left.shape}", f"shape {right.shape}"
        first = int(different[0])
        more = f" (and {different.size - 1} more)" if different.size > 1 else ""
        return f"[{first}] {a[first].item()!r}", f"[{first}] {b[first].item()!r}{more}"
    return _text(left), _text(right)


def _text(value: Any) -> str:
    return show(value) if value is None or isinstance(value, (str, bool, int, float)) else str(value)
