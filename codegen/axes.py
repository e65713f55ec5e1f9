"""Which dimensions of a program move together: every dimension becomes a tuple of axes shared across operations.

Elementwise operations, broadcasts, transposes, reductions and contractions tie dimensions to each other; a reshape that
splits or merges dimensions refines them, so that both sides are made of the same finer axes. Sharing is only an
opportunity: `nodes.py` follows exact index maps, and never relies on it for correctness.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from math import prod

from gradc import structure
from gradc.codegen.index import Axis, Index, of_axis
from gradc.ir import Value
from gradc.leaves import Broadcast, Reshape, constant_of

Dim = tuple[Value, int]


class Families:
    """Disjoint sets of plain hashable keys, with path compression."""

    def __init__(self) -> None:
        self.parent: dict = {}

    def find(self, item):
        root = self.parent.setdefault(item, item)
        while root != self.parent[root]:
            root = self.parent[root]
        while item != root:
            self.parent[item], item = root, self.parent[item]
        return root

    def join(self, a, b) -> None:
        self.parent[self.find(a)] = self.find(b)


def tied_dims(value: Value) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of dimensions that are read at the same index: of an operand and the result, or of two operands."""
    operation = value.operation
    if not value.operands:
        return
    x = value.operands[0]
    if isinstance(operation, Broadcast):
        pairs = [(0, i, axis) for i, axis in enumerate(operation.axes)]
    elif isinstance(operation, structure.Permute):
        pairs = [(0, axis, i) for i, axis in enumerate(operation.axes)]
    elif isinstance(operation, structure.Reduce):
        kept = [i for i in range(x.ndim) if i not in operation.axes]
        pairs = [(0, axis, i) for i, axis in enumerate(kept)]
    elif isinstance(operation, structure.Slice):
        whole = [i for i in range(x.ndim) if x.shape[i] == value.shape[i]]
        pairs = [(0, i, i) for i in whole]
    elif isinstance(operation, structure.Pad):
        pairs = [(0, i, i) for i in range(x.ndim) if x.shape[i] == value.shape[i]]
    elif isinstance(operation, structure.Flip):
        pairs = [(0, i, i) for i in range(x.ndim) if i not in operation.axes]
    elif isinstance(operation, structure.Concatenate):
        pairs = [(o, i, i) for o in range(len(value.operands)) for i in range(x.ndim) if i != operation.axis]
    elif isinstance(operation, structure.Gather | structure.ScatterAdd):
        pairs = [(0, i, i) for i in range(x.ndim) if i != operation.axis]
        pairs += [(1, i, i) for i, n in enumerate(value.operands[1].shape) if n == value.shape[i] and i != operation.axis]
        if isinstance(operation, structure.Gather):
            pairs.append((1, operation.axis, operation.axis))
    elif isinstance(operation, structure.Contract):
        yield from _tied_labels(value, operation)
        return
    elif isinstance(operation, Reshape):
        return
    else:
        pairs = [(o, i, i) for o, operand in enumerate(value.operands) for i in range(operand.ndim) if _says(operand, i)]
    for position, i, j in pairs:
        yield (value.operands[position], i), (value, j)


def _says(operand: Value, dim: int) -> bool:
    """Whether a dimension of an operand says what its users have in common: one that a constant or a row is stretched along does not.

    A scalar that is read does: arrays updated with the same one are worth going over together.
    """
    if not isinstance(operand.operation, Broadcast):
        return True
    (x,) = operand.operands
    return constant_of(x) is None if not x.shape else dim in operand.operation.axes


def _tied_labels(value: Value, contract: structure.Contract) -> Iterator[tuple[Dim, Dim]]:
    x, y = value.operands
    first: dict[int, Dim] = {}
    for owner, labels in ((value, contract.out), (x, contract.lhs), (y, contract.rhs)):
        for i, label in enumerate(labels):
            if label in first:
                yield (owner, i), first[label]
            else:
                first[label] = (owner, i)


