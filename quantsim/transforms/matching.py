"""Which modules of a model a pass replaces, and with which parameters: by name, by regular expression, or by default.

The rule is the same for all passes. ``pass_args["by"]`` says how the other keys are read: ``"name"`` (a module's path,
exactly) or ``"regex_name"`` (a regular expression that its whole path must match). The first key that matches wins,
then ``"default"``; a module that neither is for is left alone. A key whose value is None leaves its modules alone too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.sim.slots import nearest_names, shown

__all__ = ["DEFAULT", "MatchBy", "ModuleMatch", "PassArguments", "match_modules", "output_head_paths"]

DEFAULT: Final = "default"
"""Key of the parameters for modules that no other key matches."""

_BY: Final = "by"

Parameters = TypeVar("Parameters", bound=BaseModel)


class MatchBy(StrEnum):
    """How keys are compared with the paths of modules."""

    NAME = "name"
    """The key is the path."""
    REGEX_NAME = "regex_name"
    """The key is a regular expression that the whole path matches."""


@dataclass(frozen=True)
class PassArguments(Generic[Parameters]):
    """Checked arguments of a pass.

    Attributes:
        by: How keys are read.
        patterns: Parameters by key, in the caller's order; None leaves the modules alone.
        default: Parameters of modules that no key matches; None leaves them alone.

    Example:
        >>> class Width(BaseModel):
        ...     bits: int = 8
        >>> arguments = PassArguments.parse({"by": "name", "fc": {"bits": 4}, "default": {}}, Width)
        >>> arguments.patterns["fc"].bits, arguments.default.bits
        (4, 8)
    """

    by: MatchBy
    patterns: Mapping[str, Parameters | None] = field(default_factory=dict)
    default: Parameters | None = None

    @classmethod
    def parse(cls, pass_args: Mapping[str, Any], parameters: type[Parameters], *, where: str = "pass_args") -> Self:
        """Checks a pass's arguments, which are not changed.

        Args:
            pass_args: ``by``, keys for modules, ``default``; the value of each key but ``by`` is a mapping of
                parameters or None.
            parameters: Model of the parameters.
            where: What errors call the arguments.

        Raises:
            ConfigurationError: ``by`` is missing or unknown, a key is no regular expression, parameters are unknown or
                wrong, or nothing is asked for.
        """
        if not isinstance(pass_args, Mapping):
            got = f"{type(pass_args).__name__}: {pass_args!r}"
            raise ConfigurationError(where=where, got=got, expected="a mapping", fix=_example(parameters))
        if pass_args.get(_BY) not in list(MatchBy):
            raise ConfigurationError(
                "how are the keys to be read?",
                where=f"{where}['by']",
                got=repr(pass_args[_BY]) if _BY in pass_args else "no key 'by'",
                expected="'name' or 'regex_name'",
                fix=_example(parameters),
            )
        by = MatchBy(pass_args[_BY])
        values: dict[str, Parameters | None] = {}
        for key, value in pass_args.items():
            if key == _BY:
                continue
            if not isinstance(key, str):
                raise ConfigurationError(
                    where=where, got=f"the key {key!r}", expected="text", fix=f"quote it: {str(key)!r}"
                )
            if by is MatchBy.REGEX_NAME and key != DEFAULT:
                _require_regular_expression(key, where)
            values[key] = _parameters(value, parameters, f"{where}[{key!r}]")
        default = values.pop(DEFAULT, None)
        if default is None and not any(value is not None for value in values.values()):
            raise ConfigurationError(
                "no module is asked for",
                where=where,
                got=f"the keys {', '.join(map(repr, pass_args))}",
                expected="at least one key with parameters: a name, a regular expression or 'default'",
                fix=_example(parameters),
            )
        return cls(by, values, default)

    def key_of(self, path: str) -> str | None:
        """The first key that matches a path; None if none does."""
        return next((key for key in self.patterns if self._matches(key, path)), None)

    def _matches(self, key: str, path: str) -> bool:
        return key == path if self.by is MatchBy.NAME else re.fullmatch(key, path) is not None


@dataclass(frozen=True)
class ModuleMatch(Generic[Parameters]):
    """A module that is to be replaced.

    Attributes:
        path: Where it is; of a module that is used in several places, the first.
        module: The module.
        key: The key that matched, or ``"default"``.
        parameters: What the key asks for.
        aliases: Its other places.
    """

    path: str
    module: nn.Module
    key: str
    parameters: Parameters
    aliases: tuple[str, ...] = ()


def match_modules(
    network: nn.Module,
    candidates: Mapping[str, nn.Module],
    arguments: PassArguments[Parameters],
    *,
    where: str = "pass_args",
) -> list[ModuleMatch[Parameters]]:
    """Says for each module that a pass can replace whether, and with which parameters.

    A module that is used in several places is one module: it matches if one of its paths does. The output head of a
    language model (``lm_head``) is left out under ``default``: it has to be matched by a key.

    Args:
        network: The model.
        candidates: What the pass can replace, by path; the path of the model itself is ``""``.
        arguments: Checked arguments.
        where: What errors call the arguments.

    Returns:
        The modules to be replaced, in the order of the candidates.

    Raises:
        ConfigurationError: A key matches none of the candidates, or there is nothing to which ``default`` could apply;
            says which names are near.

    Example:
        >>> class Width(BaseModel):
        ...     bits: int = 8
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> linears = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
        >>> arguments = PassArguments.parse({"by": "regex_name", "[01]": {"bits": 4}, "default": {}}, Width)
        >>> [(match.path, match.key) for match in match_modules(model, linears, arguments)]
        [('0', '[01]'), ('2', 'default')]
    """
    paths = _all_paths(network, candidates)
    heads = output_head_paths(network, [path for found in paths.values() for path in found])
    unused = dict.fromkeys(arguments.patterns)
    matches: list[ModuleMatch[Parameters]] = []
    for path, module in candidates.items():
        own = paths[id(module)]
        for key in list(unused):
            if any(arguments._matches(key, name) for name in own):
                del unused[key]
        key = next((key for key in arguments.patterns if any(arguments._matches(key, name) for name in own)), None)
        if key is not None:
            parameters = arguments.patterns[key]
        else:
            key = DEFAULT
            parameters = None if heads.intersection(own) else arguments.default
        if parameters is not None:
            aliases = tuple(name for name in own if name != path)
            matches.append(ModuleMatch(path, module, key, parameters, aliases))
    if unused:
        raise _unmatched(next(iter(unused)), network, candidates, arguments, where)
    if not matches and arguments.default is not None and not arguments.patterns:
        raise ConfigurationError(
            "the model has no module that this pass could replace",
            where=f"{where}['default']",
            got=f"{type(network).__name__} with {sum(1 for _ in network.modules())} modules",
            expected="at least one that is no output head"
            if heads
            else "at least one of a class that there is a replacement for",
            fix=f"name the head by a key: {sorted(heads)[0]!r}" if heads else "see the pass's documentation",
        )
    return matches


def output_head_paths(network: nn.Module, paths: Iterable[str]) -> frozenset[str]:
    """Those paths that lead to the output head of a language model: ``lm_head``, or what the model says it is.

    Args:
        network: The model; one of transformers has ``get_output_embeddings``.
        paths: Paths of modules.

    Example:
        >>> sorted(output_head_paths(nn.Module(), ["lm_head", "model.fc", "lm_head.dense"]))
        ['lm_head', 'lm_head.dense']
    """
    head = None
    try:
        get_output_embeddings: Any = getattr(network, "get_output_embeddings", None)
        head = get_output_embeddings() if callable(get_output_embeddings) else None
    except (AttributeError, NotImplementedError):  # a model of transformers without one may say so by raising
        head = None
    found = {path for path in paths if "lm_head" in path.split(".")}
    if isinstance(head, nn.Module):
        found.update(path for path, module in network.named_modules(remove_duplicate=False) if module is head)
    return frozenset(found)


def _all_paths(network: nn.Module, candidates: Mapping[str, nn.Module]) -> dict[int, tuple[str, ...]]:
    wanted = {id(module) for module in candidates.values()}
    found: dict[int, list[str]] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        if id(module) in wanted:
            found.setdefault(id(module), []).append(path)
    return {number: tuple(paths) for number, paths in found.items()}


def _unmatched(
    key: str,
    network: nn.Module,
    candidates: Mapping[str, nn.Module],
    arguments: PassArguments[Any],
    where: str,
) -> ConfigurationError:
    modules = dict(network.named_modules(remove_duplicate=False))
    others = [path for path in modules if arguments._matches(key, path)]
    names = [path for path in candidates if path]
    if others:
        kinds = sorted({type(modules[path]).__name__ for path in others})
        below = [name for name in names if any(path == "" or name.startswith(f"{path}.") for path in others)]
        fix = (
            f"match what is below, such as {shown([repr(name) for name in below], limit=3)}"
            if below
            else "take the key away"
        )
        if below and arguments.by is MatchBy.NAME:
            fix += f"; or use by='regex_name' with {re.escape(others[0]) + '[.].*'!r}"
        return ConfigurationError(
            "the key matches only modules that this pass does not replace",
            where=f"{where}[{key!r}]",
            got=f"{shown([repr(path) for path in others], limit=3)} ({', '.join(kinds[:5])})",
            expected=f"a key that matches at least one of the {len(candidates)} modules it can replace",
            fix=fix,
        )
    text = key if arguments.by is MatchBy.NAME else re.sub(r"\\(.)|[()\[\]^$*+?|]", r"\1", key)
    near = nearest_names(text, names) or [name for name in names if text.strip(".") and text.strip(".") in name][:3]
    by_expression = arguments.by is MatchBy.NAME and any(character in key for character in "*+[(|\\")
    hint = "; the key looks like a regular expression, which by='regex_name' reads" if by_expression else ""
    return ConfigurationError(
        "the key matches no module of the model",
        where=f"{where}[{key!r}]",
        got=f"by={arguments.by.value!r}, {key!r}",
        expected=f"a key that matches at least one of {len(modules)} modules",
        fix=(f"did you mean {' or '.join(map(repr, near))}?" if near else "list the paths with model.named_modules()")
        + hint,
    )


def _require_regular_expression(key: str, where: str) -> None:
    try:
        re.compile(key)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigurationError(
            "the key is no regular expression",
            where=f"{where}[{key!r}]",
            got=str(error),
            expected="a regular expression of Python's re module",
            fix="use by='name' for plain names; for shell wildcards write '.*' instead of '*'",
        ) from None


def _parameters(value: Any, parameters: type[Parameters], where: str) -> Parameters | None:
    if value is None or isinstance(value, parameters):
        return value
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            where=where, got=f"{type(value).__name__}: {value!r}", expected="a mapping of parameters, or null (None)"
        )
    try:
        return parameters.model_validate(dict(value))
    except ValidationError as error:
        items = error.errors(include_url=False)
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or '(whole)'}: {item['msg'].removeprefix('Value error, ')}"
            for item in items
        )
        unknown = [str(item["loc"][0]) for item in items if item["type"] == "extra_forbidden"]
        near = [name for key in unknown for name in nearest_names(key, parameters.model_fields, 1)]
        raise ConfigurationError(
            "the parameters are not valid",
            where=where,
            got=f"{len(items)} wrong: {problems}",
            expected=f"parameters among {', '.join(parameters.model_fields)}",
            fix=f"did you mean {' and '.join(map(repr, near))}?" if near else "correct those named above",
        ) from None


def _example(parameters: type[BaseModel]) -> str:
    name = next(iter(parameters.model_fields), "")
    return f"for example {{'by': 'regex_name', 'default': {{{name!r}: ...}}}}"
