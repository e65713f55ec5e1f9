"""What programs leave that share out a reduction, and how the rest of the program puts it together.

A reduction leaves what it is over the part of the axis that a program saw. A sum that rides along (`riding.py`) leaves its
accumulators, each program's at a state of its own; the same proved transport that repairs them inside a loop moves them to
the state of the whole axis, and then they are added. Nothing is chosen and nothing is printed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from gradc import structure
from gradc.codegen.atomics import is_added_in_place
from gradc.codegen.axes import index_over
from gradc.codegen.cascades.recipes import Recipes
from gradc.codegen.cascades.riding import Ride, crosses, joined, passes
from gradc.codegen.cascades.spelled import evaluated, meaning, names_in
from gradc.codegen.index import Axis
from gradc.codegen.nodes import Access, Node, walk
from gradc.codegen.plan import Plan
from gradc.codegen.printing.spelling import fallback_name
from gradc.codegen.stages import Stage
from gradc.ir import Value, apply, on_behalf_of
from gradc.leaves import Broadcast, Reshape, cast, constant, make_input
from gradc.ops import TABLE
from gradc.structure import Reduce
from gradc.types import DType, Shape
from gradc.walks import Walk, walked

Axes = tuple[Axis, ...]
Place = tuple[Value, Axes]  # a Value and the axes its dimensions are made of
FOLDED = ("sum", "max", "min", "prod")  # reductions of parts that can be reduced again
SHOWN = re.compile(r"\b([xdc]\d+)\b")


@dataclass(frozen=True)
class Labelled(structure.Marker):
    """The operand's numbers as they were computed, under another dtype: they are rounded to it where they are stored."""

    dtype: DType
    name = "labelled"

    def result(self, x: Value) -> tuple[Shape, DType]:
        return x.shape, self.dtype


@dataclass(frozen=True, eq=False)
class Partial:
    """The arrays that the programs sharing out `heavy` leave, each with one leading dimension over them.

    `sums` are its accumulators. Those of a ride were kept at states, by their names in the recipe: `extremes` are such as are a
    maximum or minimum, and the array that leaves that; `references` are the others, and arrays of their own.
    """

    heavy: Node
    own: Axes
    sums: tuple[Value, ...]
    ride: Ride | None
    extremes: Mapping[str, Place]
    references: Mapping[str, Place]
    known: Mapping[Node, Place]

    @property
    def arrays(self) -> tuple[Value, ...]:
        return (*self.sums, *(array for array, _ in self.references.values()))


@dataclass(frozen=True, eq=False)
class Shared:
    """The reductions of stages that programs share out along some axes: each in its one pass, with the ride it takes."""

    nodes: Mapping[Node, Node]
    known: Mapping[Node, Place]
    rides: Mapping[Node, Ride]
    ready: Mapping[Node, int]


def shared(stages: Sequence[Stage], axes: Axes, recipes: Recipes | None) -> Shared:
    """How the reductions of `stages` along `axes` depend on each other."""
    nodes = joined(stages)
    found = passes(walk([nodes[stage.root] for stage in stages]), axes, recipes)
    known: dict[Node, Place] = {}
    for stage in stages:
        known[nodes[stage.root]] = stage.value, stage.own
        if stage.heavy is not None:
            known.setdefault(nodes[stage.heavy], (stage.heavy.value, stage.own))
    return Shared(nodes, known, found.rides, found.ready)


def shareable(stages: Sequence[Stage], axes: Axes, recipes: Recipes | None) -> frozenset[Value]:
    """The stages that reduce along `axes`, where programs can share these out; none where they cannot.

    They cannot where a stage needs what is only there when all programs have finished, unless it rides along; nor where a
    running sum goes along them, tile after tile.
    """
    along = frozenset(axes)
    reducing = [stage for stage in stages if not along.isdisjoint(stage.reduced)]
    running = any(node.kind == "scan" and not along.isdisjoint(node.detail[0]) for stage in stages for node in stage.nodes)
    if running or not all(_is_foldable(stage, along) for stage in reducing):
        return frozenset()
    found = shared(stages, axes, recipes)
    partial = frozenset(stage.value for stage in reducing)
    finished = [found.ready[found.nodes[stage.root]] == 0 for stage in stages if stage.value not in partial]
    own = {found.nodes[stage.heavy]: stage.own for stage in reducing if stage.heavy is not None}
    crossing = [node for node in found.ready if crosses(node, axes)]
    once = all(found.ready[node] == 1 and node in own for node in crossing)
    if not (once and all(finished)):
        return frozenset()
    moves = all(_is_movable(ride, own[node], found.known) for node, ride in found.rides.items())
    return partial if moves else frozenset()


