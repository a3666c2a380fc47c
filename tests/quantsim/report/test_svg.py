from __future__ import annotations

from xml.etree import ElementTree

from quantsim.report.svg import circle, line, picture, rectangle, text

HOSTILE = "</text><script>alert('x')</script> & \"quotes\""


def test_text_from_outside_stays_text() -> None:
    parts = [text(1, 2, HOSTILE), rectangle(0, 0, 1, 1, "bar", tip=HOSTILE), circle(0, 0, 1, "dot", colour=HOSTILE)]
    tree = ElementTree.fromstring(picture(10, 20, HOSTILE, parts))
    assert [child.tag for child in tree.iter()] == ["svg", "text", "rect", "title", "circle"]
    assert tree.get("aria-label") == tree.findtext("text") == tree.findtext("rect/title") == HOSTILE
    assert tree[2].get("style") == f"fill:{HOSTILE}"


def test_a_picture_is_not_escaped_again_by_the_template() -> None:
    made = picture(10, 20, "label", [line(0, 1, 2, 3, "axis")])
    assert made.__html__() == str(made)
    tree = ElementTree.fromstring(made)
    assert (tree.get("viewBox"), tree.get("width"), tree.get("height")) == ("0 0 10 20", "10", "20")
    assert tree[0].attrib == {"x1": "0", "y1": "1", "x2": "2", "y2": "3", "class": "axis"}


def test_rectangles_never_vanish() -> None:
    thin = ElementTree.fromstring(rectangle(1, 2, 0, -3, "bar"))
    assert (thin.get("width"), thin.get("height")) == ("0.5", "0.5")
    wide = ElementTree.fromstring(rectangle(1, 2, 30, 4, "bar"))
    assert (wide.get("width"), wide.get("height")) == ("30", "4")


def test_without_tip_and_colour_there_is_neither() -> None:
    dot = ElementTree.fromstring(circle(0, 0, 1, "dot"))
    assert len(dot) == 0
    assert "style" not in dot.attrib
