"""The rank of a body: how many functions of x its values at different states span, found in numbers.

Sixty digits at two sample sizes take milliseconds and refuse what has no finite basis before any algebra is tried; what
they let through is proved afterwards, exactly. SymPy expressions are evaluated node by node, by mpmath.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from gradc.codegen.cascades.normal_form import Expression, Inexpressible, Symbol

MAXIMUM_RANK = 4
SAMPLES = (8, 12)
DIGITS = 60
LARGEST_ARGUMENT = 10_000  # of a function at a sample point
NEGLIGIBLE = "1e-40"  # once the largest of a row and of a column is 1; a finite rank leaves about 1e-58


class Samples:
    """A body at sample points: rows of x, columns of d, constants fixed. Coordinates are rational, positive and spread evenly."""

    def __init__(self, body: Expression, varying: set[Symbol], states: Sequence[Symbol]):
        import mpmath

        self.body, self.context = body, mpmath.mp.clone()
        self.context.dps = DIGITS
        ordered = sorted(body.free_symbols | set(states), key=lambda s: (s.name, s.sort_key()))
        self.varying = [s for s in ordered if s in varying]
        self.states = [s for s in ordered if s in states]
        self.constants = self._points([s for s in ordered if s not in varying and s not in states], 1, 0)[0]

    def _points(self, symbols: list[Symbol], count: int, seed: int) -> list[dict[Symbol, Any]]:
        draw = random.Random(seed)
        points: list[dict[Symbol, Any]] = [{} for _ in range(count)]
        for symbol in symbols:
            for point, place in zip(points, draw.sample(range(count), count), strict=True):
                point[symbol] = self.context.mpf(997 * place + draw.randrange(1, 997)) * 4 / (997 * count)
        return points

    def rank(self) -> int:
        """The number of independent functions of x among body(·; d). Refuses one that grows with the sample or is too large."""
        found = []
        for size in SAMPLES:
            columns = self._points(self.states, size, 2 * size)
            rows = self._points(self.varying, size, 2 * size + 1)
            found.append(self._rank([[self.number(self.body, {**x, **d}) for d in columns] for x in rows]))
            if found[-1] > MAXIMUM_RANK or found[-1] != found[0]:
                raise Inexpressible(f"the rank over {size} samples is {found[-1]}: no basis of {MAXIMUM_RANK} or fewer")
        if not found[0]:
            raise Inexpressible("the body is zero")
        return found[0]

    def are_independent(self, functions: Sequence[Expression]) -> bool:
        state = self._points(self.states, 1, 1)[0]
        points = self._points(self.varying, SAMPLES[1], 3)
        return self._rank([[self.number(f, {**x, **state}) for x in points] for f in functions]) == len(functions)

    def _rank(self, rows: list[list[Any]]) -> int:
        rows = _scaled(zip(*_scaled(rows), strict=True))
        for rank in range(len(rows)):
            size, i, j = max((abs(rows[i][j]), i, j) for i in range(rank, len(rows)) for j in range(len(rows[0])))
            if size <= self.context.mpf(NEGLIGIBLE):
                return rank
            rows[rank], rows[i] = rows[i], rows[rank]
            pivot = rows[rank]
            for row in rows[rank + 1 :]:
                share = row[j] / pivot[j]
                row[:] = [entry - share * p for entry, p in zip(row, pivot, strict=True)]
        return len(rows)

    def number(self, node: Expression, point: dict[Symbol, Any]) -> Any:
        if node.is_Symbol:
            return point[node] if node in point else self.constants[node]
        if node.is_Rational:
            return self.context.mpf(node.p) / node.q
        parts = [self.number(part, point) for part in node.args]
        if node.is_Add:
            return self.context.fsum(parts)
        if node.is_Mul:
            return self.context.fprod(parts)
        if node.is_Pow:
            return parts[0] ** (int(node.exp) if node.exp.is_Integer else parts[1])
        function = getattr(self.context, type(node).__name__, None)
        if function is None or max(map(abs, parts)) > LARGEST_ARGUMENT:
            raise Inexpressible(f"{node} is neither polynomial nor exponential")
        return function(*parts)


def _scaled(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Each row over its largest entry."""
    return [[entry / (max(map(abs, row)) or 1) for entry in row] for row in rows]
