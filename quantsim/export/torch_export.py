"""Hands a simulation over as a `torch.export` program, with the encodings in the same file."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.export.checkpoint_manifest import ENCODINGS_FILE, plain_config
from quantsim.nn import BaseQuantizationMixin, compute_param_encodings
from quantsim.sim import QuantizationSimModel, SimulationConfig
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.slots import shown
from quantsim_encodings import dumps, loads
from quantsim_encodings.document import EncodingsDocument

__all__ = ["LoadedProgram", "export_program", "load_program"]

_CONFIG_FILE: Final = "config.json"


@dataclass(frozen=True)
class LoadedProgram:
    """A program read from a file.

    Attributes:
        program: The program; ``program.module()`` is the model.
        encodings: The encodings of its quantizers.
        config: What they were placed by.
    """

    program: torch.export.ExportedProgram
    encodings: EncodingsDocument
    config: SimulationConfig


def export_program(
    sim: QuantizationSimModel,
    example_inputs: object,
    path: str | Path | None = None,
    *,
    dynamic_shapes: Any = None,
    fold_weights: bool = False,
) -> torch.export.ExportedProgram:
    """Traces a calibrated simulation into a program that needs neither the model's code nor quantsim.

    It is traced in evaluation mode and without gradients, and not strictly: a strict trace loses functional operations.

    Args:
        sim: The simulation; unchanged.
        example_inputs: As for the simulation; the model is traced on them.
        path: File to write (``.pt2``), with the encodings and the config in it; replaced at once or not at all. None
            writes nothing.
        dynamic_shapes: Which sizes may vary, as `torch.export.export` takes it.
        fold_weights: Keep the rounded weights in the program, not the float weights and how to round them.

    Returns:
        The program.

    Raises:
        NotCalibratedError: Quantizers without a range; all that have none are named.
        ConfigurationError: The model cannot be traced; says torch's reason.

    Example:
        >>> sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4), config="w4a16_g32")
        >>> program = export_program(sim, torch.zeros(1, 4))
        >>> torch.equal(program.module()(torch.ones(1, 4)), sim(torch.ones(1, 4)))
        True
    """
    missing = sim.uncalibrated()
    if missing:
        raise NotCalibratedError(
            "the simulation is not calibrated",
            where="export_program",
            got=f"{len(missing)} quantizers without a range: {shown(missing)}",
            expected="a range for every quantizer",
            fix="run sim.compute_encodings(data), or load_encodings(path)",
        )
    inputs = ModelInputs.of(example_inputs)
    compute_param_encodings(sim.model, overwrite=False)
    model = _folded(sim.model) if fold_weights else sim.model
    with evaluation_mode(model), torch.no_grad():
        try:
            program = torch.export.export(
                model, inputs.args, dict(inputs.kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False
            )
        except Exception as error:  # whatever of the model's code does not trace, torch has many words for it
            raise ConfigurationError(
                "torch.export cannot trace the model",
                where="export_program",
                got=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}",
                expected="a model without decisions on values",
                fix="does torch.export.export(model, args, kwargs) work on the float model? If not, see torch's advice",
            ) from error
    if path is not None:
        _write(program, Path(path), {ENCODINGS_FILE: dumps(sim.encodings()), _CONFIG_FILE: _plain(sim.config)})
    return program


def load_program(path: str | Path) -> LoadedProgram:
    """Reads a file that `export_program` wrote.

    Raises:
        ConfigurationError: There is no such file, or it is none of these.
    """
    path = Path(path)
    extra = {ENCODINGS_FILE: "", _CONFIG_FILE: ""}
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # torch has many words for a broken file
        raise ConfigurationError(
            "the program cannot be read",
            where=str(path),
            got=" ".join(str(error).split())[:300] or type(error).__name__,
            expected="a .pt2 file that export_program wrote",
            fix="export it again with this version of torch",
        ) from None
    if not all(extra.values()):
        raise ConfigurationError(
            "the program holds no encodings",
            where=str(path),
            got="a program of torch.export.save",
            expected="one that export_program(sim, example_inputs, path) wrote",
            fix="torch.export.load reads programs without encodings",
        )
    return LoadedProgram(
        program, loads(extra[ENCODINGS_FILE]), SimulationConfig.parse(json.loads(extra[_CONFIG_FILE]), source=str(path))
    )


def _folded(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, BaseQuantizationMixin):
            module.fold_param_quantizers()
            module.__dict__.pop("_folded_parameters", None)
    return model


def _plain(config: SimulationConfig) -> str:
    return json.dumps(plain_config(config))


def _write(program: torch.export.ExportedProgram, path: Path, extra_files: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / "program.pt2"
        torch.export.save(program, temporary, extra_files=dict(extra_files))
        os.replace(temporary, path)
