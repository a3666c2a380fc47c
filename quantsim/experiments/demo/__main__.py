"""``python -m quantsim.experiments.demo``: the demo without its HTML report, which ``quantsim.report.demo`` adds."""

from __future__ import annotations

import sys

from quantsim.experiments.demo.command import parse_settings, run_in_terminal


def main() -> int:
    """Runs the demo and prints its tables; returns the exit status."""
    return run_in_terminal(parse_settings("python -m quantsim.experiments.demo", sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
