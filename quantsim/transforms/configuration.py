"""Reading a pass's arguments from a YAML or JSON file."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from quantsim.errors import ConfigurationError

__all__ = ["load_transform_config"]

MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024

_SUFFIXES: Final = (".json", ".yaml", ".yml")


class _NoDuplicates(yaml.SafeLoader):
    """Refuses a key that occurs twice: YAML would take the last, while the first of two patterns is meant to win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        _require_distinct(keys)
        return super().construct_mapping(node, deep)


def load_transform_config(path: str | Path) -> dict[str, Any]:
    r"""Reads the arguments of a pass from a JSON (``.json``) or YAML (``.yaml``, ``.yml``) file.

    What is in it is checked by the pass: ``by``, keys for paths and ``default`` (`quantsim.transforms.PassArguments`),
    or, for the optical pass, ``attn`` and ``fc`` (`quantsim.transforms.LayerKindArguments`).

    Args:
        path: The file.

    Raises:
        ConfigurationError: No such file, not readable as its type, a key that occurs twice, or no mapping.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "pass.yaml").write_text("by: name\nfc: {exp_bits: 5, sig_bits: 10}\n")
        >>> load_transform_config(folder / "pass.yaml")
        {'by': 'name', 'fc': {'exp_bits': 5, 'sig_bits': 10}}
        >>> _ = (folder / "optical.yaml").write_text(
        ...     "attn: {q_levels: 256, q_quantiles: null}\nfc: {q_levels: 256}\n"
        ... )
        >>> load_transform_config(folder / "optical.yaml")
        {'attn': {'q_levels': 256, 'q_quantiles': None}, 'fc': {'q_levels': 256}}
    """
    path = Path(path)
    fix = "give a .json, .yaml or .yml file that holds one mapping"
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(
            "not the name of a configuration", where="config", got=str(path), expected=" or ".join(_SUFFIXES), fix=fix
        )
    if not path.is_file():
        raise ConfigurationError("no such file", where="config", got=str(path), expected="a readable file", fix=fix)
    if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
        raise ConfigurationError(
            "the file is too large", where=str(path), got=f"{size} bytes", expected=f"<= {MAX_CONFIG_BYTES}", fix=fix
        )
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            values = json.loads(text, object_pairs_hook=_distinct_pairs)
        else:
            values = yaml.load(text, Loader=_NoDuplicates)
    except (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            "the file cannot be read", where=str(path), got=reason, expected="valid JSON or YAML", fix=fix
        ) from None
    if not isinstance(values, dict):
        got = type(values).__name__
        raise ConfigurationError(
            "the file holds no configuration", where=str(path), got=got, expected="one mapping", fix=fix
        )
    return values


def _distinct_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_distinct([key for key, _ in pairs])
    return dict(pairs)


def _require_distinct(keys: list[Any]) -> None:
    twice = sorted({str(key) for index, key in enumerate(keys) if key in keys[:index]})
    if twice:
        raise ValueError(f"the key {', '.join(map(repr, twice))} occurs twice; the first pattern that matches wins")
