from __future__ import annotations

from typing import Any

import pytest

from quantsim_encodings import AffineEncoding, TensorReference, TensorRole, dumps, loads, read, validate

ONE = {"min": -1.5, "max": 126.0, "scale": 0.5, "offset": -3, "bitwidth": 8, "dtype": "int", "is_symmetric": "False"}


def test_references_to_tensors() -> None:
    value: dict[str, Any] = {
        "activation_encodings": {"a.b": {"input": {"0": ONE, "1": [ONE, ONE]}}, "": {"output": {"0": ONE}}},
        "param_encodings": {"a.b.weight": [ONE], ".bias": [ONE]},
    }
    document = read(value)
    assert [entry.tensor for entry in document] == [
        TensorReference("a.b", TensorRole.INPUT, "0"),
        TensorReference("a.b", TensorRole.INPUT, "1"),
        TensorReference("", TensorRole.OUTPUT, "0"),
        TensorReference("a.b", TensorRole.PARAM, "weight"),
        TensorReference("", TensorRole.PARAM, "bias"),
    ]
    second = document.entries[1].encoding
    assert isinstance(second, AffineEncoding)
    assert second.scale.shape == (2,)
    assert loads(dumps(document)) == document


def test_headers_of_the_file_beside_an_export_are_kept() -> None:
    value = {
        "version": "1.0.0",
        "producer": {"package": "aimet-torch", "version": "2.42.0"},
        "activation_encodings": {"a": {"output": {"0": ONE}}},
        "param_encodings": {},
        "excluded_layers": ["b"],
        "quantizer_args": {"dtype": "int"},
    }
    document = read(value)
    assert (document.version, document.declared_version) == ("aimet-torch", "1.0.0")
    assert loads(dumps(document)) == document


@pytest.mark.parametrize(
    ("activations", "params", "path"),
    [
        ({"a": {"output": {"x": ONE}}}, {}, "$.activation_encodings.a.output.x"),
        ({"a": {"output": {"²": ONE}}}, {}, '$.activation_encodings.a.output["\\u00b2"]'),
        ({"a": {"middle": {"0": ONE}}}, {}, "$.activation_encodings.a.middle"),
        ({"a": {"output": {"0": 7}}}, {}, '$.activation_encodings.a.output["0"]'),
        ({"a": {"output": {"0": [{**ONE, "scale": "x"}]}}}, {}, '$.activation_encodings.a.output["0"][0].scale'),
        ({"a": {"output": {"0": {**ONE, "scale": "x"}}}}, {}, '$.activation_encodings.a.output["0"].scale'),
        ({"a": {"output": [ONE]}}, {}, "$.activation_encodings.a.output"),
        ({}, {"a.": [ONE]}, '$.param_encodings["a."]'),
        ({}, {"": [ONE]}, '$.param_encodings[""]'),
        ({}, {"a.w": ONE}, '$.param_encodings["a.w"]'),
    ],
)
def test_impossible_files(activations: dict, params: dict, path: str) -> None:
    problems = validate({"activation_encodings": activations, "param_encodings": params})
    assert [problem.path for problem in problems] == [path]
