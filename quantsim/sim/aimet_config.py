"""AIMET's JSON hardware configs, read as they are into a `SimulationConfig`.

Such a file says what a target does, not how wide its numbers are: give these to `read_hardware_config`; where a file's
path stands for a config (``config="htp_quantsim_config_v81.json"``), weights and activations have 8 bits.

Besides what the file says, AIMET has rules of its own, which are kept: ops that only move values round nothing; a batch
norm behind a convolution or linear layer is folded into it; depthwise and three-dimensional convolutions begin no
supergroup; a layer norm's weight is asymmetric below 16 bits; from hardware V73 on, embedding tables and group norms
have the format of activations, and before it the second factor of a product of two activations is symmetric in 8 bits.
``supergroup_pass_list`` is for graphs whose norms and linear layers are taken apart,
which modules are not.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantsim.errors import ConfigurationError
from quantsim.sim.config import (
    ActivationPlacement,
    AnalyzerKind,
    AnalyzerSetting,
    GranularityKind,
    IntegerSetting,
    OperationSetting,
    SimulationConfig,
)
from quantsim.sim.onnx_op_types import FUSIBLE_OPS, GRID_KEEPING_TYPES, ONNX_OP_TYPES

__all__ = ["HardwareConfig", "is_hardware_config", "read_hardware_config"]

_EARLY_HARDWARE: Final = (None, "V66", "V68", "V69")
_BY_TYPE: Final = ("Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN")
_NORMS: Final = (
    *("BatchNormalization", "LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
    "PRelu",
)
_NOT_NEGATIVE: Final = frozenset(
    {"Relu", "Clip", "Sigmoid", "Softmax", "Exp", "Abs", "Sqrt", "Softplus", "HardSigmoid"}
)
_WEIGHT_ANALYZER: Final = AnalyzerSetting(kind=AnalyzerKind.EXACT_MSE)
_ACTIVATION_ANALYZER: Final = AnalyzerSetting(kind=AnalyzerKind.TOKEN_MSE)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Parameter(_Part):
    is_quantized: bool | None = None
    is_symmetric: bool | None = None


class _Number(_Part):
    bitwidth: Literal[4, 8, 16, 32]
    dtype: Literal["int", "float"]


class _Kernel(_Part):
    activation: _Number
    param: _Number | None = None


class _Constraints(_Part):
    min: float
    max: float | None = None


class _Op(_Part):
    is_input_quantized: bool | None = None
    is_output_quantized: bool | None = None
    is_symmetric: bool | None = None


class _OpType(_Op):
    params: dict[str, _Parameter] = {}
    supported_kernels: tuple[_Kernel, ...] = ()
    per_channel_quantization: bool | None = None
    encoding_constraints: _Constraints | None = None


class _Defaults(_Part):
    ops: _Op
    params: _Parameter
    strict_symmetric: bool = False
    unsigned_symmetric: bool = False
    per_channel_quantization: bool = False
    supported_kernels: tuple[_Kernel, ...] = ()
    hw_version: str | None = None


class _Supergroup(_Part):
    op_list: tuple[str, ...] = Field(min_length=2)


class _ModelInput(_Part):
    is_input_quantized: bool | None = None


class _ModelOutput(_Part):
    is_output_quantized: bool | None = None


class HardwareConfig(_Part):
    """The contents of such a file."""

    defaults: _Defaults
    params: dict[str, _Parameter]
    op_type: dict[str, _OpType]
    supergroups: tuple[_Supergroup, ...]
    supergroup_pass_list: tuple[str, ...] = ()
    model_input: _ModelInput
    model_output: _ModelOutput


def is_hardware_config(values: Mapping[str, Any]) -> bool:
    """Whether plain data looks like a hardware config rather than a `SimulationConfig`."""
    return "defaults" in values and not values.keys().isdisjoint({"op_type", "supergroups", "model_input"})


def read_hardware_config(
    config: Mapping[str, Any] | str | Path,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    weight_analyzer: AnalyzerSetting = _WEIGHT_ANALYZER,
    activation_analyzer: AnalyzerSetting = _ACTIVATION_ANALYZER,
    source: str | None = None,
) -> SimulationConfig:
    """Reads a hardware config of AIMET.

    Args:
        config: Path of the JSON file, or its parsed contents.
        weight_bits: Width of parameters (AIMET's ``default_param_bw``).
        activation_bits: Width of activations (AIMET's ``default_output_bw``).
        weight_analyzer: How ranges of parameters are chosen.
        activation_analyzer: How ranges of activations are chosen.
        source: What errors call the data; the path by default.

    Raises:
        ConfigurationError: No such file, not JSON, fields that the format does not have, or what no placement can do.

    Warns:
        UserWarning: Op types or kernels that do not fit and are not used.

    Example:
        >>> config = read_hardware_config(
        ...     {
        ...         "defaults": {
        ...             "ops": {"is_output_quantized": "True"},
        ...             "params": {"is_quantized": "True", "is_symmetric": "True"},
        ...         },
        ...         "params": {"bias": {"is_quantized": "False"}},
        ...         "op_type": {"Softmax": {"encoding_constraints": {"min": 0.0, "max": 1.0}}},
        ...         "supergroups": [{"op_list": ["Conv", "Relu"]}],
        ...         "model_input": {"is_input_quantized": "True"},
        ...         "model_output": {},
        ...     },
        ...     weight_bits=4,
        ... )
        >>> config.weights.label, config.fused_groups, config.operations["softmax"].outputs.fixed_range
        ('int4 symmetric, tensor', (('conv', 'relu'),), (0.0, 1.0))
    """
    if not isinstance(config, Mapping):
        source = source or str(config)
        config = _load(Path(config))
    source = source or "hardware config"
    hardware = _validated(config, source)
    reader = _Reader(hardware, source, weight_bits, activation_bits, weight_analyzer, activation_analyzer)
    return reader.read()


def _load(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "the hardware config cannot be read",
            where=str(path),
            got=" ".join(str(error).split()),
            expected="a JSON file",
            fix="check the path",
        ) from None
    if isinstance(values, Mapping):
        return values
    raise ConfigurationError(
        "the file holds no hardware config", where=str(path), got=type(values).__name__, expected="one JSON object"
    )


def _validated(values: Mapping[str, Any], source: str) -> HardwareConfig:
    try:
        hardware = HardwareConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False)
        )
        raise ConfigurationError(
            "the hardware config is not valid",
            where=source,
            got=f"{error.error_count()} wrong field(s): {problems}",
            expected=f"AIMET's sections {', '.join(HardwareConfig.model_fields)}",
            fix="correct the fields named above",
        ) from None
    defaults = hardware.defaults
    refused = [
        (not defaults.ops.is_output_quantized, "defaults.ops.is_output_quantized", "True"),
        (defaults.ops.is_input_quantized is not None, "defaults.ops.is_input_quantized", "it to be left out"),
        (defaults.strict_symmetric, "defaults.strict_symmetric", "False"),
        (defaults.unsigned_symmetric, "defaults.unsigned_symmetric", "False"),
        (hardware.model_input.is_input_quantized is False, "model_input.is_input_quantized", "True, or left out"),
        (hardware.model_output.is_output_quantized is False, "model_output.is_output_quantized", "True, or left out"),
        *(
            (setting.is_input_quantized is False, f"op_type.{name}.is_input_quantized", "True, or left out")
            for name, setting in hardware.op_type.items()
        ),
    ]
    for is_refused, field, expected in refused:
        if is_refused:
            raise ConfigurationError(
                "the hardware config asks for what AIMET does not do either",
                where=f"{source}: {field}",
                got="another value",
                expected=expected,
                fix="change the field; a SimulationConfig with rules can say more",
            )
    return hardware


class _Reader:
    """Turns the contents of one file into settings."""

    def __init__(
        self,
        hardware: HardwareConfig,
        source: str,
        weight_bits: int,
        activation_bits: int,
        weight_analyzer: AnalyzerSetting,
        activation_analyzer: AnalyzerSetting,
    ) -> None:
        self.hardware, self.source = hardware, source
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.weight_analyzer, self.activation_analyzer = weight_analyzer, activation_analyzer

    def read(self) -> SimulationConfig:
        self._warn()
        default = self._parameter("weight", None)
        return SimulationConfig(
            name=Path(self.source).stem if self.source.endswith(".json") else "hardware",
            description=f"hardware config, {self.weight_bits}-bit weights, {self.activation_bits}-bit activations",
            weights=default,
            activations=self._activation(None, None),
            embeddings=default,
            activation_placement=ActivationPlacement.OUTPUTS,
            fused_groups=tuple(dict.fromkeys(self._groups())),
            fuse_depthwise=False,
            quantize_inputs=bool(self.hardware.model_input.is_input_quantized),
            quantize_model_outputs=bool(self.hardware.model_output.is_output_quantized),
            second_factors=self._second_factors(),
            operations=self._operations(default),
        )

    def _second_factors(self) -> IntegerSetting | None:
        """Early hardware takes these symmetric in 8 bits; later one, in 16 bits, symmetric."""
        version = self.hardware.defaults.hw_version
        is_early = version in _EARLY_HARDWARE
        if version is None or not (is_early or self.activation_bits == 16):
            return None
        return IntegerSetting(bits=8 if is_early else 16, symmetric=True, analyzer=self.activation_analyzer)

    # ---------------------------------------------------------------- settings of one op type

    def _operations(self, default: IntegerSetting | None) -> dict[str, OperationSetting]:
        types: dict[str, list[str]] = {}
        for name in dict.fromkeys((*_BY_TYPE, *_NORMS, "Gather", *sorted(GRID_KEEPING_TYPES), *self.hardware.op_type)):
            for op in ONNX_OP_TYPES.get(name, ()):
                types.setdefault(op, []).append(name)
        found = {op: self._operation(names, op, default) for op, names in types.items()}
        return {op: OperationSetting(**fields) for op, fields in found.items() if fields}

    def _operation(self, names: list[str], op: str, default: IntegerSetting | None) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if any(name in (*_BY_TYPE, *_NORMS, "MatMul") for name in names) or op.startswith("embedding"):
            weight = self._parameter("weight", names, op)
            if weight != default or any(name in _NORMS for name in names):
                fields["weights"] = weight
            bias = self._parameter("bias", names, op)
            if bias is not None:
                fields["params"] = {"bias": bias}
        for name in names:
            if name in GRID_KEEPING_TYPES and name not in self.hardware.op_type:
                fields["outputs"] = None
            setting = self.hardware.op_type.get(name)
            if setting is None:
                continue
            if setting.is_output_quantized is False:
                fields["outputs"] = None
            elif setting.is_output_quantized or setting.is_symmetric is not None or _fixed_range(setting) is not None:
                fields["outputs"] = self._activation(setting.is_symmetric, _fixed_range(setting))
            if setting.is_input_quantized:
                fields["inputs"] = self._activation(setting.is_symmetric, None)
        return fields

    def _activation(self, is_symmetric: bool | None, fixed_range: tuple[float, float] | None) -> IntegerSetting:
        symmetric = bool(self.hardware.defaults.ops.is_symmetric if is_symmetric is None else is_symmetric)
        if fixed_range is not None:
            largest = max(map(abs, fixed_range))
            symmetric = symmetric or fixed_range == (-largest, largest)
            limits = (-largest, largest) if symmetric else fixed_range
            return IntegerSetting(bits=self.activation_bits, symmetric=symmetric, fixed_range=limits)
        return IntegerSetting(bits=self.activation_bits, symmetric=symmetric, analyzer=self.activation_analyzer)

    def _parameter(self, parameter: str, names: list[str] | None, op: str = "") -> IntegerSetting | None:
        """The setting of a parameter of an op that the types ``names`` stand for; None: it is not quantized."""
        hardware, defaults = self.hardware, self.hardware.defaults
        own = [hardware.op_type[name] for name in names or () if name in hardware.op_type]
        levels = [defaults.params, hardware.params.get(parameter), *(each.params.get(parameter) for each in own)]
        stated = [level for level in levels if level is not None]
        quantized = [level.is_quantized for level in stated if level.is_quantized is not None]
        if not quantized or not quantized[-1]:
            return None
        symmetric = [level.is_symmetric for level in stated if level.is_symmetric is not None]
        is_symmetric, bits = bool(symmetric and symmetric[-1]), self.weight_bits
        by_type = [each.per_channel_quantization for each in own if each.per_channel_quantization is not None]
        per_channel = any(by_type) if by_type else defaults.per_channel_quantization
        if op == "layer_norm" and parameter == "weight":
            is_symmetric = bits >= 16
        if (op.startswith("embedding") or op == "group_norm") and defaults.hw_version not in _EARLY_HARDWARE:
            bits = self.activation_bits
            is_symmetric = bool(defaults.ops.is_symmetric)
        granularity = GranularityKind.CHANNEL if per_channel else GranularityKind.TENSOR
        return IntegerSetting(bits=bits, symmetric=is_symmetric, granularity=granularity, analyzer=self.weight_analyzer)

    # ---------------------------------------------------------------- supergroups

    def _groups(self) -> Iterator[tuple[str, ...]]:
        for group in self.hardware.supergroups:
            choices = [FUSIBLE_OPS.get(name, ONNX_OP_TYPES.get(name, ())) for name in group.op_list]
            yield from product(*choices)

    # ---------------------------------------------------------------- what is not used

    def _warn(self) -> None:
        problems = []
        named = [*self.hardware.op_type, *(name for group in self.hardware.supergroups for name in group.op_list)]
        unknown = [name for name in dict.fromkeys(named) if name not in ONNX_OP_TYPES]
        if unknown:
            problems.append(f"op types without a counterpart in PyTorch: {', '.join(unknown)}")
        sections = {"defaults": self.hardware.defaults, **self.hardware.op_type}
        for name, section in sections.items():
            if section.supported_kernels and not any(map(self._is_wanted, section.supported_kernels)):
                problems.append(f"{name} has no kernel for {self.weight_bits}-bit weights and these activations")
        for name, setting in self.hardware.op_type.items():
            limits = setting.encoding_constraints
            if limits is not None and limits.max is None and (limits.min != 0 or name not in _NOT_NEGATIVE):
                problems.append(f"{name} has a lower limit of {limits.min:g} only, which observed ranges may pass")
        if problems:
            warnings.warn(f"{self.source}: not used: {'; '.join(problems)}", stacklevel=4)

    def _is_wanted(self, kernel: _Kernel) -> bool:
        activation = kernel.activation.dtype == "int" and kernel.activation.bitwidth == self.activation_bits
        parameter = kernel.param is None or (kernel.param.dtype == "int" and kernel.param.bitwidth == self.weight_bits)
        return activation and parameter


def _fixed_range(setting: _OpType) -> tuple[float, float] | None:
    limits = setting.encoding_constraints
    return None if limits is None or limits.max is None else (limits.min, limits.max)
