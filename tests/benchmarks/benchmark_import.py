"""What ``import quantsim`` costs beyond ``import torch``, in processes of their own."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

import peers
from harness import Figure, Options

GATE_SECONDS = 0.5
HEAVY = ("triton", "transformers", "matplotlib", "typer", "rich")
PROGRAM = """
import sys, time, torch
start = time.perf_counter()
import {package}
print(time.perf_counter() - start, *sorted(sys.modules.keys() & set({heavy})))
"""


def measure(package: str, rounds: int) -> tuple[list[float], list[str]]:
    """Seconds beyond torch in each process, and which heavy packages were loaded."""
    seconds: list[float] = []
    loaded: list[str] = []
    for _ in range(rounds):
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM.format(package=package, heavy=HEAVY)],
            check=True,
            capture_output=True,
            text=True,
        )
        first, *loaded = result.stdout.split("\n")[-2].split()
        seconds.append(float(first))
    return seconds, loaded


def subject(options: Options) -> Iterator[Figure]:
    """quantsim, and the peers that are installed."""
    rounds = 1 if options.quick else 5
    for package in ("quantsim", "quantsim.nn", "quantsim.sim"):
        seconds, loaded = measure(package, rounds)
        yield Figure(
            title="import, beyond torch",
            label=package,
            value=min(seconds),
            unit="s",
            gate=GATE_SECONDS,
            note=f"median {statistics.median(seconds):.2f} s; heavy packages loaded: {', '.join(loaded) or 'none'}",
        )
    if options.peers:
        for package in ("torchao", "brevitas", "aimet_torch"):
            if peers.installed(package):
                try:
                    seconds, _ = measure(package, 1)
                except subprocess.CalledProcessError:
                    continue
                yield Figure(title="import, beyond torch", label=package, value=min(seconds), unit="s")
