"""Thousands of broken encodings files are loaded into one live simulation: an ``EncodingsError`` or a clean load, and
never a half of one."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from quantsim.sim import QuantizationSimModel
from quantsim_encodings.errors import EncodingsError

VERSIONS = ("quantsim-1", "aimet-torch", "0.6.1", "1.0.0", "2.0.0", "2.1.0")

# What a broken writer, a hostile one, or a truncated disk puts where a number, a name or a list should be.
STRANGE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    -(2**63),
    10**400,
    0.0,
    -0.5,
    1e-320,
    1e39,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "int8",
    "NaN",
    "1e5",
    "PER_CHANNEL",
    "0.weight",
    "x" * 10_000,
    "\u0000",
    "\ud800",
    [],
    [[]],
    [1.0],
    [0.1, float("nan")],
    [1, [2, [3, [4]]]],
    {},
    {"min": 1},
    {"": {"": ""}},
)


@dataclass(frozen=True)
class Snapshot:
    """Everything about a simulation that a failed load must not change."""

    state: dict[str, Any]
    output: torch.Tensor
    encodings: str
    quantizers: tuple[int, ...]

    @classmethod
    def of(cls, sim: QuantizationSimModel, x: torch.Tensor) -> Snapshot:
        return cls(
            copy.deepcopy(dict(sim.model.state_dict())),
            run(sim, x),
            fingerprint(sim),
            tuple(id(module) for module in sim.model.modules()),
        )

    def differences(self, other: Snapshot) -> list[str]:
        found = list(self.state.keys() ^ other.state.keys())
        found += [
            name for name in self.state.keys() & other.state.keys() if not equal(self.state[name], other.state[name])
        ]
        if not torch.equal(self.output, other.output):
            found.append("output")
        if self.encodings != other.encodings:
            found.append("encodings")
        if self.quantizers != other.quantizers:
            found.append("modules")
        return found


@dataclass(frozen=True)
class Live:
    """A calibrated simulation and its files in every version."""

    sim: QuantizationSimModel
    x: torch.Tensor
    files: dict[str, bytes]
    path: Path
    output: torch.Tensor

    def snapshot(self) -> Snapshot:
        return Snapshot.of(self.sim, self.x)

    def restore(self) -> None:
        self.sim.load_encodings(self.write(self.files["quantsim-1"]))
        assert torch.equal(run(self.sim, self.x), self.output), "quantsim's own file does not bring the output back"

    def write(self, content: bytes) -> Path:
        self.path.write_bytes(content)
        return self.path


def equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def run(sim: QuantizationSimModel, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return sim.model(x)


def fingerprint(sim: QuantizationSimModel) -> str:
    """Every quantizer's settings and encoding, in words."""
    return "\n".join(
        f"{name}: {quantizer!r} {quantizer.is_initialized()} {quantizer.is_frozen} {quantizer.get_encodings()!r}"
        for name, quantizer in sim.quantizers()
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    folder = tmp_path_factory.mktemp("fuzz")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 4, generator=generator)
    torch.manual_seed(0)
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), x, config="w8a8")
    with torch.no_grad(), sim.compute_encodings():
        sim.model(x)
    files: dict[str, bytes] = {}
    for version in VERSIONS:
        sim.save_encodings(folder / f"{version}.json", version=version)
        files[version] = (folder / f"{version}.json").read_bytes()
    return Live(sim, x, files, folder / "mutated.json", run(sim, x))


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    found = [path] if path else []
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            found += places(value, (*path, index))
    return found


def mutate_structure(document: Any, draw: st.DrawFn) -> None:
    """Change one place: another value, removed, repeated, renamed, or swapped with another place's value."""
    everywhere = places(document)
    path = draw(st.sampled_from(everywhere))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    last = path[-1]
    match draw(st.sampled_from(("replace", "remove", "repeat", "rename", "swap", "wrap"))):
        case "replace":
            parent[last] = copy.deepcopy(draw(st.sampled_from(STRANGE_VALUES)))
        case "remove":
            del parent[last]
        case "repeat" if isinstance(parent, list):
            parent.insert(last, copy.deepcopy(parent[last]))
        case "rename" if isinstance(parent, dict):
            parent[draw(st.sampled_from(("", "scale", "min", "offset", "version", "0.weight", "output", "1")))] = (
                parent.pop(last)
            )
        case "swap":
            other = draw(st.sampled_from(everywhere))
            donor = document
            for step in other:
                donor = donor[step]
            parent[last] = copy.deepcopy(donor)
        case _:
            parent[last] = [parent[last]]


