"""Load encodings that quantsim wrote into aimet-torch's simulation and run it. Run by test_live.py:

    .oracle/bin/python tests/interop/live_oracle.py FOLDER

Reads ``FOLDER/tensors.npz`` (weights and images) and ``FOLDER/torch.encodings``; writes ``FOLDER/oracle.npz`` (the
output, with and without torch's fused operator) and, from the loaded simulation, the oracle's own files of every
version beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from oracle_model import OracleModel
from record_model import simulate, write_exports
from vector_file import VectorFile


def main(folder: Path) -> int:
    """Load, run, export."""
    torch.set_num_threads(1)
    tensors = VectorFile.load(folder / "tensors.npz").arrays
    model = OracleModel().eval()
    model.load_state_dict(
        {
            name.removeprefix("state/"): torch.from_numpy(array)
            for name, array in tensors.items()
            if name.startswith("state/")
        }
    )
    images = torch.from_numpy(tensors["images"])
    # Calibrated on other data first, so that an encoding which is silently not loaded shows in the output.
    sim = simulate(model, torch.randn_like(images) * 5)
    sim.load_encodings(str(folder / "torch.encodings"), strict=True, partial=False)
    divided = sim.model(images).detach().as_subclass(torch.Tensor)
    with torch.no_grad():
        fused = sim.model(images).as_subclass(torch.Tensor)
    exports = folder / "oracle_exports"
    exports.mkdir(exist_ok=True)
    write_exports(sim, images, exports)
    VectorFile({}, {"divided": divided.numpy(), "fused": fused.numpy()}).save(folder / "oracle.npz")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
