"""Sums in which every term says whose it is, added up in memory: programs go over the terms and add each where it belongs.

The other way to compute them, in a fixed order, is to search for the terms of each result (`searches.py`). This one takes atomics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.atomics import can_add
from gradc.codegen.estimate import CACHE_SHARE, finished_plan
from gradc.codegen.index import Axis, Datum, Index, power_of_two
from gradc.codegen.nodes import Access, Guard, Node
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.runs import memory_order, runs_of
from gradc.codegen.searches import owner_of
from gradc.codegen.stages import Stage
from gradc.ops import TABLE

TERMS = 1024  # elements of a program's tile
LONGEST_ROW = 1024  # of those, along memory


@dataclass(frozen=True, eq=False)
class Scattered:
    """What is added where: `term` at `access`, which depends on where the term stands and on the number that says whose it is."""

    term: Node
    access: Access


def scattered(reduction: Node, store: Access) -> Scattered | None:
    """A reduction over terms of which each has one owner, as additions to what `store` would write; None for others."""
    owner, chosen = owner_of(reduction), reduction.operands[0]
    if owner is None or chosen.kind != "apply" or chosen.detail is not TABLE["where"]:
        return None
    condition, term, other = chosen.operands
    if owner.number not in set(condition.operands) or other.kind != "constant" or other.detail:
        return None
    place = owner.position + (-owner.position.offset)
    dims = [dim for dim, index in enumerate(store.index) if index == place]
    if len(dims) != 1 or term.axes & place.axes or owner.number.axes & place.axes:
        return None
    size = store.buffer.shape[dims[0]]
    number = Index(((Datum(owner.number, size), 1),)) + (-owner.position.offset)
    index = (*store.index[: dims[0]], number, *store.index[dims[0] + 1 :])
    return Scattered(term, Access(store.buffer, index, (Guard(number, 0, size),)))


def is_scattered(stage: Stage, axes: Sequence[KernelAxis]) -> bool:
    """Whether programs with these axes go over a stage's terms and not over its results."""
    covered = frozenset().union(*(axis.covers for axis in axes))
    return not frozenset(stage.own) <= covered


def scattering_plan(stages: Sequence[Stage], setting: Setting) -> Plan | None:
    """A program per tile of terms; a kernel for nothing else."""
    if len(stages) != 1 or not can_add(stages):
        return None
    (stage,) = stages
    assert stage.heavy is not None
    found = scattered(stage.heavy, stage.store)
    if found is None:
        return None
    plan = finished_plan(stages, _axes(stage, found), frozenset((stage.value,)), setting, atomic=True)
    added = prod(axis.size for axis in found.access.offset.axes)
    seconds = 2 * added * stage.value.dtype.compute.itemsize / setting.device.bandwidth
    in_cache = stage.value.size * stage.value.dtype.compute.itemsize <= CACHE_SHARE * setting.device.cache_bytes
    read = sum(_read_once(access) for access in stage.accesses) / setting.device.bandwidth
    memory = plan.bounds.memory if in_cache else plan.bounds.memory + seconds
    bounds = replace(plan.bounds, memory=max(memory, read), cache=max(read, seconds), arithmetic=0.0)
    return replace(plan, bounds=bounds, flops=2 * added)


def _read_once(access: Access) -> int:
    return access.buffer.size * access.buffer.dtype.itemsize


def _axes(stage: Stage, found: Scattered) -> tuple[KernelAxis, ...]:
    """Tiles of the terms and of what each has, the longest along memory."""
    order = [axis for axis in memory_order([stage]) if axis in found.access.offset.axes]
    runs: list[tuple[Axis, ...]] = runs_of([stage], order)
    tile, axes = 1, list[KernelAxis]()
    for run in reversed(runs):
        block = min(power_of_two(prod(axis.size for axis in run)), LONGEST_ROW if not axes else TERMS, max(1, TERMS // tile))
        tile *= block
        axes.append(KernelAxis("", run, "grid", block))
    return tuple(reversed(axes))
