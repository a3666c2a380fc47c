"""Where files lie, what they are called, how long they are."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "quantsim": ROOT / "quantsim",
    "quantsim_kernels": ROOT / "kernels" / "quantsim_kernels",
    "quantsim_encodings": ROOT / "encodings" / "quantsim_encodings",
}
LONGEST_FILE = 500
# Tests that hold a whole folder against material from outside mirror no single file of it.
WHOLE_FOLDER_TESTS = {"package", "fuzz", "aimet_vectors"}
VAGUE_NAMES = {"util", "utils", "utilities", "helper", "helpers", "common", "misc", "tools", "stuff", "base_utils"}
WHAT_ENCODINGS_MAY_USE = {"pydantic", "pydantic_core", "numpy", "quantsim_encodings"}


# Stands in for the torchvision package in the interop oracle's environment, so its names are not ours to choose.
NOT_OURS = ROOT / "tests" / "interop" / "torchvision_stub"


def python_files(folder: Path) -> Iterator[Path]:
    """Python sources below `folder`, in a fixed order."""
    files = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    yield from (path for path in files if NOT_OURS not in path.parents)


def relative(path: Path) -> str:
    """`path` as seen from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


SOURCES = [path for folder in PACKAGES.values() for path in python_files(folder)]
ALL_FILES = [*SOURCES, *python_files(ROOT / "tests"), *python_files(ROOT / "docs"), *python_files(ROOT / "notebooks")]


def test_the_three_packages_are_there() -> None:
    for name, folder in PACKAGES.items():
        assert (folder / "__init__.py").is_file(), f"{name} has no __init__.py in {relative(folder)}"


@pytest.mark.parametrize("folder", ["encodings", "kernels"])
def test_outer_folders_are_no_packages(folder: str) -> None:
    # encodings/__init__.py would shadow the standard library's `encodings`, and Python would not start.
    assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / folder).glob("*.py")), f"{folder}/ holds Python files beside its package"


@pytest.mark.parametrize("folder", ["encodings", "kernels"])
def test_no_tests_beside_the_sources(folder: str) -> None:
    assert not list((ROOT / folder).rglob("test_*.py"))


def test_test_folders_are_no_packages() -> None:
    assert [relative(path) for path in python_files(ROOT / "tests") if path.name == "__init__.py"] == []


def test_no_file_is_too_long() -> None:
    long = {relative(path): n for path in ALL_FILES if (n := path.read_text().count("\n")) > LONGEST_FILE}
    assert long == {}, f"files over {LONGEST_FILE} lines; split them by idea"


def test_names_say_something() -> None:
    vague = [
        relative(path)
        for path in ALL_FILES
        if VAGUE_NAMES & {part.removesuffix(".py").strip("_") for part in path.relative_to(ROOT).parts}
    ]
    assert vague == []


def _only_re_exports(statement: ast.stmt) -> bool:
    """Docstrings, imports, `__all__`/`__version__`, a lazy `__getattr__`/`__dir__`, and `if TYPE_CHECKING:` imports."""
    match statement:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case (
            ast.Assign(targets=[ast.Name(id=name)])
            | ast.AnnAssign(target=ast.Name(id=name))
            | ast.AugAssign(target=ast.Name(id=name))
        ):
            # Lazily re-exported names may be listed in a table, and the table's name must not be exported itself.
            return name in {"__all__", "__version__"} or name.startswith("_")
        case ast.FunctionDef(name=name):
            return name in {"__getattr__", "__dir__"}
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=[]):
            return all(isinstance(inner, ast.Import | ast.ImportFrom | ast.AnnAssign) for inner in body)
        case _:
            return False


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=relative)
def test_package_files_only_re_export(path: Path) -> None:
    tree = ast.parse(path.read_text())
    other = [f"line {s.lineno}: {ast.unparse(s)[:80]}" for s in tree.body if not _only_re_exports(s)]
    assert other == []
    imports = [s for s in tree.body if isinstance(s, ast.ImportFrom) and s.module != "__future__"]
    names = {
        target.id
        for s in tree.body
        if isinstance(s, ast.Assign)
        for target in s.targets
        if isinstance(target, ast.Name)
    }
    assert not imports or "__all__" in names, f"{relative(path)} re-exports names without saying which in __all__"


def test_encodings_use_only_the_standard_library_numpy_and_pydantic() -> None:
    allowed = WHAT_ENCODINGS_MAY_USE | set(sys.stdlib_module_names)
    foreign = set()
    for path in python_files(PACKAGES["quantsim_encodings"]):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            foreign |= {(relative(path), name) for name in names if name.split(".")[0] not in allowed}
    assert foreign == set()


def test_all_files_postpone_annotations() -> None:
    def has_code(tree: ast.Module) -> bool:
        return any(not isinstance(node, ast.Expr) for node in tree.body)

    missing = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        if has_code(tree) and path.name != "__init__.py" and not futures:
            missing.append(relative(path))
    assert missing == []


# --- tests mirror sources --------------------------------------------------------------------------------------------
def _source_stems(folder: Path) -> set[str]:
    """Names a test beside `folder`'s mirror may carry: its modules, its sub-packages, and its own name."""
    modules = {path.stem for path in folder.glob("*.py") if path.name != "__init__.py"}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")} | {folder.name} | WHOLE_FOLDER_TESTS
    # test_x.py and test__x.py both mirror a private _x.py.
    return {name for stem in modules | packages for name in (stem, stem.lstrip("_"))}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_tests_mirror_sources(package: str) -> None:
    """tests/<package>/<path>/test_<file>.py, or test_<file>_<aspect>.py where one file of tests would grow too long."""
    orphans = []
    for test in python_files(ROOT / "tests" / package):
        if not test.name.startswith("test_"):
            continue
        folder = PACKAGES[package] / test.parent.relative_to(ROOT / "tests" / package)
        stem = test.stem.removeprefix("test_")
        stems = _source_stems(folder) if folder.is_dir() else set()
        if not any(stem == source or stem.startswith(f"{source}_") for source in stems):
            orphans.append(relative(test))
    assert orphans == [], "these tests mirror no source file"


def _imported_by_tests() -> set[str]:
    """Dotted names of all modules, and of all names in them, that any test imports."""
    names: set[str] = set()
    for test in python_files(ROOT / "tests"):
        for node in ast.walk(ast.parse(test.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_public_source_has_its_test(package: str) -> None:
    """A test file of its own, or, for the smaller ones, a test that imports it by name."""
    imported = _imported_by_tests()
    untested = []
    for source in python_files(PACKAGES[package]):
        if source.name == "__init__.py" or source.stem.startswith("_"):
            continue
        inner = source.relative_to(PACKAGES[package])
        folder = ROOT / "tests" / package / inner.parent
        own = [*folder.glob(f"test_{source.stem}.py"), *folder.glob(f"test_{source.stem}_*.py")]
        if not own and ".".join((package, *inner.with_suffix("").parts)) not in imported:
            untested.append(relative(source))
    assert untested == [], "no test names these sources"
