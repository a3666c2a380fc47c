"""Base class of all formats and the check that their fields share."""

from __future__ import annotations


def require_integer(owner: str, field: str, value: object, minimum: int, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        shown = value if not isinstance(value, int) or abs(value) < 10**30 else "an integer beyond 10**30"
        raise ValueError(f"{owner}.{field}: got {shown!r}, expected an integer from {minimum} to {maximum}")


class Format:
    """Base of all formats; a subclass is a frozen dataclass."""

    __slots__ = ()
