"""Whole-model simulation: placement of quantizers, calibration, summary, encodings."""

from __future__ import annotations

from quantsim.sim.aimet_config import read_hardware_config
from quantsim.sim.config import (
    ActivationPlacement,
    AnalyzerKind,
    AnalyzerSetting,
    FloatSetting,
    GranularityKind,
    IntegerSetting,
    MXSetting,
    OperationSetting,
    OpticalSetting,
    PlacementRule,
    QuantizerSetting,
    SimulationConfig,
    SoftmaxSetting,
    load_config,
)
from quantsim.sim.coverage import Coverage
from quantsim.sim.encodings import LoadReport
from quantsim.sim.example_run import UnquantizedOperation
from quantsim.sim.model_blocks import find_blocks
from quantsim.sim.patterns import ModulePattern
from quantsim.sim.presets import PRESETS, preset, preset_names
from quantsim.sim.sequential_calibration import SequentialCalibration
from quantsim.sim.simulation import QuantizationSimModel
from quantsim.sim.summary import QuantizerState, SimulationSummary, StorageSize, SummaryRow

__all__ = [
    "PRESETS",
    "ActivationPlacement",
    "AnalyzerKind",
    "AnalyzerSetting",
    "Coverage",
    "FloatSetting",
    "GranularityKind",
    "IntegerSetting",
    "LoadReport",
    "MXSetting",
    "OpticalSetting",
    "ModulePattern",
    "OperationSetting",
    "PlacementRule",
    "QuantizationSimModel",
    "QuantizerSetting",
    "QuantizerState",
    "SequentialCalibration",
    "SimulationConfig",
    "SimulationSummary",
    "SoftmaxSetting",
    "StorageSize",
    "SummaryRow",
    "UnquantizedOperation",
    "find_blocks",
    "load_config",
    "preset",
    "preset_names",
    "read_hardware_config",
]
