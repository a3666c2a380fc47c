from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsim.cli.outcome import CommandError
from quantsim.cli.tables import Table, read_table, read_text


def table(tmp_path: Path, name: str, content: str, *, has_header: bool = True) -> Table:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    return read_table(path, f"--data {name}", has_header=has_header)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"one, ""two""\nthree",1\n\nfour,0\n'),
        ("a.jsonl", '{"text": "one, \\"two\\"\\nthree", "label": "1"}\n\n{"text": "four", "label": "0"}\n'),
        ("a.NDJSON", '{"text": "one, \\"two\\"\\nthree", "label": "1"}\r\n{"text": "four", "label": "0"}'),
    ],
)
def test_each_form_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    found = table(tmp_path, name, content)
    assert found.columns == ("text", "label")
    assert [dict(row) for row in found.rows] == [
        {"text": 'one, "two"\nthree', "label": "1"},
        {"text": "four", "label": "0"},
    ]


def test_tabs_separate_and_quotes_are_characters(tmp_path: Path) -> None:
    found = table(tmp_path, "a.tsv", 'gj04\t1\t\tHe said "no", and\ngj05\t0\t*\t"\n', has_header=False)
    assert found.columns == ("0", "1", "2", "3")
    assert found.texts("3") == ['He said "no", and', '"']
    assert found.column("3", "--column") == "3"


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes("text,label\r\nein Satz,1\r\n".encode("utf-8-sig"))
    assert read_table(path, "x").columns == ("text", "label")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,label\n", "holds no rows"),
        ("a.csv", "", "holds no rows"),
        ("a.csv", "text,label\nx,1\ny\n", "line 3: got 1 cells; expected 2"),
        ("a.csv", "text,text\nx,1\n", "column 'text' is there more than once; pass --no-header"),
        ("a.csv", 'text\n"never ends\n', "line 2"),
        ("a.csv", "text\n" + "x" * 200_000, "field larger"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", '"text"\n', "line 1: got str; expected an object a line"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", "\n\n", "holds no rows"),
    ],
)
def test_what_is_no_table_is_said_with_the_line(tmp_path: Path, name: str, content: str, words: str) -> None:
    with pytest.raises(CommandError, match=words) as caught:
        table(tmp_path, name, content)
    assert str(caught.value).startswith(f"--data {name}")
    assert "\n" not in str(caught.value)


def test_columns_are_found_by_name_before_number(tmp_path: Path) -> None:
    found = table(tmp_path, "a.csv", "1,0\nx,y\n")
    assert found.column("1", "--column") == "1"
    with pytest.raises(CommandError, match=r"--label 7: --data a.csv has no such column; it has 1, 0"):
        found.column("7", "--label")


def test_a_text_that_is_missing_or_a_number_is_named(tmp_path: Path) -> None:
    found = table(tmp_path, "a.jsonl", '{"text": "x"}\n{"label": 1}\n')
    with pytest.raises(CommandError, match=r"line 2: column 'text' holds nothing; expected text"):
        found.texts("text")
    found = table(tmp_path, "a.jsonl", '{"text": "x"}\n\n{"text": 1}\n')
    with pytest.raises(CommandError, match=r"line 3: column 'text' holds int; expected text"):
        found.texts("text")


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("text\nÄpfel\n".encode("latin-1"))
    with pytest.raises(CommandError, match=r"not a UTF-8 text file .* at byte 5"):
        read_text(tmp_path / "latin.csv", "x")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_text_survives_json_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    assert read_table(path, "x").texts("text") == texts
