"""Two processes that train together keep one range."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from quantsim.quantization.optical import OpticalQuantizeDequantize


def _train(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    quantizer = OpticalQuantizeDequantize(smooth_factor=0.5)
    quantizer(torch.tensor([-1.0, 4.0]) if rank == 0 else torch.tensor([-2.0, 3.0]))
    quantizer(torch.tensor([0.0, 1.0]) if rank == 0 else torch.tensor([0.0, 2.0]))
    with torch.no_grad():
        if rank == 0:  # one rank on its own does not wait for the other
            OpticalQuantizeDequantize()(torch.ones(2))
    torch.save(quantizer.range, f"{folder}/range{rank}.pt")
    dist.destroy_process_group()


def test_ranges_are_those_of_the_batches_of_all_ranks(tmp_path: Path) -> None:
    mp.spawn(_train, args=(str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    ranges = [torch.load(tmp_path / f"range{rank}.pt") for rank in range(2)]
    assert torch.equal(ranges[0], ranges[1])
    assert torch.equal(ranges[0], torch.tensor([-1.0, 3.0]))
