"""Expressions of a kernel: what a Value is at one index, with every view turned into index arithmetic and masks.

A `Puller` follows a Value at an index down to what is loaded from memory, to constants, or to a reduction computed in the
same kernel. Nothing here decides what a kernel computes or in which order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from gradc import ops, structure, types
from gradc.codegen.axes import AxisMap, index_over
from gradc.codegen.index import Axis, Datum, Index, Part, flatten, floor_divide, modulo, of_axis, term_axes, unflatten
from gradc.codegen.small import multiplications
from gradc.errors import UnsupportedError
from gradc.ir import Value
from gradc.leaves import Broadcast, Cast, Constant, Input, Iota, Literal, Reshape
from gradc.types import DType, row_major
from gradc.walks import Walk, walked

Indices = tuple[Index, ...]


@dataclass(frozen=True)
class Guard:
    """Holds where `low <= index < high` and `index - low` is a multiple of `step`."""

    index: Index
    low: int
    high: int
    step: int = 1

    def never(self) -> bool:
        low, high = self.index.bounds()
        return not has_datum(self.index) and (high < self.low or low >= self.high)

    def always(self) -> bool:
        low, high = self.index.bounds()
        return self.step == 1 and not has_datum(self.index) and self.low <= low and high < self.high


@dataclass(frozen=True)
class Running(Input):
    """What a sum has come to before this kernel: the kernel that adds to it writes the same array."""

    name = "running"


@dataclass(frozen=True, eq=False)
class Access:
    """A read of `buffer` at `index` (one Index per dimension); zero where a guard fails."""

    buffer: Value
    index: Indices
    guards: tuple[Guard, ...] = ()

    @cached_property
    def offset(self) -> Index:
        """The element offset as one Index."""
        flat = Index()
        for index, stride in zip(self.index, strides_of(self.buffer), strict=True):
            flat = flat + index.scaled(stride)
        return flat


@dataclass(frozen=True)
class Dot:
    """The axes of a product of matrices, by where they stand."""

    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    summed: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """One expression. `kind` is load, constant, position, guard, apply, cast, reduce, dot or scan; `detail` is its parameter."""

    kind: str
    operands: tuple[Node, ...]
    dtype: DType
    value: Value
    detail: Any
    axes: frozenset[Axis] = field(default=frozenset())


class NotSharedError(Exception):
    """A reduction of this kernel is needed at an index other than its own: it must be stored first."""

    def __init__(self, value: Value):
        self.value = value


def strides_of(value: Value) -> tuple[int, ...]:
    """Strides in elements: an input's own, row-major for everything the program makes."""
    strides = getattr(value.operation, "strides", None)
    return strides if strides is not None else row_major(value.shape)


def has_datum(index: Index) -> bool:
    return any(isinstance(t, Datum) or (isinstance(t, Part) and has_datum(t.index)) for t, _ in index.terms)


