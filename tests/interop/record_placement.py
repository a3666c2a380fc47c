"""Record where aimet-torch places quantizers by hardware config. Run in the oracle's environment:

    .oracle/bin/python tests/interop/record_placement.py

Writes ``vectors/placement.json``: by config and network, by place: bits, symmetry, shape of the scales, and the range
that is fixed or null; and the places that hold the same quantizer object.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from placement_models import HARDWARE, models

TARGET = Path(__file__).resolve().parent / "vectors" / "placement.json"
WEIGHT_BITS, ACTIVATION_BITS = 4, 8


def places(sim: Any) -> dict[str, Any]:
    """Quantizers of one simulation by place."""
    found: dict[str, Any] = {}
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for path, module in sim.named_qmodules():
        containers = (
            ("input", enumerate(module.input_quantizers)),
            ("output", enumerate(module.output_quantizers)),
            ("param", module.param_quantizers.items()),
        )
        for role, items in containers:
            for key, quantizer in items:
                if quantizer is None:
                    continue
                place = f"{path}.{role}[{key}]"
                if first.setdefault(id(quantizer), place) != place:
                    shared[place] = first[id(quantizer)]
                fixed = [float(quantizer.min), float(quantizer.max)] if quantizer.is_initialized() else None
                found[place] = [quantizer.bitwidth, bool(quantizer.symmetric), list(quantizer.shape), fixed]
    return {"places": found, "shared": shared}


def main() -> None:
    """Records everything."""
    from aimet_torch._base.nn.modules import custom
    from aimet_torch.quantsim import QuantizationSimModel

    recorded: dict[str, Any] = {}
    for name, hardware in HARDWARE.items():
        for kind, (model, inputs) in models(custom).items():
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(hardware, file)
                file.flush()
                sim = QuantizationSimModel(
                    model,
                    inputs,
                    quant_scheme="tf",
                    config_file=file.name,
                    default_param_bw=WEIGHT_BITS,
                    default_output_bw=ACTIVATION_BITS,
                )
            recorded[f"{name}/{kind}"] = places(sim)
    TARGET.write_text(json.dumps(recorded, indent=0, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
