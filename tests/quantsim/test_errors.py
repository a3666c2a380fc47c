from __future__ import annotations

import pickle

import pytest

from quantsim import errors
from quantsim.errors import (
    ConfigurationError,
    NonFiniteError,
    NotCalibratedError,
    QuantsimError,
    ShapeError,
    UnknownModuleError,
)


def test_text_has_all_parts_in_order():
    error = QuantsimError("bad", where="fc", got="1", expected="2", fix="add 1")
    assert str(error) == "fc: bad; got 1; expected 2; to fix: add 1"


def test_text_leaves_out_what_is_not_given():
    assert str(QuantsimError("bad")) == "bad"
    assert str(QuantsimError(got="1", expected="2")) == "got 1; expected 2"
    assert str(QuantsimError("bad", where="fc")) == "fc: bad"


def test_location_is_prefixed_and_the_error_itself_returned():
    error = ShapeError("bad", where="QuantizeDequantize")
    assert error.with_location("model.fc") is error
    assert str(error) == "model.fc (QuantizeDequantize): bad"
    assert str(ShapeError("bad").with_location("model.fc")) == "model.fc: bad"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (NotCalibratedError, RuntimeError),
        (UnknownModuleError, LookupError),
        (NonFiniteError, ValueError),
        (ConfigurationError, ValueError),
        (ShapeError, ValueError),
    ],
)
def test_each_error_is_also_the_builtin_that_callers_expect(kind, builtin):
    with pytest.raises(builtin, match="bad"):
        raise kind("bad")
    assert issubclass(kind, QuantsimError)


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_cross_process_boundaries(name):
    error = getattr(errors, name)("bad", where="fc", got="1").with_location("model")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error) == "model (fc): bad; got 1"


def test_nonfinite_counts_survive_pickling():
    copy = pickle.loads(pickle.dumps(NonFiniteError("bad", nan_count=2, infinity_count=3)))
    assert (copy.nan_count, copy.infinity_count) == (2, 3)