class Puller:
    """Builds the expressions of one kernel. `stored` Values are loaded; reductions not stored are computed in place.

    An expression at the same index is built once. A reduction is only shared at its own axes: elsewhere NotSharedError is
    raised and the caller stores it.
    """

    def __init__(self, axes: AxisMap, stored: Callable[[Value], bool]):
        self.axes = axes
        self.stored = stored
        self.overrides = axes.overrides
        self._memo: dict[tuple, Node] = {}
        self._data: dict[Node, Datum] = {}

    def at_own_axes(self, value: Value, compute: bool = False) -> Node:
        """`value` over its own axes; with `compute`, even where it is also stored."""
        own = tuple(index_over(axes) for axes in self.axes.domain(value)[0])
        return walked(self._build(value, own, ()) if compute and not is_leaf(value) else self._at(value, own))

    def _at(self, value: Value, index: Indices, guards: tuple[Guard, ...] = ()) -> Walk[Node]:
        key = (value, index, guards)
        if key not in self._memo:
            if is_leaf(value) or self.stored(value):
                self._memo[key] = self._load(value, index, tuple(guard for guard in guards if not guard.always()))
            else:
                self._memo[key] = yield self._build(value, index, guards)
        return self._memo[key]

    def _load(self, value: Value, index: Indices, guards: tuple[Guard, ...]) -> Node:
        """A read of memory. A guard on axes that the address does not depend on selects afterwards: it need not mask the read.

        A guard on gathered indices that the address does not depend on is left to `_gather`.
        """
        along, data = Access(value, index).offset.axes, set(data_of(index))
        guards = tuple(guard for guard in guards if not has_datum(guard.index) or not data.isdisjoint(data_of((guard.index,))))
        after = tuple(guard for guard in guards if guard.index.axes and not guard.index.axes & along)
        access = Access(value, index, tuple(guard for guard in guards if guard not in set(after)))
        axes = along.union(*(guard.index.axes for guard in access.guards))
        load = Node(
            "load", tuple(data_of((*index, *(guard.index for guard in access.guards)))), value.dtype, value, access, axes
        )
        return self._select(value, after, load, self._zero(value))

    def _zero(self, value: Value) -> Node:
        return Node("constant", (), value.dtype, value, 0.0 if value.dtype.is_floating else value.dtype.is_integer and 0)

    def _build(self, value: Value, index: Indices, guards: tuple[Guard, ...]) -> Walk[Node]:
        if value in self.overrides:
            return (yield self._at(self.overrides[value], index, guards))
        operation = value.operation
        if isinstance(operation, ops.Elementwise):
            operands = []
            for x in value.operands:
                operands.append((yield self._at(x, index, guards)))
            return self._apply(value, operation, operands)
        if isinstance(operation, Constant):
            return Node("constant", (), value.dtype, value, operation.value)
        if isinstance(operation, Iota):
            if not index[0].terms:
                return Node("constant", (), value.dtype, value, index[0].offset)
            return Node("position", tuple(data_of(index)), value.dtype, value, index[0], index[0].axes)
        if isinstance(operation, Cast):
            x = yield self._at(value.operands[0], index, guards)
            return Node("cast", (x,), value.dtype, value, operation.dtype, x.axes)
        if isinstance(operation, structure.Marker):
            x = yield self._at(value.operands[0], index, guards)
            return self._as_held(value, x) if isinstance(operation, structure.Keep) else self._labelled(value, x)
        if isinstance(operation, structure.Reduce | structure.Contract | structure.Cumulative):
            return (yield self._reduction(value, index))
        return (yield self._view(value, index, guards))

    def _labelled(self, value: Value, x: Node) -> Node:
        """What a marker passes through, under the marker's dtype."""
        return x if x.dtype == value.dtype else replace(x, dtype=value.dtype)

    def _as_held(self, value: Value, x: Node) -> Node:
        """Rounded to the dtype of a Value, unless that is how it lies in memory."""
        stored = getattr(value.operands[0].operation, "stored", None) or value.dtype
        as_it_lies = is_leaf(value.operands[0]) and stored == value.dtype
        return (
            x
            if as_it_lies or value.dtype.compute == value.dtype
            else Node("cast", (x,), value.dtype, value, value.dtype, x.axes)
        )

    def _apply(self, value: Value, row: ops.Elementwise, operands: list[Node]) -> Node:
        axes = frozenset(axis for x in operands for axis in x.axes)
        return Node("apply", tuple(operands), value.dtype, value, row, axes)

    # Views ----------------------------------------------------------------------------------------------------------

    def _view(self, value: Value, index: Indices, guards: tuple[Guard, ...]) -> Walk[Node]:
        operation, x = value.operation, value.operands[0]
        if isinstance(operation, structure.Pad):
            return self._pad(value, operation, index, guards)
        if isinstance(operation, structure.Concatenate):
            return self._concatenate(value, operation, index, guards)
        if isinstance(operation, structure.Gather):
            return self._gather(value, operation, index, guards)
        return self._at(x, moved_index(value, index), guards)

    def _pad(self, value: Value, pad: structure.Pad, index: Indices, guards: tuple[Guard, ...]) -> Walk[Node]:
        inside, moved = [], []
        for i, n, low, interior in zip(index, value.operands[0].shape, pad.low, pad.interior, strict=True):
            step = interior + 1
            inside.append(Guard(i, low, low + (n - 1) * step + 1 if n else low, step))
            moved.append(floor_divide(i + (-low), step))
        needed = tuple(guard for guard in inside if not guard.always())
        if any(guard.never() for guard in needed):
            return self._zero(value)
        x = yield self._at(value.operands[0], tuple(moved), (*guards, *needed))
        return self._select(value, needed, x, self._zero(value))

    def _concatenate(
        self, value: Value, concatenate: structure.Concatenate, index: Indices, guards: tuple[Guard, ...]
    ) -> Walk[Node]:
        axis, stop = concatenate.axis, value.shape[concatenate.axis]
        result: Node | None = None
        for x in reversed(value.operands):
            here = Guard(index[axis], stop - x.shape[axis], stop)
            stop = here.low
            if here.never() or here.low == here.high:
                continue
            moved = tuple(i + (-here.low) if d == axis else i for d, i in enumerate(index))
            part = yield self._at(x, moved, guards if here.always() else (*guards, here))
            result = part if result is None else self._select(value, (Guard(index[axis], 0, here.high),), part, result)
        return result if result is not None else self._zero(value)

    def _select(self, value: Value, guards: tuple[Guard, ...], chosen: Node, other: Node) -> Node:
        """`chosen` where the guards hold; a plain load is already zero where its guards fail (one at gathered indices is not)."""
        masked = set(chosen.detail.guards) if chosen.kind == "load" else set()
        is_zero = other.kind == "constant" and not other.detail
        if not guards or (is_zero and set(guards) <= masked and not any(has_datum(guard.index) for guard in masked)):
            return chosen
        for guard in guards:
            axes = guard.index.axes
            condition = Node("guard", tuple(data_of((guard.index,))), types.bool_, value, guard, axes)
            chosen = self._apply(value, ops.TABLE["where"], [condition, chosen, other])
        return chosen

    def _gather(self, value: Value, gather: structure.Gather, index: Indices, guards: tuple[Guard, ...]) -> Walk[Node]:
        x, where = value.operands
        place = yield self._at(where, tuple(i if n != 1 else Index() for i, n in zip(index, where.shape, strict=True)), guards)
        size = x.shape[gather.axis]
        datum = Index(((self._data.setdefault(place, Datum(place, size)), 1),))
        moved = tuple(datum if axis == gather.axis else i for axis, i in enumerate(index))
        inside = Guard(datum, 0, size)
        found = yield self._at(x, moved, (*guards, inside))
        load = found.operands[0] if found.kind == "cast" else found
        if load.kind == "load" and inside in set(load.detail.guards):
            return found
        missing = Node("constant", (), value.dtype, value, math.nan) if value.dtype.is_floating else self._zero(value)
        return self._select(value, (inside,), found, missing)

    # Reductions -----------------------------------------------------------------------------------------------------

    def _reduction(self, value: Value, index: Indices) -> Walk[Node]:
        own, summed = self.axes.domain(value)
        operation = value.operation
        at_home = index == tuple(index_over(axes) for axes in own)
        if not at_home and value not in self.axes.recomputed:
            raise NotSharedError(value)
        if isinstance(operation, structure.Contract):
            return (yield self._contract(value, operation, index, summed if at_home else _beside(summed, index)))
        if isinstance(operation, structure.Cumulative):
            x = yield self._at(value.operands[0], index)
            if len(own[operation.axis]) > 1:
                raise UnsupportedError("a cumulative sum along a split axis", source=value.source)
            return Node(
                "scan", (x,), value.dtype, value, (own[operation.axis], operation.reverse), x.axes | set(own[operation.axis])
            )
        summed = summed if at_home else _beside(summed, index)
        inner, outer = (index_over(axes) for axes in summed), iter(index)
        x = yield self._at(
            value.operands[0], tuple(next(inner if d in operation.axes else outer) for d in range(value.operands[0].ndim))
        )
        flat = tuple(axis for axes in summed for axis in axes)
        return Node("reduce", (x,), value.dtype, value, (operation.kind, flat), x.axes - set(flat))

    def _contract(
        self, value: Value, contract: structure.Contract, index: Indices, summed: tuple[tuple[Axis, ...], ...]
    ) -> Walk[Node]:
        """A product of matrices, or a sum of a product where one side is a vector. `index` is where in the result."""
        at = dict(zip(contract.out, index, strict=True))
        folded = [label for label in contract.lhs if label not in at]
        at |= {label: index_over(axes) for label, axes in zip(folded, summed, strict=True)}
        x, y = value.operands
        a = yield self._at(x, tuple(at[label] for label in contract.lhs))
        b = yield self._at(y, tuple(at[label] for label in contract.rhs))

        def axes(labels) -> tuple[Axis, ...]:
            return tuple(dict.fromkeys(axis for label in labels for term, _ in at[label].terms for axis in term_axes(term)))

        rows = axes(label for label in contract.out if label not in contract.rhs)
        columns = axes(label for label in contract.out if label not in contract.lhs)
        flat = axes(folded)
        large = multiplications(value) > self.axes.small_product
        if rows and columns and flat and value.dtype.is_floating and value.dtype.itemsize <= 4 and large:
            if set(rows) & set(columns):
                raise NotSharedError(value)
            return Node("dot", (a, b), value.dtype, value, Dot(rows, columns, flat), frozenset(axes(contract.out)))
        product = self._apply(value, ops.TABLE["multiply"], [_rounded(a), _rounded(b)])
        return Node("reduce", (product,), value.dtype, value, ("sum", flat), product.axes - set(flat))


