"""quantsim and aimet-torch exchange a network, each in its own environment. Needs the oracle's Python:

python tests/interop/build_environment.py .oracle
QUANTSIM_AIMET_PYTHON=.oracle/bin/python python -m pytest tests/interop/test_live.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle_model import ONNX_NAMES
from simulated import float_model, laid_out_simulation, run
from test_model_encodings import VERSIONS, WITHOUT_LAYOUT, check, load
from vector_file import VectorFile

from quantsim.sim import QuantizationSimModel
from quantsim_encodings import TensorReference, TensorRole

HERE = Path(__file__).parent
PYTHON = os.environ.get("QUANTSIM_AIMET_PYTHON", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set QUANTSIM_AIMET_PYTHON to the Python of build_environment.py"),
]


def oracle(program: str, *arguments: str | Path) -> str:
    """Run one of this folder's programs in the oracle's environment."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [PYTHON, "-W", "ignore", str(HERE / program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """As the oracle's programs: matrix products must add up in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def written_by_the_oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oracle")
    oracle("record_model.py", "--output", folder)
    return folder


@pytest.fixture(scope="module")
def calibrated_by_quantsim() -> tuple[QuantizationSimModel, torch.Tensor]:
    model, images, _ = float_model(HERE / "vectors" / "model")
    sim = laid_out_simulation(model, images)
    with torch.no_grad(), sim.compute_encodings():
        sim.model(images)
    return sim, images


@pytest.fixture(scope="module")
def loaded_by_the_oracle(
    calibrated_by_quantsim: tuple[QuantizationSimModel, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    sim, _ = calibrated_by_quantsim
    folder = tmp_path_factory.mktemp("quantsim")
    shutil.copy(HERE / "vectors" / "model" / "tensors.npz", folder)
    # LPBQ goes into these two as the products of its scales, which is how the oracle writes it there as well.
    sim.save_encodings(folder / "torch.encodings", version="aimet-torch", allow={"annotation", "layout", "grouping"})
    sim.save_encodings(folder / "model_0.6.1.encodings", version="0.6.1", allow={"annotation", "layout", "grouping"})
    for version in VERSIONS[1:]:
        sim.save_encodings(folder / f"model_{version}.encodings", version=version)
    oracle("live_oracle.py", folder)
    return folder


def test_the_recorded_vectors_are_what_the_oracle_computes(tmp_path: Path) -> None:
    oracle("record_vectors.py", "--output", tmp_path)
    for name in ("affine.npz", "analyzers.npz"):
        fresh, recorded = VectorFile.load(tmp_path / name), VectorFile.load(HERE / "vectors" / name)
        assert fresh.cases == recorded.cases
        for key, array in recorded.arrays.items():
            np.testing.assert_array_equal(fresh.arrays[key], array, err_msg=key)


@pytest.mark.parametrize("laid_out", [True, False], ids=["configured", "bare"])
@pytest.mark.parametrize("name", ["torch.encodings", *(f"model_{version}.encodings" for version in VERSIONS)])
def test_we_load_the_oracles_files_and_compute_the_same(written_by_the_oracle: Path, name: str, laid_out: bool) -> None:
    if name in WITHOUT_LAYOUT and not laid_out:
        pytest.skip("this version does not say how blocks lie")
    check(*load(name, laid_out=laid_out, folder=written_by_the_oracle), exact=True)


def test_the_oracle_loads_our_file_and_computes_the_same(
    calibrated_by_quantsim: tuple[QuantizationSimModel, torch.Tensor], loaded_by_the_oracle: Path
) -> None:
    sim, images = calibrated_by_quantsim
    scores = run(sim, images)
    theirs = VectorFile.load(loaded_by_the_oracle / "oracle.npz").arrays
    different = int((torch.from_numpy(theirs["divided"]) != scores).sum())
    assert different == 0, f"{different} of {scores.numel()} elements differ"


def entries(document: dict[str, Any]) -> dict[str, Any]:
    """The entries of any version by tensor name."""
    if "encodings" in document:
        return {entry["name"]: entry for entry in document["encodings"]}
    found: dict[str, Any] = {}
    for part in (document["activation_encodings"], document["param_encodings"]):
        found |= part if isinstance(part, dict) else {entry["name"]: entry for entry in part}
    return found


def our_name(name: str) -> str:
    """What quantsim, which exports no graph here, calls the tensor that the oracle's exporter calls ``name``."""
    path, role, key = ONNX_NAMES[name]
    return str(TensorReference(path, TensorRole(role), key))


def assert_alike(ours: Any, theirs: Any, where: str) -> None:
    """Equal, floats to one ulp of float32."""
    if isinstance(theirs, float) or isinstance(ours, float):
        assert abs(ours - theirs) <= np.spacing(np.float32(abs(theirs))), f"{where}: {ours} for {theirs}"
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), f"{where}: {sorted(ours)} for {sorted(theirs)}"
        for key in theirs:
            assert_alike(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), f"{where}: {len(ours)} entries for {len(theirs)}"
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_alike(one, other, f"{where}[{index}]")
    else:
        assert ours == theirs, f"{where}: {ours!r} for {theirs!r}"


@pytest.mark.parametrize("version", VERSIONS)
def test_our_file_of_each_version_says_what_the_oracles_says(loaded_by_the_oracle: Path, version: str) -> None:
    """The same ranges, written by both: the same dictionaries, but for names and for weights that the exporter
    transposes."""
    ours = entries(json.loads((loaded_by_the_oracle / f"model_{version}.encodings").read_text(encoding="utf-8")))
    theirs = entries(
        json.loads((loaded_by_the_oracle / "oracle_exports" / f"model_{version}.encodings").read_text(encoding="utf-8"))
    )
    compared = 0
    for name, entry in theirs.items():
        if name.endswith("weight_0") or ONNX_NAMES[name][0] == "flatten":
            continue
        mine = ours[our_name(name)]
        if isinstance(entry, dict):
            entry, mine = {**entry, "name": None}, {**mine, "name": None}
        assert_alike(mine, entry, name)
        compared += 1
    assert compared == 9
