"""Run the benchmarks and print their tables.

    python tests/benchmarks/run.py                      every subject
    python tests/benchmarks/run.py linear minilm        some
    python tests/benchmarks/run.py --json figures.json  also as JSON
    python tests/benchmarks/run.py --list               what there is

Restarts itself with passive OpenMP waiting, two threads, and an allocator that reuses pages (``--default-allocator``:
the system's own). Gates are printed, never enforced: a shared machine's timings prove nothing about a build.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from harness import Comparison, Gate, Options, Row, compare, figure_row, restart_with_environment  # noqa: E402

PREFIX = "benchmark_"


def subjects() -> list[str]:
    """The subjects there are: one file each."""
    return sorted(path.stem.removeprefix(PREFIX) for path in HERE.glob(f"{PREFIX}*.py"))


def measure(name: str, options: Options) -> list[Row]:
    """Run one subject, printing each table when it is done."""
    module = importlib.import_module(PREFIX + name)
    rows: list[Row] = []
    for item in module.subject(options):
        new = list(compare(name, item, options)) if isinstance(item, Comparison) else [figure_row(name, item)]
        if options.quick:  # other sizes than the gates are meant for
            new = [replace(row, gate=None, verdict=Gate.NONE) for row in new]
        print_rows(new, first=not rows or rows[-1].title != new[0].title)
        rows += new
    return rows


def describe(row: Row) -> list[str]:
    """A row's cells."""
    digits = 1 if row.minimum >= 100 else 3 if row.minimum >= 1 else 4
    ratio = "" if row.ratio_of_minima is None else f"{row.ratio_of_minima:.2f}"
    median_ratio = "" if row.ratio_of_medians is None else f"{row.ratio_of_medians:.2f}"
    return [
        row.label,
        f"{row.minimum:.{digits}f} {row.unit}",
        "" if row.ratio_of_minima is None else f"{row.median:.{digits}f} {row.unit}",
        ratio,
        median_ratio,
        row.against,
        "" if row.gate is None else f"<= {row.gate:g}",
        row.verdict.value,
        row.note,
    ]


def print_rows(rows: list[Row], *, first: bool) -> None:
    """One comparison as aligned text, flushed at once: a long run is watched."""
    header = ["", "minimum", "median", "ratio", "(median)", "to", "gate", "", ""]
    table = [header, *map(describe, rows)] if first else [describe(row) for row in rows]
    widths = [
        max(width, *(len(line[column]) for line in table))
        for column, width in enumerate((34, 12, 12, 6, 8, 14, 8, 4, 0))
    ]
    if first:
        print(f"\n{rows[0].subject}: {rows[0].title}")
    for line in table:
        cells = [
            cell.ljust(width) if column in (0, 5, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def print_summary(rows: list[Row], seconds: float) -> None:
    """The gated rows again, as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"gates ({seconds:.0f} s, {platform.machine()}, torch {torch_version()})")
    for column in ("subject", "what", "ratio or value", "(median)", "gate", ""):
        table.add_column(column)
    for row in rows:
        if row.gate is None:
            continue
        value = f"{row.minimum:.3f} {row.unit}" if row.ratio_of_minima is None else f"{row.ratio_of_minima:.2f}"
        median = "" if row.ratio_of_medians is None else f"{row.ratio_of_medians:.2f}"
        colour = "green" if row.verdict is Gate.PASS else "red"
        what = f"{row.title}: {row.label}" + (f" / {row.against}" if row.against else "")
        table.add_row(row.subject, what, value, median, f"<= {row.gate:g}", f"[{colour}]{row.verdict.value}[/]")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def torch_version() -> str:
    """The version of torch that was measured."""
    import torch

    return torch.__version__


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="*", help="subjects to run (default: all)")
    parser.add_argument("--list", action="store_true", help="print the subjects and stop")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument(
        "--seconds", type=float, default=Options.seconds, help="time for each comparison (default: %(default)s)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out what torch.compile must build first")
    parser.add_argument(
        "--no-peers", action="store_true", help="leave out other libraries even where they are installed"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smaller sizes than the titles say, few rounds, no gates: does it run at all?",
    )
    parser.add_argument("--default-allocator", action="store_true", help="measure with the system's allocator settings")
    arguments = parser.parse_args()
    available = subjects()
    if arguments.list:
        print("\n".join(available))
        return 0
    unknown = sorted(set(arguments.subject) - set(available))
    if unknown:
        parser.error(f"no such subject: {', '.join(unknown)}; there are {', '.join(available)}")
    restart_with_environment(page_reuse=not arguments.default_allocator)

    import torch

    torch.set_num_threads(2)
    options = Options(
        seconds=0.2 if arguments.quick else arguments.seconds,
        minimum_rounds=2 if arguments.quick else Options.minimum_rounds,
        compiled=not arguments.no_compile,
        peers=not arguments.no_peers,
        quick=arguments.quick,
    )
    start = time.perf_counter()
    rows: list[Row] = []
    for name in arguments.subject or available:
        rows += measure(name, options)
    print()
    print_summary(rows, time.perf_counter() - start)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