def _is_foldable(stage: Stage, along: frozenset[Axis]) -> bool:
    heavy = stage.heavy
    if heavy is None or not along <= frozenset(stage.reduced):
        return False
    return heavy.kind == "dot" or (heavy.kind == "reduce" and heavy.detail[0] in FOLDED)


def _is_movable(ride: Ride, own: Axes, known: Mapping[Node, Place]) -> bool:
    """Whether a program can compute the final state and constants of a ride after all parts are there."""
    try:
        needed = [ride.leaves[name] for name in used(ride)]
    except ValueError:  # a spelling that no row has
        return False
    return all(leaf.axes <= frozenset(own) and _is_known(leaf, known) for leaf in needed)


def used(ride: Ride) -> list[str]:
    """The leaves that are needed when parts are put together: states, and the constants of repairs and of the result."""
    written = (names_in(meaning(text)) for text in (*ride.recipe.moved, ride.recipe.combination))
    wanted = frozenset().union(ride.states, *written)
    return [name for name in ride.leaves if name in wanted and name[0] in "dc"]


def moving(ride: Ride) -> list[str]:
    """The states that sums are repaired for when they move."""
    return [state for state in ride.states if any(f"{{{state}_" in text for text in ride.recipe.moved)]


def _is_known(leaf: Node, known: Mapping[Node, Place]) -> bool:
    waiting = [leaf]
    while waiting:
        node = waiting.pop()
        if node in known or node.kind == "constant" or (node.kind == "load" and _plain_axes(node.detail) is not None):
            continue
        if node.kind not in ("apply", "cast"):
            return False
        waiting += node.operands
    return True


def _plain_axes(access: Access) -> Axes | None:
    """The axes of an array that is read whole, each of its dimensions along some of them; None of any other read."""
    found: list[Axis] = []
    for index, size in zip(access.index, access.buffer.shape, strict=True):
        terms = sorted(index.terms, key=lambda term: -term[1])
        axes = tuple(term for term, _ in terms if isinstance(term, Axis))
        if index != index_over(axes) or index.bounds()[1] != size - 1:
            return None
        found += axes
    return None if access.guards or len(set(found)) < len(found) else tuple(found)


# What programs leave ----------------------------------------------------------------------------------------------------


def partials(p: Plan, outputs: frozenset[Value]) -> dict[Value, Partial]:
    """What the programs of a plan leave of each stage that they share out, or the sums that memory adds up."""
    if p.atomic:
        return {stage.value: _added(stage, outputs) for stage in p.stages if stage.value in p.partial}
    split = next((axis for axis in p.axes if axis.role == "split"), None)
    if split is None:
        return {}
    found = shared(p.stages, split.axes, p.recipes)
    left: dict[Node, Place] = {}
    kept: dict[Node, Place] = {}
    return {stage.value: _partial(stage, found, split.programs, left, kept) for stage in p.stages if stage.value in p.partial}


def _added(stage: Stage, outputs: frozenset[Value]) -> Partial:
    """The one array that all programs add to: the very array that the stage leaves, if it can be."""
    assert stage.heavy is not None
    heavy = stage.heavy.value
    name = f"{heavy.name or stage.value.name or 'sum'}_sum"
    in_place = is_added_in_place(stage, outputs)
    sums = stage.value if in_place else make_input(heavy.shape, heavy.dtype, name, stored=heavy.dtype.compute)
    return Partial(stage.heavy, stage.own, (sums,), None, {}, {}, {})


