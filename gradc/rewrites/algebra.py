"""Rewrites of elementwise functions: constants, signs, products, quotients, sums, selections and powers.

Each says its formula and, where it differs from plain floating-point evaluation, in what. `holds` says for which numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradc.ir import Value, apply
from gradc.leaves import Broadcast, Constant, constant, constant_of
from gradc.ranges import is_below_its_maximum
from gradc.rewrites.matching import built, inside, negated, numbered, quotient, spread
from gradc.rewrites.rule import DERIVATIVE, ELEMENTWISE, REAL, rewrite


@rewrite(ELEMENTWISE)
def fold_constants(value: Value) -> Value | None:
    """f(2, 3) is a number, computed as the reference does. Integer errors (a negative power) are left to run time."""
    if not value.operands or not all(isinstance(operand.operation, Constant) for operand in value.operands):
        return None
    try:
        with np.errstate(all="ignore"):
            number = value.operation.numpy(*(operand.operation.numpy() for operand in value.operands))
    except ValueError:
        return None
    return constant(np.asarray(number, value.dtype.compute.numpy).item(), value.dtype)


@rewrite(ELEMENTWISE, "cast")
def repeat_the_result(value: Value) -> Value | None:
    """f(repeat(a), repeat(b)) = repeat(f(a, b)): the work is done once, on the axes some operand varies along."""
    if not all(isinstance(operand.operation, Broadcast) for operand in value.operands):
        return None
    axes = sorted({axis for operand in value.operands for axis in operand.operation.axes})
    if len(axes) == value.ndim:
        return None
    shape = tuple(value.shape[axis] for axis in axes)
    operands = (spread(x.operands[0], shape, [axes.index(axis) for axis in x.operation.axes]) for x in value.operands)
    return apply(Broadcast(value.shape, tuple(axes)), apply(value.operation, *operands))


@rewrite("negative")
def negate_negative(value: Value) -> Value | None:
    """-(-x) = x"""
    operands = inside(value.operands[0], "negative")
    return operands[0] if operands else None


@rewrite("negative")
def negate_number(value: Value) -> Value | None:
    """-(c·x) = (-c)·x and -(c/x) = (-c)/x"""
    x = value.operands[0]
    if not value.dtype.is_floating:
        return None
    for number, other in numbered(x):
        return built("multiply", other, constant(-number, value.dtype, value.shape))
    top, bottom = inside(x, "divide") or (x, x)
    numerator = constant_of(top)
    return None if numerator is None else built("divide", constant(-numerator, value.dtype, value.shape), bottom)


@rewrite("negative", holds=DERIVATIVE)
def negate_difference(value: Value) -> Value | None:
    """-(a - b) = b - a. Where a = b the zero is +0 rather than -0."""
    a, b = inside(value.operands[0], "subtract") or (None, None)
    return None if a is None or b is None else built("subtract", b, a)


@rewrite("multiply", "divide")
def sign_outside(value: Value) -> Value | None:
    """(-a)·b = -(a·b), (-a)·(-b) = a·b, and the same for quotients."""
    a, b = value.operands
    minus_a, minus_b = inside(a, "negative"), inside(b, "negative")
    if not minus_a and not minus_b:
        return None
    result = apply(value.operation, minus_a[0] if minus_a else a, minus_b[0] if minus_b else b)
    return result if minus_a and minus_b else built("negative", result)


@rewrite("multiply")
def times_one(value: Value) -> Value | None:
    """x·1 = x, x·(-1) = -x"""
    for number, other in numbered(value):
        if number in (1, -1) and value.dtype.family != "bool":
            return other if number == 1 else built("negative", other)
    return None


@rewrite("divide")
def over_one(value: Value) -> Value | None:
    """x/1 = x, x/(-1) = -x, 1/x = reciprocal(x)"""
    a, b = value.operands
    if constant_of(b) in (1, -1):
        return a if constant_of(b) == 1 else built("negative", a)
    return built("reciprocal", b) if constant_of(a) == 1 else None


@rewrite("multiply", holds=DERIVATIVE)
def numbers_together(value: Value) -> Value | None:
    """c·(d·x) = (cd)·x, c·(x/d) = (c/d)·x, (c·x)·y = (x·y)·c, c·(repeat(x)·y) = repeat(c·x)·y.

    One rounding fewer, or less work; a product may overflow elsewhere.
    """
    for number, other in numbered(value):
        for second, x in numbered(other):
            return _times(x, number * second)
        dividend, divisor = _over_number(other)
        return _times(dividend, number / divisor) if dividend is not None and divisor else _times_repeated(other, number)
    for one, another in (value.operands, value.operands[::-1]):
        for number, x in numbered(one):
            return _times(built("multiply", x, another), number)
    return None


@rewrite("divide", holds=DERIVATIVE)
def numbers_under(value: Value) -> Value | None:
    """(c·x)/d = (c/d)·x, (x/c)/d = x/(cd), (c·x)/y = c·(x/y). One rounding fewer; a product may overflow elsewhere."""
    a, b = value.operands
    divisor = constant_of(b)
    for number, x in numbered(a):
        if divisor is None:
            return _times(built("divide", x, b), number)
        return _times(x, number / divisor) if divisor else None
    dividend, first = _over_number(a)
    if dividend is None or not divisor or not first:
        return None
    return built("divide", dividend, constant(first * divisor, value.dtype, value.shape))


def _times(x: Value, number: float) -> Value:
    return built("multiply", x, constant(number, x.dtype, x.shape))


def _times_repeated(value: Value, number: float) -> Value | None:
    """A number times a product that has a repeated factor, which is smaller before it is repeated."""
    for one, other in _products(value):
        if isinstance(one.operation, Broadcast):
            return built("multiply", apply(one.operation, _times(one.operands[0], number)), other)
    return None


def _over_number(value: Value) -> tuple[Value | None, float | None]:
    """(x, c) of a quotient x/c."""
    x, divisor = inside(value, "divide") or (None, None)
    number = None if divisor is None else constant_of(divisor)
    return (None, None) if number is None else (x, number)


@rewrite("multiply", holds=DERIVATIVE)
def times_reciprocal(value: Value) -> Value | None:
    """a·(1/b) = a/b: one rounding instead of two."""
    for a, b in (value.operands, value.operands[::-1]):
        if operands := inside(b, "reciprocal"):
            return built("divide", a, operands[0])
    return None


@rewrite("add")
def add_negative(value: Value) -> Value | None:
    """a + (-b) = a - b, (-a) + b = b - a, (-a) + (-b) = -(a + b), and a negative factor is a sign."""
    a, b = value.operands
    if constant_of(a) is not None or constant_of(b) is not None:
        return None
    minus_a, minus_b = negated(a), negated(b)
    if minus_a is not None and minus_b is not None:
        return built("negative", built("add", minus_a, minus_b))
    if minus_b is not None:
        return built("subtract", a, minus_b)
    return None if minus_a is None else built("subtract", b, minus_a)


@rewrite("subtract")
def subtract_negative(value: Value) -> Value | None:
    """a - (-b) = a + b, (-a) - b = -(a + b), and a negative factor is a sign."""
    a, b = value.operands
    minus_b = None if constant_of(b) is not None else negated(b)
    if minus_b is not None:
        return built("add", a, minus_b)
    operands = inside(a, "negative")
    return built("negative", built("add", operands[0], b)) if operands else None


@rewrite("add", "subtract", holds=DERIVATIVE)
def add_zero(value: Value) -> Value | None:
    """x + 0 = x, 0 + x = x, x - 0 = x, 0 - x = -x. Where x is -0, x + 0 would be +0."""
    a, b = value.operands
    if constant_of(b) == 0:
        return a
    if constant_of(a) == 0:
        return b if inside(value, "add") else built("negative", b)
    return None


@rewrite("subtract", holds=DERIVATIVE)
def number_less_difference(value: Value) -> Value | None:
    """c - (c - x) = x for a number c: 1 - (1 - tanh²) is tanh², which keeps its digits when it is small."""
    number, difference = constant_of(value.operands[0]), inside(value.operands[1], "subtract")
    return difference[1] if number is not None and difference and constant_of(difference[0]) == number else None


@rewrite("add")
def double(value: Value) -> Value | None:
    """a + a = 2·a"""
    a, b = value.operands
    return _times(a, 2) if a is b and value.dtype.family != "bool" else None


@rewrite("add", "subtract", holds=DERIVATIVE)
def common_divisor(value: Value) -> Value | None:
    """a/l ± b/l = (a ± b)/l, seeing through repetition. At l = 0 or inf, where both sides are inf or nan, they may differ."""
    first, second = (quotient(operand) for operand in value.operands)
    if first is None or second is None or first[2] != second[2] or constant_of(first[1]) is not None:
        return None
    return built("divide", apply(value.operation, first[0], second[0]), first[1])


@rewrite("add", "subtract", holds=DERIVATIVE)
def common_factors(value: Value) -> Value | None:
    """f·g·a ± f·g·b = f·g·(a ± b), and f ± f·b = f·(1 ± b). At an infinite factor, where one side is nan, both are."""
    a_factors, b_factors = (_factors(operand) for operand in value.operands)
    shared = []
    for factor in list(a_factors):
        if any(factor is other for other in b_factors):
            shared.append(factor)
            a_factors, b_factors = _minus(a_factors, factor), _minus(b_factors, factor)
    if not shared or all(constant_of(factor) is not None for factor in shared):
        return None
    one = constant(1, value.dtype, value.shape)
    sides = (one if product is None else product for product in (_product(a_factors), _product(b_factors)))
    return _product([*shared, apply(value.operation, *sides)])


def _factors(value: Value, depth: int = 4) -> list[Value]:
    """The factors of nested products that differentiation made; the user's products stay whole."""
    operands = inside(value, "multiply")
    return [f for operand in operands for f in _factors(operand, depth - 1)] if operands and value.note and depth else [value]


