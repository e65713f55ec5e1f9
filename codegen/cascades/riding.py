"""Which sums ride along with the reductions they depend on: how many passes over a looped axis a kernel needs.

A sum whose body needs a finished reduction along the same axis waits for the next pass, unless its recipe (`recipes.py`)
says how to repair it while that reduction is still moving, and the repair is right in floats too. No function is named here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from gradc import types
from gradc.codegen.cascades.cascade import Refusal
from gradc.codegen.cascades.recipes import Recipe, Recipes
from gradc.codegen.index import Axis, Datum, Index, Part
from gradc.codegen.nodes import Access, Guard, Node, unrounded, walk
from gradc.codegen.stages import Stage
from gradc.ops import TABLE

LONGEST = 60  # functions in a body that may be a form
EXTREMES = {"max": float("-inf"), "min": float("inf")}  # what an extremum is before the first element
STRAIGHT = ("add", "subtract", "multiply", "divide", "negative")  # of one operand and numbers: infinite where that is


@dataclass(frozen=True, eq=False)
class Ride:
    """How a sum rides along. `leaves` are what the names of the recipe stand for: `states` those that move meanwhile.

    `sources` are the reductions that each state is computed from; `extremes` says of a state that it is itself "max" or "min" of a reduction, or "".
    """

    recipe: Recipe
    leaves: Mapping[str, Node]
    states: tuple[str, ...]
    sources: tuple[tuple[Node, ...], ...]
    extremes: tuple[str, ...]

    @property
    def shrinks(self) -> bool:
        """Whether the sum never grows when its state moves, whatever the state was before."""
        (extreme, *others) = self.extremes
        return not others and bool(extreme) and extreme == self.recipe.shrinks


@dataclass(frozen=True, eq=False)
class Passes:
    """`ready` is the number of passes after which a node can be computed; `rides` who needs none of its own; `refused` why not."""

    ready: Mapping[Node, int]
    rides: Mapping[Node, Ride]
    refused: Mapping[Node, str]


def passes(nodes: Iterable[Node], loop: Sequence[Axis], recipes: Recipes | None) -> Passes:
    """The passes over a looped axis that `nodes`, operands first, need. Without recipes nothing rides along."""
    ready: dict[Node, int] = {}
    rides: dict[Node, Ride] = {}
    refused: dict[Node, str] = {}
    for node in nodes:
        before = max((ready[x] for x in node.operands if x in ready), default=0)
        ready[node] = before
        if not crosses(node, loop):
            continue
        if before and recipes is not None:
            unfinished = frozenset(other for other, number in ready.items() if number == before and crosses(other, loop))
            found = ride(node, loop, unfinished - {node}, recipes)
            if isinstance(found, Ride):
                rides[node] = found
                continue
            refused[node] = found.reason
        ready[node] = before + 1
    return Passes(ready, rides, refused)


def reduced_axes(node: Node) -> tuple[Axis, ...]:
    """The axes a node folds away."""
    if node.kind == "reduce":
        return node.detail[1]
    return node.detail.summed if node.kind == "dot" else ()


def crosses(node: Node, loop: Sequence[Axis]) -> bool:
    """Whether a node folds a looped axis away."""
    return not frozenset(loop).isdisjoint(reduced_axes(node))


# From a sum to its recipe --------------------------------------------------------------------------------------------


class _Refused(Exception):
    """Says why a sum takes another pass."""


def ride(node: Node, loop: Sequence[Axis], unfinished: frozenset[Node], recipes: Recipes) -> Ride | Refusal:
    """How `node`, a reduction along `loop`, is computed in the pass of the `unfinished` ones it depends on."""
    try:
        return _ride(node, frozenset(loop), unfinished, recipes)
    except _Refused as refused:
        return Refusal(str(refused))


def _ride(node: Node, loop: frozenset[Axis], unfinished: frozenset[Node], recipes: Recipes) -> Ride:
    if node.kind == "reduce" and node.detail[0] != "sum":
        raise _Refused(f"the {node.detail[0]} of what is still moving")
    if any(axis.size == 0 for axis in loop):
        raise _Refused("the axis is empty")
    form = _Form(node, loop, unfinished)
    text = json.dumps(form.tree)
    recipe = recipes.of(text)
    if isinstance(recipe, Refusal):
        raise _Refused(recipe.reason)
    states = tuple(name for name in form.leaves if name[0] == "d")
    sources = [_sources(form.leaves[name], unfinished) for name in states]
    for state, polynomial, reductions in zip(states, recipe.polynomial, sources, strict=True):
        _check_state(form, state, recipe if polynomial else None, reductions, loop)
    repaired = {
        *states,
        *(name for text in (*recipe.moved, recipe.combination) for name in form.leaves if f"{{{name}}}" in text),
    }
    for name in sorted(repaired):
        if not form.leaves[name].axes.isdisjoint(reduced_axes(node)):
            raise _Refused(f"it also sums over an axis that {_called(form, name)} varies along")
    if node.kind == "dot" and (recipe.rank > 1 or not recipe.keeps_body):
        raise _Refused("a product of matrices whose sum moves by more than a factor")
    if not recipe.is_diagonal:
        _check_operands(form, [reduction for reductions in sources for reduction in reductions], recipe)
    extremes = tuple(
        reductions[0].detail[0]
        if not polynomial and form.leaves[name] is reductions[0] and reductions[0].detail[0] in EXTREMES
        else ""
        for name, polynomial, reductions in zip(states, recipe.polynomial, sources, strict=True)
    )
    return Ride(recipe, form.leaves, states, tuple(map(tuple, sources)), extremes)


class _Form:
    """The body of a sum as a tree of table functions over names, and what the names stand for.

    What does not depend on an unfinished reduction is one name, as large as it comes; so is what does but is the same along
    the whole loop: a state.
    """

    def __init__(self, node: Node, loop: frozenset[Axis], unfinished: frozenset[Node]):
        self.loop = loop
        self.leaves: dict[str, Node] = {}
        self.names: dict[Node, str] = {}
        self._length = 0
        self._moving: set[Node] = set()
        for inner in walk(list(node.operands)):
            if inner in unfinished or (not crosses(inner, tuple(loop)) and any(x in self._moving for x in inner.operands)):
                self._moving.add(inner)
        trees = [self._tree(unrounded(x) if node.kind == "dot" else x) for x in node.operands]
        self.tree = trees[0] if len(trees) == 1 else ["multiply", *trees]
        if not any(self.along(leaf) for leaf in self.leaves.values()):
            raise _Refused("its body is the same along the whole loop")

    def along(self, node: Node) -> bool:
        return not node.axes.isdisjoint(self.loop)

    def _tree(self, node: Node) -> Any:
        if node not in self._moving:
            if node.kind == "constant":
                return float(node.detail)
            return self._leaf("x" if self.along(node) else "c", node)
        if not self.along(node):
            return self._leaf("d", node)
        self._length += 1
        if self._length > LONGEST:
            raise _Refused(f"its body has more than {LONGEST} functions of what is still moving")
        if node.kind == "cast" and _widens(node):
            return self._tree(node.operands[0])
        if node.kind != "apply":
            raise _Refused(f"a {node.kind} of what is still moving")
        if node.detail.gives == "bool":
            raise _Refused(f"the condition {node.detail.name} of what is still moving")
        return [node.detail.name, *map(self._tree, node.operands)]

    def _leaf(self, kind: str, node: Node) -> str:
        if node not in self.names:
            if kind == "d" and not node.dtype.is_floating:
                raise _Refused(f"a state of dtype {node.dtype.name}")
            self.names[node] = f"{kind}{sum(name[0] == kind for name in self.leaves)}"
            self.leaves[self.names[node]] = node
        return self.names[node]


def _widens(cast: Node) -> bool:
    """Whether a cast keeps every number as it is."""
    origin, target = cast.operands[0].dtype, cast.detail
    return target.is_floating and origin.is_floating and target.itemsize >= max(4, origin.compute.itemsize)


def _sources(state: Node, unfinished: frozenset[Node]) -> list[Node]:
    """The unfinished reductions that a state is computed from, those of its sums included where they have sources too."""
    seen: list[Node] = []
    stack = [state]
    known = {state}
    while stack:
        node = stack.pop()
        if node in unfinished:
            seen.append(node)
            continue
        for x in node.operands:
            if x not in known:
                known.add(x)
                stack.append(x)
    return seen


# What is right over the reals must be right in floats ------------------------------------------------------------------


def _check_state(form: _Form, state: str, polynomial: Recipe | None, reductions: Sequence[Node], loop: frozenset[Axis]) -> None:
    """Raises unless the sums can be kept at what the state is so far, and be repaired without leaving the range of floats.

    `polynomial` is the recipe where its sums move by polynomials in this state.
    """
    for reduction in reductions:
        if reduction.kind != "reduce" or reduction.detail[0] not in ("sum", *EXTREMES):
            raise _Refused("it depends on a product of matrices or of numbers that is still moving")
        if not loop <= frozenset(reduction.detail[1]):
            raise _Refused("it depends on a reduction along a part of the loop")
    kinds = {reduction.detail[0] for reduction in reductions}
    if "sum" in kinds and not polynomial:
        raise _Refused(f"a sum so far ({_called(form, state)}) may be so far from the whole one that the repair overflows")
    if "sum" not in kinds:
        for reduction in reductions:
            _check_extreme(form, reduction, polynomial)


def _called(form: _Form, name: str) -> str:
    return _name(form.leaves[name])


def _check_extreme(form: _Form, reduction: Node, polynomial: Recipe | None) -> None:
    """Raises unless an element that never is the extremum, ±inf, counts for nothing at any finite one (or makes NaN).

    Then nothing that was summed before the first finite element is lost, whatever state it was summed at. Where the sums move by
    polynomials in the extremum it may also make the result infinite: the first sum is, the others are kept from zero on and finite.
    """
    (body,), kind = reduction.operands, reduction.detail[0]
    lost = _lost(form, body, EXTREMES[kind])
    stays_infinite = polynomial is not None and not any(f"{{{name}}}" in part for name in lost for part in polynomial.basis[1:])
    conditions = [name for name, leaf in form.leaves.items() if leaf.dtype == types.bool_]
    for truth in product((True, False), repeat=len(conditions)):
        at: dict[str, Any] = {name: np.float64({"x": 1.5, "d": 0.75, "c": 1.25}[name[0]]) for name in form.leaves}
        at |= lost | dict(zip(conditions, map(np.bool_, truth), strict=True))
        with np.errstate(all="ignore"):
            value = _number(form.tree, at)
        if value != 0 and not np.isnan(value) and not (np.isinf(value) and stays_infinite):
            raise _Refused(f"where the {kind} is {EXTREMES[kind]}, its body does not vanish")


def _lost(form: _Form, body: Node, extreme: float) -> dict[str, np.float64]:
    """The leaf that `body` is, or is a multiple of or a number away from, at its value where `body` is `extreme`."""
    leaf, steps = body, []
    while leaf not in form.names and (inner := _varying(leaf)) is not None:
        steps.append(leaf)
        leaf = inner
    for infinity in map(np.float64, ("-inf", "inf")):
        value = infinity
        for step in reversed(steps):
            value = step.detail.numpy(*(np.float64(x.detail) if x.kind == "constant" else value for x in step.operands))
        if leaf in form.names and value == extreme:
            return {form.names[leaf]: infinity}
    return {}


def _varying(node: Node) -> Node | None:
    """The operand of a straight function that is no number, where there is one."""
    varying = [x for x in node.operands if x.kind != "constant"]
    if node.kind != "apply" or node.detail.name not in STRAIGHT or len(varying) != 1:
        return None
    return varying[0] if node.detail.name != "divide" or varying[0] is node.operands[0] else None


def _number(tree: Any, at: Mapping[str, Any]) -> Any:
    if isinstance(tree, list):
        return TABLE[tree[0]].numpy(*(_number(x, at) for x in tree[1:]))
    return at[tree] if isinstance(tree, str) else np.float64(tree)


def _check_operands(form: _Form, reductions: Sequence[Node], recipe: Recipe) -> None:
    """Raises unless an infinity in the body makes a state infinite too, or only the first sum, which no other is repaired with.

    Where one sum is added to another at a repair, an infinite one leaves NaN; so does the plain formula then.
    """
    operands = {x for reduction in reductions for x in reduction.operands}
    shared = "".join(recipe.basis[1:]) if not any("{a0}" in text for text in recipe.moved[1:]) else "".join(recipe.basis)
    for name, leaf in form.leaves.items():
        if name[0] == "x" and leaf not in operands and leaf.dtype.is_floating and f"{{{name}}}" in shared:
            raise _Refused(f"{_called(form, name)} may be infinite where the states are not")


# The stages of a plan as one graph ---------------------------------------------------------------------------------------


def joined(stages: Sequence[Stage]) -> dict[Node, Node]:
    """The nodes of stages that share a kernel, as they are computed there: a read of another stage is what that stage computes."""
    made: dict[tuple[Any, ...], Node] = {}
    result: dict[Node, Node] = {}
    roots = {stage.value: stage.root for stage in stages}
    for stage in stages:
        for node in stage.nodes:
            inside = node.kind == "load" and node.detail.buffer in roots and node.detail.buffer is not stage.value
            if inside and roots[node.detail.buffer] in result:
                result[node] = result[roots[node.detail.buffer]]
                continue
            operands = tuple(result[x] for x in node.operands)
            key = (node.kind, node.value.number, _detail(node, result), tuple(map(id, operands)))
            result[node] = made.setdefault(key, replace(node, operands=operands))
    return result


def _detail(node: Node, known: Mapping[Node, Node]) -> Any:
    """What sets a node apart from others of its operands; an index that is itself computed counts as the node it becomes."""
    detail = node.detail
    if isinstance(detail, Access):
        guards = ((_spelled(guard.index, known), guard.low, guard.high, guard.step) for guard in detail.guards)
        return detail.buffer.number, *(_spelled(index, known) for index in detail.index), *guards
    if isinstance(detail, Guard):
        return _spelled(detail.index, known), detail.low, detail.high, detail.step
    if isinstance(detail, Index):
        return _spelled(detail, known)
    return repr(detail) if node.kind == "constant" else detail


def _spelled(index: Index, known: Mapping[Node, Node]) -> Any:
    def term(part: Any) -> Any:
        if isinstance(part, Datum):
            return id(known[part.node]), part.size
        return (_spelled(part.index, known), part.divisor, part.modulus) if isinstance(part, Part) else part

    return index.offset, tuple((term(part), factor) for part, factor in index.terms)


def notes(found: Passes) -> Iterator[str]:
    """What is worth telling of the passes: which sums ride along, and why others do not."""
    for node, ride in found.rides.items():
        states = ", ".join(dict.fromkeys(_name(ride.leaves[state]) for state in ride.states))
        yield f"{_name(node)} rides along with {states}: one pass less"
    for node, reason in found.refused.items():
        yield f"{_name(node)} took another pass: {reason}"


def _name(node: Node) -> str:
    return node.value.name or node.value.operation.name
