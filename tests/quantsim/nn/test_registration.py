from __future__ import annotations

import contextvars
import gc

import pytest
from torch import nn

from quantsim.nn import FakeQuantizationMixin, IgnoredModules, QuantizationMixin, ignored_module_classes


def test_ignore_holds_inside_its_block_only() -> None:
    with QuantizationMixin.ignore(nn.Dropout, nn.ReLU):
        assert ignored_module_classes() == {nn.Dropout, nn.ReLU}
        with FakeQuantizationMixin.ignore(nn.Linear):
            assert ignored_module_classes() == {nn.Dropout, nn.ReLU, nn.Linear}
        assert ignored_module_classes() == {nn.Dropout, nn.ReLU}
    assert ignored_module_classes() == frozenset()
    assert nn.Dropout in QuantizationMixin.cls_to_qcls


def test_ignore_ends_after_an_exception_and_is_local_to_its_context() -> None:
    with pytest.raises(KeyError), QuantizationMixin.ignore(nn.ReLU):
        raise KeyError
    assert not ignored_module_classes()
    context = contextvars.copy_context()
    with QuantizationMixin.ignore(nn.ReLU):
        assert not context.run(ignored_module_classes)


def test_ignore_without_a_block_says_so() -> None:
    with pytest.warns(UserWarning, match="with QuantizationMixin.ignore"):  # noqa: PT031
        QuantizationMixin.ignore(nn.ReLU)
        gc.collect()


def test_ignore_wants_module_classes() -> None:
    with pytest.raises(ValueError, match=r"torch\.nn\.Module"):
        IgnoredModules(int)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass the class itself"):
        QuantizationMixin.ignore(nn.ReLU())  # type: ignore[arg-type]