def _minus(values: list[Value], gone: Value) -> list[Value]:
    """The list without the first occurrence of a Value."""
    place = next(i for i, value in enumerate(values) if value is gone)
    return values[:place] + values[place + 1 :]


def _product(values: Sequence[Value]) -> Value | None:
    """The product, None when there is nothing to multiply."""
    result = None
    for value in values:
        result = value if result is None else built("multiply", result, value)
    return result


def _products(value: Value) -> list[tuple[Value, Value]]:
    """Both ways of reading a product as something times a factor."""
    operands = inside(value, "multiply")
    return [operands, operands[::-1]] if operands else []  # type: ignore[list-item]


@rewrite("where")
def settled_selection(value: Value) -> Value | None:
    """where(true, a, b) = a; where(c, a, a) = a; where(c, where(c, a, x), b) = where(c, a, b), likewise on the other side."""
    condition, a, b = value.operands
    settled = constant_of(condition)
    if settled is not None or a is b:
        return b if settled is False else a
    inner_a, inner_b = inside(a, "where"), inside(b, "where")
    if inner_a and inner_a[0] is condition:
        return built("where", condition, inner_a[1], b)
    return built("where", condition, a, inner_b[2]) if inner_b and inner_b[0] is condition else None


@rewrite(ELEMENTWISE)
def function_of_chosen_numbers(value: Value) -> Value | None:
    """f(where(c, 1, 0), 2) = where(c, f(1, 2), f(0, 2)) when all but the condition are numbers."""
    choices = [operand for operand in value.operands if inside(operand, "where")]
    if len(choices) != 1 or inside(value, "where"):
        return None
    condition, *sides = choices[0].operands
    others = [operand for operand in value.operands if operand is not choices[0]]
    if any(constant_of(x) is None for x in (*sides, *others)):
        return None
    yes, no = (apply(value.operation, *(side if x is choices[0] else x for x in value.operands)) for side in sides)
    return built("where", condition, yes, no)


