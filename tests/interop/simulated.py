"""quantsim's simulation of the network that is exchanged with the oracle, laid out as the oracle's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from oracle_model import OracleModel
from vector_file import VectorFile

from quantsim.quantization import affine
from quantsim.quantization.base import QuantizerBase
from quantsim.sim import QuantizationSimModel

NAME_MAP = {"scores": "tensor.output_quantizers[0]"}
"""The graph's output has a name that the network does not know; every other name is found."""


def float_model(folder: Path) -> tuple[OracleModel, torch.Tensor, dict[str, np.ndarray]]:
    """The network with the recorded weights, its images, and all that was recorded."""
    arrays = dict(VectorFile.load(folder / "tensors.npz").arrays)
    model = OracleModel().eval()
    prefix = "state/"
    model.load_state_dict(
        {
            name.removeprefix(prefix): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
    )
    return model, torch.from_numpy(arrays["images"]), arrays


def bare_simulation(model: OracleModel, images: torch.Tensor) -> QuantizationSimModel:
    """A simulation without a quantizer: what is loaded must make its own."""
    return QuantizationSimModel(model, images, config=None)


def laid_out_simulation(model: OracleModel, images: torch.Tensor) -> QuantizationSimModel:
    """A simulation with the oracle's quantizers, put in by hand and not calibrated."""
    sim = bare_simulation(model, images)
    quantized = sim.model
    quantized.convolution.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    for path in ("convolution_relu", "channel_relu", "block_relu", "grouped_relu", "tensor"):
        quantized.get_submodule(path).output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    weights = {
        "convolution": affine.QuantizeDequantize((4, 1, 1, 1), 8, True),
        "channel": affine.QuantizeDequantize((16, 1), 8, True),
        "block": affine.QuantizeDequantize((16, 2), 4, True, block_size=(1, 8)),
        "grouped": affine.GroupedBlockQuantizeDequantize(
            (16, 4), 4, True, 8, block_size=(1, 4), block_grouping=(1, -1)
        ),
        "tensor": affine.QuantizeDequantize((), 8, True),
    }
    for path, quantizer in weights.items():
        quantized.get_submodule(path).param_quantizers["weight"] = quantizer
    return sim


def quantizer_at(sim: QuantizationSimModel, path: str, role: str, key: str) -> QuantizerBase | None:
    """The quantizer of one tensor."""
    module = sim.model.get_submodule(path)
    if role == "param":
        return module.param_quantizers[key]
    return (module.input_quantizers if role == "input" else module.output_quantizers)[int(key)]


def run(sim: QuantizationSimModel, images: torch.Tensor) -> torch.Tensor:
    """The output without gradients."""
    with torch.no_grad():
        return sim.model(images)