def _rounded(operand: Node) -> Node:
    """An operand of a product as its dtype holds it, which is what the matrix unit would be given."""
    if operand.kind in ("load", "constant") or operand.dtype.compute == operand.dtype:
        return operand
    return Node("cast", (operand,), operand.dtype, operand.value, operand.dtype, operand.axes)


def unrounded(operand: Node) -> Node:
    """An operand of a product before it is rounded to 16 bits, which giving it to the matrix unit does anyway."""
    rounds = operand.kind == "cast" and operand.dtype.itemsize == 2 and operand.operands[0].dtype == operand.dtype.compute
    return operand.operands[0] if rounds else operand


def _beside(summed: tuple[tuple[Axis, ...], ...], index: Indices) -> tuple[tuple[Axis, ...], ...]:
    """The summed axes of a product computed at `index`: each the first copy that the index does not have."""
    taken = {axis for part in index for axis in part.axes}

    def free(axis: Axis) -> Axis:
        copies = (Axis(axis.atom, axis.size, copy) for copy in itertools.count())
        chosen = next(copy for copy in copies if copy not in taken)
        taken.add(chosen)
        return chosen

    return tuple(tuple(free(axis) for axis in axes) for axes in summed)


def is_leaf(value: Value) -> bool:
    """Whether a Value is an array in memory when the program starts."""
    return isinstance(value.operation, Input | Literal)