@rewrite("where")
def condition_itself(value: Value) -> Value | None:
    """where(c, true, false) = c, where(c, false, true) = not c"""
    condition, a, b = value.operands
    yes, no = constant_of(a), constant_of(b)
    if value.dtype.family != "bool" or yes is None or no is None or yes is no:
        return None
    return condition if yes else built("logical_not", condition)


@rewrite("logical_and", "logical_or")
def condition_twice(value: Value) -> Value | None:
    """c and c = c, c or c = c"""
    a, b = value.operands
    return a if a is b else None


@rewrite("where")
def negated_condition(value: Value) -> Value | None:
    """where(not c, a, b) = where(c, b, a)"""
    condition, a, b = value.operands
    operands = inside(condition, "logical_not")
    return built("where", operands[0], b, a) if operands else None


@rewrite("pow", holds=REAL)
def small_power(value: Value) -> Value | None:
    """x^0, x^1, x^2, x^3, x^-1 and the square roots, without pow. x^0.5 is sqrt: -0 for -0, nan for -inf, as in PyTorch."""
    x, y = value.operands
    number = constant_of(y)
    if number in (0, 1):
        return x if number == 1 else constant(1, value.dtype, value.shape)
    if number in (2, 3):
        return built("multiply", built("multiply", x, x), x) if number == 3 else built("multiply", x, x)
    row = {-1: "reciprocal", 0.5: "sqrt", -0.5: "rsqrt"}.get(number) if number is not None and x.dtype.is_floating else None
    return built(row, x) if row else None


@rewrite("square")
def square_as_product(value: Value) -> Value | None:
    """square(x) = x·x"""
    return built("multiply", *value.operands * 2)


@rewrite("log", holds=REAL)
def log_of_one_plus(value: Value) -> Value | None:
    """log(1 + x) = log1p(x), exact for small x; log(exp(a)/b) = a - log(b) and log(exp(a)) = a, which do not underflow."""
    x = value.operands[0]
    a, b = inside(x, "add") or (x, x)
    if constant_of(a) == 1 or constant_of(b) == 1:
        return built("log1p", b if constant_of(a) == 1 else a)
    top, bottom = inside(x, "divide") or (x, None)
    power = inside(top, "exp")
    if not power:
        return None
    return power[0] if bottom is None else built("subtract", power[0], built("log", bottom))


@rewrite("subtract", holds=REAL)
def exp_minus_one(value: Value) -> Value | None:
    """exp(x) - 1 = expm1(x), exact for small x."""
    a, b = value.operands
    operands = inside(a, "exp")
    return built("expm1", *operands) if operands and constant_of(b) == 1 else None


@rewrite("exp", holds=REAL)
def exp_of_log(value: Value) -> Value | None:
    """exp(x - repeat(log(l))) = exp(x)/repeat(l), where x is less its own maximum: exp(x) does not overflow.

    The divisor can then leave a sum. At l = 0 both are inf, or nan where exp(x) is 0.
    """
    x, repeated = inside(value.operands[0], "subtract") or (None, None)
    if x is None or repeated is None or not isinstance(repeated.operation, Broadcast):
        return None
    power = inside(repeated.operands[0], "log")
    if not power or not is_below_its_maximum(x):
        return None
    return built("divide", built("exp", x), apply(repeated.operation, *power))
