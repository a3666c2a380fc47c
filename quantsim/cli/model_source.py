"""Where commands take a model from: a Hugging Face folder, or Python code of the user's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.cli.outcome import CommandError, first_line
from quantsim.cli.user_code import FACTORY_FORM, call_factory

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["LoadedModel", "device_named", "example_inputs", "load_model", "load_tokenizer"]

_EXAMPLE_TEXT: Final = "A sentence to see which modules a text goes through."

_SAVED_SIMULATION: Final = "quantsim.json"


@dataclass
class LoadedModel:
    """A model and how to feed it.

    Attributes:
        model: In evaluation mode.
        name: What to call it.
        tokenizer: Turns texts into the model's inputs, if there is one.
        example_inputs: What the user's code gave beside the model, if anything.
        device: Where model and data were moved; None if nothing was.
    """

    model: nn.Module
    name: str
    tokenizer: Any = None
    example_inputs: Any = field(default=None)
    device: torch.device | None = None

    def to(self, device: torch.device) -> None:
        """Moves the model and its example inputs.

        Raises:
            CommandError: The device has too little memory.
        """
        try:
            self.model.to(device)
        except RuntimeError as error:
            raise CommandError(f"--device {device}: the model does not go there: {first_line(error)}") from error
        self.device = device
        self.example_inputs = self.on_device(self.example_inputs)

    def on_device(self, values: Any) -> Any:
        """Values whose tensors are where the model is."""
        if self.device is None or values is None:
            return values
        from torch import Tensor
        from torch.utils import _pytree as pytree

        return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), values)


def device_named(name: str) -> torch.device:
    """The device that option ``--device`` names.

    Raises:
        CommandError: There is none that computes.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CommandError(
            f"--device {name}: {first_line(error)}; expected cpu, or a device of this machine"
        ) from error
    return device


def load_model(
    source: str, *, tokenizer: str | None = None, device: torch.device | None = None, option: str = "MODEL"
) -> LoadedModel:
    """Loads a Hugging Face folder, or calls a function that returns a model or ``(model, example_inputs)``.

    A folder's model is of the class that it was saved as, head and all.

    Args:
        source: The folder or the function.
        tokenizer: Folder of a tokenizer, instead of the model's own.
        device: Where to move it; it stays where it is if not given.
        option: What errors call the source.

    Raises:
        CommandError: There is no such folder, file or function, or what it gives is no model.
    """
    folder = Path(source)
    if folder.is_file() and folder.suffix != ".py":
        raise CommandError(
            f"{option} {source}: is a file; expected a Hugging Face model folder, or code as {FACTORY_FORM}"
        )
    loaded = _load_hugging_face(folder, option) if folder.is_dir() else _load_code(source, option)
    if tokenizer is not None:
        loaded.tokenizer = load_tokenizer(tokenizer)
    if device is not None:
        loaded.to(device)
    return loaded


def load_tokenizer(folder: str) -> Any:
    """The tokenizer that option ``--tokenizer`` names.

    Raises:
        CommandError: The folder holds none.
    """
    if not Path(folder).is_dir():
        kind = "is a file" if Path(folder).exists() else "no such folder"
        raise CommandError(f"--tokenizer {folder}: {kind}; expected a folder with a tokenizer of Hugging Face")
    try:
        return _tokenizer(Path(folder))
    except ImportError as error:
        raise CommandError(f"--tokenizer {folder}: needs transformers ({error}); {_INSTALL}") from error
    except Exception as error:  # whatever is wrong with the folder, transformers has many words for it
        raise CommandError(f"--tokenizer {folder}: transformers cannot load it: {first_line(error)}") from error


def example_inputs(loaded: LoadedModel, batches: Sequence[Any] | None) -> Any:
    """One input that the model runs on: of the user's code, else the first batch, else made for a Hugging Face model.

    Raises:
        CommandError: There is none.
    """
    if loaded.example_inputs is not None:
        return loaded.example_inputs
    if batches:
        return batches[0]
    if loaded.tokenizer is not None:
        return loaded.on_device(dict(loaded.tokenizer([_EXAMPLE_TEXT], return_tensors="pt")))
    made = _made_for_transformers(loaded.model)
    if made is None:
        raise CommandError(
            f"model {loaded.name} needs an input to be run on: pass --data, "
            "or return (model, example_inputs) from the function"
        )
    return made


_INSTALL: Final = "pip install 'quantsim[hf]'"


def _made_for_transformers(model: nn.Module) -> Any:
    from quantsim.errors import ConfigurationError

    if getattr(model, "main_input_name", None) is None or getattr(model, "config", None) is None:
        return None
    from quantsim.integrations.transformers import example_inputs_of

    try:
        return example_inputs_of(model)  # pyright: ignore[reportArgumentType]
    except ConfigurationError:
        return None


def _load_code(source: str, option: str) -> LoadedModel:
    value = call_factory(source, option)
    inputs = None
    if isinstance(value, tuple) and len(value) == 2:
        value, inputs = value
    from torch import nn

    if not isinstance(value, nn.Module):
        raise CommandError(
            f"{option} {source}: the function returned {type(value).__name__}, "
            "expected a torch.nn.Module or (module, example_inputs)"
        )
    return LoadedModel(value.eval(), type(value).__name__, example_inputs=inputs)


def _load_hugging_face(folder: Path, option: str) -> LoadedModel:
    if (folder / _SAVED_SIMULATION).is_file():
        raise CommandError(
            f"{option} {folder}: holds a simulation already ({_SAVED_SIMULATION}); expected the floating-point model "
            "that it was made from; 'evaluate', 'export' and 'report' read simulations"
        )
    if not (folder / "config.json").is_file():
        raise CommandError(
            f"{option} {folder}: the folder holds no config.json; "
            f"expected a Hugging Face model folder, or code as {FACTORY_FORM}"
        )
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise CommandError(f"a Hugging Face folder needs transformers ({error}); {_INSTALL}") from error
    logging.disable_progress_bar()
    try:
        model = _model_class(folder, transformers).from_pretrained(folder, local_files_only=True).eval()
    except Exception as error:  # whatever is wrong with the folder, transformers has many words for it
        raise CommandError(f"{option} {folder}: transformers cannot load it: {first_line(error)}") from error
    try:
        tokenizer = _tokenizer(folder)
    except Exception:  # a vision or audio model: no tokenizer, so no texts as data
        tokenizer = None
    return LoadedModel(model, Path(os.path.abspath(folder)).name, tokenizer)


def _model_class(folder: Path, transformers: Any) -> Any:
    """The class that the folder names, so that heads are there; transformers' own choice if it names none."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = settings.get("architectures") if isinstance(settings, dict) else None
    found = getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model else transformers.AutoModel


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token is None:  # GPT-2 and its like; what is padded is masked
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
