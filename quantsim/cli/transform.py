"""``quantsim transform``: replaces modules of a model by a pass, shows which, and writes the result."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from quantsim.cli.console import output_console, progress_console
from quantsim.cli.outcome import CommandError, first_line

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from quantsim.cli.model_source import LoadedModel
    from quantsim.transforms import TransformPass, TransformPlan

__all__ = ["transform"]

_WEIGHTS_FILE: Final = "model.safetensors"
_RECORD_FILE: Final = "transform.json"
_CONFIG_FILE: Final = "config.json"
"""What transformers reads a model's configuration from."""


def transform(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A Hugging Face model folder, or code that makes a model: 'package.module:function' "
            "or 'file.py:function'.",
            show_default=False,
        ),
    ] = None,
    pass_name: Annotated[str, typer.Option("--pass", "-p", help="Which pass; --list shows them.")] = "float_precision",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="The pass's arguments: a JSON or YAML file with 'by', keys and 'default'; or 'attn' and 'fc'.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=f"Folder to write {_WEIGHTS_FILE} and {_RECORD_FILE} to (and config.json of transformers).",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of these names.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", "-s", help="Print counts by type instead of every module.")
    ] = False,
    list_passes: Annotated[bool, typer.Option("--list", help="List the passes and their parameters.")] = False,
) -> None:
    """Transform a model: replace modules that match by name or regular expression, show which, write the result."""
    console = output_console()
    if list_passes:
        _list(console)
        return
    if model is None:
        raise typer.BadParameter("missing; give a model, or --list to see the passes", param_hint="MODEL")
    if config is None:
        raise typer.BadParameter("missing; give a JSON or YAML file", param_hint="--config")
    if output is not None:
        _require_new_files(output, overwrite=overwrite)

    from quantsim.transforms import load_transform_config, transform_pass

    # All that can be found out before anything slow is.
    chosen = transform_pass(pass_name)
    pass_args = load_transform_config(config)
    chosen.check(pass_args, where=str(config))

    from quantsim.cli.model_source import load_model

    with progress_console().status("loading the model"):
        loaded = load_model(model)
    plan = chosen.plan(loaded.model, pass_args)
    settings = getattr(loaded.model, "config", None)
    transformed = plan.apply()
    _print(plan, loaded.name, console, summary=summary)
    objection = _objection_of_example(transformed, loaded, calibrate=chosen.needs_calibration)
    if objection is None and output is not None:
        for path in _write(output, transformed, chosen, pass_args, plan, source=model, settings=settings):
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    if objection is not None:
        raise CommandError(objection)


def _list(console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from quantsim.transforms import TRANSFORM_PASSES

    for item in TRANSFORM_PASSES.values():
        console.print(Text(item.name, style="bold"))
        console.print(Text(f"  {item.description}"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name, field in item.parameters.model_fields.items():
            default = "required" if field.is_required() else f"default {json.dumps(field.default)}"
            meaning = " ".join((field.description or "").split()).replace("``", "")
            table.add_row(Text(f"  {name}"), Text(default), Text(meaning))
        console.print(table)


def _require_new_files(folder: Path, *, overwrite: bool) -> None:
    """Says now what would otherwise come up when all is done; creates nothing."""
    from quantsim.cli.saved_simulation import require_writable

    require_writable(folder, "--output")
    taken = [name for name in (_WEIGHTS_FILE, _RECORD_FILE, _CONFIG_FILE) if (folder / name).exists()]
    if taken and not overwrite:
        raise CommandError(
            f"--output {folder}: holds {' and '.join(taken)} already; choose another folder, or pass --overwrite"
        )


def _print(plan: TransformPlan, name: str, console: Console, *, summary: bool) -> None:
    from rich.table import Table
    from rich.text import Text  # square brackets of regular expressions are no markup

    count = len(plan.replacements)
    title = f"{name}: {count} module{'' if count == 1 else 's'} replaced"
    table = Table(title=Text(title), title_justify="left")
    if summary:
        for heading in ("type", "becomes", "computes in", "modules"):
            table.add_column(heading, justify="right" if heading == "modules" else "left", no_wrap=True)
        rows = Counter((type(item.old).__name__, type(item.new).__name__, item.label) for item in plan.replacements)
        for (old, new, label), modules in rows.items():
            table.add_row(Text(old), Text(new), Text(label), str(modules))
    else:
        for heading in ("module", "type", "becomes", "computes in", "key"):
            table.add_column(heading, overflow="fold")
        for item in plan.replacements:
            place = ", ".join((item.path or "(the model itself)", *item.aliases))
            cells = (place, type(item.old).__name__, type(item.new).__name__, item.label, item.key)
            table.add_row(*map(Text, cells))
    console.print(table)
    if plan.left_alone:
        from quantsim.sim.slots import shown

        modules = dict(plan.network.named_modules())
        kinds = Counter(type(modules[path]).__name__ for path in plan.left_alone if path in modules)
        text = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        console.print(
            f"left alone, with parameters of their own: {text} ({shown(list(plan.left_alone), limit=4)})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _objection_of_example(model: nn.Module, loaded: LoadedModel, *, calibrate: bool) -> str | None:
    """Runs the transformed model on the example inputs that came with it, if any; None if it can be used.

    Where modules take ranges from data, these are the first they see, and what is written has ranges.
    """
    if loaded.example_inputs is None:
        return None
    import torch

    from quantsim.nn import compute_encodings
    from quantsim.sim.example_inputs import ModelInputs

    try:
        inputs = ModelInputs.of(loaded.example_inputs, what="example inputs")
        with torch.no_grad():
            if calibrate:
                with compute_encodings(model):
                    inputs.call(model)
            inputs.call(model)
    except Exception as error:
        return f"the transformed model fails on the example inputs: {type(error).__name__}: {first_line(error)}"
    return None


def _write(
    folder: Path,
    model: nn.Module,
    chosen: TransformPass,
    pass_args: dict[str, Any],
    plan: TransformPlan,
    *,
    source: str,
    settings: Any,
) -> list[Path]:
    """Writes tensors, what was done, and the configuration of transformers; each file whole or not at all."""
    import safetensors.torch

    import quantsim

    tensors, tied = _tensors_of(model)
    record = {
        "quantsim": quantsim.__version__,
        "model": source,
        "pass": chosen.name,
        "pass_args": pass_args,
        "modules": [
            {
                "path": item.path,
                "aliases": list(item.aliases),
                "type": type(item.old).__name__,
                "becomes": type(item.new).__name__,
                "computes_in": item.label,
                "key": item.key,
            }
            for item in plan.replacements
        ],
        "left_alone": list(plan.left_alone),
        "tied": tied,
    }
    contents = {
        _WEIGHTS_FILE: safetensors.torch.save(tensors, metadata={"format": "pt", "tied": json.dumps(tied)}),
        _RECORD_FILE: (json.dumps(record, indent=2) + "\n").encode(),
    }
    if callable(getattr(settings, "to_json_string", None)):
        contents[_CONFIG_FILE] = settings.to_json_string().encode()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in contents.items():
        unfinished = folder / f".{name}.{os.getpid()}"
        try:
            unfinished.write_bytes(content)
            unfinished.replace(folder / name)
        finally:
            unfinished.unlink(missing_ok=True)
        written.append(folder / name)
    return written


def _tensors_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's tensors by name, and the names of those that are the same tensor as another, with the name of that."""
    from torch import Tensor

    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            continue
        same = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        owner = first.setdefault(same, name) if value.numel() else name
        if owner == name:
            tensors[name] = value.detach().contiguous().clone()
        else:
            tied[name] = owner
    return tensors, tied