def reshape_groups(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of dimensions of equal product on both sides of a reshape; dimensions of size 1 belong to no run."""
    left = [i for i, n in enumerate(before) if n != 1]
    right = [i for i, n in enumerate(after) if n != 1]
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while prod(before[i] for i in a) != prod(after[i] for i in b):
            if prod(before[i] for i in a) < prod(after[i] for i in b):
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        yield a, b


class AxisMap:
    """The axes of every dimension of every Value of a program (`axes_of`), and the axes each one is computed over (`domain`).

    `overrides` says that a Value is computed as another one of the same shape (a sum as the sum of its partial sums);
    `ties` are further dimensions that move together; `recomputed` are products that may be computed at any place. Products of at
    most `small_product` multiplications do without the matrix unit.
    """

    def __init__(
        self,
        values: Iterable[Value],
        overrides: Mapping[Value, Value] | None = None,
        ties: Iterable[tuple[Dim, Dim]] = (),
        recomputed: frozenset[Value] = frozenset(),
        small_product: int = 0,
    ):
        self.small_product = small_product
        self.values = list(values)
        self.overrides, self.recomputed = dict(overrides or {}), recomputed
        self.families = Families()
        self.groups: list[tuple[list[Dim], list[Dim]]] = []
        for value in self.values:
            self._tie(value)
        for a, b in ties:
            self.families.join(_key(a), _key(b))
        for value, instead in self.overrides.items():
            for dim, size in enumerate(value.shape):
                if size != 1:
                    self.families.join(_key((value, dim)), _key((instead, dim)))
        scans = [value for value in self.values if isinstance(value.operation, structure.Cumulative)]
        self.uncut = {self.families.find(_key((value, value.operation.axis))) for value in scans}
        self.cuts: dict[tuple[int, int], set[int]] = {}
        self._refine()
        self.atoms = Families()
        for first, second in self.groups:
            self._align(first, second)
        self._numbers: dict = {}
        self.axes_of = cache(self._axes_of)
        self.domain = cache(self._domain)

    def _tie(self, value: Value) -> None:
        for a, b in tied_dims(value):
            if a[0].shape[a[1]] != 1:
                self.families.join(_key(a), _key(b))
        if isinstance(value.operation, Reshape) and value.size:
            (x,) = value.operands
            for left, right in reshape_groups(x.shape, value.shape):
                if len(left) == len(right) == 1:
                    self.families.join(_key((x, left[0])), _key((value, right[0])))
                else:
                    self.groups.append(([(x, i) for i in left], [(value, i) for i in right]))

    def _refine(self) -> None:
        """Propagates split points through reshapes until both sides of each agree (or cannot)."""
        for _ in range(2 + len(self.groups)):
            changed = [self._cut(dims, points) for dims, points in self._split_points()]
            if not any(changed):
                return

    def _split_points(self) -> Iterator[tuple[list[Dim], set[int]]]:
        for sides in self.groups:
            points: set[int] = set()
            for dims in sides:
                inner = 1
                for dim in reversed(dims):
                    points |= {inner * cut for cut in self.cuts.get(self.families.find(_key(dim)), ())}
                    inner *= dim[0].shape[dim[1]]
                    points.add(inner)
            if _is_chain(points):
                yield sides[0], points
                yield sides[1], points

    def _cut(self, dims: list[Dim], points: set[int]) -> bool:
        changed, inner = False, 1
        for dim in reversed(dims):
            outer = inner * dim[0].shape[dim[1]]
            new = {p // inner for p in points if inner < p < outer and p % inner == 0}
            root = self.families.find(_key(dim))
            if root in self.uncut:
                inner = outer
                continue
            family = self.cuts.setdefault(root, set())
            if not new <= family and _is_chain(family | new | {outer // inner}):
                family |= new
                changed = True
            inner = outer
        return changed

    def _pieces(self, dim: Dim) -> list[tuple]:
        """The atoms of a dimension, outermost first: (family, inner product, size)."""
        family, size = self.families.find(_key(dim)), dim[0].shape[dim[1]]
        points = [1, *sorted(self.cuts.get(family, ())), size]
        return [((family, low), high // low) for low, high in reversed(list(itertools.pairwise(points)))]

    def _align(self, first: list[Dim], second: list[Dim]) -> None:
        a, b = ([piece for dim in dims for piece in self._pieces(dim)] for dims in (first, second))
        if [size for _, size in a] == [size for _, size in b]:
            for (x, _), (y, _) in zip(a, b, strict=True):
                self.atoms.join(x, y)

    def _axes_of(self, value: Value, dim: int) -> tuple[Axis, ...]:
        """The axes of one dimension, outermost first, all as copy 0."""
        if value.shape[dim] == 1:
            return ()
        pieces = self._pieces((value, dim))
        return tuple(Axis(self._number(self.atoms.find(atom)), size) for atom, size in pieces)

    def _number(self, atom) -> int:
        return self._numbers.setdefault(atom, len(self._numbers))

    def _domain(self, value: Value) -> tuple[tuple[tuple[Axis, ...], ...], tuple[tuple[Axis, ...], ...]]:
        """The axes of each result dimension, and of each dimension summed over; a repeated axis gets the next copy."""
        used: dict[Axis, int] = {}

        def fresh(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
            result = []
            for axis in axes:
                copy = used.get(axis, 0)
                used[axis] = copy + 1
                result.append(Axis(axis.atom, axis.size, copy))
            return tuple(result)

        own = tuple(fresh(self.axes_of(value, dim)) for dim in range(value.ndim))
        return own, tuple(fresh(self.axes_of(owner, dim)) for owner, dim in summed_dims(value))


def summed_dims(value: Value) -> list[Dim]:
    """The operand dimensions a reduction or contraction folds away, in the operand's order."""
    operation = value.operation
    if isinstance(operation, structure.Reduce):
        return [(value.operands[0], axis) for axis in operation.axes]
    if isinstance(operation, structure.Contract):
        return [(value.operands[0], i) for i, label in enumerate(operation.lhs) if label not in operation.out]
    return []


def index_over(axes: tuple[Axis, ...]) -> Index:
    """The position along a dimension made of `axes`, outermost first."""
    index = Index()
    for axis in axes:
        index = index.scaled(axis.size) + of_axis(axis)
    return index


def _key(dim: Dim) -> tuple[int, int]:
    return dim[0].number, dim[1]


def _is_chain(points: set[int]) -> bool:
    ordered = sorted(points)
    return all(b % a == 0 for a, b in itertools.pairwise(ordered))
