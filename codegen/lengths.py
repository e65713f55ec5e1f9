"""Where long expressions are cut: no stage has more operations, arrays or views inside views than a kernel can well have.

A program may be one expression of any length. Where it is cut, Values are stored; which parts share a kernel is decided as for
all other stages. Nothing else is decided here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate

from gradc import structure
from gradc.codegen.nodes import is_leaf
from gradc.ir import Value
from gradc.leaves import Broadcast, Constant, Iota, Reshape

MOST_OPERATIONS = 1024  # of a stage: by then arithmetic outweighs what is stored in between, and a compiler slows down
MOST_MERGED = MOST_OPERATIONS * 3 // 2  # of all the stages of a kernel
MOST_ARRAYS = 200  # arrays one kernel may name: its parameters have to fit in 4 kB
MOST_AT_ONCE = 64  # Values that a backward needs of what it computes again: it holds them all in registers
SHORT = 8  # a part is no shorter than one in so many of the longest
VIEWS_BETWEEN = 4  # views inside views of one another, where their indices and masks have become too long to write

PLAIN = (Broadcast, Reshape, structure.Permute, structure.Slice, structure.Flip)  # an index alone
LENGTHENING = (Reshape, structure.Pad, structure.Concatenate, structure.Gather)  # an index or mask made of another one

Operands = Callable[[Value], Sequence[Value]]
Stops = Callable[[Value], bool]


def cuts(value: Value, stops: Stops, operands: Operands, needed: Container[Value] = ()) -> list[Value]:
    """What has to be stored of the expression of a Value so that no part of it is too long; views of that are not.

    No part has more than MOST_AT_ONCE of the Values `needed`.
    """
    order = _operands_first(value, stops, operands)
    if _Expression(order, operands, needed).is_short():
        return []
    depth: dict[Value, int] = {}
    for x in order:
        depth[x] = 1 + max((depth.get(y, 0) for y in operands(x)), default=0)
    orders = (
        _operands_first(value, stops, lambda x: sorted(operands(x), key=lambda y: sign * depth.get(y, 0)))  # noqa: B023
        for sign in (-1, 1)
    )
    ways = [_Expression(order, operands, needed).cut() for order in (order, *orders)]
    return min(ways, key=lambda stored: sum(max(1, x.bytes) for x in stored))


class _Expression:
    """What a Value is computed from as far as what is stored, in an `order`, and where each of it was `last` used.

    A use of a view counts as one of its `base`. `made` are bytes of what can be stored; `operations` and `needed` count what
    there is before each place.
    """

    def __init__(self, order: list[Value], operands: Operands, needed: Container[Value]):
        self.order, self.operands = order, operands
        self.place = {x: i for i, x in enumerate(self.order)}
        self.made = [0 if isinstance(x.operation, (*PLAIN, Constant, Iota)) else max(1, x.bytes) for x in self.order]
        self.operations = list(accumulate((made > 0 for made in self.made), initial=0))
        self.needed = list(accumulate((x in needed for x in self.order), initial=0))

    def is_short(self) -> bool:
        """Whether it need not be cut."""
        read = {y for x in self.order for y in self.operands(x) if y not in self.place}
        return self._fits(0, len(self.order), len(read))

    def _fits(self, start: int, stop: int, arrays: int) -> bool:
        operations, needed = (count[stop] - count[start] for count in (self.operations, self.needed))
        return operations <= MOST_OPERATIONS and needed <= MOST_AT_ONCE and arrays < MOST_ARRAYS

    def cut(self) -> list[Value]:
        """What is made before the end of a part and used after it."""
        ends = list(self._ends())
        crossing = (bisect_left(ends, i) < bisect_left(ends, last) for i, last in enumerate(self.last))
        return [x for x, made, crosses in zip(self.order, self.made, crossing, strict=True) if made and crosses]

    def _ends(self) -> Iterator[int]:
        """The last place of each part but the last: where the fewest bytes are in use, but for very short parts."""
        alive = self._alive()
        start, place, arrays = 0, 0, set[Value]()
        while place < len(self.order):
            arrays.update(self._read(place, start))
            if place > start and not self._fits(start, place + 1, len(arrays)):
                end = min(range(start + (place - start) // SHORT, place), key=lambda i: (alive[i], -i))
                yield end
                start = place = end + 1
                arrays.clear()
            else:
                place += 1

    def _alive(self) -> list[int]:
        """Bytes in use after each step."""
        gone = [0] * len(self.order)
        for made, end in zip(self.made, self.last, strict=True):
            gone[end] += made
        return list(accumulate(new - old for new, old in zip(self.made, gone, strict=True)))

    @cached_property
    def base(self) -> dict[Value, Value]:
        """What is stored where a view of it is used later."""
        base = {x: x for x in self.order}
        for x in self.order:
            if isinstance(x.operation, PLAIN) and x.operands[0] in self.place:
                base[x] = base[x.operands[0]]
        return base

    @cached_property
    def last(self) -> list[int]:
        last = [0] * len(self.order)
        for i, x in enumerate(self.order):
            for y in self.operands(x):
                if y in self.place:
                    last[self.place[self.base[y]]] = i
        return last

    def _read(self, place: int, start: int) -> Iterator[Value]:
        """What is read from memory at a place, if everything before `start` is stored."""
        for x in self.operands(self.order[place]):
            if self.place.get(self.base.get(x, x), -1) < start:
                yield self.base.get(x, x)


def _operands_first(value: Value, stops: Stops, operands: Operands) -> list[Value]:
    order, seen, stack = list[Value](), set[Value](), [(value, False)]
    while stack:
        current, ready = stack.pop()
        if ready:
            order.append(current)
        elif current not in seen:
            seen.add(current)
            stack.append((current, True))
            stack += [(x, False) for x in reversed(operands(current)) if not (x in seen or is_leaf(x) or stops(x))]
    return order


def views_between(values: Iterable[Value]) -> frozenset[Value]:
    """Values to store so that of the views that make an index longer only a few lie inside each other; `values`, operands first."""
    depth: dict[Value, int] = {}
    found = set[Value]()
    for value in values:
        below = [0 if x in found else depth.get(x, 0) for x in value.operands]
        depth[value] = max(below, default=0) + isinstance(value.operation, LENGTHENING)
        if depth[value] > VIEWS_BETWEEN:
            found.update(x for x, views in zip(value.operands, below, strict=True) if views == VIEWS_BETWEEN)
            depth[value] = 1
    return frozenset(found)
