"""Interval arithmetic: between which numbers the elements of an array lie, and whether each of them is finite.

`image` is the interval of a function's results, found by running the function itself at the ends of its operands' intervals
and at points between them: no row of the table says twice what it does. Nothing here knows a Value or an operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import inf
from typing import Any

import numpy as np

USUAL = 1e4  # stands for what is finite and of unknown size: what overflows here is not arithmetic but an exponential or a pole
LARGE = 1e30  # stands for an infinite end where the end itself has no result (0·inf, inf - inf)
FRACTION = 0.3819  # of an interval, to a point that is no whole number: powers of negative numbers are nan there
BETWEEN = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Interval:
    """The elements lie in [low, high]. `finite`: none is infinite or nan as long as the program's arguments are finite and sums
    and products of usual numbers do not overflow. `selected`: some may be 0 because a selection made them so.
    """

    low: float = -inf
    high: float = inf
    finite: bool = False
    selected: bool = False

    def ends(self) -> tuple[float, ...]:
        """The points between which a function that is monotone on each side of 0 has its extremes."""
        return (self.low, self.high, *((0.0, -0.0) if self.low <= 0 <= self.high else ()))

    def points(self) -> tuple[float, ...]:
        """Points of the interval where a function is asked whether it is finite; infinite ones only where elements may be."""
        usual = (max(self.low, min(-USUAL, self.high)), min(self.high, max(USUAL, self.low)))
        inner = usual[0] + FRACTION * (usual[1] - usual[0])
        between = (x for x in (*BETWEEN, inner) if self.low < x < self.high)
        return tuple(dict.fromkeys((*(usual if self.finite else (self.low, self.high)), *between)))

    @property
    def is_unknown(self) -> bool:
        """Whether an element may also be nan."""
        return not self.finite and self.low == -inf and self.high == inf

    def times(self, count: int) -> Interval:
        """The sums of `count` elements."""
        return replace(self, low=self.low * count if self.low else 0.0, high=self.high * count if self.high else 0.0)


UNKNOWN = Interval()
ARGUMENT = Interval(finite=True)
TRUTH = Interval(0.0, 1.0, finite=True, selected=True)
ZERO = Interval(0.0, 0.0, finite=True, selected=True)


def union(*intervals: Interval) -> Interval:
    """The interval of elements that come from any of these."""
    return Interval(
        min(x.low for x in intervals),
        max(x.high for x in intervals),
        all(x.finite for x in intervals),
        any(x.selected for x in intervals),
    )


@lru_cache(maxsize=4096)
def image(
    function: Callable[..., Any], operands: tuple[Interval, ...], places: tuple[int, ...], monotone: bool, dtype: str
) -> Interval:
    """The interval of function(operands[i] for i in places), computed in `dtype`.

    Its ends are known of a `monotone` function alone: one that is monotone in each operand on each side of 0.
    """
    low, high = _extremes(function, operands, places) if monotone else (-inf, inf)
    known = not any(operand.is_unknown for operand in operands)
    results = _over(function, [operand.points() for operand in operands], places, dtype) if known else np.array(inf)
    return Interval(low, high, bool(np.isfinite(results).all()), _may_vanish(function, operands, places, dtype))


def _extremes(function: Callable[..., Any], operands: Sequence[Interval], places: Sequence[int]) -> tuple[float, float]:
    """The least and the greatest result at the ends of the operands."""
    ends = [operand.ends() for operand in operands]
    results = _over(function, ends, places, "float64")
    nearby = _over(function, [tuple(np.clip(points, -LARGE, LARGE)) for points in ends], places, "float64")
    results = np.where(np.isnan(results), nearby, results)
    return (-inf, inf) if np.isnan(results).any() else (float(results.min()), float(results.max()))


def _may_vanish(function: Callable[..., Any], operands: Sequence[Interval], places: Sequence[int], dtype: str) -> bool:
    """Whether results are 0 where some of the operands are that a selection may have made 0, whatever the others are."""
    usual = [next((x for x in reversed(operand.points()) if x and abs(x) < inf), 0.0) for operand in operands]
    chosen = [i for i, operand in enumerate(operands) if operand.selected]
    for choice in list(product((False, True), repeat=len(chosen)))[1:]:
        zeros = {i for i, taken in zip(chosen, choice, strict=True) if taken}
        points = [(0.0,) if i in zeros else (x,) for i, x in enumerate(usual)]
        if (_over(function, points, places, dtype) == 0).any():
            return True
    return False


def _over(function: Callable[..., Any], points: Sequence[tuple[float, ...]], places: Sequence[int], dtype: str) -> np.ndarray:
    """The function at all combinations of points."""
    with np.errstate(all="ignore"):
        grid = [np.ravel(axis).astype(dtype) for axis in np.meshgrid(*(np.array(p) for p in points), indexing="ij")]
        return np.asarray(function(*(grid[place] for place in places)), dtype)
