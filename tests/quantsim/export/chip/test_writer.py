from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError
from quantsim.export import nn2chip
from quantsim.export.chip import MemoryTiling
from quantsim.sim import QuantizationSimModel

has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


class Digits(nn.Module):
    """A small convolutional net with batch norms and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)) + x)
        return self.head(x.mean((2, 3)))


def digits() -> tuple[QuantizationSimModel, torch.Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(16, 1, 8, 8)
    sim = QuantizationSimModel(Digits().eval(), inputs[:1], config="integer_w8a8")
    sim.compute_encodings([inputs])
    return sim, inputs


def test_every_op_is_written_and_reproduced(
    graphs: dict[str, Callable[[], IntegerGraph]], random_inputs: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    for number, make in enumerate(graphs.values()):
        graph = make()
        inputs = random_inputs(graph)
        chip = nn2chip(graph, tmp_path / str(number), inputs, tiling=MemoryTiling(rows=3, columns=5), onnx=False)
        assert chip.verify().is_exact
        for name, array in inputs.items():
            np.testing.assert_array_equal(chip.vectors[name], array)


class Partly(nn.Module):
    """Integers, a function that no integer op computes, and integers again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.cumsum(self.first(x), -1))


def test_what_stays_float_is_an_input_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(16, 8)
    sim = QuantizationSimModel(Partly().eval(), inputs[:1], config="integer_w8a8")
    sim.compute_encodings([inputs])
    chip = nn2chip(sim, tmp_path / "chip", inputs[:2], onnx=False)
    assert len(chip.graph.inputs) == 2
    assert chip.verify("torch").is_exact
    assert "float: cumsum of '" in str(chip)


@pytest.mark.skipif(not has_onnx, reason="needs onnx, onnxscript and onnxruntime")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_simulation_with_all_files(tmp_path: Path) -> None:
    sim, inputs = digits()
    chip = nn2chip(sim, tmp_path / "chip", inputs[:2], strict=True, onnx=True)
    assert {"model.onnx", "qdq/model.onnx", "weights.safetensors", "vectors.safetensors"} <= set(chip.manifest.files)
    assert chip.manifest.notes == ()
    assert chip.manifest.coverage is not None
    assert chip.manifest.coverage.integer == chip.manifest.coverage.total
    for executor in ("numpy", "torch", "onnxruntime"):
        assert chip.verify(executor).is_exact
    weights = load_file(chip.path / "weights.safetensors")
    assert {array.dtype.name for name, array in weights.items() if name.endswith(".weight")} == {"int8"}
    assert {array.dtype.name for name, array in weights.items() if name.endswith(".bias")} == {"int32"}

    from quantsim.integrations.onnxruntime import run_onnx

    [simulated] = run_onnx(chip.path / "qdq" / "model.onnx", inputs[:2]).values()
    codes = chip.vectors[chip.manifest.outputs[0]]
    grid = chip.graph.values[chip.manifest.outputs[0]].grid
    assert grid is not None
    assert np.abs((codes.astype(np.float64) - grid.zero_point) * grid.scale - simulated).max() <= 2.01 * grid.scale


def test_the_onnx_file_itself_is_verified(block: IntegerGraph, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    x = {"image": np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6)).astype(np.uint8)}
    chip = nn2chip(block, tmp_path / "chip", x, onnx=True)
    assert chip.verify("onnxruntime").is_exact
    path = chip.path / "model.onnx"
    model = onnx.load(path)
    bias = next(each for each in model.graph.initializer if onnx.numpy_helper.to_array(each).shape == (10,))
    wrong = onnx.numpy_helper.to_array(bias) + 900
    bias.CopyFrom(onnx.numpy_helper.from_array(wrong.astype(wrong.dtype), bias.name))
    onnx.save(model, path)
    assert [each.node for each in chip.verify("onnxruntime").differences] == ["head"]


def test_files_are_chosen(block: IntegerGraph, tmp_path: Path) -> None:
    x = {"image": np.zeros((1, 4, 6, 6), np.uint8)}
    for formats, suffixes in ((("hex",), {".hex"}), ("bin", {".bin"}), ((), set())):
        chip = nn2chip(block, tmp_path / "chip", x, formats=formats, onnx=False, overwrite=True)
        assert {Path(name).suffix for name in chip.manifest.files} == {".safetensors", *suffixes}
    with pytest.raises(ConfigurationError, match=r"nn2chip\(formats\): got 'coe'; expected of bin, decimal, hex"):
        nn2chip(block, tmp_path / "other", x, formats=("coe",))


