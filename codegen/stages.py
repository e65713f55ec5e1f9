"""A program as stages: each leaves one Value in memory, computed from what other stages and the inputs left.

A stage is a reduction (or product of matrices, or running sum) with the elementwise work that follows it, or an output
made of elementwise work alone. Which stages share a kernel is decided in `schedule.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from gradc import ops, structure
from gradc.codegen.axes import AxisMap, index_over
from gradc.codegen.index import Axis, Index
from gradc.codegen.lengths import cuts
from gradc.codegen.nodes import Access, Dot, Node, Puller, Running, is_leaf, strides_of, walk
from gradc.ir import Graph, Value, inherited, users_of
from gradc.leaves import Cast, Reshape
from gradc.types import DType

if TYPE_CHECKING:
    from gradc.codegen.cascades.recipes import Recipes

HEAVY = (structure.Reduce, structure.Contract, structure.Cumulative)
MOVES = (structure.Slice, structure.Pad, structure.Flip, structure.Concatenate, structure.Gather)


@dataclass(frozen=True, eq=False)
class Stage:
    """`value`, over the axes `own`, folding `reduced`; `needs` are the stages it reads, `shareable` those it reads at their own axes.

    `heavy` is its reduction, product or running sum; the products computed again inside that are `nested`.
    """

    value: Value
    root: Node
    heavy: Node | None
    own: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    accesses: tuple[Access, ...]
    needs: frozenset[Value]
    shareable: frozenset[Value]

    @cached_property
    def axes(self) -> frozenset[Axis]:
        return frozenset(
            (*self.own, *self.reduced, *self.folded, *(axis for node in self.nested for axis in node.detail.summed))
        )

    @cached_property
    def inner(self) -> tuple[Node, ...]:
        """The products and other folds inside the body of the reduction."""
        return tuple(node for node in self.nodes if node.kind in ("dot", "reduce") and node is not self.heavy)

    @cached_property
    def folded(self) -> tuple[Axis, ...]:
        """The axes of folds inside the body that are no products: a tile holds them whole."""
        return tuple(dict.fromkeys(axis for node in self.inner if node.kind == "reduce" for axis in node.detail[1]))

    @cached_property
    def nested(self) -> tuple[Node, ...]:
        """The products of matrices inside the body of the reduction."""
        return tuple(node for node in self.nodes if node.kind == "dot" and node is not self.heavy)

    @cached_property
    def nodes(self) -> list[Node]:
        """Every expression of the stage, operands first."""
        return walk([self.root])

    @cached_property
    def store(self) -> Access:
        """Where the stage writes: its own axes, row-major."""
        own, index = iter(self.own), []
        for size in self.value.shape:
            axes: list[Axis] = []
            while size != 1 and prod(axis.size for axis in axes) < size:
                axes.append(next(own))
            index.append(index_over(tuple(axes)))
        return Access(self.value, tuple(index))

    @cached_property
    def operations(self) -> dict[tuple, int]:
        """Arithmetic operations of each expression over all its points; kernels compute what stages have in common once."""
        counted = ((node, operations(node)) for node in self.nodes)
        return {(_span(node), node.value, node.kind, _sides(node)): count for node, count in counted if count}

    def work(self) -> int:
        total = 1
        for axis in self.axes:
            total *= axis.size
        return total


@dataclass(frozen=True, eq=False)
class State:
    """A program part-way through scheduling: what is in memory already, and what is computed by other means than written.

    `written` are Values without a reduction that are stored all the same. `level` is whether kernels should rather wait for few
    others than do more each, so that more can be launched together; `apart`, that none are.
    """

    graph: Graph
    outputs: tuple[Value, ...]
    stored: frozenset[Value] = frozenset()
    overrides: Mapping[Value, Value] = None  # type: ignore[assignment]
    recomputed: frozenset[Value] = frozenset()
    small_product: int = 0
    recipes: Recipes | None = None
    written: frozenset[Value] = frozenset()
    level: bool = False
    apart: bool = False

    def values(self) -> list[Value]:
        """What is still to be computed, and the leaves it starts from; operands first."""
        order: list[Value] = []
        seen: set[Value] = set()
        stack = [(value, False) for value in reversed(self.outputs)]
        while stack:
            value, ready = stack.pop()
            if ready:
                order.append(value)
            elif value not in seen:
                seen.add(value)
                stack.append((value, True))
                stack.extend((x, False) for x in reversed(self.operands(value)) if x not in seen)
        return order

    def operands(self, value: Value) -> tuple[Value, ...]:
        if value in self.stored:
            return ()
        return (self.overrides[value],) if value in self.overrides else value.operands


def find_stages(state: State, axes: AxisMap) -> list[Stage]:
    """The stages of what is still to be computed, in an order that respects their needs."""
    values = [value for value in state.values() if value not in state.stored]
    kept = dict.fromkeys(value for value in _representatives(values, state) if value not in state.stored)
    kept |= dict.fromkeys(_finished(values, kept, state))
    kept |= dict.fromkeys(value for value in state.outputs if value not in state.stored)
    kept |= dict.fromkeys(value for value in values if value in state.written)
    kept |= dict.fromkeys(_read_at_many_places(values, kept, state))
    light = _light(values, state)
    again = {value for value in kept if value.size == 1 and value in light and not _goes_on(value)}
    read = {value: None for value in kept if value not in again}  # a number is computed again instead
    position = {value: i for i, value in enumerate(values)}
    stored = {*read, *state.stored}
    for value in sorted(kept, key=position.__getitem__):
        stored.update(cut := cuts(value, stored.__contains__, state.operands))
        read |= dict.fromkeys(cut)
        kept |= dict.fromkeys(cut)
    return [_stage(value, axes, read, state) for value in sorted(kept, key=position.__getitem__)]


@inherited
def _goes_on(value: Value, operands: list[bool]) -> bool:
    """Whether a Value is made of what an array holds before a kernel that writes it."""
    return isinstance(value.operation, Running) or any(operands)


def _stage(value: Value, axes: AxisMap, kept: Mapping[Value, None], state: State) -> Stage:
    """The stage of a Value where those `kept` are read from memory."""
    puller = Puller(axes, lambda other: other is not value and (other in kept or other in state.stored))
    root = puller.at_own_axes(value, compute=True)
    nodes = walk([root])
    own = tuple(axis for dim in axes.domain(value)[0] for axis in dim)
    heavy = next((node for node in reversed(nodes) if node.kind in ("reduce", "dot", "scan")), None)
    accesses = tuple(node.detail for node in nodes if node.kind == "load")
    needs = frozenset(access.buffer for access in accesses if access.buffer in kept)
    elsewhere = {access.buffer for access in accesses if access.guards or access.index != own_index(axes, access.buffer)}
    return Stage(value, root, heavy, own, _reduced(heavy), accesses, needs, needs - elsewhere)


def operations(node: Node) -> int:
    """Arithmetic operations of an expression over all its points, without those of its operands."""
    points = prod(axis.size for axis in node.axes)
    if node.kind == "apply":
        return points * node.detail.flops
    if node.kind == "reduce":
        return points * prod(axis.size for axis in node.detail[1])
    return 2 * points * prod(axis.size for axis in node.detail.summed) if node.kind == "dot" else 0


def _span(node: Node) -> frozenset[Axis]:
    """The axes an expression is computed along: its own and those it folds."""
    return node.axes.union(*(x.axes for x in node.operands))


def _sides(node: Node) -> Dot | None:
    """A product is another one where rows and columns change places."""
    return node.detail if node.kind == "dot" else None


def _reduced(heavy: Node | None) -> tuple[Axis, ...]:
    if heavy is None or heavy.kind == "scan":
        return ()
    return heavy.detail[1] if heavy.kind == "reduce" else heavy.detail.summed


def own_index(axes: AxisMap, value: Value) -> tuple[Index, ...]:
    return tuple(index_over(dim) for dim in axes.domain(value)[0])


def _representatives(values: list[Value], state: State) -> Iterable[Value]:
    return worth_storing(values, state).values()


def worth_storing(values: list[Value], state: State) -> dict[Value, Value]:
    """For each heavy Value, the last Value of the elementwise chain that is its only use."""
    users, outputs = users_of(values), frozenset(state.outputs)
    light = _light(values, state)
    values = [value for value in values if isinstance(value.operation, HEAVY) and not is_leaf(value)]
    return {value: _advance(value, users, outputs, light) for value in values if value not in state.recomputed}


MOST_PLACES = 4  # indices at which an expression is repeated in one kernel before it is stored instead


def _read_at_many_places(values: list[Value], kept: Mapping[Value, None], state: State) -> list[Value]:
    """Elementwise results that views read at so many different indices that repeating them would blow the text up."""
    users, places, found = users_of(values), dict.fromkeys(values, 1), []
    for value in reversed(values):
        if value in kept or is_leaf(value) or value in state.overrides:
            continue
        same = max((places[user] for user in users[value] if not isinstance(user.operation, MOVES)), default=0)
        moved = sum(places[user] for user in users[value] if isinstance(user.operation, MOVES))
        places[value] = max(1, same + moved)
        if (
            places[value] > MOST_PLACES
            and isinstance(value.operation, ops.Elementwise | structure.Concatenate)
            and value.size > 1
        ):
            places[value] = 1
            found.append(value)
    return found


def _advance(value: Value, users: Mapping[Value, list[Value]], outputs: frozenset[Value], light: set[Value]) -> Value:
    best = value
    while value not in outputs and len(users[value]) == 1:
        (user,) = users[value]
        others = [x for x in user.operands if x is not value]
        if not _goes_along(user, value) or any(x not in light for x in others):
            break
        value = user
        narrow = storage_dtype(value, outputs).itemsize <= storage_dtype(best, outputs).itemsize
        if narrow or any(map(_goes_on, others)):
            best = value
    return value if value in outputs else best  # what is wider in memory is computed by those who read it


def _finished(values: list[Value], kept: Iterable[Value], state: State) -> Iterator[Value]:
    """What auxiliary products become element by element, if that is shorter: of a sum that waits for its division the quotient."""
    users, outputs = users_of(values), frozenset(state.outputs)
    for value in kept:
        last = value
        while last.auxiliary and last not in outputs and len(users[last]) == 1 and _goes_along(users[last][0], last):
            (last,) = users[last]
        if storage_dtype(last, outputs).itemsize < storage_dtype(value, outputs).itemsize:
            yield last


def _goes_along(user: Value, value: Value) -> bool:
    """Whether a user of a Value is computed element by element of it."""
    chained = isinstance(user.operation, ops.Elementwise | Cast | structure.Marker) or _adds_unit_dims(user)
    return chained and user.size == value.size


def _adds_unit_dims(user: Value) -> bool:
    (x, *_) = user.operands
    return isinstance(user.operation, Reshape) and [n for n in x.shape if n != 1] == [n for n in user.shape if n != 1]


def _light(values: list[Value], state: State) -> set[Value]:
    """The Values computed from leaves by elementwise work and views alone."""
    light: set[Value] = set()
    for value in values:
        if value in state.stored or value in state.overrides:
            continue
        if not isinstance(value.operation, HEAVY) and all(x in light for x in value.operands):
            light.add(value)
    return light


def storage_dtype(value: Value, outputs: frozenset[Value] | set[Value]) -> DType:
    """How a Value lies in memory: outputs, inputs and products of matrices in their own dtype, statistics as computed.

    So does a product that is auxiliary: a sum that waits for its division overflows float16, and would be rounded twice.
    """
    if is_leaf(value):
        return getattr(value.operation, "stored", None) or value.dtype
    if value in outputs or not value.dtype.is_floating:
        return value.dtype
    return value.dtype if not value.auxiliary and large_product(value) is not None else value.dtype.compute


@inherited
def large_product(value: Value, operands: list[Value | None]) -> Value | None:
    """The product of matrices (or running sum) that is in a Value element for element, under elementwise work and views."""
    if isinstance(value.operation, structure.Contract | structure.Cumulative):
        return value
    if isinstance(value.operation, HEAVY):
        return None
    alike = (product for x, product in zip(value.operands, operands, strict=True) if x.size == value.size)
    return next((product for product in reversed(list(alike)) if product is not None), None)


__all__ = ["HEAVY", "Stage", "State", "find_stages", "large_product", "own_index", "storage_dtype", "strides_of"]
