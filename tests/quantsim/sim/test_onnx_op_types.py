from __future__ import annotations

from quantsim.sim.onnx_op_types import FUSIBLE_OPS, GRID_KEEPING_TYPES, ONNX_OP_TYPES
from quantsim.sim.patterns import known_op


def test_every_op_is_one_that_the_table_has() -> None:
    for ops in (*ONNX_OP_TYPES.values(), *FUSIBLE_OPS.values()):
        assert [known_op(op) for op in ops] == list(ops)


def test_every_type_that_is_mentioned_is_listed() -> None:
    assert GRID_KEEPING_TYPES | FUSIBLE_OPS.keys() <= ONNX_OP_TYPES.keys()
