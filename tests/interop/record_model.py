"""Record a calibrated network of aimet-torch with its encodings in every file version. Run in the oracle's environment:

    .oracle/bin/python tests/interop/record_model.py

Writes ``vectors/model/``: ``tensors.npz`` (weights, input, output, and what goes into and comes out of every
quantizer) and ``model_<version>.encodings`` (ONNX tensor names: 0.6.1, 1.0.0, 2.0.0, 2.1.0; ``_bias`` files also hold
the int32 bias encodings that the exporter derives), ``torch.encodings`` (module names). ``oracle_model.ONNX_NAMES``
says which module and tensor each ONNX name stands for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracle_model import ONNX_NAMES, OracleModel
from vector_file import VectorFile

HERE = Path(__file__).resolve().parent
VERSIONS = ("0.6.1", "1.0.0", "2.0.0", "2.1.0")


def simulate(model: OracleModel, images: torch.Tensor) -> Any:
    """The oracle's simulation: 8-bit asymmetric activations, and one weight granularity a layer."""
    from aimet_torch.quantization import affine
    from aimet_torch.quantsim import QuantizationSimModel

    sim = QuantizationSimModel(model, images)
    weights = {
        "convolution": affine.QuantizeDequantize((4, 1, 1, 1), 8, True),
        "channel": affine.QuantizeDequantize((16, 1), 8, True),
        "block": affine.QuantizeDequantize((16, 2), 4, True, block_size=(1, 8)),
        "grouped": affine.GroupedBlockQuantizeDequantize(
            (16, 4), 4, True, 8, block_size=(1, 4), block_grouping=(1, -1)
        ),
        "tensor": affine.QuantizeDequantize((), 8, True),
    }
    for layer, quantizer in weights.items():
        sim.model.get_submodule(layer).param_quantizers["weight"] = quantizer
    for layer in ("convolution", "channel", "tensor"):
        sim.model.get_submodule(layer).param_quantizers["bias"] = None
    sim.compute_encodings(lambda simulated: simulated(images))
    return sim


def entry_names(document: dict[str, Any]) -> set[str]:
    """The tensors named in a file of any version."""
    if "encodings" in document:
        return {entry["name"] for entry in document["encodings"]}
    parts = (document["activation_encodings"], document["param_encodings"])
    return {entry["name"] if isinstance(entry, dict) else entry for part in parts for entry in part}


def record_quantizers(sim: Any, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Run the network; what goes into and comes out of each quantizer, so that a test need not trust two machines'
    matrix products."""
    arrays: dict[str, np.ndarray] = {}
    handles = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            arrays[f"{name}/before"] = inputs[0].detach().as_subclass(torch.Tensor).numpy()
            arrays[f"{name}/after"] = output.detach().as_subclass(torch.Tensor).numpy()

        return hook

    for path, module in sim.named_qmodules():
        containers = {
            "input": module.input_quantizers,
            "output": module.output_quantizers,
            "param": module.param_quantizers,
        }
        for role, container in containers.items():
            for key, quantizer in container.items() if role == "param" else enumerate(container):
                if quantizer is not None:
                    handles.append(quantizer.register_forward_hook(watch(f"quantizers/{path}/{role}/{key}")))
    # With gradients on: the oracle then divides by the scale, without them it may multiply by the inverse.
    scores = sim.model(images).detach().as_subclass(torch.Tensor)
    for handle in handles:
        handle.remove()
    return scores, arrays


def write_exports(sim: Any, images: torch.Tensor, output: Path) -> None:
    """Every version's file; fails if a tensor is named that ``ONNX_NAMES`` does not explain."""
    with tempfile.TemporaryDirectory() as folder:
        for version in VERSIONS:
            for bias in (False, True) if version >= "2" else (False,):
                sim.onnx.export(
                    args=(images,),
                    f=str(Path(folder) / "model.onnx"),
                    input_names=["images"],
                    output_names=["scores"],
                    dynamo=False,
                    opset_version=21,
                    encoding_version=version,
                    export_int32_bias=bias,
                )
                document = json.loads((Path(folder) / "model.encodings").read_text(encoding="utf-8"))
                stem = f"model_{version}_bias" if bias else f"model_{version}"
                (output / f"{stem}.encodings").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                unknown = entry_names(document) - ONNX_NAMES.keys()
                if unknown:
                    raise RuntimeError(f"{stem}: add {sorted(unknown)} to ONNX_NAMES")
        sim.save_encodings_to_json(folder, "model")
        document = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        (output / "torch.encodings").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Record everything; the folder may be given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "vectors" / "model")
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(20240820)
    torch.set_num_threads(1)
    model = OracleModel().eval()
    images = torch.randn(32, 2, 4, 4)
    sim = simulate(model, images)
    scores, arrays = record_quantizers(sim, images)
    with torch.no_grad():
        fused = sim.model(images).as_subclass(torch.Tensor)
    print(f"output with torch.fake_quantize: {int((fused != scores).sum())} of {scores.numel()} elements differ")
    write_exports(sim, images, output)
    arrays |= {f"state/{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays |= {"images": images.numpy(), "scores": scores.numpy()}
    VectorFile({}, arrays).save(output / "tensors.npz")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
