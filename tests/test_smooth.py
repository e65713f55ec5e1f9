"""No row of the table has a kink that its function has not: first and second derivatives against differences in 80 digits.

A function is smooth at a point where differences from either side agree. There the row's first and second derivatives, mixed ones
too, must be theirs; a partial that selects a number at a point passes for the first derivative, and fails for the second.
"""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest

from gradc import types
from gradc.autodiff import vjp_graph
from gradc.interpret import evaluate
from gradc.ir import Graph
from gradc.leaves import constant, make_input
from gradc.ops import ANY, FLOAT, NUMBER, TABLE

DIGITS, STEP = 80, mpmath.mpf(10) ** -25
ONE, TWO = [0.0, 1.0, -1.0, 0.5, -0.25, -2.0, 30.0], [0.0, 1.0, -1.0, 2.0, 1000.0]
ROWS = [row for row in TABLE.values() if row.takes in (FLOAT, NUMBER, ANY) and not row.is_selection and row.gives == "same"]


def derivatives(row, points):
    """The row's first and second partials at all points, by reverse mode twice."""
    arrays = [np.array(column) for column in zip(*points, strict=True)]
    inputs = [make_input(x.shape, types.float64) for x in arrays]
    value = row(*inputs)
    ones = constant(1, types.float64, value.shape)
    first = vjp_graph([value], inputs, [ones])
    second = [slope for partial in first for slope in vjp_graph([partial], inputs, [ones])]
    found = evaluate(Graph(tuple(inputs), (*first, *second)), arrays)
    return found[: row.arity], np.reshape(found[row.arity :], (row.arity, row.arity, -1))


def true_derivatives(row, point):
    """What differences from all sides agree on: {(i,): slope, (i, j): second derivative}; what they do not is left out."""

    def at(*moves):
        moved = [mpmath.mpf(x) for x in point]
        for axis, steps in moves:
            moved[axis] += steps * STEP
        try:
            return mpmath.mpf(row.on_exact(*moved))
        except (TypeError, ValueError, ZeroDivisionError, AttributeError):  # no real number
            return mpmath.nan

    def difference(i, a):
        return (at((i, a)) - at()) / (a * STEP)

    sides = {(i,): [difference(i, side) for side in (1, -1)] for i in range(row.arity)}
    true = {key: found[0] for key, found in sides.items() if agree(found, mpmath.mpf("1e-12")) and abs(found[0]) < 1e20}
    for i, j in itertools.product(range(row.arity), repeat=2):
        if (i,) in true and (j,) in true:
            sides[i, j] = [
                (at((i, a), (j, b)) - at((i, a)) - at((j, b)) + at()) / (a * b * STEP**2) for a in (1, -1) for b in (1, -1)
            ]
            if i == j:
                sides[i, j] = [(at((i, 2 * a)) - 2 * at((i, a)) + at()) / STEP**2 for a in (1, -1)]
            if agree(sides[i, j], mpmath.mpf("1e-12")):
                true[i, j] = sides[i, j][0]
    return true


def agree(sides, tolerance):
    return all(mpmath.isfinite(x) for x in sides) and max(sides) - min(sides) <= tolerance * (1 + max(map(abs, sides)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_where_a_function_is_smooth_its_derivatives_are_true(row):
    points = list(itertools.product(ONE if row.arity == 1 else TWO, repeat=row.arity))
    if row.name == "copysign":
        points = [point for point in points if point[1]]  # SymPy knows one zero only
    first, second = derivatives(row, points)
    checked = 0
    with mpmath.workdps(DIGITS):
        for number, point in enumerate(points):
            for axes, true in true_derivatives(row, point).items():
                found = float((first[axes[0]] if len(axes) == 1 else second[axes])[number])
                assert abs(found - true) <= 1e-7 * (1 + abs(true)), f"∂{axes} {row.name}{point} is {found}, not {true}"
                checked += 1
    assert checked >= 2
