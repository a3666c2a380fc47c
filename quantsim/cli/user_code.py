"""Functions that a command line names as ``package.module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from quantsim.cli.outcome import CommandError, first_line

__all__ = ["FACTORY_FORM", "USERS_ERRORS", "call_factory", "find_function", "name_and_message"]

USERS_ERRORS: Final = (Exception, SystemExit)
"""What code of the user's may raise; a script without ``if __name__ == "__main__"`` may well end the process."""

FACTORY_FORM: Final = "'package.module:function' or 'path/to/file.py:function'"

_IMPORTED: dict[Path, ModuleType] = {}


def call_factory(source: str, what: str) -> Any:
    """Imports and calls the user's function, without arguments.

    Args:
        source: Where it is.
        what: What errors call it.

    Raises:
        CommandError: There is no such function, or it fails: whatever it raises becomes a message.

    Example:
        >>> call_factory("builtins:dict", "--data")
        {}
    """
    function = find_function(source, what)
    try:
        return function()
    except USERS_ERRORS as error:
        raise CommandError(f"{what} {source}: the function failed: {name_and_message(error)}") from error


def find_function(source: str, what: str) -> Callable[..., Any]:
    """Imports the user's function.

    Args:
        source: Where it is.
        what: What errors call it.

    Raises:
        CommandError: There is no such function, or its module cannot be imported.

    Example:
        >>> find_function("math:sqrt", "--metric")(9.0)
        3.0
    """
    target, separator, name = source.rpartition(":")
    if not separator or not target or not name.isidentifier():
        if source.endswith(".py") and Path(source).is_file():
            raise CommandError(f"{what} {source}: which function of the file? Expected {source}:function")
        looks_like_path = "/" in source or Path(source).suffix in _SUFFIXES
        kind = "no such file or folder" if looks_like_path else "not understood"
        raise CommandError(f"{what} {source}: {kind}; expected an existing path, or code as {FACTORY_FORM}")
    try:
        module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target)
    except CommandError:
        raise
    except USERS_ERRORS as error:
        raise CommandError(f"{what} {source}: importing it failed: {name_and_message(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise CommandError(
            f"{what} {source}: there is no function {name!r}; the module has {', '.join(sorted(known)[:10]) or 'none'}"
        )
    return function


_SUFFIXES: Final = {".txt", ".py", ".csv", ".tsv", ".json", ".jsonl", ".npz", ".npy"}


def name_and_message(error: BaseException) -> str:
    """An error's class and the first line of what it says.

    Example:
        >>> name_and_message(ValueError("wrong shape"))
        'ValueError: wrong shape'
    """
    return f"{type(error).__name__}: {first_line(error)}"


def _import_module(name: str) -> Any:
    # As `python -m` does: code beside the user comes first.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise CommandError(f"{path}: no such file; expected {FACTORY_FORM}")
    path = path.resolve()
    if (present := _IMPORTED.get(path)) is not None:  # MODEL and --data are often functions of one file
        return present
    # As `python path` does: what lies beside the file can be imported.
    if (beside := str(path.parent)) not in sys.path:
        sys.path.insert(0, beside)
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_{len(_IMPORTED)}_of_command_line"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _IMPORTED[path] = module
    return module