def _partial(stage: Stage, found: Shared, parts: int, left: dict[Node, Place], kept: dict[Node, Place]) -> Partial:
    """`left` are the arrays that other stages leave of reductions, `kept` of the states that their sums are kept at."""
    assert stage.heavy is not None
    heavy, node = stage.heavy.value, found.nodes[stage.heavy]
    name, ride = heavy.name or stage.value.name or fallback_name(node).rstrip("_"), found.rides.get(node)
    if ride is None:
        array = make_input((parts, *heavy.shape), heavy.dtype.compute, f"{name}_part")
        left[node] = array, stage.own
        return Partial(node, stage.own, (array,), None, {}, {}, found.known)
    names = [f"{name}_part"] if ride.recipe.rank == 1 else [f"{name}_{i}_part" for i in range(ride.recipe.rank)]
    sums = tuple(make_input((parts, *heavy.shape), heavy.dtype.compute, name) for name in names)
    extremes = {state: left[ride.leaves[state]] for state, extreme in zip(ride.states, ride.extremes, strict=True) if extreme}
    others = {state: ride.leaves[state] for state in moving(ride) if state not in extremes}
    for leaf in others.values():
        if leaf not in kept:
            order = in_order(leaf, stage.own)
            array = make_input((parts, *(axis.size for axis in order)), leaf.dtype.compute, f"{_name(leaf)}_at_part")
            kept[leaf] = array, order
    return Partial(node, stage.own, sums, ride, extremes, {state: kept[leaf] for state, leaf in others.items()}, found.known)


def _name(node: Node) -> str:
    return (node.value.name or fallback_name(node)).rstrip("_")


def in_order(node: Node, own: Axes) -> Axes:
    """The axes of an expression in the order in which a stage has them."""
    return tuple(axis for axis in own if axis in node.axes)


# All parts together -----------------------------------------------------------------------------------------------------


def totals(left: Iterable[Partial]) -> dict[Value, Value]:
    """For each reduction that programs shared out, the Value it is when their parts are put together."""
    steps: Steps = {}
    return {partial.heavy.value: _total(partial, steps) for partial in left}


Steps = dict[
    Node, tuple[Value, Value, Axes]
]  # of a state: where each part's sums are kept, and how far that is from the whole's


def _total(partial: Partial, steps: Steps) -> Value:
    heavy, ride = partial.heavy.value, partial.ride
    with on_behalf_of(heavy, heavy.note):
        if ride is not None:
            total = _moved_total(partial, ride, steps)
        else:
            kind = partial.heavy.detail[0] if partial.heavy.kind == "reduce" else "sum"
            total = apply(Reduce(kind, (0,)), *partial.sums)
        if total.dtype != heavy.dtype:
            total = apply(Labelled(heavy.dtype), total)
    total.name = heavy.name
    return total


def _proof(ride: Ride) -> str:
    """The identities of a recipe as lines above the one they are for."""
    names = {name: _name(leaf) for name, leaf in ride.leaves.items()}
    return "".join(f"{SHOWN.sub(lambda found: names[found[1]], line)}\n" for line in ride.recipe.proof)


def _moved_total(partial: Partial, ride: Ride, steps: Steps) -> Value:
    """Σ over parts of the sums moved to the states of the whole axis, and the result from those."""
    heavy, known = partial.heavy.value, dict(partial.known)
    leaves = {name: ride.leaves[name] for name in used(ride)}
    whole = {name: _like_result(leaf, partial, known) for name, leaf in leaves.items()}
    at = {name: _for_each_part(x, partial) for name, x in whole.items()}
    at |= {f"a{i}": array for i, array in enumerate(partial.sums)}
    for state in moving(ride):
        leaf = ride.leaves[state]
        if ride.shrinks:
            old, by, order = _step(partial, ride, state, known, steps)
            old, by = _over(leaf, old, order, partial), _over(leaf, by, order, partial)
        else:
            old = _named(
                f"{_name(leaf)}_from", _from(_over(leaf, *_reference(partial, ride, state), partial), at[state], partial)
            )
            by = _named(f"{_name(leaf)}_by", TABLE["subtract"](old, at[state]))
        at |= {f"{state}_old": old, f"{state}_new": at[state], f"{state}_by": by}
    combination = meaning(ride.recipe.combination)
    wanted = sorted(name for name in names_in(combination) if name[0] == "a")
    moved = {name: evaluated(meaning(ride.recipe.moved[int(name[1:])]), at) for name in wanted}
    with on_behalf_of(heavy, _proof(ride)):
        sums = {name: apply(Reduce("sum", (0,)), x) for name, x in moved.items()}
    return evaluated(combination, whole | sums)


