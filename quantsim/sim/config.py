"""What a simulation quantizes: a frozen pydantic model, from Python, YAML or JSON.

A :class:`SimulationConfig` says how weights and activations are represented (:class:`IntegerSetting`,
:class:`FloatSetting`), where activation quantizers sit (:class:`ActivationPlacement`), and which modules are treated
otherwise (:class:`PlacementRule`, ``exclude``). Every rule and every exclusion must match a module of the model, else
the simulation refuses to be built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from quantsim.errors import ConfigurationError
from quantsim.sim.patterns import ModulePattern
from quantsim_encodings.formats import NAMED_FLOAT_FORMATS

__all__ = [
    "ActivationPlacement",
    "AnalyzerKind",
    "AnalyzerSetting",
    "FloatSetting",
    "GranularityKind",
    "IntegerSetting",
    "PlacementRule",
    "QuantizerSetting",
    "SimulationConfig",
    "load_config",
]

MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024


class ActivationPlacement(StrEnum):
    """Where activation quantizers sit."""

    OPERANDS = "operands"
    """At the inputs of multiplying modules (linear, convolution, recurrent, matmul): what an integer matrix engine
    reads. Sums, norms and activation functions between them stay in floating point."""
    OUTPUTS = "outputs"
    """At the output of every computing module, and at those inputs that no quantized output feeds: every tensor that
    travels between modules is on a grid, as on a fixed-point accelerator."""


class GranularityKind(StrEnum):
    """Which elements share one set of parameters; the axis of channels and blocks follows from the module's type."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    BLOCK = "block"
    TOKEN = "token"


class AnalyzerKind(StrEnum):
    """How a range is chosen from what was observed."""

    MIN_MAX = "min_max"
    PERCENTILE = "percentile"
    SQNR = "sqnr"
    MSE = "mse"
    EXACT_MSE = "exact_mse"
    """Squared error of the values themselves instead of their histogram; for weights."""
    TOKEN_MSE = "token_mse"
    """Squared error relative to each token's energy; for activations."""
    ENTROPY = "entropy"


