"""``quantsim kernels``: what computes quantized ops here."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Kernels: which functions compute quantized ops.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("list")
def list_kernels(
    op: Annotated[str | None, typer.Option(help="Only kernels of this op.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List all kernels in the registry, in the order in which they are tried."""
    import quantsim_kernels
    from quantsim.cli.outcome import CommandError

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
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        title="Kernels; of those for one op, the first that has no objection runs",
        title_justify="left",
    )
    table.add_column("op (scheme) / backend", no_wrap=True)
    table.add_column("priority", justify="right")
    table.add_column("description", overflow="fold")
    last = None
    for kernel in kernels:
        heading = f"{kernel.op} ({kernel.scheme.value})"
        if heading != last:
            table.add_row(f"[bold]{heading}[/]", "", "")
            last = heading
        table.add_row(f"  {kernel.backend.value}", str(kernel.priority), kernel.description)
    Console().print(table)
