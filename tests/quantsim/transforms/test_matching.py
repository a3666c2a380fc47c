from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.transforms.matching import MatchBy, PassArguments, match_modules, output_head_paths


class Width(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bits: int = 8
    bypass: bool = False


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"query": nn.Linear(2, 2), "key": nn.Linear(2, 2)})
        self.mlp = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(2, 2)


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}


def matched(model: nn.Module, pass_args: dict[str, Any]) -> dict[str, tuple[str, int]]:
    arguments = PassArguments.parse(pass_args, Width)
    return {item.path: (item.key, item.parameters.bits) for item in match_modules(model, linears(model), arguments)}


def test_by_name_a_key_is_the_whole_path() -> None:
    found = matched(Model(), {"by": "name", "layers.0.mlp.0": {"bits": 4}, "layers.1.attention.key": {}})
    assert found == {"layers.0.mlp.0": ("layers.0.mlp.0", 4), "layers.1.attention.key": ("layers.1.attention.key", 8)}


def test_a_dot_in_a_name_is_a_dot() -> None:
    model = nn.ModuleDict({"aXb": nn.Linear(1, 1), "a": nn.ModuleDict({"b": nn.Linear(1, 1)})})
    assert list(matched(model, {"by": "name", "a.b": {}})) == ["a.b"]
    assert list(matched(model, {"by": "regex_name", "a.b": {}})) == ["aXb", "a.b"]


def test_a_regular_expression_must_match_the_whole_path() -> None:
    model = Model()
    assert len(matched(model, {"by": "regex_name", ".*mlp.*": {}})) == 4
    with pytest.raises(ConfigurationError, match="matches no module"):
        matched(model, {"by": "regex_name", "query": {}})


def test_the_first_key_wins_then_the_default() -> None:
    keys = {r"layers\.0\..*": {"bits": 2}, r".*\.mlp\..*": {"bits": 3}}
    found = matched(Model(), {"by": "regex_name", **keys, "default": {"bits": 4}})
    assert {path: bits for path, (_, bits) in found.items()} == {
        "layers.0.attention.query": 2,
        "layers.0.attention.key": 2,
        "layers.0.mlp.0": 2,
        "layers.0.mlp.2": 2,
        "layers.1.mlp.0": 3,
        "layers.1.mlp.2": 3,
        "layers.1.attention.query": 4,
        "layers.1.attention.key": 4,
    }
    reverse = matched(Model(), {"by": "regex_name", **dict(reversed(keys.items()))})
    assert reverse["layers.0.mlp.0"][1] == 3


def test_without_default_the_others_are_left_alone_and_none_leaves_alone() -> None:
    assert list(matched(Model(), {"by": "name", "lm_head": {}})) == ["lm_head"]
    found = matched(Model(), {"by": "regex_name", ".*mlp.*": None, "default": {}})
    assert sorted(found) == [f"layers.{i}.attention.{name}" for i in (0, 1) for name in ("key", "query")]


def test_the_output_head_is_left_out_by_default_unless_named() -> None:
    assert "lm_head" not in matched(Model(), {"by": "name", "default": {}})
    assert matched(Model(), {"by": "name", "lm_head": {}, "default": {}})["lm_head"] == ("lm_head", 8)
    assert "lm_head" in matched(Model(), {"by": "regex_name", ".*": {}})


def test_what_a_model_says_is_its_output_head_is_one() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)

        def get_output_embeddings(self) -> nn.Module:
            return self.decoder

    assert list(matched(Masked(), {"by": "name", "default": {}})) == ["body"]
    assert output_head_paths(Masked(), []) == {"decoder"}


def test_the_model_itself_can_match() -> None:
    for pass_args in ({"by": "name", "": {}}, {"by": "regex_name", ".*": {}}, {"by": "name", "default": {}}):
        assert list(matched(nn.Linear(2, 2), pass_args)) == [""]


def test_a_module_in_two_places_is_one_module() -> None:
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"first": shared, "second": shared})
    arguments = PassArguments.parse({"by": "name", "second": {"bits": 3}, "default": {}}, Width)
    (match,) = match_modules(model, linears(model), arguments)
    assert (match.path, match.aliases, match.key, match.parameters.bits) == ("first", ("second",), "second", 3)


def test_the_callers_arguments_are_not_touched() -> None:
    pass_args = {"by": "regex_name", ".*mlp.*": {"bits": 3}, "default": {}}
    before = copy.deepcopy(pass_args)
    matched(Model(), pass_args)
    with pytest.raises(ConfigurationError):
        matched(Model(), {**pass_args, "nothing": {}})
    assert pass_args == before and list(pass_args) == list(before)


@pytest.mark.parametrize(
    ("pass_args", "words"),
    [
        ({"default": {}}, ["['by']", "no key 'by'", "regex_name"]),
        ({"by": "regex", "default": {}}, ["'regex'", "regex_name"]),
        ({"by": None, "default": {}}, ["None"]),
        ({"by": "name"}, ["no module is asked for", "default"]),
        ({"by": "name", "default": None}, ["no module is asked for"]),
        ({"by": "name", "lm_head": 8}, ["['lm_head']", "int: 8", "mapping"]),
        ({"by": "name", 3: {}}, ["the key 3", "quote it: '3'"]),
        ({"by": "name", "default": {"bit": 3}}, ["['default']", "bit", "did you mean 'bits'"]),
        ({"by": "name", "default": {"bits": "many"}}, ["bits", "integer"]),
        ({"by": "regex_name", "*.mlp": {}}, ["['*.mlp']", "no regular expression", "'.*'"]),
        ({"by": "name", "layers.0.mlp.1O": {}}, ["matches no module", "did you mean", "'layers.0.mlp.0'"]),
        ({"by": "regex_name", r".*atention\.query": {}}, ["matches no module", "did you mean", "attention.query"]),
        ({"by": "name", ".*mlp.*": {}}, ["matches no module", "by='regex_name'"]),
        (
            {"by": "name", "layers.0.mlp": {}},
            ["only modules that this pass does not", "'layers.0.mlp.0'", "regex_name"],
        ),
        ({"by": "regex_name", r"layers\.\d": {}}, ["only modules that this pass does not", "Block"]),
        ({"by": "regex_name", r".*mlp\.1": {}}, ["only modules that this pass does not", "ReLU", "take the key away"]),
        ({"by": "regex_name", "nothing_like_it": None, "default": {}}, ["matches no module"]),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_an_error(pass_args: dict[Any, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        matched(Model(), pass_args)
    for word in words:
        assert word in str(raised.value), str(raised.value)


def test_a_default_without_anything_to_apply_to_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no module that this pass could replace"):
        matched(nn.Sequential(nn.ReLU()), {"by": "name", "default": {}})
    with pytest.raises(ConfigurationError, match="name the head by a key: 'lm_head'"):
        matched(nn.ModuleDict({"lm_head": nn.Linear(1, 1)}), {"by": "name", "default": {}})


def test_arguments_must_be_a_mapping() -> None:
    with pytest.raises(ConfigurationError, match=r"list.*expected a mapping"):
        PassArguments.parse(["by"], Width)  # pyright: ignore[reportArgumentType]


def test_parameters_may_be_objects_and_keys_are_found_in_order() -> None:
    arguments = PassArguments.parse({"by": "regex_name", "a.*": Width(bits=2), "ab": {}}, Width)
    assert arguments.by is MatchBy.REGEX_NAME
    assert arguments.key_of("ab") == "a.*" and arguments.key_of("b") is None
