"""Build the oracle's environment: aimet-torch and aimet-onnx 2.42.0 from PyPI beside a stub of torchvision.

    python tests/interop/build_environment.py .oracle
    .oracle/bin/python tests/interop/record_vectors.py
    QUANTSIM_AIMET_PYTHON=.oracle/bin/python python -m pytest tests/interop/test_live.py tests/interop/test_onnx.py

Both pin CUDA builds and packages that this use never touches, so they are installed without their dependencies and the
ones they need to import are listed here. Continuous integration needs none of this: it compares with the recorded
vectors.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

AIMET_VERSION = "2.42.0"
TORCH_VERSION = "2.13.0"  # installed first and alone: this version resolves to the CPU build where the project is built

REQUIREMENTS = (
    "bokeh==3.6.3",
    "cvxpy",
    "deprecated",
    "holoviews",
    "hvplot",
    "jsonschema",
    "matplotlib",
    "numpy<3",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "osqp",
    "pandas",
    "psutil",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tensorboard",
    "tqdm",
    "transformers>=5.12",
)

STUB = Path(__file__).resolve().parent / "torchvision_stub"


def run(*command: str | Path) -> None:
    """Echo and run one command; stop with its exit status if it fails."""
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True)


def build(folder: Path) -> Path:
    """Create (or complete) the environment in ``folder`` and return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    install = (python, "-m", "pip", "install", "--quiet")
    run(*install, f"torch=={TORCH_VERSION}")
    run(*install, f"torch=={TORCH_VERSION}", *REQUIREMENTS)
    run(*install, "--no-deps", f"aimet-torch=={AIMET_VERSION}", f"aimet-onnx=={AIMET_VERSION}")
    site_packages = next((folder / "lib").glob("python3.*/site-packages"))
    # A path file, not a copy: an edit of the stub takes effect without building again.
    (site_packages / "torchvision_stub.pth").write_text(f"{STUB}\n", encoding="utf-8")
    run(
        python,
        "-c",
        "import aimet_onnx, aimet_torch, torch; print('AIMET', aimet_torch.__version__, 'on torch', torch.__version__)",
    )
    return python


def main() -> int:
    """Command line: the folder to build in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the environment is to be, for example .oracle")
    folder = parser.parse_args().folder.resolve()
    if sys.version_info[:2] not in ((3, 10), (3, 11), (3, 12)):
        print(f"AIMET {AIMET_VERSION} was tried with Python 3.11; this is {sys.version.split()[0]}", file=sys.stderr)
    python = build(folder)
    print(f"ready: {python}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