class _Setting(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class AnalyzerSetting(_Setting):
    """Which encoding analyzer, and its arguments.

    Example:
        >>> AnalyzerSetting(kind="percentile", percentile=99.99).kind
        <AnalyzerKind.PERCENTILE: 'percentile'>
    """

    kind: AnalyzerKind = AnalyzerKind.MIN_MAX
    percentile: float | None = Field(default=None, gt=50.0, le=100.0)
    """Percent of the values that the range covers on each side; only for ``percentile`` (default there: 100)."""
    num_bins: int | None = Field(default=None, ge=16, le=65536, multiple_of=4)
    """Bins of the histogram; not for ``min_max`` (default 2048)."""
    candidates: int | None = Field(default=None, ge=3, le=1024)
    """Scales that ``mse`` and ``sqnr`` try (default: 17 for asymmetric, 101 for symmetric grids)."""

    @model_validator(mode="after")
    def _arguments_fit_the_kind(self) -> Self:
        if self.percentile is not None and self.kind is not AnalyzerKind.PERCENTILE:
            raise ValueError(f"percentile={self.percentile} is only for kind 'percentile', not {self.kind.value!r}")
        if self.candidates is not None and self.kind not in (AnalyzerKind.MSE, AnalyzerKind.SQNR):
            raise ValueError(
                f"candidates={self.candidates} is only for kinds 'mse' and 'sqnr', not {self.kind.value!r}"
            )
        if self.num_bins is not None and self.kind in (AnalyzerKind.MIN_MAX, AnalyzerKind.EXACT_MSE):
            raise ValueError(f"num_bins is for analyzers that keep a histogram; {self.kind.value!r} keeps none")
        return self


class _QuantizerSetting(_Setting):
    granularity: GranularityKind = GranularityKind.TENSOR
    block_size: int | None = Field(default=None, ge=1)
    """Elements of a block along the reduced axis; needed for, and only for, ``granularity: block``."""
    dynamic: bool = False
    """Compute the scale from each tensor at run time, one for each token; nothing is calibrated."""
    analyzer: AnalyzerSetting = AnalyzerSetting()

    @field_validator("analyzer", mode="before")
    @classmethod
    def _analyzer_by_name(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _granularity_is_complete(self) -> Self:
        if (self.block_size is not None) != (self.granularity is GranularityKind.BLOCK):
            raise ValueError(
                f"block_size={self.block_size} with granularity {self.granularity.value!r}: "
                "a block size goes with granularity 'block', and only with it"
            )
        if self.dynamic != (self.granularity is GranularityKind.TOKEN):
            raise ValueError(
                f"dynamic={self.dynamic} with granularity {self.granularity.value!r}: "
                "run-time scales are per token, and per-token scales are run-time: set both or neither"
            )
        if self.dynamic and self.analyzer != AnalyzerSetting():
            raise ValueError("a dynamic quantizer observes nothing: remove 'analyzer'")
        return self


class IntegerSetting(_QuantizerSetting):
    """An integer grid.

    Example:
        >>> IntegerSetting(bits=4, symmetric=True, granularity="block", block_size=32).label
        'int4 symmetric, block of 32'
    """

    kind: Literal["int"] = "int"
    bits: int = Field(default=8, ge=2, le=32)
    symmetric: bool = True
    """True: signed grid around zero. False: unsigned grid with a zero point."""
    decompressed_bits: int | None = Field(default=None, ge=3, le=32)
    """LPBQ: block scales are integer multiples, of this many bits less ``bits``, of one scale a channel."""

    @model_validator(mode="after")
    def _lpbq_is_complete(self) -> Self:
        if self.decompressed_bits is not None:
            if self.granularity is not GranularityKind.BLOCK or not self.symmetric:
                raise ValueError("decompressed_bits (LPBQ) needs granularity 'block' and symmetric: true")
            if self.decompressed_bits <= self.bits:
                raise ValueError(f"decompressed_bits={self.decompressed_bits} must exceed bits={self.bits}")
        return self

    @property
    def label(self) -> str:
        """Short words for tables."""
        return f"int{self.bits} {'symmetric' if self.symmetric else 'asymmetric'}, {_granularity_label(self)}"


class FloatSetting(_QuantizerSetting):
    """A floating-point grid, scaled so that the largest observed value meets the format's largest.

    Example:
        >>> FloatSetting(format="e4m3fn", granularity="channel").label
        'e4m3fn, channel'
    """

    kind: Literal["float"] = "float"
    format: str = "e4m3fn"
    """A named format: fp16, bf16, e4m3fn, e5m2, e3m4, ..."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, value: str) -> str:
        if value not in NAMED_FLOAT_FORMATS:
            raise ValueError(f"unknown float format {value!r}; known: {', '.join(sorted(NAMED_FLOAT_FORMATS))}")
        return value

    @property
    def label(self) -> str:
        """Short words for tables."""
        return f"{self.format}, {_granularity_label(self)}"


def _granularity_label(setting: _QuantizerSetting) -> str:
    if setting.granularity is GranularityKind.BLOCK:
        return f"block of {setting.block_size}"
    return f"{setting.granularity.value}{' (run time)' if setting.dynamic else ''}"


def _check_parameter_setting(where: str, setting: IntegerSetting | FloatSetting | None) -> None:
    if setting is not None and setting.dynamic:
        raise ValueError(f"{where}: a parameter cannot have run-time scales; use granularity 'channel'")
    if setting is not None and setting.analyzer.kind is AnalyzerKind.TOKEN_MSE:
        raise ValueError(f"{where}: a parameter has no tokens; use analyzer 'mse'")


QuantizerSetting = Annotated[IntegerSetting | FloatSetting, Field(discriminator="kind")]


class PlacementRule(_Setting):
    """Other settings for the modules that match; a field left out changes nothing, ``None`` takes the quantizer away.

    Later rules win over earlier ones. A module below a matching module matches too.

    Example:
        >>> rule = PlacementRule(match=ModulePattern(name="encoder.layer.0"), weights=None)
        >>> sorted(rule.model_fields_set)
        ['match', 'weights']
    """

    match: ModulePattern
    weights: QuantizerSetting | None = None
    """For the weights of the matching modules (embedding tables and norms included)."""
    inputs: QuantizerSetting | None = None
    """For every floating-point input of the matching modules, wherever it comes from."""
    outputs: QuantizerSetting | None = None
    """For every output of the matching modules."""
    params: dict[str, QuantizerSetting | None] = {}
    """By parameter name, such as ``bias``; wins over ``weights``."""

    @field_validator("match", mode="before")
    @classmethod
    def _pattern_by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set - {"match"}:
            raise ValueError("the rule changes nothing: give at least one of weights, inputs, outputs, params")
        for where, setting in (("weights", self.weights), *self.params.items()):
            _check_parameter_setting(where, setting)
        return self


class SimulationConfig(_Setting):
    """All that a simulation needs to know to place quantizers.

    Example:
        >>> config = SimulationConfig(
        ...     name="w4", weights=IntegerSetting(bits=4, granularity="channel"), exclude=("pooler",)
        ... )
        >>> config.weights.label, config.activations, config.exclude[0].name
        ('int4 symmetric, channel', None, 'pooler')
    """

    name: str = "custom"
    description: str = ""
    weights: QuantizerSetting | None = None
    """For the weights of multiplying modules (linear, convolution, recurrent, attention projections)."""
    activations: QuantizerSetting | None = None
    """For activations; where they are quantized is ``activation_placement``."""
    embeddings: QuantizerSetting | None = None
    """For embedding tables. A look-up is no arithmetic, so presets leave the tables alone."""
    activation_placement: ActivationPlacement = ActivationPlacement.OPERANDS
    rules: tuple[PlacementRule, ...] = ()
    exclude: tuple[ModulePattern, ...] = ()
    """Modules, and all below them, that get no quantizer at all."""

    @field_validator("exclude", mode="before")
    @classmethod
    def _exclusions_by_name(cls, value: object) -> object:
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, (list, tuple)):
            return tuple({"name": item} if isinstance(item, str) else item for item in value)
        return value

    @model_validator(mode="after")
    def _weights_are_static(self) -> Self:
        for where, setting in (("weights", self.weights), ("embeddings", self.embeddings)):
            _check_parameter_setting(where, setting)
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str = "config") -> SimulationConfig:
        """Validate plain data.

        Args:
            values: As read from JSON or YAML.
            source: What errors call the data, such as its path.

        Raises:
            ConfigurationError: Naming every wrong field, what was got, and what was expected.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or '(whole)'}: {item['msg'].removeprefix('Value error, ')}"
                for item in error.errors(include_url=False)
            )
            raise ConfigurationError(
                "the configuration is not valid",
                where=source,
                got=f"{error.error_count()} wrong field(s): {problems}",
                expected=f"the fields of SimulationConfig ({', '.join(cls.model_fields)})",
                fix="correct the fields named above, or start from a preset: quantsim.sim.preset('w8a8').model_dump()",
            ) from None

    @classmethod
    def from_file(cls, path: str | Path) -> SimulationConfig:
        """Read a JSON (``.json``) or YAML (``.yaml``, ``.yml``) file.

        Raises:
            ConfigurationError: No such file, not readable as its type, or wrong fields.
        """
        path = Path(path)
        fix = "give a .json, .yaml or .yml file that holds one mapping"
        if not path.is_file():
            raise ConfigurationError("no such file", where="config", got=str(path), expected="a readable file", fix=fix)
        if path.stat().st_size > MAX_CONFIG_BYTES:
            size = f"{path.stat().st_size} bytes"
            raise ConfigurationError(
                "the file is too large", where=str(path), got=size, expected=f"<= {MAX_CONFIG_BYTES}", fix=fix
            )
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(
                "the file cannot be read", where=str(path), got=reason, expected="valid JSON or YAML", fix=fix
            ) from None
        if not isinstance(values, Mapping):
            got = type(values).__name__
            raise ConfigurationError(
                "the file holds no configuration", where=str(path), got=got, expected="one mapping", fix=fix
            )
        return cls.parse(values, source=str(path))


def load_config(config: SimulationConfig | str | Path | Mapping[str, Any] | None) -> SimulationConfig:
    """Turn whatever names a config into one.

    Args:
        config: A config; a preset's name; the path of a JSON or YAML file; plain data; or None for no quantizer
            anywhere (a simulation whose quantizers are then created by loading encodings or by hand).

    Raises:
        ConfigurationError: Unknown preset (with the nearest names), unreadable file, wrong fields, wrong type.

    Example:
        >>> load_config("w8a8").name
        'w8a8'
        >>> load_config(None).activations is None
        True
    """
    from quantsim.sim.presets import preset

    if config is None:
        return SimulationConfig(name="unconfigured")
    if isinstance(config, SimulationConfig):
        return config
    if isinstance(config, Mapping):
        return SimulationConfig.parse(config)
    if isinstance(config, Path) or (isinstance(config, str) and config.endswith((".json", ".yaml", ".yml"))):
        return SimulationConfig.from_file(config)
    if isinstance(config, str):
        return preset(config)
    raise ConfigurationError(
        "this is no configuration",
        where="config",
        got=f"{type(config).__name__}: {config!r}",
        expected="a SimulationConfig, a preset's name, a path, a mapping, or None",
        fix="for example config='w8a8'",
    )
