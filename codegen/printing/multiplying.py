"""The operands of a product of tiles as text: in the order of the result's tile axes, rounded and zero where they overhang.

Which products there are and what they are summed over is decided before; `expressions.py` prints what the operands are made of.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradc import types
from gradc.codegen.nodes import Node, unrounded
from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.scope import BINDING, Scope, Variable
from gradc.codegen.printing.spelling import triton_dtype

if TYPE_CHECKING:
    from gradc.codegen.printing.expressions import Expressions


def precision(node: Node) -> str:
    """float32 is multiplied as float32, never as a shorter format."""
    return ', input_precision="ieee"' if node.dtype == types.float32 else ""


def factors(printer: Expressions, node: Node, scope: Scope) -> tuple[str, str, tuple[KernelAxis, ...]]:
    """The operands of a product of tiles in the order that gives the result's tile axes theirs, and those."""
    (row,), (column,), (summed,) = (
        printer.tile_axes(frozenset(axes)) for axes in (node.detail.rows, node.detail.columns, node.detail.summed)
    )
    x, y = node.operands
    if printer.axes.index(row) > printer.axes.index(column):
        row, column, x, y = column, row, y, x
    return _operand(printer, scope, node, x, (row, summed)), _operand(printer, scope, node, y, (summed, column)), (row, column)


def _operand(printer: Expressions, scope: Scope, node: Node, body: Node, axes: tuple[KernelAxis, KernelAxis]) -> str:
    """A tile for the matrix unit: zero where the summed axis overhangs, rounded to the operand's dtype."""
    dtype, body = body.dtype, unrounded(body)
    x = printer.at(body, scope)
    wanted = tuple(k for k in printer.axes if k in axes)
    summed = [k for k in wanted if frozenset(k.axes) & frozenset(node.detail.summed) and k.overhangs]
    text = x.expanded(wanted)
    if summed and not printer.zero_outside(body, frozenset(summed)):
        text = f"tl.where({printer.positions.mask(summed[0], wanted, scope)}, {text}, 0.0)"
    if len(x.axes) < len(wanted):
        text = f"tl.broadcast_to({text}, [{', '.join(printer.positions.block(k) for k in wanted)}])"
    narrows = dtype.compute != dtype and body not in printer.as_stored
    text = f"{text}.to({triton_dtype(dtype)})" if narrows else text
    return text if wanted == axes else f"tl.trans({text})"


def by_reciprocal(
    printer: Expressions, node: Node, operands: list[Variable], axes: tuple[KernelAxis, ...], scope: Scope
) -> tuple[list[Variable], str]:
    """A quotient beside products of matrices: multiplies where the divisor is a number or has fewer axes, inverted once for all."""
    x, y = operands
    if y.constant and abs(math.frexp(float(node.operands[1].detail))[0]) != 0.5:
        return [x, Variable(f"(1.0 / {y.text})", (), 0)], "{x} * {y}"
    if y.constant or len(y.axes) == len(axes):
        return operands, "{x} / {y}"
    key = ("reciprocal", node.operands[1])
    inverse = scope.find(key)
    if inverse is None:
        home = scope.at_depth(y.depth)
        inverse = home.known[key] = Variable(printer.names.fresh("reciprocal"), y.axes, home.depth)
        home.add(f"{inverse.text} = 1.0 / {y.operand(BINDING['/'] + 1)}")
    return [x, inverse], "{x} * {y}"


def is_product_pattern(left: tuple[KernelAxis, ...], right: tuple[KernelAxis, ...], axes: tuple[KernelAxis, ...]) -> bool:
    """Whether Triton takes the sum over the middle axis of a product for `tl.dot(left, right)`, whose float32 is TF32 then.

    It does (CombineBroadcastMulReducePattern, Triton 3.6) where the left operand lacks the last axis and the right one the first.
    """
    return len(axes) == 3 and axes[2] not in left and axes[0] not in right
