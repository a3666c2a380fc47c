"""The few SVG elements that the charts are made of. All text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

__all__ = ["circle", "line", "picture", "rectangle", "text"]


def picture(width: float, height: float, label: str, parts: Sequence[str], *, stretches: bool = False) -> Markup:
    """An ``<svg>`` element.

    Args:
        width: Width in pixels; the page may scale it.
        height: Height in pixels.
        label: What it shows, for those who cannot see it.
        parts: Its elements.
        stretches: Whether the page may change its proportions.
    """
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    size += ' preserveAspectRatio="none"' if stretches else ""
    return Markup(f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """A line of text.

    Example:
        >>> text(1, 2, "a < b")
        '<text x="1" y="2" text-anchor="start" class="">a &lt; b</text>'
    """
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{css}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{css}"/>'


def rectangle(
    x: float, y: float, width: float, height: float, css: str, *, tip: str = "", colour: str | None = None
) -> str:
    """A rectangle, at least half a pixel wide and high, so that it never vanishes."""
    place = f'x="{x:g}" y="{y:g}" width="{max(width, 0.5):g}" height="{max(height, 0.5):g}"'
    return f'<rect {place} class="{css}"{_fill(colour)}>{_tip(tip)}</rect>'


def circle(x: float, y: float, radius: float, css: str, *, tip: str = "", colour: str | None = None) -> str:
    """A disc."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{css}"{_fill(colour)}>{_tip(tip)}</circle>'


def _fill(colour: str | None) -> str:
    return "" if colour is None else f' style="fill:{escape(colour)}"'


def _tip(content: str) -> str:
    return f"<title>{escape(content)}</title>" if content else ""
