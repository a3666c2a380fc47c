"""Two processes that train or calibrate together keep the ranges of one process with all their data."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from quantsim.errors import NonFiniteError
from quantsim.nn import compute_encodings
from quantsim.optical import OtLinear
from quantsim.quantization.optical import OpticalQuantizeDequantize


def _batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(6, 16, generator=generator) * (1 + number) for number in range(3)]


def _layer(batches: list[Tensor]) -> dict[str, Tensor]:
    """Ranges after calibration and after training on these batches."""
    torch.manual_seed(0)
    layer = OtLinear(16, 4, noise="none")
    layer.eval()
    with torch.no_grad(), compute_encodings(layer):
        for x in batches:
            layer(x)
    named = {"calibrated_" + name: value.clone() for name, value in layer.named_buffers()}
    layer.train()
    for x in batches:
        layer(x)
    return named | {"trained_" + name: value.clone() for name, value in layer.named_buffers()}


def _bad_data(rank: int) -> str:
    """What one bad batch of one rank does: an error on all, and no range."""
    quantizer = OpticalQuantizeDequantize()
    try:
        with quantizer.compute_encodings():
            quantizer(torch.tensor([1.0, math.nan if rank == 0 else 2.0]))
    except NonFiniteError:
        return "calibrated" if quantizer.is_initialized() else "error"
    return "nothing"


def _work(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    quantizer = OpticalQuantizeDequantize(smooth_factor=0.5)
    quantizer(torch.tensor([-1.0, 4.0]) if rank == 0 else torch.tensor([-2.0, 3.0]))
    quantizer(torch.tensor([0.0, 1.0]) if rank == 0 else torch.tensor([0.0, 2.0]))
    moved = quantizer.range.clone()
    quantizer(torch.tensor([-9.0, math.inf]) if rank == 0 else torch.tensor([-9.0, 9.0]))
    with torch.no_grad():
        if rank == 0:  # one rank on its own does not wait for the other
            OpticalQuantizeDequantize()(torch.ones(2))
    ignoring = OpticalQuantizeDequantize()
    ignoring.nonfinite = "ignore"
    with ignoring.compute_encodings():
        ignoring(torch.tensor([math.nan, math.inf]) if rank == 0 else torch.tensor([-1.0, 2.0]))
    result = {
        "moved": moved,
        "unmoved": quantizer.range,
        "layer": _layer([x[rank * 3 : rank * 3 + 3] for x in _batches()]),
        "bad": _bad_data(rank),
        "ignored": ignoring.range,
    }
    torch.save(result, f"{folder}/result{rank}.pt")
    dist.destroy_process_group()


def test_ranges_are_those_of_the_batches_of_all_ranks(tmp_path: Path) -> None:
    mp.spawn(_work, args=(str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    results = [torch.load(tmp_path / f"result{rank}.pt") for rank in range(2)]
    expected = _layer(_batches())
    for result in results:
        assert torch.equal(result["moved"], torch.tensor([-1.0, 3.0]))
        assert torch.equal(result["unmoved"], result["moved"]), "a bad batch of one rank moves no rank's range"
        assert result["bad"] == "error"
        assert result["ignored"].tolist() == [-1.0, 2.0]
        assert result["layer"].keys() == expected.keys()
        for name, value in expected.items():
            # The products of three rows may round otherwise than those of six.
            torch.testing.assert_close(result["layer"][name], value, rtol=1e-6, atol=1e-6)
    for name, value in results[0]["layer"].items():
        assert torch.equal(value, results[1]["layer"][name])
