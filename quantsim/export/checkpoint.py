"""Saves a simulation in a folder, and makes it again from there in one call.

A folder holds ``model.safetensors`` (the weights, under the float model's names), ``encodings.json`` (quantsim's own
version) and ``quantsim.json`` (the config, where the quantizers sit, and what the example run showed, so that nothing
has to be run to load). The folder of a transformers model is besides an ordinary one of transformers, ``config.json``
and all.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.export.checkpoint_manifest import ENCODINGS_FILE, MANIFEST_FILE, WEIGHTS_FILE, CheckpointManifest
from quantsim.nn import compute_param_encodings
from quantsim.quantization.base import QuantizerBase
from quantsim.sim import QuantizationSimModel, SimulationConfig
from quantsim.sim.encodings import model_fingerprint, place_quantizer
from quantsim.sim.recorded_run import RecordedRun
from quantsim.sim.slots import shown, slot_name
from quantsim.sim.state import check_state
from quantsim.sim.summary import iterate_quantizers
from quantsim_encodings import read, write

__all__ = ["float_state", "load_simulation", "restore_simulation", "save_pretrained"]

_WEIGHTS: Final = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


def save_pretrained(
    sim: QuantizationSimModel,
    folder: str | Path,
    *,
    fold_weights: bool = False,
    state: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Writes a calibrated simulation into a folder.

    Weights without a range are calibrated first. A new folder appears at once or not at all; in one that there is,
    each file is replaced at once, ``quantsim.json`` last. Kernels and accumulations that were set on single modules are
    not saved.

    Args:
        sim: The simulation.
        folder: Where to; is made if needed.
        fold_weights: Save weights as their quantizers round them, so that other programs read what the hardware has.
            The quantizers are saved as well; on rounded weights they change nothing. Weights for which that is not so,
            that modules share, or that are packed with others, stay as they are; a warning names them.
        state: The model's state if it is not to be asked (gathered from several processes, say); what quantizers have
            in it does not count.
        options: For transformers' own ``save_pretrained``, such as ``max_shard_size``; only for its models.

    Returns:
        The folder.

    Raises:
        EncodingsError: Quantizers without a range; all are listed.
        ConfigurationError: The folder is a file, or the model's state cannot be saved.

    Example:
        >>> import tempfile
        >>> sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4), config="w8a8")
        >>> report = sim.compute_encodings([torch.ones(3, 4)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pretrained(sim, folder)
        ...     again = load_simulation(folder, nn.Sequential(nn.Linear(4, 2)))
        PosixPath('...')
        >>> torch.equal(again(torch.ones(1, 4)), sim(torch.ones(1, 4)))
        True
    """
    folder = Path(folder)
    with _staging(folder) as staging:
        _write_files(sim, staging, fold_weights, state, options)
    return folder


