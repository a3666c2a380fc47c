"""Transformed models of transformers as folders: weights, ranges and seeds as tensors, the transform as JSON beside.

Trainer and ``save_pretrained`` already write every range and every seed of a transformed model with its weights. What
they do not write is which modules were replaced, so ``from_pretrained`` would take such a folder for a float model.
`save_transform` adds that, `load_transformed` builds the very same model again, bit for bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn import CalibrationReport, compute_encodings
from quantsim.transforms import transform_pass

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

__all__ = [
    "TRANSFORM_FILE",
    "TransformKind",
    "TransformRecord",
    "apply_transform",
    "calibrate_transformed",
    "default_transform_config",
    "is_transformed",
    "load_transformed",
    "preserved_noise",
    "read_transform",
    "save_transform",
    "transform_saving_callback",
]

TRANSFORM_FILE: Final = "quantsim_transform.json"
"""Name of the file that says how the model of a folder was transformed."""

_WEIGHTS_FILE: Final = "model.safetensors"
_INDEX_FILE: Final = "model.safetensors.index.json"
_MAX_RECORD_BYTES: Final = 4 * 1024 * 1024


class TransformKind(StrEnum):
    """The transforms of experiments; each value is the name of its pass (`quantsim.transforms.transform_pass`)."""

    OPTICAL = "optical"
    SQUEEZELIGHT = "squeezelight"


class TransformRecord(BaseModel):
    """What was done to a model, as `TRANSFORM_FILE` holds it.

    Example:
        >>> TransformRecord(kind=TransformKind.OPTICAL, config={"fc": {}}).kind.value
        'optical'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    version: Literal[1] = 1
    """Version of the file's form."""
    kind: TransformKind
    """Which transform."""
    config: dict[str, Any]
    """The arguments of its pass."""
    quantsim: str = ""
    """Version of quantsim that wrote it; empty: unknown."""

    @classmethod
    def of(cls, config: Mapping[str, Any], kind: TransformKind | str = TransformKind.OPTICAL) -> TransformRecord:
        """The record of a transform whose arguments are checked here, without a model.

        Args:
            config: Arguments of the pass; not changed.
            kind: Which transform.

        Raises:
            ConfigurationError: No such transform, or the arguments are not valid.
        """
        import quantsim

        chosen = _kind(kind)
        transform_pass(chosen.value).check(config, where="transform configuration")
        return cls(kind=chosen, config=dict(config), quantsim=quantsim.__version__)


def default_transform_config(kind: TransformKind | str = TransformKind.OPTICAL) -> dict[str, Any]:
    """Arguments of the pass with every parameter at its default.

    Optical: all attention and all linear layers but those of the task's head. SqueezeLight: all linear layers but the
    output head of a language model.

    Example:
        >>> default_transform_config("optical")
        {'attn': {}, 'fc': {}}
    """
    if _kind(kind) is TransformKind.OPTICAL:
        return {"attn": {}, "fc": {}}
    return {"by": "regex_name", "default": {}}


def apply_transform(
    model: nn.Module, config: Mapping[str, Any], kind: TransformKind | str = TransformKind.OPTICAL
) -> nn.Module:
    """Replaces modules of a model by a transform.

    Args:
        model: Changed in place; left as it was if an error is raised.
        config: Arguments of the pass, as `quantsim.transforms.load_transform_config` reads them; not changed.
        kind: Which transform.

    Returns:
        The model, or its replacement if it is itself replaced.

    Raises:
        ConfigurationError: No such transform, or its arguments are not valid or do not fit the model.

    Example:
        >>> model = apply_transform(nn.Sequential(nn.Linear(4, 2)), {"by": "name", "0": {"q_levels": 64}})
        >>> type(model[0]).__name__
        'OtLinear'
    """
    return transform_pass(_kind(kind).value).plan(model, config).apply()


