"""Rows of CSV, TSV and JSON Lines files, with the line that each is on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quantsim.cli.outcome import CommandError

__all__ = ["TABLE_SUFFIXES", "Table", "read_table", "read_text"]


@dataclass(frozen=True)
class Table:
    """A file of rows.

    Attributes:
        where: What errors call it.
        columns: Names, in the file's order; ``"0"``, ``"1"``, ... without a header.
        rows: Values by column.
        lines: The line that each row ends on, from 1.
    """

    where: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    lines: tuple[int, ...]

    def column(self, name: str, option: str) -> str:
        """The column that an option names, or numbers from 0.

        Raises:
            CommandError: There is none; says which there are.

        Example:
            >>> table = Table("a.csv", ("text", "label"), ({"text": "good", "label": "1"},), (2,))
            >>> table.column("text", "--column"), table.column("1", "--label")
            ('text', 'label')
        """
        if name in self.columns:
            return name
        if name.isdecimal() and int(name) < len(self.columns):
            return self.columns[int(name)]
        raise CommandError(f"{option} {name}: {self.where} has no such column; it has {', '.join(self.columns)}")

    def texts(self, column: str) -> list[str]:
        """A column's values.

        Raises:
            CommandError: A value is missing or no text; names the line.
        """
        for row, line in zip(self.rows, self.lines, strict=True):
            if not isinstance(row.get(column), str):
                got = type(row[column]).__name__ if column in row else "nothing"
                raise CommandError(f"{self.where}, line {line}: column {column!r} holds {got}; expected text")
        return [row[column] for row in self.rows]


def read_table(path: Path, where: str, *, has_header: bool = True) -> Table:
    """Reads a file by its suffix, one of `TABLE_SUFFIXES`.

    Tabs separate the columns of TSV, and quotes in it are ordinary characters. Blank lines do not count.

    Args:
        path: The file.
        where: What errors call it.
        has_header: Whether the first line of CSV and TSV names the columns.

    Raises:
        CommandError: The file cannot be read as that, or holds no rows; names the line.
    """
    table = TABLE_SUFFIXES[path.suffix.lower()](read_text(path, where), where, has_header)
    if not table.rows:
        raise CommandError(f"{where}: the file holds no rows")
    return table


def read_text(path: Path, where: str) -> str:
    """A file's text; a mark of the byte order at its start is dropped.

    Raises:
        CommandError: It is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{where}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error


def _comma_separated(text: str, where: str, has_header: bool) -> Table:
    return _separated(csv.reader(io.StringIO(text, newline=""), strict=True), where, has_header)


def _tab_separated(text: str, where: str, has_header: bool) -> Table:
    lines = io.StringIO(text, newline="")
    return _separated(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), where, has_header)


def _separated(reader: Any, where: str, has_header: bool) -> Table:
    records: list[tuple[int, list[str]]] = []
    try:
        records.extend((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise CommandError(f"{where}, line {reader.line_num}: {error}") from error
    if not records:
        return Table(where, (), (), ())
    header = records.pop(0) if has_header else (0, [str(number) for number in range(len(records[0][1]))])
    columns = tuple(name.strip() for name in header[1])
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        hint = "; pass --no-header if the first line is data" if has_header else ""
        raise CommandError(f"{where}, line {header[0]}: column {twice[0]!r} is there more than once{hint}")
    for line, cells in records:
        if len(cells) != len(columns):
            raise CommandError(f"{where}, line {line}: got {len(cells)} cells; expected {len(columns)}, as in line 1")
    rows = tuple(dict(zip(columns, cells, strict=True)) for _, cells in records)
    return Table(where, columns, rows, tuple(line for line, _ in records))


def _json_lines(text: str, where: str, has_header: bool) -> Table:
    del has_header
    records: list[tuple[int, Any]] = []
    # Not `splitlines`: JSON texts may hold other characters that it takes for ends of lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CommandError(f"{where}, line {number}: not JSON ({reason}); expected an object a line") from error
    return _objects(records, where)


def _objects(records: Sequence[tuple[int, Any]], where: str) -> Table:
    columns: dict[str, None] = {}
    for number, value in records:
        if not isinstance(value, dict):
            raise CommandError(f"{where}, line {number}: got {type(value).__name__}; expected an object a line")
        columns.update(dict.fromkeys(value))
    return Table(where, tuple(columns), tuple(value for _, value in records), tuple(number for number, _ in records))


TABLE_SUFFIXES: Final[Mapping[str, Callable[[str, str, bool], Table]]] = {
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
"""Suffixes of files that are tables, and what reads them."""