def moved_index(value: Value, index: Indices) -> Indices:
    """Where the operand of a view is read for the result at `index`. Raises UnsupportedError for what is no view."""
    operation, x = value.operation, value.operands[0]
    if isinstance(operation, Broadcast):
        return tuple(index[axis] if n != 1 else Index() for axis, n in zip(operation.axes, x.shape, strict=True))
    if isinstance(operation, structure.Permute):
        return tuple(index[operation.axes.index(axis)] for axis in range(x.ndim))
    if isinstance(operation, Reshape):
        return reshape_index(index, value.shape, x.shape)
    if isinstance(operation, structure.Slice):
        return tuple(i.scaled(step) + start for i, start, step in zip(index, operation.starts, operation.steps, strict=True))
    if isinstance(operation, structure.Flip):
        return tuple(
            i.scaled(-1) + (n - 1) if axis in operation.axes else i
            for axis, (i, n) in enumerate(zip(index, x.shape, strict=True))
        )
    raise UnsupportedError(f"no kernel can be made for {operation.name}", source=value.source, advice="Use backend='numpy'.")


def data_of(index: Indices) -> Iterator[Node]:
    """The expressions that an index is gathered from."""
    for part in index:
        for term, _ in part.terms:
            if isinstance(term, Datum):
                yield term.node
            elif isinstance(term, Part):
                yield from data_of((term.index,))


def reshape_index(index: Indices, after: tuple[int, ...], before: tuple[int, ...]) -> Indices:
    """Where in an array of shape `before` stands the element at `index` of its reshape to `after`."""
    result = [Index()] * len(before)
    left = [i for i, n in enumerate(before) if n != 1]
    right = [i for i, n in enumerate(after) if n != 1]
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (x := _product(before, a)) != (y := _product(after, b)):
            if x < y:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        flat = flatten((index[i] for i in b), (after[i] for i in b))
        for i, part in zip(a, unflatten(flat, tuple(before[i] for i in a)), strict=True):
            result[i] = part
    return tuple(result)


def _product(shape: tuple[int, ...], dims: list[int]) -> int:
    total = 1
    for dim in dims:
        total *= shape[dim]
    return total


def walk(roots: Iterable[Node], known: Container[Node] = ()) -> list[Node]:
    """Every node the roots need, operands first, leaving out those `known` and what only they need."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in seen and node not in known:
            seen.add(node)
            stack.append((node, True))
            stack.extend((operand, False) for operand in reversed(node.operands) if operand not in seen)
    return order


__all__ = [
    "Access",
    "Dot",
    "Guard",
    "Index",
    "Node",
    "NotSharedError",
    "Puller",
    "is_leaf",
    "modulo",
    "of_axis",
    "unrounded",
    "walk",
]