def _step(partial: Partial, ride: Ride, state: str, known: dict[Node, Place], steps: Steps) -> tuple[Value, Value, Axes]:
    """Where each part's sums are kept and how far that is from the whole's state: the same for every sum."""
    leaf = ride.leaves[state]
    if leaf not in steps:
        old, order = _reference(partial, ride, state)
        flat = apply(Reshape((old.shape[0], *(axis.size for axis in order))), old)
        new = apply(Broadcast(flat.shape, tuple(range(1, flat.ndim))), rebuilt(leaf, order, known))
        steps[leaf] = flat, _named(f"{_name(leaf)}_by", TABLE["subtract"](flat, new)), order
    return steps[leaf]


def _reference(partial: Partial, ride: Ride, state: str) -> Place:
    """The state that each part's sums are kept at: of an extremum the part's own, or where it started if that is not finite."""
    if state in partial.references:
        return partial.references[state]
    array, order = partial.extremes[state]
    furthest = float(np.finfo(array.dtype.numpy).max)
    start = furthest if ride.extremes[ride.states.index(state)] == "min" else -furthest
    return _named(f"{_name(ride.leaves[state])}_at", TABLE["where"](TABLE["isfinite"](array), array, start)), order


def _from(old: Value, new: Value, partial: Partial) -> Value:
    """Old states from which nothing moves where all sums are zero: a repair that overflows would make them NaN."""
    empty = [TABLE["equal"](x, 0.0) for x in partial.sums]
    return TABLE["where"](_named("empty", reduce(TABLE["logical_and"], empty)), new, old)


def _named(name: str, x: Value) -> Value:
    x.name = name
    return x


def _for_each_part(x: Value, partial: Partial) -> Value:
    return apply(Broadcast(partial.sums[0].shape, tuple(range(1, x.ndim + 1))), x)


def _over(leaf: Node, x: Value, order: Axes, partial: Partial) -> Value:
    """What lies over the axes `order` of `leaf`, after one dimension over parts, as an array like one of the sums."""
    own, (parts, *shape) = partial.own, partial.sums[0].shape
    flat = apply(Reshape((parts, *(axis.size for axis in order))), x)
    along = in_order(leaf, own)
    turned = apply(structure.Permute((0, *(1 + order.index(axis) for axis in along))), flat)
    places = (0, *(1 + own.index(axis) for axis in along))
    return apply(Reshape((parts, *shape)), apply(Broadcast((parts, *(axis.size for axis in own)), places), turned))


def _like_result(leaf: Node, partial: Partial, known: dict[Node, Place]) -> Value:
    """What is finished, as an array like the reduction's result."""
    own, x = partial.own, rebuilt(leaf, partial.own, known)
    spread = apply(Broadcast(tuple(axis.size for axis in own), tuple(map(own.index, in_order(leaf, own)))), x)
    return apply(Reshape(partial.heavy.value.shape), spread)


def rebuilt(node: Node, own: Axes, known: dict[Node, Place]) -> Value:
    """An expression of finished reductions as a Value, with a dimension for each of its axes in their order in `own`."""
    return walked(_rebuilt(node, own, known))


def _rebuilt(node: Node, own: Axes, known: dict[Node, Place]) -> Walk[Value]:
    axes = in_order(node, own)
    if node not in known:
        known[node] = (yield _built(node, axes, own, known)), axes
    value, order = known[node]
    flat = apply(Reshape(tuple(axis.size for axis in order)), value)
    return apply(structure.Permute(tuple(order.index(axis) for axis in axes)), flat)


def _built(node: Node, axes: Axes, own: Axes, known: dict[Node, Place]) -> Walk[Value]:
    if node.kind == "constant":
        return constant(node.detail, node.dtype)
    if node.kind == "load":
        plain = _plain_axes(node.detail)
        assert plain is not None
        known[node] = node.detail.buffer, plain
        return (yield _rebuilt(node, own, known))
    if node.kind == "cast":
        return cast((yield _rebuilt(node.operands[0], own, known)), node.detail)
    shape = tuple(axis.size for axis in axes)
    operands = []
    for x in node.operands:
        spread = Broadcast(shape, tuple(map(axes.index, in_order(x, own))))
        operands.append(apply(spread, (yield _rebuilt(x, own, known))))
    return node.detail(*operands)
