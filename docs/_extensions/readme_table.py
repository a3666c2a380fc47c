"""Writes the demo's figures into the README: `make demo figures`. No figure in it is typed by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures of `make demo`: begin -->", "<!-- end -->"
ROOT = Path(__file__).resolve().parents[2]


def row(result: Mapping[str, Any]) -> str:
    """One scheme's line."""
    sqnr = "∞" if result["sqnr_db"] is None else f"{result['sqnr_db']:.1f} dB"
    cells = (
        f"`{result['scheme']}`",
        f"{result['accuracy']:.2%}",
        f"{result['retrieval_at_1']:.2%}",
        f"{result['cosine']:.4f}",
        sqnr,
        f"{result['size_bytes'] / 1e6:.1f} MB",
    )
    return f"| {' | '.join(cells)} |"


def section(results: Mapping[str, Any]) -> str:
    """The README's section for the sentence encoder."""
    (experiment,) = (entry for entry in results["experiments"] if entry["model"] == "minilm")
    lines = (
        f"## What it costs: {experiment['title']}",
        "",
        "| scheme | accuracy | retrieval@1 | cosine to FP32 | SQNR | size |",
        "|---|---|---|---|---|---|",
        *(row(result) for result in (experiment["reference"], *experiment["schemes"])),
        "",
        experiment["task"],
    )
    return "\n".join(lines)


def main(results_file: str) -> None:
    """Replace what stands between the two marks."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END, maxsplit=1)[1]
    new = section(json.loads(Path(results_file).read_text()))
    readme.write_text(f"{before}{BEGIN}\n{new}\n{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1])
