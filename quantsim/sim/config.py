"""What a simulation quantizes: a frozen pydantic model, from Python, YAML or JSON.

A :class:`SimulationConfig` says how weights and activations are represented (by an :class:`IntegerSetting`, a
:class:`FloatSetting`, an :class:`MXSetting` or an :class:`OpticalSetting`), where activation quantizers sit
(:class:`ActivationPlacement`), and which modules are treated otherwise (:class:`PlacementRule`, ``exclude``). Every
rule and every exclusion must match a module of the model, else the simulation refuses to be built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from quantsim.errors import ConfigurationError
from quantsim.sim.patterns import ModulePattern, known_op
from quantsim.sim.quantizer_settings import (
    AnalyzerKind,
    AnalyzerSetting,
    FloatSetting,
    GranularityKind,
    IntegerSetting,
    MXSetting,
    OpticalSetting,
    QuantizerSetting,
    Setting,
    SoftmaxSetting,
    check_parameter_setting,
)

__all__ = [
    "ActivationPlacement",
    "AnalyzerKind",
    "AnalyzerSetting",
    "FloatSetting",
    "GranularityKind",
    "IntegerSetting",
    "MXSetting",
    "OpticalSetting",
    "OperationSetting",
    "PlacementRule",
    "QuantizerSetting",
    "SimulationConfig",
    "SoftmaxSetting",
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


class _Changes(Setting):
    """Settings of which a field left out and None differ, as plain data too."""

    @model_serializer(mode="wrap")
    def _only_what_was_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {field: value for field, value in handler(self).items() if field in self.model_fields_set}


class OperationSetting(_Changes):
    """Other settings for all modules and functional operations of one op, wherever a model has it.

    A field left out changes nothing. Unlike a rule it may match nothing, so that a config can describe a target, not a
    model. It comes before fused groups and rules, which win.

    Example:
        >>> config = SimulationConfig.parse({"operations": {"mul": {"outputs": None}}})
        >>> list(config.operations)
        ['multiply']
    """

    weights: QuantizerSetting | None = None
    """For the weights, embedding tables and norms included."""
    inputs: QuantizerSetting | None = None
    """For every floating-point input, wherever it comes from."""
    outputs: QuantizerSetting | None = None
    """For every output. None: neither the output is rounded, nor the same value where it is read: it keeps the grid of
    what came in."""
    params: dict[str, QuantizerSetting | None] = Field(default={})
    """By parameter name, such as ``bias``; wins over ``weights``. Parameters that a module does not have are fine."""

    @model_validator(mode="after")
    def _parameters_are_static(self) -> Self:
        for where, setting in (("weights", self.weights), *self.params.items()):
            check_parameter_setting(where, setting)
        return self


class PlacementRule(_Changes):
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
    params: dict[str, QuantizerSetting | None] = Field(default={})
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
            check_parameter_setting(where, setting)
        return self


class SimulationConfig(Setting):
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
    functional_operations: bool = True
    """Whether torch functions that a module calls in its own forward (``matmul``, ``+``, attention) can have
    quantizers; they are found by running the example inputs."""
    fused_groups: tuple[tuple[str, ...], ...] | None = None
    """Sequences of ops that the target computes in one go, so that only the last one's output is rounded; for
    ``activation_placement: outputs``. None: a convolution or linear layer, or a sum, with the ``relu``, ``relu6`` or
    ``hardtanh`` that alone reads it. A norm that can be folded into the weights before it never counts."""
    fuse_depthwise: bool = True
    """Whether depthwise and three-dimensional convolutions begin fused groups."""
    shared_grids: bool = True
    """Whether what ``cat`` and ``stack`` join is rounded onto one grid, so that the result needs no rounding; for
    ``activation_placement: outputs``."""
    quantize_inputs: bool = True
    """Whether inputs that no quantized output feeds get quantizers; for ``activation_placement: outputs``."""
    quantize_model_outputs: bool = False
    """Whether the model's outputs are rounded even where ``operations`` leave them alone."""
    kv_cache: QuantizerSetting | None = None
    """For the keys and values that attention reads, and that a cache of them holds. One scale a tensor, or blocks."""
    second_factors: QuantizerSetting | None = None
    """For the second factor of a product of two activations (``matmul``), wherever that tensor is rounded: a matrix
    engine may want it symmetric, as a weight."""
    scores: QuantizerSetting | None = None
    """For the products of queries and keys, which softmax reads: its exponentials need them finer than other products.
    For ``activation_placement: outputs``."""
    addends: QuantizerSetting | None = None
    """For results that nothing but sums read, as those of a layer before its residual sum: they hold the outliers of
    the residual stream. For ``activation_placement: outputs``."""
    operands: IntegerSetting | None = None
    """For the inputs of multiplying modules that come on an integer grid of more bits: a matrix engine reads 8-bit
    codes, where sums and norms around it have 16. For ``activation_placement: outputs``."""
    operations: dict[str, OperationSetting] = Field(default={})
    """By op, what differs from the above: ``{"softmax": {"outputs": {"kind": "int", "fixed_range": [0, 1]}}}``."""
    rules: tuple[PlacementRule, ...] = ()
    exclude: tuple[ModulePattern, ...] = ()
    """Modules, and all below them, that get no quantizer at all."""

    @property
    def needs_data(self) -> bool:
        """Whether activations have ranges that calibration data must give (weights give theirs themselves).

        Example:
            >>> [load_config(name).needs_data for name in ("w8a8", "w8a8_dynamic", "fp16", "mxfp4")]
            [True, False, False, False]
        """
        settings = [self.activations, self.kv_cache, self.second_factors, self.operands, self.scores, self.addends]
        changes = (*self.rules, *self.operations.values())
        settings += [setting for change in changes for setting in (change.inputs, change.outputs)]
        return any(setting is not None and setting.needs_data for setting in settings)

    @field_validator("exclude", mode="before")
    @classmethod
    def _exclusions_by_name(cls, value: object) -> object:
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, (list, tuple)):
            return tuple({"name": item} if isinstance(item, str) else item for item in value)
        return value

    @field_validator("operations", mode="before")
    @classmethod
    def _canonical_operations(cls, value: object) -> object:
        return {known_op(str(op)): setting for op, setting in value.items()} if isinstance(value, Mapping) else value

    @field_validator("fused_groups")
    @classmethod
    def _canonical_groups(cls, value: tuple[tuple[str, ...], ...] | None) -> tuple[tuple[str, ...], ...] | None:
        if value is None:
            return None
        if any(len(group) < 2 for group in value):
            raise ValueError("a fused group of fewer than two ops fuses nothing")
        return tuple(tuple(known_op(op) for op in group) for group in value)

    @field_validator("kv_cache", "second_factors")
    @classmethod
    def _second_factors_are_no_rows(cls, value: QuantizerSetting | None) -> QuantizerSetting | None:
        if getattr(value, "granularity", None) is GranularityKind.TOKEN:
            raise ValueError("granularity 'token': products sum over the rows; use 'tensor', or blocks (kind 'mx')")
        return value

    @model_validator(mode="after")
    def _weights_are_static(self) -> Self:
        for where, setting in (("weights", self.weights), ("embeddings", self.embeddings)):
            check_parameter_setting(where, setting)
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str = "config") -> SimulationConfig:
        """Validate plain data.

        Args:
            values: As read from JSON or YAML. A hardware config of AIMET is read as one, for 8-bit weights and
                activations; for other widths see `quantsim.sim.aimet_config.read_hardware_config`.
            source: What errors call the data, such as its path.

        Raises:
            ConfigurationError: Naming every wrong field, what was got, and what was expected.
        """
        from quantsim.sim.aimet_config import is_hardware_config, read_hardware_config

        if is_hardware_config(values):
            return read_hardware_config(values, source=source)
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