def calibrate_transformed(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], *, limit: int | None = None
) -> CalibrationReport:
    """Sets the ranges of a transformed model from batches, without training it.

    The model runs in evaluation mode (no dropout) and is given back in the mode it had. Ranges start anew.

    Args:
        model: Its tensors' device is where batches are moved.
        batches: Keyword arguments of the model, one mapping a batch; what is no tensor is passed on as it is.
        limit: Batches used at most; default: all.

    Returns:
        Which quantizers were calibrated; empty for a model without quantizers.

    Raises:
        ConfigurationError: There is no batch; the ranges are then as they were.
        NonFiniteError: NaN or infinity was observed; the text names the quantizer.

    Example:
        >>> model = apply_transform(nn.Sequential(nn.Linear(4, 2)), {"by": "name", "default": {}})
        >>> report = calibrate_transformed(model, [{"input": torch.ones(3, 4)}])
        >>> report.calibrated
        ['0.input_quantizers[0]', '0.output_quantizers[0]']
    """
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    training = [(module, module.training) for module in model.modules()]
    count = 0
    model.eval()
    try:
        with torch.no_grad(), compute_encodings(model) as report:
            for batch in batches:
                if limit is not None and count >= limit:
                    break
                moved = {
                    name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()
                }
                model(**moved)
                count += 1
            if count == 0:
                raise ConfigurationError(
                    "nothing to calibrate with",
                    where="calibrate_transformed(batches)",
                    got="no batch",
                    expected="at least one",
                    fix="give training data, or more than 0 calibration batches",
                )
    finally:
        for module, mode in training:
            module.training = mode
    return report


@contextmanager
def preserved_noise(model: nn.Module) -> Iterator[None]:
    """Sets the noise of a transformed model back, at the block's end, to where it stood.

    Evaluation then leaves no trace: its result is the same each time, before and after saving, however often and when
    in training a model is evaluated.

    Args:
        model: Any model; one without noise is not touched.

    Example:
        >>> layer = apply_transform(nn.Linear(4, 2), {"by": "name", "": {}})
        >>> _ = layer(torch.ones(3, 4))
        >>> with preserved_noise(layer):
        ...     first = layer.eval()(torch.ones(3, 4))
        >>> torch.equal(first, layer(torch.ones(3, 4)))
        True
    """
    seeds = [
        (buffer, buffer.clone())
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] == "seed" and buffer.dtype is torch.int64 and buffer.dim() == 0
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in seeds:
                buffer.copy_(value)


