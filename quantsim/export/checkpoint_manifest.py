"""What a checkpoint's ``quantsim.json`` says: how the simulation beside it was built."""

from __future__ import annotations

import json
from importlib.metadata import version as version_of_package
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel, SimulationConfig
from quantsim.sim.encodings import model_fingerprint
from quantsim.sim.recorded_run import RecordedRun

__all__ = ["ENCODINGS_FILE", "MANIFEST_FILE", "WEIGHTS_FILE", "CheckpointManifest", "plain_config"]

MANIFEST_FILE: Final = "quantsim.json"
ENCODINGS_FILE: Final = "encodings.json"
WEIGHTS_FILE: Final = "model.safetensors"

_LARGEST: Final = 256 * 1024 * 1024


class CheckpointManifest(BaseModel):
    """How a saved simulation was built, but for its weights and encodings.

    Example:
        >>> import torch
        >>> sim = QuantizationSimModel(torch.nn.Linear(2, 2), torch.zeros(1, 2), config="w8a8")
        >>> manifest = CheckpointManifest.of(sim)
        >>> manifest.model_class, manifest.places
        ('Linear', ('input_quantizers[0]', "param_quantizers['weight']"))
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal["quantsim-checkpoint"] = "quantsim-checkpoint"
    version: Literal[1] = 1
    quantsim: str = ""
    """Version of quantsim that wrote it."""
    model_class: str = ""
    model_fingerprint: str = ""
    """Digest of the names, shapes and types of the model's parameters."""
    weights: Literal["float", "folded"] = "float"
    """Whether the weights in the file are the float model's, or lie on their quantizers' grids."""
    shared: dict[str, str] = {}
    """Names of tensors that are another one, by the name under which it is in the file."""
    places: tuple[str, ...] = ()
    """Where the simulation has quantizers."""
    config: dict[str, Any] = {}
    """What they were placed by."""
    record: dict[str, Any] = {}
    """What the run on example inputs showed."""

    @classmethod
    def of(cls, sim: QuantizationSimModel, *, weights: Literal["float", "folded"] = "float") -> Self:
        """The manifest of a simulation."""
        return cls(
            quantsim=version_of_package("quantsim"),
            model_class=type(sim.model).__name__.removeprefix("Quantized"),
            model_fingerprint=model_fingerprint(sim.model),
            weights=weights,
            places=tuple(place for place, _ in sim.quantizers()),
            config=plain_config(sim.config),
            record=RecordedRun.of(sim).to_plain(),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file.

        Raises:
            ConfigurationError: There is none, or it is no manifest.
        """
        fix = "give a folder that sim.save_pretrained(folder) wrote"
        if not path.is_file():
            raise ConfigurationError(
                "the folder holds no saved simulation",
                where=str(path.parent),
                got="no quantsim.json" if path.parent.is_dir() else "no such folder",
                expected=f"{MANIFEST_FILE}, {ENCODINGS_FILE} and {WEIGHTS_FILE}",
                fix=fix,
            )
        if path.stat().st_size > _LARGEST:
            size = f"{path.stat().st_size} bytes"
            raise ConfigurationError(
                "the file is too large", where=str(path), got=size, expected=f"<= {_LARGEST}", fix=fix
            )
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            got = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or '(whole)'}: {item['msg']}"
                for item in error.errors(include_url=False)[:5]
            )
        except (OSError, ValueError, RecursionError) as error:
            got = " ".join(str(error).split())
        raise ConfigurationError(
            "the file says nothing that this version understands",
            where=str(path),
            got=got,
            expected="version 1 of quantsim's checkpoints",
            fix=fix,
        )

    def write(self, path: Path) -> None:
        """Writes the file."""
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")


def plain_config(config: SimulationConfig) -> dict[str, Any]:
    """A config as plain data from which `SimulationConfig.parse` makes an equal one.

    Example:
        >>> config = SimulationConfig.parse({"rules": [{"match": "fc", "weights": None}]})
        >>> SimulationConfig.parse(plain_config(config)) == config
        True
    """
    values = config.model_dump(mode="json")
    # In a rule, a field left out is not the same as one that is None.
    values["rules"] = [
        {name: value for name, value in plain.items() if name in rule.model_fields_set}
        for rule, plain in zip(config.rules, values["rules"], strict=True)
    ]
    return values
