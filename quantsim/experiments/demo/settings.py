"""What the demo runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEMO_PRESETS", "DemoSettings"]

DEMO_PRESETS = ("w8a8", "w8a8_dynamic", "w4a8", "w4a8_dynamic", "w4a16_g32", "fp8_e4m3")


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo runs.

    Attributes:
        output: Folder of the files it writes.
        presets: Schemes, in this order.
        test_per_package: Test texts of each of the 20 packages.
        train_per_package: Training texts of each package, for the probe.
        pairs: Retrieval pairs.
        calibration_texts: Texts that ranges are measured on.
        max_tokens: Longer texts are cut.
        epochs: Passes over the digits.
        seed: Seed of all sampling.
        quick: Set by :meth:`quick_run`.
    """

    output: Path = Path("out/demo")
    presets: tuple[str, ...] = DEMO_PRESETS
    test_per_package: int = 20
    train_per_package: int = 40
    pairs: int = 400
    calibration_texts: int = 128
    max_tokens: int = 64
    epochs: int = 15
    seed: int = 0
    quick: bool = False

    @classmethod
    def quick_run(cls, output: Path = Path("out/demo")) -> DemoSettings:
        """A quarter of the texts: everything is shown, accuracies are rough."""
        return cls(output=output, test_per_package=5, train_per_package=10, pairs=100, calibration_texts=64, quick=True)
