"""Folders of simulations: what ``calibrate`` writes, and ``evaluate``, ``export`` and ``report`` read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.cli.model_source import LoadedModel, example_inputs, load_model, load_tokenizer
from quantsim.cli.outcome import CommandError, first_line

if TYPE_CHECKING:
    import torch

    from quantsim.sim import QuantizationSimModel

__all__ = [
    "SavedSimulation",
    "load_simulation",
    "require_new_file",
    "require_new_folder",
    "require_simulation",
    "require_writable",
    "save_simulation",
]

_MOST_PROBLEMS: Final = 6
"""Of an encodings file, that are told in one line."""

_MANIFEST: Final = "quantsim.json"

_SAYING_WHICH_MODEL: Final = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")

_RECORD: Final = "calibration.json"
"""Which command wrote the folder; only for people and messages, nothing is run because of it."""


@dataclass(frozen=True)
class SavedSimulation:
    """A simulation read from a folder, and how to feed it.

    Attributes:
        sim: The simulation, calibrated.
        loaded: Its model, with name, tokenizer and example inputs.
    """

    sim: QuantizationSimModel
    loaded: LoadedModel

    def example_inputs(self, batches: Sequence[Any] | None) -> Any:
        """One input to trace the model on: a batch if there is one.

        Raises:
            CommandError: There is none.
        """
        return batches[0] if batches else example_inputs(self.loaded, None)


def require_simulation(folder: Path) -> None:
    """Says that a folder holds no simulation, before anything slow.

    Raises:
        CommandError: It does not.
    """
    if folder.is_dir():
        if (folder / _MANIFEST).is_file():
            return
        kind = f"holds no {_MANIFEST}"
    else:
        kind = "is a file" if folder.exists() else "no such folder"
    raise CommandError(
        f"SIMULATION {folder}: {kind}; expected the folder of a simulation: "
        "'quantsim calibrate MODEL --data ... --output FOLDER' writes one"
    )


def load_simulation(
    folder: Path, model: str | None, tokenizer: str | None = None, device: torch.device | None = None
) -> SavedSimulation:
    """Reads a folder.

    Args:
        folder: Where `save_simulation` wrote.
        model: What makes the floating-point model, as option ``--model`` says; not needed for models of transformers.
        tokenizer: Folder of a tokenizer, instead of the one in the folder.
        device: Where to move the simulation.

    Raises:
        CommandError: The folder holds no simulation, or one of a model that was not given.
    """
    require_simulation(folder)
    is_of_transformers = (folder / "config.json").is_file()
    if model is None and not is_of_transformers:
        raise CommandError(
            f"SIMULATION {folder}: does not say how to build its model; pass --model with the code that makes it"
            + _hint(folder)
        )

    from quantsim.errors import QuantsimError
    from quantsim.export import load_simulation as load
    from quantsim_encodings import EncodingsError

    if is_of_transformers:
        _quiet_transformers()
    given = None if model is None else load_model(model, option="--model")
    try:
        sim = load(folder) if given is None else load(folder, given.model, in_place=True)
    except (QuantsimError, OSError):
        raise
    except EncodingsError as error:
        problems = [line.strip() for line in str(error).splitlines()]
        raise CommandError(f"SIMULATION {folder}: {'; '.join(problems[:_MOST_PROBLEMS])}") from error
    except Exception as error:  # whatever is wrong with the files, transformers and torch have many words for it
        raise CommandError(f"SIMULATION {folder}: cannot be loaded: {first_line(error)}") from error
    name = Path(os.path.abspath(folder)).name
    found = _tokenizer_in(folder) if tokenizer is None else load_tokenizer(tokenizer)
    loaded = LoadedModel(sim.model, name, found, given.example_inputs if given else None)
    if device is not None:
        loaded.to(device)
    return SavedSimulation(sim, loaded)


def save_simulation(
    sim: QuantizationSimModel, folder: Path, loaded: LoadedModel, record: dict[str, Any], *, fold_weights: bool
) -> None:
    """Writes a calibrated simulation, its tokenizer and how it was made.

    Args:
        sim: The simulation.
        folder: Where to.
        loaded: What it was made from.
        record: What to note of that.
        fold_weights: Save weights as their quantizers round them.
    """
    import quantsim

    stale = _of_earlier_model(folder)
    sim.save_pretrained(folder, fold_weights=fold_weights)
    for file, before in stale.items():
        if _identity(file) == before:  # not written now: whoever reads the folder would take it for this model's
            file.unlink()
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)
    text = json.dumps({"quantsim": quantsim.__version__, **record}, indent=2)
    (folder / _RECORD).write_text(f"{text}\n", encoding="utf-8")


def _of_earlier_model(folder: Path) -> dict[Path, tuple[int, int]]:
    """Files of a simulation's folder that say which model and tokenizer it is of, and how to know them again."""
    if not (folder / _MANIFEST).is_file():
        return {}
    files = [folder / name for name in _SAYING_WHICH_MODEL]
    return {file: _identity(file) for file in files if file.is_file()}


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def require_new_folder(folder: Path, option: str, *, overwrite: bool) -> None:
    """Says now what would otherwise come up when all is computed; creates nothing.

    Raises:
        CommandError: It is a file, cannot be written to, or holds something.
    """
    require_writable(folder, option)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise CommandError(f"{option} {folder}: is not empty; choose another folder, or pass --overwrite")


def require_new_file(file: Path, option: str, *, overwrite: bool) -> None:
    """Says now what would otherwise come up when all is computed; creates nothing.

    Raises:
        CommandError: It is a folder, cannot be written, or is there.
    """
    if file.is_dir():
        raise CommandError(f"{option} {file}: is a folder; expected the name of a file to write")
    if file.exists() and not overwrite:
        raise CommandError(f"{option} {file}: exists; choose another name, or pass --overwrite")
    require_writable(file.parent, option)


def require_writable(folder: Path, option: str) -> None:
    """Says that a folder, which need not be there yet, cannot be written to.

    Raises:
        CommandError: It cannot.
    """
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not present.is_dir():
        place = "is a file" if present == folder else f"{present} is a file"
        raise CommandError(f"{option} {folder}: {place}; expected a folder to write to")
    if not os.access(present, os.W_OK | os.X_OK):
        raise CommandError(f"{option} {folder}: {present} cannot be written to; choose another folder")


def _hint(folder: Path) -> str:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    source = record.get("model") if isinstance(record, dict) else None
    return f"; it was calibrated with {source}" if isinstance(source, str) and source.isprintable() else ""


def _tokenizer_in(folder: Path) -> Any:
    if not (folder / "tokenizer_config.json").is_file():
        return None
    return load_tokenizer(str(folder))


def _quiet_transformers() -> None:
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise CommandError(
            f"a simulation of a Hugging Face model needs transformers ({error}); pip install 'quantsim[hf]'"
        ) from error
    logging.disable_progress_bar()
