from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
from pydantic import ValidationError

from quantsim_encodings.versions import quantsim_1, quantsim_1_model
from quantsim_encodings.versions.quantsim_1_model import ArrayModel, EntryModel

MODELS = {
    get_args(model.model_fields["kind"].annotation)[0]: model
    for model in vars(quantsim_1_model).values()
    if isinstance(model, type) and issubclass(model, quantsim_1_model.Model) and "kind" in model.model_fields
}


@pytest.mark.parametrize("kind", sorted(quantsim_1._TYPES))
def test_models_have_the_fields_and_defaults_of_the_value_types(kind: str) -> None:
    value_type = quantsim_1._TYPES[kind]
    assert dataclasses.is_dataclass(value_type)
    declared = {field.name: field.default for field in dataclasses.fields(value_type)}
    model = MODELS[kind].model_fields
    assert set(model) - {"kind"} == set(declared)
    for name, field in model.items():
        if name != "kind" and not field.is_required():
            assert field.default == declared[name], name


def test_arrays_and_entries_are_strict() -> None:
    assert ArrayModel(shape=[2], values=[1, 2.5]).values == [1, 2.5]
    for arguments in ({"shape": (2,), "values": []}, {"shape": [2.0], "values": []}, {"shape": [], "values": ["1"]}):
        with pytest.raises(ValidationError):
            ArrayModel(**arguments)
    with pytest.raises(ValidationError):
        EntryModel.model_validate({"name": "w"})
