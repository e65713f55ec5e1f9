"""Prints the reductions of a pass that move together: states as they are so far, and sums repaired whenever a state moves.

Each sum is kept for a reference value of its states, which is always finite, and moved from reference to reference by its
recipe; after the loop it is moved to the states of the whole axis. Which sums ride along is decided in `riding.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradc.codegen.cascades.riding import Ride, reduced_axes
from gradc.codegen.nodes import Node
from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.expressions import Expressions
from gradc.codegen.printing.scope import ATOM, BINDING, Scope, Variable
from gradc.codegen.printing.spelling import identity, literal, remark, triton_dtype

ENCLOSED = re.compile(r"(?<=\()\{(\w+)\}(?=\))")  # a name that stands alone between parentheses
NAME = re.compile(r"\{(\w+)\}")
LONG = 80  # characters of a repair and a summand that still go on one line
SHOWN = re.compile(r"\b([xdc]\d+)\b")


@dataclass(frozen=True)
class Reference:
    """The value of a state that sums are kept for: before this tile, and with it."""

    before: Variable
    after: Variable


class Online:
    """One pass over a looped axis. `here` are the reductions it finishes, operands first; others than `stepwise` are not touched."""

    def __init__(self, printer: Expressions, rides: Mapping[Node, Ride], here: Sequence[Node], loop: KernelAxis):
        self.print, self.loop = printer, loop
        self.rides = {node: rides[node] for node in here if node in rides}
        sources = {node for ride in self.rides.values() for reductions in ride.sources for node in reductions}
        self.stepwise = frozenset(self.rides) | sources
        self.references: dict[Node, Reference] = {}
        self.sums: dict[Node, tuple[Variable, ...]] = {}
        self._fresh: dict[Node, None] = {}
        self._whole_over_seen = ""

    # Before the loop -------------------------------------------------------------------------------------------------

    def start(self, scope: Scope, node: Node) -> None:
        """What the loop carries for a reduction, at its beginning."""
        axes = self.print.tile_axes(node.axes)
        if node not in self.rides:
            self.sums[node] = (
                self._carried(scope, self.print.name_of(node), axes, node, identity(node.detail[0], node.dtype)),
            )
            return
        ride = self.rides[node]
        for state, extreme in zip(ride.states, ride.extremes, strict=True):
            self._start_reference(scope, ride.leaves[state], extreme)
        whole = self.print.name_of(node)
        stem = whole.rstrip("_").replace("__", "_")
        names = [whole if ride.recipe.combination == "{a0}" else self.print.names.fresh(f"{stem}_0")]
        names += [self.print.names.fresh(f"{stem}_{i}") for i in range(1, ride.recipe.rank)]
        if node.kind == "dot":
            self.print.start_accumulator(scope, node)
            axes = self.print.accumulators[node][1]
            self.sums[node] = (Variable(names[0], axes, scope.depth),)
        else:
            self.sums[node] = tuple(self._carried(scope, name, axes, node, "0.0") for name in names)

    def _carried(self, scope: Scope, name: str, axes: tuple[KernelAxis, ...], node: Node, start: str) -> Variable:
        shape = ", ".join(self.print.positions.block(k) for k in axes)
        scope.add(f"{name} = tl.full([{shape}], {start}, {triton_dtype(node.dtype.compute)})")
        return Variable(name, axes, scope.depth)

    def _start_reference(self, scope: Scope, state: Node, extreme: str) -> None:
        """An extremum starts where every element moves it on, so that what is repaired shrinks; anything else at zero."""
        if state in self.references:
            return
        wish = self.print.wish(state).rstrip("_")
        names = [self.print.names.fresh(f"{wish}_{suffix}") for suffix in ("at", "next")]
        furthest = float(np.finfo(state.dtype.compute.numpy).max)
        start = {"max": -furthest, "min": furthest, "": 0.0}[extreme]
        before = self._carried(scope, names[0], self.print.tile_axes(state.axes), state, literal(start, state.dtype))
        self.references[state] = Reference(before, replace(before, text=names[1], depth=scope.depth + 1))

    # In the loop -----------------------------------------------------------------------------------------------------

    def step(self, body: Scope, node: Node) -> None:
        """One tile of a reduction."""
        if node not in self.rides:
            self._advance(body, node)
            return
        ride = self.rides[node]
        for state, sources in zip(ride.states, ride.sources, strict=True):
            self._refresh(body, ride.leaves[state], sources)
        values = self._values(body, node, "before", "after")
        if node.kind == "dot":
            self._multiply(body, node, values)
            return
        summands = [self._summand(body, node, i, values) for i in range(ride.recipe.rank)]
        if ride.recipe.is_moved:
            if not ride.shrinks:
                values |= self._guarded(body, node, values)
            self._explain(body, ride)
            self._measure(body, node, values)
        self._move(body, node, values, summands)

    def _advance(self, body: Scope, node: Node) -> None:
        """A state as it is so far: the tile is folded at once."""
        (carried,), kind = self.sums[node], node.detail[0]
        tile = self._folded(body, node, self.print.at(node.operands[0], body), node.operands[0])
        if kind == "sum":
            body.add(f"{carried.text} += {tile.expanded(carried.axes, 0)}", remark(node))
        else:
            nan = ", propagate_nan=tl.PropagateNan.ALL" if node.dtype.is_floating else ""
            body.add(f"{carried.text} = tl.{kind}imum({carried.text}, {tile.expanded(carried.axes, 0)}{nan})", remark(node))

    def _folded(self, body: Scope, node: Node, x: Variable, of: Node) -> Variable:
        """One tile of a reduction; `of` is the expression that x is."""
        reduced = frozenset(reduced_axes(node))
        folded = [k for k in self.print.vectors() if reduced & frozenset(k.axes)]
        text, axes = self.print.only_inside(node, of, x, folded, body)
        left = tuple(k for k in axes if k not in folded)
        if not folded:
            return replace(x, text=text)
        return Variable(self.print.fold(node.detail[0], node.dtype, text, axes, folded), left, body.depth)

    def _refresh(self, body: Scope, state: Node, sources: Sequence[Node]) -> None:
        """The reference for this tile: the state so far, as long as it is finite."""
        if state in self._fresh:
            return
        self._fresh[state] = None
        hidden = {source: body.known.pop(source) for source in sources if source in body.known}
        for source in sources:
            body.known[source] = self._so_far(body, source)
        so_far = self.print.at(state, body)
        for source in sources:
            del body.known[source]
        body.known.update(hidden)
        reference = self.references[state]
        text = so_far.expanded(reference.after.axes)
        if not so_far.text.isidentifier():
            text = self.print.names.fresh(f"{self.print.wish(state).rstrip('_')}_so_far")
            body.add(f"{text} = {so_far.expanded(reference.after.axes, 0)}")
        body.add(f'{reference.after.text} = tl.where(tl.abs({text}) < float("inf"), {text}, {reference.before.text})')
        body.known[state] = reference.after

    def _so_far(self, body: Scope, source: Node) -> Variable:
        """A reduction so far; a sum as if the rest of the axis were like what was seen, so that means are means."""
        carried = self.sums[source][0]
        if source.detail[0] != "sum":
            return replace(carried, depth=body.depth)
        if not self._whole_over_seen:
            size, seen = self.print.positions.size(self.loop), self.print.positions.seen(self.loop)
            self._whole_over_seen = self.print.names.fresh("whole_over_seen")
            body.add(f"{self._whole_over_seen} = {size} / {seen}")
        return Variable(f"{carried.text} * {self._whole_over_seen}", carried.axes, body.depth, BINDING["*"])

    def _values(self, scope: Scope, node: Node, old: str, new: str) -> dict[str, Variable]:
        """What the names of a recipe stand for; the summands' own operands are not among them."""
        ride = self.rides[node]
        values = {name: self.print.at(leaf, scope) for name, leaf in ride.leaves.items() if name[0] == "c"}
        for state in ride.states:
            reference = self.references[ride.leaves[state]]
            values[f"{state}_old"] = getattr(reference, old)
            values[f"{state}_new"] = values[state] = getattr(reference, new)
        return values | {f"a{i}": variable for i, variable in enumerate(self.sums[node])}

    def _guarded(self, body: Scope, node: Node, values: Mapping[str, Variable]) -> dict[str, Variable]:
        """Old states from which nothing moves while the sums are still zero: a repair that overflows would make them NaN."""
        sums, guarded = self.sums[node], {}
        empty = " & ".join(f"({variable.text} == 0)" if len(sums) > 1 else f"{variable.text} == 0" for variable in sums)
        for state in self.rides[node].states:
            old, new = (values[f"{state}_{age}"] for age in ("old", "new"))
            axes = tuple(k for k in self.print.vectors() if k in sums[0].axes or k in old.axes)
            name = self.print.names.fresh(f"{old.text}_from".replace("_at_", "_"))
            body.add(f"{name} = tl.where({empty}, {new.expanded(axes)}, {old.expanded(axes)})")
            guarded[f"{state}_old"] = Variable(name, axes, body.depth)
        return guarded

    def _measure(self, scope: Scope, node: Node, values: dict[str, Variable]) -> None:
        """How far each state moves: one name where that is used more than once."""
        recipe = self.rides[node].recipe
        for state in self.rides[node].states:
            old, new = (values[f"{state}_{age}"] for age in ("old", "new"))
            axes = tuple(k for k in self.print.vectors() if k in old.axes or k in new.axes)
            text = f"{old.expanded(axes, BINDING['-'])} - {new.expanded(axes, BINDING['-'] + 1)}"
            by = Variable(text, axes, scope.depth, BINDING["-"])
            if sum(moved.count(f"{{{state}_by}}") for moved in recipe.moved) > 1:
                by = replace(
                    by,
                    text=self.print.names.fresh(
                        f"{self.references[self.rides[node].leaves[state]].before.text}_by".replace("_at_", "_")
                    ),
                    binding=ATOM,
                )
                scope.add(f"{by.text} = {text}")
            values[f"{state}_by"] = by

    def _explain(self, body: Scope, ride: Ride) -> None:
        names = {name: self._shown(body, leaf) for name, leaf in ride.leaves.items()}
        for line in ride.recipe.proof:
            body.add(f"# {SHOWN.sub(lambda found: names[found[1]], line)}")

    def _shown(self, body: Scope, leaf: Node) -> str:
        """What a leaf is called in a proof: as its variable is, a state without what tells before from after."""
        if leaf in self.references:
            return self.references[leaf].before.text.replace("_at", "")
        known = body.find(leaf)
        return known.text if known is not None and known.text.isidentifier() else self.print.wish(leaf).rstrip("_")

    def _summand(self, body: Scope, node: Node, i: int, values: Mapping[str, Variable]) -> Variable:
        """Σ of the i-th entry of the basis over this tile."""
        ride = self.rides[node]
        if i == 0 and ride.recipe.keeps_body:
            return self._folded(body, node, self.print.at(node.operands[0], body), node.operands[0])
        if not any(name[0] == "x" for name in NAME.findall(ride.recipe.basis[i])):
            return self._times_seen(body, node, self._filled(ride.recipe.basis[i], values, body))
        used = dict(values)
        used |= {name: self.print.at(ride.leaves[name], body) for name in NAME.findall(ride.recipe.basis[i]) if name[0] == "x"}
        entry = self._filled(ride.recipe.basis[i], used, body)
        return self._folded(body, node, entry, node)

    def _times_seen(self, body: Scope, node: Node, entry: Variable) -> Variable:
        """Σ over this tile of what is the same in all of it: as often as the tile has elements."""
        positions, reduced = self.print.positions, frozenset(reduced_axes(node))
        folded = [k for k in self.print.vectors() if reduced & frozenset(k.axes)]
        if any(k.overhangs for k in folded):
            return self._folded(body, node, entry, node)
        counts = [positions.block(k) for k in folded]
        factors = [*([] if entry.text == "1.0" and counts else [entry.operand(BINDING["*"])]), *counts]
        return replace(entry, text=" * ".join(factors), binding=BINDING["*"] if len(factors) > 1 else ATOM)

    def _filled(self, template: str, values: Mapping[str, Variable], scope: Scope) -> Variable:
        used = [values[name] for name in NAME.findall(template)]
        axes = tuple(k for k in self.print.vectors() if any(k in x.axes for x in used))
        text = ENCLOSED.sub(lambda found: values[found[1]].expanded(axes, 0), template)
        text = NAME.sub(lambda found: values[found[1]].expanded(axes), text)
        return Variable(text, axes, scope.depth, ATOM if NAME.fullmatch(template) or not used else 0)

    def _move(self, scope: Scope, node: Node, values: dict[str, Variable], summands: Sequence[Variable]) -> None:
        """All sums from the old states to the new ones, with what is added to each; at the end only those that are needed."""
        recipe, axes = self.rides[node].recipe, self.sums[node][0].axes
        wanted = [i for i in range(recipe.rank) if summands or f"{{a{i}}}" in recipe.combination]
        for i in wanted:
            carried = self.sums[node][i]
            moved = self._filled(recipe.moved[i], values, scope)
            if any(f"{{a{i}}}" in recipe.moved[later] for later in wanted if later > i):
                kept = replace(carried, text=self.print.names.fresh(f"{carried.text}_before"))
                scope.add(f"{kept.text} = {carried.text}")
                values[f"a{i}"] = kept
            repaired, tile = moved.expanded(axes, 0), summands[i].expanded(axes, BINDING["+"] + 1) if summands else ""
            if tile and recipe.moves(i) and len(repaired) + len(tile) < LONG:
                scope.add(f"{carried.text} = {repaired} + {tile}", remark(node))
                continue
            if recipe.moves(i):
                scope.add(f"{carried.text} = {repaired}")
            if tile:
                scope.add(f"{carried.text} += {tile}", remark(node))

    def _multiply(self, body: Scope, node: Node, values: dict[str, Variable]) -> None:
        ride, (carried,) = self.rides[node], self.sums[node]
        if ride.recipe.is_moved:
            self._explain(body, ride)
            self._measure(body, node, values)
            moved = self._filled(ride.recipe.moved[0], values, body).expanded(carried.axes, 0)
            text = moved if ride.shrinks else f"tl.where({carried.text} == 0, 0.0, {moved})"
            body.add(f"{carried.text} = {text}")
        self.print.multiply(body, node, carried.text)

    def close(self, body: Scope) -> None:
        """The end of a tile: the new references are the old ones of the next."""
        for state in self._fresh:
            reference = self.references[state]
            body.add(f"{reference.before.text} = {reference.after.text}")
        self._fresh, self._whole_over_seen = {}, ""

    # After the loop --------------------------------------------------------------------------------------------------

    def finish(self, scope: Scope, node: Node) -> None:
        """The result of a reduction: its sums at the states of the whole axis."""
        if node not in self.rides:
            scope.known[node] = self.sums[node][0]
            return
        recipe, ride = self.rides[node].recipe, self.rides[node]
        values = self._values(scope, node, "before", "after")
        for state in ride.states:
            values[state] = values[f"{state}_new"] = self.print.at(ride.leaves[state], scope)
        self._measure(scope, node, values)
        self._move(scope, node, values, ())
        result = self._filled(recipe.combination, self._with_sums(node, values), scope)
        axes = self.sums[node][0].axes
        if recipe.combination == "{a0}":
            scope.known[node] = self.sums[node][0]
        else:
            scope.known[node] = self.print.assign(node, result.expanded(axes, 0), axes, scope)

    def _with_sums(self, node: Node, values: Mapping[str, Variable]) -> dict[str, Variable]:
        return {**values, **{f"a{i}": variable for i, variable in enumerate(self.sums[node])}}
