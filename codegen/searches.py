"""Sums in which every term has one owner: `sum over t of where(index[t] == v, x[t], 0)`, as a search for the terms a program owns.

A condition that compares a position of the result with a number that does not depend on it holds for one position at most.
So a program looks through that number for the steps of its own positions, many at once, and goes through those alone, one
after the other and in order: no atomics, and the work is that of the terms. Where one owner has most of the terms, its
program has most of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import numpy as np

from gradc import types
from gradc.codegen.estimate import finished_plan
from gradc.codegen.index import Axis, Index, power_of_two
from gradc.codegen.masks.bounds import whole_step
from gradc.codegen.masks.skips import Known, Positional
from gradc.codegen.nodes import Node, walk
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.runs import memory_order, runs_of
from gradc.codegen.stages import Stage

SEARCHED = 1024  # numbers looked at together
ACCUMULATORS = 8192  # elements of the result a program holds
LONGEST_ROW = 1024  # of those, along memory
ENOUGH_PROGRAMS = 264  # to keep every processor busy


@dataclass(frozen=True, eq=False)
class Owner:
    """A term counts only where `number` is `position`, which moves along axes of the result that `number` does not have."""

    number: Node
    position: Index


@lru_cache(maxsize=1024)
def owner_of(reduction: Node) -> Owner | None:
    """What says whose each term of a reduction is, if anything does."""
    if reduction.kind != "reduce":
        return None
    positions = Positional()
    for node in walk([reduction.operands[0]]):
        found = _owner(node, positions, frozenset(reduction.detail[1]))
        if found is not None and Known(frozenset(reduction.detail[1]), assumed={node: False}).is_neutral(reduction):
            return found
    return None


def _owner(node: Node, positions: Positional, reduced: frozenset[Axis]) -> Owner | None:
    if node.kind != "apply" or not holds_only_for_equals(node):
        return None
    for place, number in zip(node.operands, reversed(node.operands), strict=True):
        position = positions.affine(place)
        if position is not None and position.axes and number.axes & reduced and not position.axes & (number.axes | reduced):
            return Owner(number, position)
    return None


def holds_only_for_equals(node: Node) -> bool:
    """Whether a row is a comparison of two whole numbers that holds where they are the same."""
    if node.dtype != types.bool_ or len(node.operands) != 2 or not all(x.dtype.is_integer for x in node.operands):
        return False
    x, y = np.meshgrid(*(np.arange(-3, 4).astype(x.dtype.numpy) for x in node.operands))
    return np.array_equal(node.detail.numpy(x, y), x == y)


def search_plan(stages: Sequence[Stage], setting: Setting) -> Plan | None:
    """A program per tile of owners, which searches the loop for its terms; with elementwise work on the result."""
    heavies = [stage for stage in stages if stage.heavy is not None]
    owner = owner_of(heavies[0].heavy) if len(heavies) == 1 and heavies[0].heavy is not None else None
    if owner is None or any(frozenset(stage.own) != frozenset(heavies[0].own) for stage in stages):
        return None
    owners, loop, others = _axes(stages, heavies[0], owner, setting)
    if whole_step(owner.position, owners) != 1 or len(owner.position.terms) != len(owners.axes):
        return None
    order = memory_order(stages)
    axes = sorted((owners, loop, *others), key=lambda axis: order.index(axis.axes[-1]))
    share = owners.block / owners.size  # of the terms are a program's, where they are spread evenly
    plan = finished_plan(stages, tuple(axes), frozenset(), setting, share=share)
    tile, programs = prod(axis.block for axis in axes), prod(axis.programs for axis in axes)
    searched = programs * loop.size
    bounds = replace(
        plan.bounds,
        cache=plan.bounds.cache + searched * owner.number.dtype.itemsize / setting.device.cache_bandwidth,
        rounds=plan.bounds.rounds * (1 + 1 / (share * loop.parts)),  # a tile searched takes as long as a term found
    )
    return replace(plan, bounds=bounds, flops=plan.flops + 4 * searched, warps=max(1, min(4, tile // 1024)))


def _axes(
    stages: Sequence[Stage], heavy: Stage, owner: Owner, setting: Setting
) -> tuple[KernelAxis, KernelAxis, list[KernelAxis]]:
    """The axes of owners, of the terms, and the others: the last of these is along memory, and held as far as it fits."""
    order = memory_order(stages)
    along = tuple(axis for axis in order if axis in owner.position.axes)
    terms = tuple(axis for axis in order if axis in heavy.reduced)
    fixed = [(axis,) for axis in order if axis in owner.number.axes and axis not in terms]
    rest = runs_of(stages, [axis for axis in order if axis in heavy.own and axis not in along and (axis,) not in fixed])
    others = [KernelAxis("", axes, "grid", 1) for axes in (*fixed, *rest[:-1])]
    if rest:
        others.append(KernelAxis("", rest[-1], "grid", min(power_of_two(_size(rest[-1])), LONGEST_ROW)))
    block = min(power_of_two(_size(along)), ACCUMULATORS // prod(axis.block for axis in others), SEARCHED)
    spread = prod(axis.programs for axis in others)
    while block > 1 and spread * _size(along) < ENOUGH_PROGRAMS * block:
        block //= 2
    searched = max(2, min(power_of_two(_size(terms)), SEARCHED))
    return KernelAxis("", along, "grid", block), KernelAxis("", terms, "loop", 1, searched), others


def _size(axes: tuple[Axis, ...]) -> int:
    return prod(axis.size for axis in axes)
