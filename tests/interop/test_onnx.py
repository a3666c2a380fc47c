"""Encodings beside an exported ONNX graph go by its tensors' names; aimet-onnx reads them and computes the same.

The second part needs the oracle's Python, see `test_live`.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import MODELS, simulation

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

# After the check of packages.
from quantsim.export import read_name_map  # noqa: E402
from quantsim.integrations.onnxruntime import run_onnx, session_options  # noqa: E402

HERE = Path(__file__).parent
PYTHON = os.environ.get("QUANTSIM_AIMET_PYTHON", "")
VERSIONS = ("0.6.1", "1.0.0", "2.0.0", "2.1.0")

BEHIND_DATA_MOVEMENT = {("attention", "2.0.0"), ("attention", "2.1.0")}
"""aimet-onnx puts no quantizer behind a transposition, and cannot add one for these versions. Placement by outputs, as
its own, has none there either."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph with and without quantizers, inputs and encodings of every version for each model."""
    folder = tmp_path_factory.mktemp("onnx")
    for name in MODELS:
        sim, inputs = simulation(name)
        # The first version's file bears no version in its name.
        versions = ["quantsim-1", *VERSIONS]
        report = sim.export_onnx(folder / f"{name}.onnx", inputs, float_graph=True, encodings_version=versions)
        report.encodings["quantsim-1"].rename(folder / f"{name}.own.json")
        graph = onnx.load(folder / f"{name}.float.onnx").graph
        np.savez(folder / f"{name}.npz", **{graph.input[0].name: inputs.numpy()})
        with torch.no_grad():
            np.savez(folder / f"{name}.expected.npz", output=sim(inputs).numpy())
    return folder


def tensors_of(path: Path) -> set[str]:
    """Names of all tensors of a graph."""
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    return constants | {each.name for each in graph.input} | {name for node in graph.node for name in node.output}


def names_of(path: Path) -> set[str]:
    """Names of all entries of an encodings file of any version by name."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if "encodings" in document:
        return {entry["name"] for entry in document["encodings"]}
    found: set[str] = set()
    for part in (document["activation_encodings"], document["param_encodings"]):
        found |= set(part) if isinstance(part, dict) else {entry["name"] for entry in part}
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MODELS)
def test_every_encoding_is_named_as_a_tensor_of_the_graph(exported: Path, name: str, version: str) -> None:
    names = names_of(exported / f"{name}.{version}.encodings.json")
    sim, _ = simulation(name)
    assert names <= tensors_of(exported / f"{name}.float.onnx")
    places = read_name_map(exported / f"{name}.onnx")
    assert names == places.keys()
    # Modules that read one tensor are one name; a quantizer that tensors share goes by one of its places.
    quantizers = {place: id(quantizer) for place, quantizer in sim.quantizers()}
    assert {quantizers[place] for group in places.values() for place in group} == set(quantizers.values())


@pytest.mark.parametrize("name", MODELS)
def test_weights_go_by_their_names_in_the_model(exported: Path, name: str) -> None:
    sim, _ = simulation(name)
    weights = {place.replace(".param_quantizers['weight']", ".weight") for place, _ in sim.quantizers()}
    weights = {place for place in weights if place.endswith(".weight")}
    assert weights
    assert weights <= names_of(exported / f"{name}.2.0.0.encodings.json")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_simulation_reads_the_graphs_names_back(exported: Path, name: str, version: str) -> None:
    sim, inputs = simulation(name)
    again, _ = simulation(name)
    with torch.no_grad():
        for _, quantizer in again.quantizers():  # so that what is not loaded shows
            for values in quantizer.parameters():
                values.mul_(3)
    path = exported / f"{name}.{version}.encodings.json"
    again.load_encodings(path, name_map=read_name_map(exported / f"{name}.onnx"))
    with torch.no_grad():
        step = float((sim(inputs).max() - sim(inputs).min()) / 255)
        torch.testing.assert_close(again(inputs), sim(inputs), rtol=0, atol=step / 100)


# ---------------------------------------------------------------- with the oracle


def oracle(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [PYTHON, "-W", "ignore", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@cache
def oracle_is_there() -> bool:
    return bool(PYTHON) and oracle("-c", "import aimet_onnx").returncode == 0


@pytest.fixture(scope="module")
def read_by_the_oracle(exported: Path) -> Path:
    if not oracle_is_there():
        pytest.skip("set QUANTSIM_AIMET_PYTHON to the Python of build_environment.py, which has aimet-onnx")
    for name, version in BEHIND_DATA_MOVEMENT:
        (exported / f"{name}.{version}.encodings.json").unlink()
    result: Any = oracle(HERE / "onnx_oracle.py", exported)
    assert result.returncode == 0, result.stderr[-4000:]
    return exported


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MODELS)
def test_the_oracle_reads_the_encodings_and_computes_the_same(
    read_by_the_oracle: Path, name: str, version: str
) -> None:
    if (name, version) in BEHIND_DATA_MOVEMENT:
        pytest.skip("the oracle has no quantizers behind transpositions")
    names = names_of(read_by_the_oracle / f"{name}.{version}.encodings.json")
    active = json.loads((read_by_the_oracle / f"{name}.{version}.oracle.json").read_text(encoding="utf-8"))
    assert names <= set(active)
    with np.load(read_by_the_oracle / f"{name}.{version}.oracle.npz") as theirs:
        output = theirs["output"]
    with np.load(read_by_the_oracle / f"{name}.npz") as stored:
        inputs = tuple(torch.from_numpy(stored[key]) for key in stored.files)
    ours = next(iter(run_onnx(read_by_the_oracle / f"{name}.onnx", inputs, session_options()).values()))
    np.testing.assert_array_equal(output, ours)
    with np.load(read_by_the_oracle / f"{name}.expected.npz") as simulated:
        # Sums are added up in another order; a code that moved would be a thousand times as much.
        np.testing.assert_allclose(output, simulated["output"], rtol=0, atol=1e-6)
