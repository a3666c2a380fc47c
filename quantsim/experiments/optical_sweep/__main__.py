"""``python -m quantsim.experiments.optical_sweep``."""

from __future__ import annotations

import sys

from quantsim.experiments.optical_sweep.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
