"""``python -m quantsim.experiments.run_clm``: trains, transforms, tunes and measures a causal language model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantsim.errors import QuantsimError

if TYPE_CHECKING:
    from quantsim.experiments.llm.results import LanguageResult

__all__ = ["main"]


def main(argv: Sequence[str]) -> list[LanguageResult]:
    """Runs one command line.

    Args:
        argv: What follows the program's name; ``--help`` lists the flags.

    Returns:
        What was measured, also in ``quantsim_results.json`` of the output folder.

    Raises:
        ConfigurationError: The arguments, a file or a model cannot be used.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from quantsim.experiments.llm.arguments import parse
    from quantsim.experiments.llm.training import run

    arguments = parse(argv)
    if arguments.transform.levels is not None:
        from quantsim.experiments.llm.levels import run_sweep

        return run_sweep(arguments)
    return run(arguments)


def _in_terminal() -> int:
    try:
        results = main(sys.argv[1:])
    except (QuantsimError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for result in results:
        print(f"{result.system}, {result.stage.value}: perplexity {result.perplexity:.4f} per byte")
    return 0


if __name__ == "__main__":
    sys.exit(_in_terminal())
