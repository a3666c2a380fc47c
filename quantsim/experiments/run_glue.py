"""``python -m quantsim.experiments.run_glue``: a model of transformers on a task of GLUE, in float or transformed.

The flags are those of transformers' own ``run_glue.py``, Trainer's among them, and those of
`quantsim.experiments.glue.arguments`; ``--help`` lists them all. On several devices: ``torchrun --nproc-per-node N -m
quantsim.experiments.run_glue ...``, or ``accelerate launch -m quantsim.experiments.run_glue ...``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from quantsim.errors import QuantsimError
from quantsim.experiments.glue.results import RunResult

__all__ = ["main"]


def main(argv: Sequence[str]) -> list[RunResult]:
    """Runs what a command line asks for.

    Args:
        argv: What follows the program's name.

    Returns:
        What was measured; also in ``quantsim_results.json`` of the output folder.

    Raises:
        QuantsimError: Arguments, files and model do not fit each other.
        SystemExit: A flag is unknown or its value is of another type.
    """
    from quantsim.experiments.glue.training import parse, run

    return run(parse(argv))


def run_in_terminal(argv: Sequence[str]) -> int:
    """Runs what a command line asks for, and prints what was measured.

    Args:
        argv: What follows the program's name.

    Returns:
        Exit status: 0, or 2 after an error that the text printed explains.
    """
    try:
        results = main(argv)
    except QuantsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for result in results if os.environ.get("RANK", "0") == "0" else ():
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        stage = result.stage.value.replace("_", " ")
        print(f"{result.task}, {result.system.value}, {stage}: {metrics} ({result.seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(run_in_terminal(sys.argv[1:]))
