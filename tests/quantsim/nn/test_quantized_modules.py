from __future__ import annotations

from collections import Counter

import pytest

import quantsim.nn
from quantsim.nn import FakeQuantizationMixin, QuantizationMixin, quantized_modules
from quantsim.nn.functional_modules import FUNCTIONAL_MODULES
from quantsim.nn.table import TORCH_MODULES

ROWS = (*TORCH_MODULES, *FUNCTIONAL_MODULES)


@pytest.mark.parametrize(
    ("mixin", "prefix"), [(QuantizationMixin, "Quantized"), (FakeQuantizationMixin, "FakeQuantized")]
)
def test_every_row_has_its_class_where_pickle_looks_for_it(mixin, prefix: str) -> None:
    for row in ROWS:
        name = prefix + row.module_class.__name__
        made = getattr(quantized_modules, name)
        assert getattr(quantsim.nn, name) is made
        assert (made.__module__, made.__qualname__) == ("quantsim.nn", name)
        assert mixin.cls_to_qcls[row.module_class] is made
        assert mixin.qcls_to_cls[made] is row.module_class


def test_no_class_hides_another_of_the_same_name() -> None:
    twice = [name for name, count in Counter(row.module_class.__name__ for row in ROWS).items() if count > 1]
    assert twice == []
    assert len(quantized_modules.__all__) == 2 * len(ROWS)
    assert quantized_modules.__all__ == sorted(quantized_modules.__all__)