@st.composite
def broken_content(draw: st.DrawFn, files: dict[str, bytes]) -> bytes:
    """One version's file with up to three changes to its structure, and perhaps to its bytes."""
    content = files[draw(st.sampled_from(VERSIONS))]
    if draw(st.integers(0, 3)):
        document = json.loads(content)
        for _ in range(draw(st.integers(1, 3))):
            if isinstance(document, (dict, list)) and document:
                mutate_structure(document, draw)
        content = json.dumps(document).encode("utf-8", "surrogatepass")
        if draw(st.integers(0, 4)):
            return content
    match draw(st.sampled_from(("truncate", "delete", "insert", "overwrite", "double", "nest"))):
        case "truncate":
            return content[: draw(st.integers(0, len(content)))]
        case "delete":
            start = draw(st.integers(0, len(content)))
            return content[:start] + content[start + draw(st.integers(1, 40)) :]
        case "insert":
            start = draw(st.integers(0, len(content)))
            return content[:start] + draw(st.binary(min_size=1, max_size=12)) + content[start:]
        case "overwrite":
            start = draw(st.integers(0, len(content)))
            added = draw(
                st.sampled_from(
                    (b"NaN", b"-", b"1e999", b"{", b"}", b"[", b'"', b",", b"\xff\xfe", b"\x00", b"e", b"9" * 400)
                )
            )
            return content[:start] + added + content[start + len(added) :]
        case "double":
            return content + content
        case _:
            depth = draw(st.sampled_from((5, 200, 100_000)))
            return b"[" * depth + content + b"]" * depth


def check(live: Live, content: bytes) -> bool:
    """Load one file; True if it loaded. Anything but a clean load or an ``EncodingsError`` that changed nothing
    fails."""
    path = live.write(content)
    before = live.snapshot()
    try:
        live.sim.load_encodings(path)
    except EncodingsError as error:
        assert error.problems, f"an EncodingsError without a list of problems: {error}"
        assert str(error).strip()
        assert before.differences(live.snapshot()) == [], f"the simulation changed though loading failed: {error}"
        return False
    output = run(live.sim, live.x)
    assert torch.isfinite(output).all(), "a file was accepted that makes the output non-finite"
    live.restore()
    return True


def fuzz(live: Live, examples: int) -> None:
    loaded = 0

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=broken_content(live.files))
    def attempt(content: bytes) -> None:
        nonlocal loaded
        loaded += check(live, content)

    attempt()
    # Most mutations must be refused: were they all accepted, nothing would be checked.
    assert loaded < examples / 2


@pytest.mark.parametrize("version", VERSIONS)
def test_the_unbroken_files_load(live: Live, version: str) -> None:
    live.sim.load_encodings(live.write(live.files[version]))
    torch.testing.assert_close(run(live.sim, live.x), live.output, rtol=0, atol=1e-6)
    live.restore()


def test_broken_files_raise_encodings_errors_and_change_nothing(live: Live) -> None:
    fuzz(live, 300)


@pytest.mark.slow
def test_ten_thousand_broken_files(live: Live) -> None:
    fuzz(live, 10_000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"{}",
        b"1e999",
        b"\xff\xff",
        b'{"version":',
        b'{"version": "9.9"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
    ],
    ids=lambda content: repr(content[:16]),
)
def test_files_that_are_no_encodings(live: Live, content: bytes) -> None:
    before = live.snapshot()
    with pytest.raises(EncodingsError):
        live.sim.load_encodings(live.write(content))
    assert before.differences(live.snapshot()) == []


def test_a_file_of_a_gigabyte_is_refused_unread(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # sparse: takes no disk
    before = live.snapshot()
    with pytest.raises(EncodingsError, match=r"(?i)byte|size|large"):
        live.sim.load_encodings(path)
    assert before.differences(live.snapshot()) == []


def test_a_folder_or_a_missing_file_is_no_traceback_of_the_parser(live: Live, tmp_path: Path) -> None:
    before = live.snapshot()
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises((EncodingsError, OSError)) as caught:
            live.sim.load_encodings(path)
        assert str(path) in str(caught.value)
    assert before.differences(live.snapshot()) == []
