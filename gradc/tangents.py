"""How derivatives combine: the sum of two, a partial times a tangent, and zero. Cotangents combine by the same rules.

A tangent that is 0 because nothing depends on the variable is `None`, never an array of zeros. A selection stays outermost,
so that 0·inf and 0·nan do not arise where it is 0: the derivative of `where(x > 0, log(x), 0)` is 0 at 0, not nan.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from gradc.ir import Value
from gradc.leaves import constant, constant_of
from gradc.ranges import interval_of, may_be_zero
from gradc.table import TABLE

Tangent = Value | None
NESTED = 8  # selections inside selections that are looked into; what lies deeper is multiplied as `times` does


def zeros_like(value: Value) -> Value:
    """Zeros of the value's shape and dtype."""
    return constant(0, value.dtype, value.shape)


def total(a: Tangent, b: Tangent, nested: int = NESTED) -> Tangent:
    """a + b; two selections by one condition become one, also inside such ones, NESTED of them."""
    if a is None or b is None:
        return b if a is None else a
    chosen_a, chosen_b = selection(a), selection(b)
    if not nested or chosen_a is None or chosen_b is None or chosen_a[0] is not chosen_b[0]:
        return TABLE["add"](a, b)
    condition, yes, no = chosen_a
    return select(condition, total(yes, chosen_b[1], nested - 1), total(no, chosen_b[2], nested - 1))


def scale(partial: Any, tangent: Tangent, known: int, nested: int = NESTED) -> Tangent:
    """partial · tangent. A partial made after Value number `known` is looked into; an older one is only multiplied by.

    Plain numbers 0, 1 and -1 vanish, selections (NESTED of them) and signs move outwards, and a reciprocal divides.
    """
    number = constant_of(partial) if isinstance(partial, Value) else partial
    if tangent is None or number == 0:
        return None
    if number is not None:
        return tangent if number == 1 else TABLE["negative"](tangent) if number == -1 else TABLE["multiply"](tangent, number)
    chosen = selection(tangent) if nested else None
    if chosen is not None and not _is_harmless(partial):
        condition, yes, no = chosen
        return select(condition, scale(partial, yes, known, nested - 1), scale(partial, no, known, nested - 1))
    return _times(partial, tangent, known)


def _is_harmless(partial: Value) -> bool:
    """Whether 0 times the partial is 0, as it is made of numbers."""
    return bool(partial.operands) and all(_is_finite_number(operand) for operand in partial.operands)


def _times(partial: Value, tangent: Value, known: int) -> Tangent:
    """`scale` for a partial that is no number and a tangent that is no selection."""
    inside = partial.operands
    match partial.operation.name if partial.number > known else "":
        case "where" if any(constant_of(arm) is not None for arm in inside[1:]):
            return select(inside[0], scale(inside[1], tangent, known), scale(inside[2], tangent, known))
        case "negative":
            return _applied("negative", scale(inside[0], tangent, known))
        case "reciprocal":
            return over(tangent, inside[0])
        case "divide" | "absorbing_divide":
            scaled = scale(inside[0], tangent, known)
            return None if scaled is None else over(scaled, inside[1])
    return times(tangent, partial)


def times(a: Value, b: Value) -> Value:
    """a·b, and 0 where a selection made one of them 0, also beside what may be infinite or nan."""
    if interval_of(a).selected and not interval_of(b).finite:
        return TABLE["absorbing_multiply"](a, b)
    if interval_of(b).selected and not interval_of(a).finite:
        return TABLE["absorbing_multiply"](b, a)
    return TABLE["multiply"](a, b)


def over(a: Value, b: Value) -> Value:
    """a/b, and 0 where a selection made a 0, also over what may be 0 or nan."""
    return TABLE["absorbing_divide" if interval_of(a).selected and may_be_zero(b) else "divide"](a, b)


def _applied(name: str, tangent: Tangent, *others: Value) -> Tangent:
    return None if tangent is None else TABLE[name](tangent, *others)


def select(condition: Value, yes: Tangent, no: Tangent) -> Tangent:
    """`where(condition, yes, no)`, where a missing side is 0. A selection inside the other side joins this one."""
    if yes is None and no is None:
        return None
    inner = selection(yes) if no is None and yes is not None else None
    if inner is not None and inner[2] is None:
        return select(TABLE["logical_and"](condition, inner[0]), inner[1], None)
    like = yes if yes is not None else no
    assert like is not None
    return TABLE["where"](condition, zeros_like(like) if yes is None else yes, zeros_like(like) if no is None else no)


def selection(tangent: Value, depth: int = 8) -> tuple[Value, Tangent, Tangent] | None:
    """(condition, yes, no) of a `where` with a zero side, that side as None, also under a few signs and numbers; None otherwise."""
    if tangent.operation is TABLE["where"]:
        condition, *sides = tangent.operands
        yes, no = (None if constant_of(side) == 0 else side for side in sides)
        return (condition, yes, no) if yes is None or no is None else None
    if not depth or tangent.operation.name not in ("negative", "multiply", "divide"):
        return None
    chosen, *rest = sorted(tangent.operands, key=lambda operand: constant_of(operand) is not None)
    found = selection(chosen, depth - 1) if all(_is_finite_number(other) for other in rest) else None
    if found is None or (tangent.operation is TABLE["divide"] and chosen is not tangent.operands[0]):
        return None
    condition, yes, no = found
    return condition, _applied(tangent.operation.name, yes, *rest), _applied(tangent.operation.name, no, *rest)


def _is_finite_number(value: Value) -> bool:
    """Whether a Value is a finite number other than 0, so that 0 times or over it is 0."""
    number = constant_of(value)
    return number is not None and number != 0 and isfinite(number)
