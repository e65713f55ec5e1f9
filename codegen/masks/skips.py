"""Which steps of a loop add nothing: where a mask over positions leaves every term of the loop's reductions neutral.

A comparison of positions is assumed to hold or to fail on one side of a line, and what is constant then is followed
upwards through the table's NumPy rows; no function is named here. A skipped tile is not read: a term that would be
0 times infinity or 0 / 0 there counts as 0, as the mask means. Loop bounds are made of this in `bounds.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradc import types
from gradc.codegen.index import Axis, Index
from gradc.codegen.nodes import Guard, Node, has_datum, walk
from gradc.codegen.printing.spelling import identity, literal
from gradc.types import DType

MOST_POINTS = 2**20  # positions at which a condition is looked at one by one
EXACT = {("int", 4): 2**31, ("int", 8): 2**31, ("float", 4): 2**24, ("float", 8): 2**31}  # positions held exactly are below
SMALL = (0, 1, -1, 2, -3, 5, 1000, -777)
FLOATS = (0.0, 1.0, -1.0, 0.5, -2.5, 3.7, 1e3, -1e3, 1e-30, -1e-30, 1e30, -1e30, np.inf, -np.inf, np.nan)
LONGEST = 60  # functions of a position in one condition
BETWEEN = 17  # positions over the length of an operand at which a row is tried

Offset = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Ramp:
    """What depends on one affine position `along` alone: `values` of it, for `low` to `high`, the same beyond either end.

    Its `length` is the number of functions that make a value.
    """

    along: Index
    values: Offset
    low: int
    high: int
    length: int = 1

    def between(self, low: int, high: int) -> np.ndarray:
        """The values for positions from `low` to `high`."""
        first, last = (min(max(end, self.low), self.high) for end in (low, high))
        return self.values(np.arange(first, last + 1))

    def turns(self) -> Iterator[Index]:
        """Lines `M` such that the values are all alike where M < 0: before the first, after the last of either truth."""
        truth = self.between(self.low, self.high)
        for sought in (True, False):
            (found,) = np.nonzero(truth == sought)
            if found.size and found[0] > 0:
                yield self.along + -(self.low + int(found[0]))
            if found.size and found[-1] + 1 < truth.size:
                yield self.along.scaled(-1) + (self.low + int(found[-1]))


def needed_lines(reductions: Sequence[Node], axes: Iterable[Axis]) -> tuple[Index, ...]:
    """Lines `M` such that no term of any of the `reductions` over a loop along `axes` counts where M < 0."""
    loop = frozenset(axes)
    lines: dict[tuple, Index] = {}
    for ramp in _ramps(walk([x for node in reductions for x in node.operands])):
        if not ramp.along.axes & loop:
            continue
        for line in ramp.turns():
            before = lines.get(line.terms)
            tighter = before is None or line.offset < before.offset
            if tighter and all(Known(loop, line).is_neutral(node) for node in reductions):
                lines[line.terms] = line
    return tuple(lines.values())


def _ramps(nodes: Iterable[Node]) -> Iterator[Ramp]:
    """Every condition on positions among the nodes and in the masks of loads."""
    positions = Positional()
    for node in nodes:
        if node.kind == "load":
            found = [guard_ramp(guard) for guard in node.detail.guards]
        else:
            found = [positions.ramp(node)] if node.dtype == types.bool_ else []
        yield from (ramp for ramp in found if ramp is not None)


class Positional:
    """Recognises expressions made of positions: affine ones, and functions of a single affine one."""

    def __init__(self) -> None:
        self._affine: dict[Node, Index | None] = {}
        self._ramp: dict[Node, Ramp | None] = {}

    def affine(self, node: Node) -> Index | None:
        """The node as a sum of axes times whole numbers, where it is exactly that."""
        for inner in walk([node], self._affine):
            index = self._find_affine(inner)
            self._affine[inner] = index if index is not None and _holds(inner.dtype, index) else None
        return self._affine[node]

    def _find_affine(self, node: Node) -> Index | None:
        if node.kind == "position":
            return node.detail if _is_plain(node.detail) else None
        if node.kind == "constant":
            return Index((), int(node.detail)) if float(node.detail).is_integer() else None
        if node.kind == "cast":
            return self._affine[node.operands[0]]
        if node.kind != "apply":
            return None
        operands = [self._affine[x] for x in node.operands]
        return None if any(x is None for x in operands) else _combined(node, operands)  # type: ignore[arg-type]

    def ramp(self, node: Node) -> Ramp | None:
        """The node as a function of one affine position."""
        for inner in walk([node], self._ramp):
            self._ramp[inner] = self._find_ramp(inner)
        return self._ramp[node]

    def _find_ramp(self, node: Node) -> Ramp | None:
        kind = node.dtype.compute.numpy
        if node.kind == "constant":
            return _ramp_of(Index(), lambda t: np.full(t.shape, node.detail, kind))
        index = self.affine(node)
        if index is not None:
            return _ramp_of(Index(index.terms), lambda t: (t + index.offset).astype(kind))
        if node.kind == "guard":
            return guard_ramp(node.detail)
        if node.kind == "cast" and node.operands[0].dtype != types.bool_:
            x = self._ramp[node.operands[0]]
            return x and _longer(x, lambda t: x.values(t).astype(node.dtype.numpy).astype(kind), x.length)
        if node.kind != "apply" or any(x.dtype == types.bool_ for x in node.operands):
            return None
        return self._comparison(node) or self._composed(node)

    def _comparison(self, node: Node) -> Ramp | None:
        """A row that looks only at the sign of the difference of its two operands."""
        operands = [self.affine(x) for x in node.operands]
        if node.dtype != types.bool_ or len(operands) != 2 or any(x is None for x in operands):
            return None
        dtype, function = node.operands[0].dtype.compute.numpy, node.detail.numpy
        x, y = np.meshgrid(np.array(SMALL, dtype), np.array(SMALL, dtype))
        if not np.array_equal(function(x, y), function(np.sign(x - y), np.zeros_like(x))):
            return None
        along = operands[0] + operands[1].scaled(-1)  # type: ignore[operator, union-attr]
        low, high = along.bounds()
        if not along.terms or not _is_plain(along):
            return None
        return Ramp(
            along,
            lambda t: function(t.astype(dtype), np.zeros(t.shape, dtype)),
            max(low, min(-1, high)),
            min(high, max(1, low)),
        )

    def _composed(self, node: Node) -> Ramp | None:
        """A row of constants and of functions of one position."""
        parts = [part for x in node.operands if (part := self._ramp[x]) is not None]
        moving = [part for part in parts if part.along.terms]
        if len(parts) < len(node.operands) or len({part.along for part in moving}) != 1:
            return None
        function, length = node.detail.numpy, sum(part.length for part in parts)  # type: ignore[union-attr]
        ramp = _ramp_of(moving[0].along, lambda t: function(*(part.values(t) for part in parts)))
        return ramp and _longer(ramp, ramp.values, length)


def _longer(ramp: Ramp, values: Offset, length: int) -> Ramp | None:
    """The ramp with other values, made of so many functions and one more; None where that is too much to try."""
    return replace(ramp, values=values, length=length + 1) if length < LONGEST else None


def _ramp_of(along: Index, values: Offset) -> Ramp | None:
    low, high = along.bounds()
    return Ramp(along, values, low, high) if 0 <= high - low < MOST_POINTS else None


def guard_ramp(guard: Guard) -> Ramp | None:
    """The mask of a view as a function of the position it looks at."""
    if not _is_plain(guard.index):
        return None
    return _ramp_of(guard.index, lambda t: (t >= guard.low) & (t < guard.high) & ((t - guard.low) % guard.step == 0))


def _is_plain(index: Index) -> bool:
    return all(isinstance(term, Axis) for term, _ in index.terms)


def _holds(dtype: DType, index: Index) -> bool:
    """Whether a dtype holds every position exactly."""
    return max(map(abs, index.bounds())) < EXACT.get((dtype.family, dtype.itemsize), 0)


def _combined(node: Node, operands: list[Index]) -> Index | None:
    """A row of affine positions, if it is affine in those that vary: found by trying it on small numbers and over their length."""
    varying = [i for i, x in enumerate(operands) if x.terms]
    dtype, function = node.dtype.compute.numpy, node.detail.numpy
    if node.dtype == types.bool_ or not 0 < len(varying) <= 2 or len({x.dtype for x in node.operands}) > 1:
        return None
    grid = np.meshgrid(*(_tried(operands[i]) for i in varying))

    def at(*numbers: Any) -> np.ndarray:
        given = dict(zip(varying, numbers, strict=True))
        with np.errstate(all="ignore"):
            return function(*(np.asarray(given.get(i, x.offset)).astype(dtype) for i, x in enumerate(operands)))

    start = at(*(0 for _ in varying))
    slopes = [at(*(int(i == j) for j in varying)) - start for i in varying]
    line = start + sum(slope * numbers for slope, numbers in zip(slopes, grid, strict=True))
    if not all(float(number).is_integer() for number in (start, *slopes)) or not np.array_equal(at(*grid), line):
        return None
    result = Index((), int(start))
    for i, slope in zip(varying, slopes, strict=True):
        result = result + operands[i].scaled(int(slope))
    return result


def _tried(index: Index) -> np.ndarray:
    """Small numbers, and from the first position to the last: what is the identity up to 1000 may turn later."""
    return np.unique([*SMALL, *np.linspace(*index.bounds(), BETWEEN).astype(np.int64)])


class Known:
    """What is constant inside a loop along `loop` wherever the position `line` is negative, and `assumed` nodes are as given."""

    def __init__(self, loop: frozenset[Axis], line: Index | None = None, assumed: Mapping[Node, Any] | None = None):
        self.loop, self.line = loop, line
        self.positions = Positional()
        self._memo: dict[Node, Any] = dict(assumed or {})

    def is_neutral(self, reduction: Node) -> bool:
        """Whether the terms of a reduction change nothing."""
        if reduction.kind == "dot":
            return any(self.is_zero(x) for x in reduction.operands)
        return self._is(reduction.operands[0], identity(reduction.detail[0], reduction.dtype))

    def is_zero(self, node: Node) -> bool:
        return self._is(node, identity("sum", node.dtype))

    def _is(self, node: Node, text: str) -> bool:
        value = self.constant(node)
        return value is not None and literal(value + 0 if node.dtype.is_floating else value, node.dtype) == text

    def constant(self, node: Node) -> Any:
        """The number a node is, or None where that is not known."""
        for inner in walk([node]):
            if inner not in self._memo:
                self._memo[inner] = self._find(inner)
        return self._memo[node]

    def _find(self, node: Node) -> Any:
        if node.kind == "constant":
            return node.detail
        if node.kind == "load":
            return self._find_load(node)
        if node.dtype == types.bool_:
            known = self._truth(self.positions.ramp(node))
            if known is not None:
                return known
        if node.kind == "cast":
            x = self._memo[node.operands[0]]
            return None if x is None else np.asarray(x).astype(node.dtype.numpy).astype(node.dtype.compute.numpy).item()
        if node.kind == "apply":
            return self._apply(node)
        return self._folded(node) if node.kind in ("reduce", "dot") else None

    def _find_load(self, node: Node) -> Any:
        guards = node.detail.guards
        if any(has_datum(guard.index) for guard in guards):
            return None
        return 0 if any(self._truth(guard_ramp(guard)) is False for guard in guards) else None

    def _truth(self, ramp: Ramp | None) -> bool | None:
        """Whether a condition holds, or fails, everywhere on the negative side of the line."""
        if ramp is None or self.line is None or not ramp.along.terms:
            return None
        low, high = ramp.along.bounds()
        if ramp.along.terms == self.line.terms:
            high = ramp.along.offset - self.line.offset - 1
        elif ramp.along.scaled(-1).terms == self.line.terms:
            low = ramp.along.offset + self.line.offset + 1
        else:
            return None
        truth = ramp.between(low, high)
        return bool(truth[0]) if truth.size and (truth == truth[0]).all() else None

    def _apply(self, node: Node) -> Any:
        """A row of numbers partly known: what it gives whatever the others are. NaN, of 0 / 0, is not held against it."""
        operands = [self._memo[x] for x in node.operands]
        if all(x is None for x in operands):
            return None
        constants = [x for x in operands if x is not None]
        columns = [
            numbers(x.dtype, constants) if value is None else np.asarray([value], x.dtype.compute.numpy)
            for x, value in zip(node.operands, operands, strict=True)
        ]
        with np.errstate(all="ignore"):
            results = node.detail.numpy(*(part.ravel() for part in np.meshgrid(*columns, indexing="ij")))
        if all(x == x for x in constants):  # otherwise a NaN is what is given, not what comes of it
            results = results[results == results]
        return results[0].item() if results.size and (results == results[0]).all() else None

    def _folded(self, node: Node) -> Any:
        """A reduction finished before the loop's step is: the neutral element stays what it is."""
        reduced = node.detail[1] if node.kind == "reduce" else node.detail.summed
        if self.loop & frozenset(reduced) or not self.is_neutral(node):
            return None
        return self._memo[node.operands[0]] if node.kind == "reduce" else 0.0


def numbers(dtype: DType, beside: Iterable[Any]) -> np.ndarray:
    """Numbers of a dtype that stand for all of them beside given constants: those, small ones, extremes, what is no number."""
    if dtype == types.bool_:
        return np.array([False, True])
    kind = dtype.compute.numpy
    finite = [x for x in beside if not isinstance(x, bool) and abs(x) < float("inf")]
    if dtype.is_floating:
        limits = np.finfo(kind)
        return np.array([*FLOATS, *finite, limits.max, limits.min, limits.tiny], kind)
    bounds = np.iinfo(kind)
    near = [x + step for x in map(int, finite) for step in (-1, 0, 1)]
    inside = [x for x in itertools.chain(SMALL, near) if bounds.min <= x <= bounds.max]
    return np.array([*inside, bounds.min, bounds.max], kind)
