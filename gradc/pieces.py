"""Smooth pieces of exact expressions: where they are, what an expression is on one, and whether it is zero there.

Helpers of `prove.py`; SymPy is imported when they run. Nothing here knows gradc's functions, Values or rules.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import product
from typing import Any

from gradc.errors import UnsupportedError

Expression = Any  # a SymPy expression
Point = dict[Any, Any]  # symbols to exact numbers
DIGITS = 40


def smooth_pieces(domain: str, arity: int) -> list[tuple[Expression, ...]]:
    """The operands on each smooth piece of a row's domain, as expressions of symbols that carry its inequalities."""
    import sympy

    p, q = sympy.symbols("p q", positive=True)
    r, s, t = sympy.symbols("r s t", real=True)
    found = {
        "real": [(r, s, t)],
        "x > 0": [(p, s), (p, sympy.Integer(0))] if arity == 2 else [(p,)],
        "x > 1": [(1 + p,)],
        "x > -1": [(p - 1,)],
        "|x| < 1": [((p - 1) / (p + 1),)],
        "x != 0": [(p,), (-p,)],
        "y != 0": [(r, p), (r, -p)],
        "x != y": [(s + p, s), (s, s + p)],
        "(x, y) != 0": [(p, s), (-p, s), (r, p), (r, -p)],
        "x != 0, y != 0": [(p, q), (-p, q), (p, -q), (-p, -q)],
        "x or not x": [(sympy.true, s, t), (sympy.false, s, t)],
    }
    if domain not in found:
        raise UnsupportedError(f"no smooth pieces are known for the domain {domain!r}", advice="Add them to gradc/pieces.py.")
    return [operands[:arity] for operands in found[domain]]


def slope(meaning: Expression, variable: Expression) -> Expression:
    """The derivative of an expression where it has one: steps (floor, ceiling, sign) are constants between their jumps."""
    import sympy

    steps = [step for step in meaning.atoms(sympy.floor, sympy.ceiling, sympy.sign) if step.has(variable)]
    frozen = {step: sympy.Dummy(real=True) for step in steps}
    return meaning.xreplace(frozen).diff(variable).xreplace({dummy: step for step, dummy in frozen.items()})


def witnesses(symbols: Iterable[Expression]) -> list[Point]:
    """Points near 0 and far from it, of the signs the symbols may have; no coordinate or ratio is an integer."""
    import sympy

    choices, ordered = [], sorted(symbols, key=str)
    for place, symbol in enumerate(ordered):
        sizes = [
            sympy.Rational(*parts) * (1 + sympy.Rational(place, 13)) for parts in ((1, 997), (37, 101), (23, 11), (211, 7))
        ]
        choices.append(sizes if symbol.is_positive else [sizes[1], sizes[2], *(-size for size in sizes)])
    corners = list(product(*choices))
    return [dict(zip(ordered, corner, strict=True)) for corner in corners[:: max(1, len(corners) // 8)]]


def generic_points(symbols: Iterable[Expression]) -> list[Point]:
    """Six reproducible points of distinct coordinates: of ordinary, small (for asin) and large (for acosh) size, then with signs."""
    import sympy

    ordered = sorted(symbols, key=str)
    points = []
    for seed, scale in enumerate((61, 251, 4) * 2):
        draw = random.Random(seed)
        sizes = draw.sample(range(5, 125 + 4 * len(ordered)), len(ordered))
        signs = [1 if seed < 3 else draw.choice((1, -1)) for _ in ordered]
        points.append({x: sympy.Rational(sign * size, scale) for x, size, sign in zip(ordered, sizes, signs, strict=True)})
    return points


def number(expression: Expression, point: Point) -> Expression:
    """The value of an expression at a point, in 40 digits."""
    return expression.xreplace(point).evalf(DIGITS)


def resolved(expression: Expression, point: Point, known: dict[Expression, Expression] | None = None) -> Expression:
    """The smooth expression that a piecewise one equals around a point off its kinks and jumps."""
    import sympy

    known = {} if known is None else known
    if expression not in known:
        if isinstance(expression, sympy.Piecewise):
            branch = next(value for value, condition in expression.args if holds(condition, point, known))
            known[expression] = resolved(branch, point, known)
        else:
            known[expression] = _smooth(expression, point, known) if expression.args else expression
    return known[expression]


def _smooth(expression: Expression, point: Point, known: dict[Expression, Expression]) -> Expression:
    import sympy

    parts = [resolved(part, point, known) for part in expression.args]
    if isinstance(expression, sympy.Max | sympy.Min):
        return (max if isinstance(expression, sympy.Max) else min)(parts, key=lambda part: number(part, point))
    if isinstance(expression, sympy.Abs):
        return parts[0] if number(parts[0], point) >= 0 else -parts[0]
    if isinstance(expression, sympy.sign | sympy.Heaviside | sympy.floor | sympy.ceiling):
        return expression.func(number(parts[0], point))
    return expression.func(*parts)


def holds(condition: Expression, point: Point, known: dict[Expression, Expression]) -> bool:
    """Whether a condition holds at a point. Equality is exact or to 30 digits."""
    import sympy

    if condition in (sympy.true, sympy.false):
        return bool(condition)
    if isinstance(condition, sympy.logic.boolalg.BooleanFunction):
        return bool(condition.func(*(sympy.true if holds(part, point, known) else sympy.false for part in condition.args)))
    left, right = (resolved(side, point, known) for side in condition.args)
    gap = number(left - right, point)
    return bool(condition.func(0 if abs(gap) < 1e-30 else gap, 0))


def vanishes(expression: Expression) -> bool:
    """Whether SymPy can show that an expression is 0, by the cheapest of four ways that succeeds."""
    import sympy

    ways = (
        lambda e: e,
        sympy.expand,
        lambda e: sympy.cancel(sympy.together(e)),
        lambda e: sympy.simplify(e.rewrite(sympy.exp)),
    )
    return any(way(expression) == 0 for way in ways)
