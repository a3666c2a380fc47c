from __future__ import annotations

import inspect
import re

from quantsim.dualpath.integer_graph import IntegerOp
from quantsim.export.chip.formulas import WORDS, formulas_of
from quantsim_kernels.reference import integer


def test_every_op_has_a_formula_of_its_own_parameters() -> None:
    formulas = formulas_of(list(IntegerOp))
    assert set(formulas) == set(IntegerOp)
    for op, formula in formulas.items():
        assert not (set(re.findall(r"\w*_\w+", formula)) - _names(op)), op


def _names(op: IntegerOp) -> set[str]:
    """What a formula with an underscore may speak of: parameters of the op's function, and of what it refers to."""
    names = set(inspect.signature(getattr(integer, op.value)).parameters)
    return names | (names_of_softmax if op is IntegerOp.SOFTMAX_MATMUL else set())


names_of_softmax = set(inspect.signature(integer.softmax).parameters)


def test_words_are_explained() -> None:
    assert {word.split("(")[0] for word in WORDS} == {"put", "round", "divide"}
    text = " ".join(formulas_of(list(IntegerOp)).values())
    assert set(re.findall(r"(put|round|divide)\(", text)) == {"put", "round", "divide"}
