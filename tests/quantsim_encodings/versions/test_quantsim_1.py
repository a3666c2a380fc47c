from __future__ import annotations

import copy
import json
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import pytest

from quantsim_encodings import (
    AffineEncoding,
    EncodingEntry,
    EncodingsDocument,
    EncodingsVersion,
    IntFormat,
    PerChannel,
    TensorReference,
    TensorRole,
    convert,
    dumps,
    loads,
    read,
    validate,
)
from quantsim_encodings.versions import quantsim_1, quantsim_1_model

DATA = Path(__file__).parents[1] / "data"
ENCODING = AffineEncoding(IntFormat(-7, 7), [[0.5], [0.25]], 0, True, PerChannel(0))  # type: ignore[arg-type]
DOCUMENT = EncodingsDocument(
    EncodingsVersion.QUANTSIM,
    (EncodingEntry(ENCODING, TensorReference("fc", TensorRole.PARAM, "weight"), name="w"),),
)
VALUE = json.loads(dumps(DOCUMENT))


def changed(path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(VALUE)
    *parents, last = path.split(".")
    target = result["encodings"][0]
    for key in parents:
        target = target[key]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return result


def test_form_of_the_file() -> None:
    assert list(VALUE) == ["version", "model_fingerprint", "excluded_layers", "encodings"]
    (entry,) = VALUE["encodings"]
    assert entry["tensor"] == {"module": "fc", "role": "param", "key": "weight"}
    assert entry["encoding"]["kind"] == "affine_encoding"
    assert entry["encoding"]["scale"] == {"shape": [2, 1], "values": [0.5, 0.25]}
    assert entry["encoding"]["offset"] == {"shape": [2, 1], "values": [0, 0]}


def test_defaults_may_be_left_out() -> None:
    value = copy.deepcopy(VALUE)
    (entry,) = value["encodings"]
    for key in ("frozen", "learnable", "analyzer", "samples", "parameter"):
        del entry[key]
    for key in ("block_size", "zero_point_shift"):
        del entry["encoding"][key]
    assert read(value) == DOCUMENT


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        ("encoding.scale.values", [0.5], ".encoding.scale.values", "got 1 values, expected 2 for [2, 1]"),
        ("encoding.scale.shape", [2**30, 2**30], ".encoding.scale.values", "expected 1152921504606846976"),
        ("encoding.scale.shape", [-1], ".encoding.scale.shape[0]", "greater than or equal to 0"),
        ("encoding.scale.shape", [1] * 17, ".encoding.scale.shape", "at most 16 items"),
        ("encoding.scale.values", [0.5, -1], ".encoding", "scale: got -1.0"),
        ("encoding.offset.values", [2**63, 0], ".encoding", "offset"),
        ("encoding.format.qmin", 9, ".encoding.format", "expected qmin < qmax"),
        ("encoding.format.qmin", 2.0, ".encoding.format.qmin", "expected a valid integer"),
        ("encoding.format.qmin", KeyError, ".encoding.format.qmin", "is missing"),
        ("encoding.format", {"kind": "float"}, ".encoding.format.kind", "expected 'int'"),
        ("encoding.kind", "nothing", ".encoding", "does not match any of the expected tags"),
        ("encoding.granularity.axis", 1, ".encoding", "granularity: got axis 1"),
        ("encoding.granularity", {"kind": "per_moon"}, ".encoding.granularity", "does not match any"),
        ("encoding.granularity", {"kind": "per_block", "axis": 0, "block_size": 0}, ".encoding.granularity", "got 0"),
        ("encoding.block_size", [1], ".encoding", "block_size"),
        ("tensor.role", "weight", ".tensor.role", "expected 'input', 'output' or 'param'"),
        ("parameter", False, ".parameter", "expected what the tensor's role says"),
        ("samples", -1, ".samples", "greater than or equal to 0"),
        ("frozen", 1, ".frozen", "expected a valid boolean"),
        ("colour", "red", ".colour", "is an unknown key"),
    ],
)
def test_impossible_files(path: str, value: Any, where: str, message: str) -> None:
    problems = validate(changed(path, value))
    assert problems[0].path == f"$.encodings[0]{where}"
    assert message in problems[0].message


def test_entries_without_any_name_are_refused() -> None:
    value = changed("tensor", None)
    value["encodings"][0].update(name=None, parameter=None)
    (problem,) = validate(value)
    assert (problem.path, "neither tensor nor name" in problem.message) == ("$.encodings[0]", True)


def test_duplicates_by_tensor_and_by_name() -> None:
    value = copy.deepcopy(VALUE)
    value["encodings"].append(copy.deepcopy(value["encodings"][0]))
    assert [problem.path for problem in validate(value)] == ["$.encodings[1].name", "$.encodings[1].tensor"]


@pytest.mark.parametrize("name", ["m_1.0.0.encodings", "m_2.1.0.encodings", "torch_side.json", "wide_2.0.0.encodings"])
def test_documents_of_aimet_come_back_unchanged(name: str) -> None:
    document = read(DATA / name)
    own = loads(dumps(convert(document, "quantsim-1")))
    assert own.entries == document.entries
    assert convert(own, document.version) == document


def test_models_cover_every_type_and_enum() -> None:
    members = {model.model_fields["kind"].annotation for model in get_args(get_args(quantsim_1_model.EncodingModel)[0])}
    members |= {
        model.model_fields["kind"].annotation for model in get_args(get_args(quantsim_1_model.GranularityModel)[0])
    }
    kinds = {get_args(annotation)[0] for annotation in members}
    assert kinds | {"int", "float", "mx", "nvfp4", "optical", "fixed_point"} == set(quantsim_1._TYPES)
    schema = json.dumps(quantsim_1_model.File.model_json_schema())
    for enum in (get_args(alias)[0] for alias in (quantsim_1_model.NanName, quantsim_1_model.ScaleRuleName)):
        assert issubclass(enum, StrEnum)
        assert all(f'"{member.value}"' in schema for member in enum)
    roles = quantsim_1_model.TensorModel.model_fields["role"].annotation
    assert set(get_args(roles)) == set(TensorRole)