def _write_files(
    sim: QuantizationSimModel, folder: Path, fold_weights: bool, state: dict[str, Any] | None, options: dict[str, Any]
) -> None:
    _warn_of_what_is_lost(sim)
    compute_param_encodings(sim.model, overwrite=False)
    with _unfolded(sim):
        document = sim.encodings()
        manifest = CheckpointManifest.of(sim, weights="folded" if fold_weights else "float")
        tensors, shared = float_state(sim.model, state)
        if fold_weights:
            tensors.update(_folded_weights(sim, tensors, shared))
    if _is_transformers_model(sim.model):
        from quantsim.integrations.transformers import write_model

        write_model(sim, folder, {**tensors, **{name: tensors[kept] for name, kept in shared.items()}}, **options)
    elif options:
        raise ConfigurationError(
            "these options are for models of transformers",
            where="save_pretrained",
            got=", ".join(options),
            expected="none for other models",
            fix="leave them out",
        )
    else:
        stored = {name: _own_storage(values) for name, values in tensors.items()}
        save_file(stored, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        manifest = manifest.model_copy(update={"shared": shared})
    write(document, folder / ENCODINGS_FILE, document.version)
    manifest.write(folder / MANIFEST_FILE)


def load_simulation(
    folder: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    in_place: bool = False,
) -> QuantizationSimModel:
    """Makes a simulation again from a folder that `save_pretrained` wrote; nothing has to be run.

    Args:
        folder: The folder.
        model: The float model, with any weights, or on ``meta``; or a function that gives it. Not needed for a model of
            transformers.
        in_place: Change ``model`` itself instead of a deep copy.

    Returns:
        The simulation, calibrated, in evaluation mode.

    Raises:
        ConfigurationError: No such folder, broken files, or a model that is not the one that was saved.
        ShapeError: The model has other parameters; all are listed.
        EncodingsError: The encodings do not fit; everything is listed.
    """
    folder = Path(folder)
    manifest = CheckpointManifest.read(folder / MANIFEST_FILE)
    if model is None:
        if not (folder / "config.json").is_file():
            raise ConfigurationError(
                "the folder does not say how to build the model",
                where="load_simulation(model)",
                got="None",
                expected=f"the {manifest.model_class} that was simulated, or a function that builds it",
                fix="load_simulation(folder, model)",
            )
        from quantsim.integrations.transformers import load_model, simulation_of

        return simulation_of(load_model(folder))
    if isinstance(model, nn.Module):
        model = model if in_place else copy.deepcopy(model)
    else:
        model = model()
        if not isinstance(model, nn.Module):
            raise ConfigurationError(
                "the function gives no model",
                where="load_simulation(model)",
                got=type(model).__name__,
                expected="a torch.nn.Module",
                fix="pass the model, or a function without arguments that returns it",
            )
    _load_weights(model, folder, manifest)
    return restore_simulation(model.eval(), folder, manifest)


def restore_simulation(model: nn.Module, folder: Path, manifest: CheckpointManifest) -> QuantizationSimModel:
    """Simulates a float model, in place, as a folder says; its weights are not read.

    Args:
        model: Has the weights already; unchanged if anything fails.
        folder: Holds the encodings.
        manifest: Of the folder.

    Raises:
        ConfigurationError: The model is not the one that was saved.
        EncodingsError: The encodings do not fit.
    """
    if model_fingerprint(model) != manifest.model_fingerprint:
        raise ConfigurationError(
            "the model is not the one that was saved",
            where=str(folder),
            got=f"{type(model).__name__} with other names, shapes or types of parameters",
            expected=f"the parameters of the {manifest.model_class} that was simulated",
            fix=f"build the same {manifest.model_class}, with the same dtype",
        )
    encodings = folder / ENCODINGS_FILE
    if not encodings.is_file():
        raise ConfigurationError(
            "the folder holds no encodings",
            where=str(folder),
            got=f"no {ENCODINGS_FILE}",
            expected="the files of one save_pretrained",
            fix="save the simulation again",
        )
    document = read(encodings)
    record = RecordedRun.from_plain(manifest.record, source=str(folder / MANIFEST_FILE))
    config = SimulationConfig.parse(manifest.config, source=str(folder / MANIFEST_FILE))
    sim = QuantizationSimModel(model, record, config, in_place=True)
    try:
        modules = dict(sim.quantized_modules())
        for tensor, _ in list(iterate_quantizers(modules)):
            if slot_name(tensor) not in manifest.places:  # taken away by hand
                place_quantizer(modules[tensor.module], tensor, None)
        sim.load_encodings(document)
    except BaseException:
        sim.remove()
        raise
    return sim


def float_state(model: nn.Module, state: dict[str, Any] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A simulated model's state without its quantizers': what the float model would have.

    Args:
        model: The model.
        state: Its state, if it is not to be asked.

    Returns:
        Tensors by name, and the names of those that are another one, with the name of that.

    Raises:
        ConfigurationError: State that is no tensor, or has no values.
    """
    quantizers = tuple(
        f"{path}." for path, module in model.named_modules() if isinstance(module, QuantizerBase) and path
    )
    kept: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, values in (model.state_dict() if state is None else state).items():
        if name.startswith(quantizers):
            continue
        if not isinstance(values, Tensor) or values.is_meta:
            raise ConfigurationError(
                "the model's state cannot be saved",
                where=name,
                got="a tensor on meta" if isinstance(values, Tensor) else type(values).__name__,
                expected="tensors with values",
                fix="load the weights first" if isinstance(values, Tensor) else "keep such state outside of state_dict",
            )
        identity = (values.data_ptr(), values.device, values.dtype, values.shape, values.stride())
        if values.numel() and identity in seen:
            shared[name] = seen[identity]
        else:
            seen[identity] = name
            kept[name] = values
    return kept, shared


def _folded_weights(sim: QuantizationSimModel, tensors: dict[str, Tensor], shared: dict[str, str]) -> dict[str, Tensor]:
    used_twice = set(shared.values())
    folded: dict[str, Tensor] = {}
    left: list[str] = []
    for path, module in sim.quantized_modules():
        for key, quantizer in module.param_quantizers.items():
            name = f"{path}.{key}" if path else key
            if not isinstance(quantizer, QuantizerBase):
                continue
            if name not in tensors or name in used_twice:
                left.append(name)
                continue
            with torch.no_grad():
                rounded = quantizer(tensors[name])
                # A scale taken from the rounded weights may be another one (MXINT8's, where -2 is on the grid).
                if torch.equal(quantizer(rounded), rounded):
                    folded[name] = rounded
                else:
                    left.append(name)
    if left:
        warnings.warn(
            "saved as they are, not rounded, because modules share them, they are packed with others, or rounding "
            f"twice is not rounding once: {shown(left)}",
            stacklevel=4,
        )
    return folded


def _load_weights(model: nn.Module, folder: Path, manifest: CheckpointManifest) -> None:
    path = folder / WEIGHTS_FILE
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            "the weights cannot be read",
            where=str(path),
            got=" ".join(str(error).split()),
            expected="a safetensors file",
            fix="save the simulation again",
        ) from None
    for name, kept in manifest.shared.items():
        if kept in state:
            state[name] = state[kept]
    own = model.state_dict()
    check_state(own, state, strict=True, where=f"load_simulation({str(folder)!r})")
    on_meta = any(isinstance(values, Tensor) and values.is_meta for values in own.values())
    model.load_state_dict(state, strict=False, assign=on_meta)
    if on_meta:
        _tie(model, manifest.shared)
    without = [name for name, values in model.named_buffers() if values.is_meta]
    if without:
        raise ConfigurationError(
            "the model has buffers that no checkpoint holds",
            where="load_simulation(model)",
            got=f"on meta: {shown(without)}",
            expected="a model whose non-persistent buffers have values",
            fix="build the model outside of torch.device('meta')",
        )


def _tie(model: nn.Module, shared: dict[str, str]) -> None:
    """Makes parameters one again that were so; assigning a state gives each name its own."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, kept in shared.items():
        if name in parameters and kept in parameters:
            owner, _, key = name.rpartition(".")
            model.get_submodule(owner)._parameters[key] = parameters[kept]


def _own_storage(values: Tensor) -> Tensor:
    values = values.detach().contiguous()
    return values if values.untyped_storage().nbytes() == values.nbytes else values.clone()


def _is_transformers_model(model: nn.Module) -> bool:
    modeling = sys.modules.get("transformers.modeling_utils")  # whoever has such a model has imported it
    return modeling is not None and isinstance(model, modeling.PreTrainedModel)


def _warn_of_what_is_lost(sim: QuantizationSimModel) -> None:
    lost = [
        path
        for path, module in sim.quantized_modules()
        if module.__dict__.get("_kernel") is not None or module.__dict__.get("_accumulation") is not None
    ]
    if lost:
        warnings.warn(
            f"kernels and accumulations of single modules are not saved; set them again after loading: {shown(lost)}",
            stacklevel=4,
        )


@contextmanager
def _unfolded(sim: QuantizationSimModel) -> Iterator[None]:
    """Folded weights have no quantizer to save: they are unfolded inside."""
    folded = [module for _, module in sim.quantized_modules() if module._folded()]
    for module in folded:
        module.unfold_param_quantizers()
    try:
        yield
    finally:
        for module in folded:
            module.fold_param_quantizers()


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the one meant, whose files are moved there if all goes well."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(
            "this is a file",
            where="save_pretrained(folder)",
            got=str(folder),
            expected="a folder",
            fix="choose another",
        )
    parent = Path(os.path.abspath(folder)).parent
    parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}."))
    try:
        yield staging
        if not folder.exists():
            _open_to_all(staging)
            os.rename(staging, folder)
            return
        new = {path.name for path in staging.iterdir()}
        for path in folder.iterdir():
            if _WEIGHTS.fullmatch(path.name) and path.name not in new:
                path.unlink()  # of another save: whoever reads the folder could take them for these
        for path in sorted(staging.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _open_to_all(folder: Path) -> None:
    """Gives a temporary folder the rights of an ordinary one."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
