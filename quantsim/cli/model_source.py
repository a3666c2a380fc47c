"""Where ``quantsim simulate`` takes a model and its data from: a Hugging Face folder, or Python code of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from quantsim.cli.outcome import CommandError, first_line

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LoadedModel", "load_model", "read_batches"]

_USERS_ERRORS = (Exception, SystemExit)
"""What code of the user's may raise; a script without ``if __name__ == "__main__"`` may well end the process."""

_IMPORTED: dict[Path, ModuleType] = {}

_FACTORY_FORM = "'package.module:function' or 'path/to/file.py:function'"


@dataclass
class LoadedModel:
    """A model and how to feed it.

    Attributes:
        model: In evaluation mode.
        name: What to call it.
        tokenizer: Turns texts into the model's inputs, if there is one.
        example_inputs: What the user's code gave beside the model, if anything.
    """

    model: nn.Module
    name: str
    tokenizer: Any = None
    example_inputs: Any = field(default=None)


def load_model(source: str) -> LoadedModel:
    """Loads a Hugging Face folder, or calls a function that returns a model or ``(model, example_inputs)``.

    Raises:
        CommandError: There is no such folder, file or function, or what it gives is no model.
    """
    folder = Path(source)
    if folder.is_dir():
        return _load_hugging_face(folder)
    if folder.is_file() and folder.suffix != ".py":
        raise CommandError(
            f"MODEL {source}: is a file; expected a Hugging Face model folder, or code as {_FACTORY_FORM}"
        )
    value = _call_factory(source, "MODEL")
    example_inputs = None
    if isinstance(value, tuple) and len(value) == 2:
        value, example_inputs = value
    from torch import nn

    if not isinstance(value, nn.Module):
        raise CommandError(
            f"MODEL {source}: the function returned {type(value).__name__}, "
            "expected a torch.nn.Module or (module, example_inputs)"
        )
    return LoadedModel(value.eval(), type(value).__name__, example_inputs=example_inputs)


def _load_hugging_face(folder: Path) -> LoadedModel:
    if not (folder / "config.json").is_file():
        raise CommandError(
            f"MODEL {folder}: the folder holds no config.json; "
            f"expected a Hugging Face model folder, or code as {_FACTORY_FORM}"
        )
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise CommandError(f"a Hugging Face folder needs transformers ({error}); pip install 'quantsim[hf]'") from error
    logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except Exception as error:  # whatever is wrong with the folder, transformers has many words for it
        raise CommandError(f"MODEL {folder}: transformers cannot load it: {first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if tokenizer.pad_token is None:  # GPT-2 and its like; what is padded is masked
            tokenizer.pad_token = tokenizer.eos_token
    except Exception:  # a vision or audio model: no tokenizer, so no texts as data
        tokenizer = None
    return LoadedModel(model, Path(os.path.abspath(folder)).name, tokenizer)


def read_batches(
    source: str, loaded: LoadedModel, *, batch_size: int, max_tokens: int, limit: int, option: str = "--data"
) -> list[Any]:
    """Data for calibration or evaluation, as batches that a simulation accepts.

    Args:
        source: A text file with one text a line; or a function that returns an iterable of batches.
        loaded: The model; texts need its tokenizer.
        batch_size: Texts in a batch.
        max_tokens: Longer texts are cut.
        limit: At most so many texts, or so many batches of a function.
        option: What errors call the source.

    Raises:
        CommandError: No such file or function, an empty file, or texts for a model without tokenizer.
    """
    path = Path(source)
    if path.is_file():
        return list(_tokenized(path, loaded, batch_size, max_tokens, limit, option))
    batches = _call_factory(source, option)
    import torch

    if isinstance(batches, (Mapping, str, torch.Tensor)) or not hasattr(batches, "__iter__"):
        raise CommandError(
            f"{option} {source}: the function returned {type(batches).__name__}, expected an iterable of batches; "
            "return a list of one for a single batch"
        )
    try:
        result = list(islice(batches, limit))
    except _USERS_ERRORS as error:
        raise CommandError(f"{option} {source}: making a batch failed: {_name_and_message(error)}") from error
    if not result:
        raise CommandError(f"{option} {source}: the function returned no batch")
    return result


def _tokenized(
    path: Path, loaded: LoadedModel, batch_size: int, max_tokens: int, limit: int, option: str
) -> Iterator[dict[str, Any]]:
    if loaded.tokenizer is None:
        raise CommandError(
            f"{option} {path}: model {loaded.name} has no tokenizer for texts; give batches as {_FACTORY_FORM}"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CommandError(f"{option} {path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    texts = [line.strip() for line in lines if line.strip()][:limit]
    if not texts:
        raise CommandError(f"{option} {path}: the file holds no text; expected one text a line")
    for start in range(0, len(texts), batch_size):
        chosen = texts[start : start + batch_size]
        try:
            encoded = loaded.tokenizer(
                chosen, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
            )
        except Exception as error:  # a tokenizer of the user's folder: what it objects to is unknown here
            raise CommandError(
                f"{option} {path}: the tokenizer of {loaded.name} fails: {_name_and_message(error)}"
            ) from error
        yield dict(encoded)


def _call_factory(source: str, what: str) -> Any:
    """Imports and calls the user's function; whatever it raises becomes a message."""
    target, separator, name = source.rpartition(":")
    if not separator or not target or not name.isidentifier():
        if source.endswith(".py") and Path(source).is_file():
            raise CommandError(f"{what} {source}: which function of the file? Expected {source}:function")
        kind = "no such file or folder" if "/" in source or source.endswith((".txt", ".py")) else "not understood"
        raise CommandError(f"{what} {source}: {kind}; expected an existing path, or code as {_FACTORY_FORM}")
    try:
        module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target)
    except CommandError:
        raise
    except _USERS_ERRORS as error:
        raise CommandError(f"{what} {source}: importing it failed: {_name_and_message(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise CommandError(
            f"{what} {source}: there is no function {name!r}; the module has {', '.join(sorted(known)[:10]) or 'none'}"
        )
    try:
        return function()
    except _USERS_ERRORS as error:
        raise CommandError(f"{what} {source}: the function failed: {_name_and_message(error)}") from error


def _import_module(name: str) -> Any:
    # As `python -m` does: code beside the user comes first.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise CommandError(f"{path}: no such file; expected {_FACTORY_FORM}")
    path = path.resolve()
    if (present := _IMPORTED.get(path)) is not None:  # MODEL and --data are often functions of one file
        return present
    # As `python path` does: what lies beside the file can be imported.
    if (beside := str(path.parent)) not in sys.path:
        sys.path.insert(0, beside)
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_{len(_IMPORTED)}_of_command_line"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _IMPORTED[path] = module
    return module


def _name_and_message(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
