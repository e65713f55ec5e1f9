"""Operands in the templates of the table: whatever operator an operand ends in, the template means the same as with parentheses."""

from __future__ import annotations

import ast

import pytest

from gradc import types
from gradc.codegen.printing.scope import ATOM, BINDING, Variable
from gradc.codegen.printing.spelling import bindings
from gradc.ops import TABLE

OPERANDS = [Variable(f"p {operator} q", (), 0, level) for operator, level in BINDING.items()]
OPERANDS += [Variable("p", (), 0), Variable("f(p)", (), 0, ATOM)]


@pytest.mark.parametrize("dtype", [types.float32, types.int32], ids=["floating", "integer"])
@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_operands_keep_together(row, dtype):
    left, right, _ = bindings(row.spelling(dtype))
    for place in range(row.arity):
        for operand in OPERANDS:
            texts, enclosed = ["a", "b", "c"], ["a", "b", "c"]
            texts[place], enclosed[place] = operand.operand(right if place else left), f"({operand.text})"
            spelt, meant = (row.spell(dtype, *operands[: row.arity]) for operands in (texts, enclosed))
            assert ast.dump(ast.parse(spelt)) == ast.dump(ast.parse(meant)), spelt
