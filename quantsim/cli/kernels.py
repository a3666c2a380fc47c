"""``quantsim kernels``: what computes quantized ops here."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Annotated

import typer

from quantsim.cli.outcome import CommandError, show_help_without_command

__all__ = ["app"]

app = typer.Typer(help="Kernels: which functions compute quantized ops.", invoke_without_command=True)


@app.callback()
def _group(context: typer.Context) -> None:
    show_help_without_command(context)


@app.command("list")
def list_kernels(
    op: Annotated[str | None, typer.Option(help="Only kernels of this op.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List all kernels in the registry, in the order in which they are tried."""
    import quantsim_kernels

    kernels = list(quantsim_kernels.registry.kernels())
    if op is not None:
        known = quantsim_kernels.ops()
        if op not in known:
            from difflib import get_close_matches

            near = get_close_matches(op, known, n=3)
            raise CommandError(
                f"there is no kernel for op {op!r}; expected one of {', '.join(known)}"
                + (f"; did you mean {' or '.join(near)}?" if near else "")
            )
        kernels = [kernel for kernel in kernels if kernel.op == op]
    if as_json:
        import json

        rows = [
            {
                "op": kernel.op,
                "scheme": kernel.scheme.value,
                "backend": kernel.backend.value,
                "priority": kernel.priority,
                "description": kernel.description,
            }
            for kernel in kernels
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print("Of the kernels for one op, the first that has no objection to the operands runs.")
    for (name, scheme), candidates in groupby(kernels, key=lambda kernel: (kernel.op, kernel.scheme)):
        console.print()
        console.print(Text(f"{name} ({scheme.value})", style="bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=11, no_wrap=True)
        table.add_column(min_width=11, no_wrap=True)
        table.add_column()
        for kernel in candidates:
            table.add_row(
                f"  {kernel.backend.value}", f"priority {kernel.priority}", Text(_without_markup(kernel.description))
            )
        console.print(table)


def _without_markup(text: str) -> str:
    """A docstring's line as people read it: without the marks of reStructuredText."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("`", "")