def save_transform(
    folder: str | Path,
    config: Mapping[str, Any] | TransformRecord,
    kind: TransformKind | str = TransformKind.OPTICAL,
) -> Path:
    """Writes `TRANSFORM_FILE` into the folder that a transformed model is saved in.

    Args:
        folder: Made if there is none.
        config: Arguments of the pass, or a whole record.
        kind: Which transform; not looked at where ``config`` is a record.

    Returns:
        The file, written whole or not at all.

    Raises:
        ConfigurationError: The arguments are not valid.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save_transform(folder, {"fc": {"q_levels": 64}}).name, read_transform(folder).config
        ('quantsim_transform.json', {'fc': {'q_levels': 64}})
    """
    record = config if isinstance(config, TransformRecord) else TransformRecord.of(config, kind)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{TRANSFORM_FILE}.{os.getpid()}"
    try:
        unfinished.write_text(json.dumps(record.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        return unfinished.replace(folder / TRANSFORM_FILE)
    finally:
        unfinished.unlink(missing_ok=True)


def is_transformed(folder: str | Path) -> bool:
    """Whether a folder holds a transformed model. Names of models on a hub are no folders.

    Example:
        >>> is_transformed("FacebookAI/roberta-base")
        False
    """
    return (Path(folder) / TRANSFORM_FILE).is_file()


def read_transform(folder: str | Path) -> TransformRecord:
    """Reads `TRANSFORM_FILE` and checks the arguments in it.

    Raises:
        ConfigurationError: There is no such file, or it is not valid.
    """
    path = Path(folder) / TRANSFORM_FILE
    fix = "give the folder of a model that was transformed and saved by an experiment of quantsim"
    if not path.is_file():
        raise ConfigurationError(
            "the folder holds no transformed model", where=str(folder), got=f"no {TRANSFORM_FILE}", fix=fix
        )
    if (size := path.stat().st_size) > _MAX_RECORD_BYTES:
        raise ConfigurationError(
            "the file is too large", where=str(path), got=f"{size} bytes", expected=f"<= {_MAX_RECORD_BYTES}"
        )
    try:
        record = TransformRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError, RecursionError) as error:
        problems = (
            "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False))
            if isinstance(error, ValidationError)
            else " ".join(str(error).split())
        )
        raise ConfigurationError(
            "the file is not valid", where=str(path), got=problems, expected="kind, config, version 1", fix=fix
        ) from None
    transform_pass(record.kind.value).check(record.config, where=str(path))
    return record


def load_transformed(folder: str | Path, auto_class: Any, **config_changes: Any) -> PreTrainedModel:
    """Builds a saved transformed model again: the same modules, weights, ranges and seeds, bit for bit.

    torch's global generator is left as it is.

    Args:
        folder: ``config.json``, ``model.safetensors`` (or its shards and their index) and `TRANSFORM_FILE`.
        auto_class: Class with ``from_config``, such as ``transformers.AutoModelForSequenceClassification``.
        config_changes: Attributes of the configuration to set, such as ``use_cache=False``.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        ConfigurationError: A file is missing or not valid, or tensors and model do not fit.
    """
    folder = Path(folder)
    record = read_transform(folder)
    tensors = _read_tensors(folder)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    for name, value in config_changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten by what was saved
        model = auto_class.from_config(config)
    model = apply_transform(model, _quick(record), record.kind)
    _make_room(model, tensors)
    try:
        problems = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ConfigurationError(
            "the saved tensors do not fit the model",
            where=str(folder),
            got=" ".join(str(error).split()),
            fix="load it with the class of model that was saved",
        ) from None
    _require_all(model, folder, problems.missing_keys, problems.unexpected_keys)
    return model.eval()  # pyright: ignore[reportReturnType]


def transform_saving_callback(record: TransformRecord) -> TrainerCallback:
    """A callback of Trainer that puts `TRANSFORM_FILE` into every checkpoint, so that each can be loaded by itself.

    Args:
        record: What was done to the model.
    """
    from transformers import TrainerCallback

    class SaveTransform(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                save_transform(folder, record)

    return SaveTransform()


def _kind(kind: TransformKind | str) -> TransformKind:
    try:
        return TransformKind(kind)
    except ValueError:
        raise ConfigurationError(
            "there is no such transform of experiments",
            where="transform",
            got=repr(kind),
            expected=" or ".join(repr(each.value) for each in TransformKind),
        ) from None


def _quick(record: TransformRecord) -> dict[str, Any]:
    """The pass's arguments without fits to weights that are about to be overwritten."""
    if record.kind is not TransformKind.SQUEEZELIGHT:
        return record.config
    return {
        key: {**value, "method": "average"} if isinstance(value, dict) else value
        for key, value in record.config.items()
    }


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (folder / _WEIGHTS_FILE).is_file():
        files = [folder / _WEIGHTS_FILE]
    elif (folder / _INDEX_FILE).is_file():
        index = json.loads((folder / _INDEX_FILE).read_text(encoding="utf-8"))
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
    else:
        raise ConfigurationError(
            "the folder holds no weights", where=str(folder), expected=f"{_WEIGHTS_FILE} or {_INDEX_FILE}"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise ConfigurationError("the file cannot be read", where=str(file), got=str(error)) from None
    return tensors


def _make_room(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives layers that were saved with a static error map one to load into."""
    from quantsim.optical import OtLinear

    for path, module in model.named_modules():
        saved = tensors.get(f"{path}.error_map")
        if saved is not None and isinstance(module, OtLinear):
            module.set_error_map(saved)


def _require_all(model: nn.Module, folder: Path, missing: list[str], unexpected: list[str]) -> None:
    """A tensor may be missing only where it is another one's: tied weights are saved once."""
    tensors = model.state_dict(keep_vars=True)
    saved = {id(value) for name, value in tensors.items() if name not in missing}
    missing = [name for name in missing if id(tensors.get(name)) not in saved]
    if missing or unexpected:
        got = [f"{len(names)} {word}: {', '.join(names[:3])}" for word, names in _words(missing, unexpected) if names]
        raise ConfigurationError(
            "the saved tensors are not those of the transformed model",
            where=str(folder),
            got="; ".join(got),
            expected="every parameter, range and seed, and no other tensor",
            fix="load it with the class of model that was saved, and leave its files together",
        )


def _words(missing: list[str], unexpected: list[str]) -> tuple[tuple[str, list[str]], ...]:
    return (("missing", missing), ("unknown", unexpected))