def test_what_cannot_be_written_is_noted_or_refused(
    block: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = {"image": np.zeros((1, 4, 6, 6), np.uint8)}
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    chip = nn2chip(block, tmp_path / "chip", x)
    assert "model.onnx was left out: nn2chip(onnx): onnx is not installed" in chip.manifest.notes[0]
    assert "note: model.onnx was left out" in str(chip)
    with pytest.raises(ConfigurationError, match="onnx is not installed"):
        nn2chip(block, tmp_path / "other", x, onnx=True)
    assert not (tmp_path / "other").exists()


def test_what_is_written_is_what_was_computed(
    block: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantsim.export.chip import writer

    x = {"image": np.full((1, 4, 6, 6), 9, np.uint8)}
    true = writer.stored_constant

    def rounded_to_nothing(array: np.ndarray) -> np.ndarray:
        return np.zeros_like(true(array)) if array.dtype == np.int8 else true(array)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "stored_constant", rounded_to_nothing)
        with pytest.raises(ConfigurationError, match="other integers than the tensors"):
            nn2chip(block, tmp_path / "chip", x, onnx=False)
        with pytest.raises(ConfigurationError, match=r"not what was computed[^']*'numpy'[^']*'block\.conv'"):
            nn2chip(block, tmp_path / "chip", x, formats=(), onnx=False)
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[2])
from integer_graph_cases import CASES
from quantsim.errors import ConfigurationError
from quantsim.export import load_chip, nn2chip

GRAPH = CASES["residual block"]()


def export(target, fill, last_step):
    # In a process of its own, which is killed when it has written so many files, or renamed a folder.
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        steps = 0

        def count(event, arguments):
            nonlocal steps
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (writes or event == "os.rename") and str(target.parent) in str(arguments[0]):
                steps += 1
                if steps > last_step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        image = np.full((2, 4, 6, 6), fill, np.uint8)
        nn2chip(GRAPH, target, {"image": image}, formats=("hex",), onnx=False, overwrite=True)
        os.write(sender, str(steps).encode())
        os._exit(0)
    os.close(sender)
    _, status = os.waitpid(child, 0)
    with os.fdopen(receiver) as pipe:
        text = pipe.read()
    assert os.WIFEXITED(status) == bool(text), status
    return int(text) if text else None


def state(folder):
    try:
        return int(load_chip(folder).vectors["image"].flat[0])
    except ConfigurationError as error:
        return "nothing" if "no such folder" in str(error) or "no finished export" in str(error) else str(error)


parent = Path(sys.argv[1])
steps = export(parent / "first", 1, 10**6)
places = [parent / f"new{step}" / "chip" for step in range(steps)]
new = [(export(place, 1, step), state(place)) for step, place in enumerate(places)]
staged = [state(path) for place in places for path in place.parent.glob(".chip*")]
old = [(export(parent / "first", 200, step), state(parent / "first")) for step in range(steps)]
between = (export(parent / "first", 200, steps), state(parent / "first"))
last = (export(parent / "first", 200, 10**6), state(parent / "first"))
print(steps, between, set(new), set(staged), set(old), last, sep="|")
"""


def test_a_killed_export_never_looks_whole(tmp_path: Path) -> None:
    cases = Path(__file__).parents[2] / "dualpath" / "executors"
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(cases)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=180, env=os.environ.copy())
    assert finished.returncode == 0, finished.stderr
    steps, between, new, staged, old, last = finished.stdout.strip().split("|")
    assert int(steps) > 20
    # The place is empty until all is there; what lies beside it is not finished, or was complete before its renaming.
    assert new == "{(None, 'nothing')}"
    assert ast.literal_eval(staged) == {"nothing", 1}
    # An earlier export stays until the new one is complete.
    assert old == "{(None, 1)}"
    assert between == "(None, 'nothing')"
    assert last == f"({steps}, 200)"


def test_an_empty_batch_has_no_vectors(block: IntegerGraph, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"got input 'image' of shape \(0, 4, 6, 6\); expected a batch of at"):
        nn2chip(block, tmp_path / "chip", [np.zeros((0, 4, 6, 6), np.uint8)])
    assert not list(tmp_path.iterdir())
