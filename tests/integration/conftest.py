"""Two processes for tests of distributed runs: this file, run as a script, is a rank."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

RANKS = 2
Results = list[Any]


class TwoRanks:
    """The two processes, in a gloo group.

    Args:
        scenarios: A Python file; its functions can be run on both ranks.
        folder: For the files by which they meet and answer.
    """

    def __init__(self, scenarios: Path, folder: Path) -> None:
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        self.folder = folder
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(scenarios), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(RANKS)
        ]

    def __call__(self, scenario: Callable[..., Any], *arguments: Any) -> Results:
        """Runs a scenario on both ranks; returns what it gave on each."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps([scenario.__name__, *arguments]) + "\n")
            process.stdin.flush()
        results: Results = []
        for rank, process in enumerate(self.processes):
            assert process.stdout is not None
            answer = process.stdout.readline().strip()
            assert answer == "done", f"rank {rank} ended"
            results.append(torch.load(self.folder / f"result_{rank}", weights_only=False))
        for rank, result in enumerate(results):
            if isinstance(result, dict) and "traceback" in result:
                pytest.fail(f"rank {rank}:\n{result['traceback']}")
        return results

    def end(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait(timeout=60)


def serve(rank: int, scenarios: Path, folder: Path) -> None:
    """What a rank does: scenarios, one a line, until there are no more."""
    specification = importlib.util.spec_from_file_location("scenarios", scenarios)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["scenarios"] = module  # objects of its classes travel between the ranks
    specification.loader.exec_module(module)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            result = getattr(module, name)(*arguments)
        except Exception:
            result = {"traceback": traceback.format_exc()}
        torch.save(result, folder / f"result_{rank}")
        print("done", flush=True)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRanks]:
    """Runs functions of the test's own file on two ranks."""
    if not dist.is_gloo_available():
        pytest.skip("PyTorch was built without gloo")
    ranks = TwoRanks(request.path, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.end()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
