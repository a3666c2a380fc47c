"""Print result files as the Markdown table of the documentation, so that no figure is typed by hand.

    python tests/benchmarks/published.py results/first.json results/second.json

A cell is the ratio of medians over all the files given: one number, or the smallest and the largest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OURS = ("quantsim", "quantsim compiled")


def read(paths: list[Path]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Rows by title and label, one for each file; rows that are compared with nothing are left out."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in paths:
        for row in json.loads(path.read_text(encoding="utf-8")):
            if row["against"]:
                found.setdefault(row["title"], {}).setdefault(row["label"], []).append(row)
    return found


def span(rows: list[dict[str, Any]]) -> str:
    """Smallest and largest ratio of medians, with two digits that count."""
    ratios = [row["ratio_of_medians"] for row in rows]
    ends = [f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" for ratio in (min(ratios), max(ratios))]
    missed = [row["gate"] for row in rows if row["gate"] is not None and row["ratio_of_medians"] > row["gate"]]
    text = ends[0] if ends[0] == ends[1] else "–".join(ends)
    return f"{text} (gate {missed[0]:g})" if missed else text


def table(paths: list[Path]) -> list[str]:
    """Lines of the table."""
    lines = ["| what | to | quantsim | compiled | others, eager |", "|---|---|---|---|---|"]
    for title, labels in read(paths).items():
        against = next(iter(labels.values()))[0]["against"]
        ours = [span(labels[name]) if name in labels else "" for name in OURS]
        others = ", ".join(f"{name} {span(rows)}" for name, rows in labels.items() if name not in OURS)
        lines.append(f"| {title} | `{against}` | {ours[0]} | {ours[1]} | {others} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table([Path(name) for name in sys.argv[1:]])))
