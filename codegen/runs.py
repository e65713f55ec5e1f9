"""Which neighbouring axes of a group of stages can be iterated as one, and how axes lie in memory.

A run is a row of axes that every array is read along as along one long axis, and whose parts nobody needs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradc.codegen.index import Axis
from gradc.codegen.stages import Stage


def memory_order(stages: Sequence[Stage]) -> list[Axis]:
    """Every axis, the one with the largest step in memory first."""
    step: dict[Axis, int] = {}
    for stage in stages:
        for axis in (*stage.own, *stage.reduced, *stage.folded):
            step.setdefault(axis, 0)
        for access in (*stage.accesses, stage.store):
            for term, coefficient in access.offset.terms:
                if isinstance(term, Axis):
                    step[term] = max(step.get(term, 0), abs(coefficient))
    return sorted(step, key=lambda axis: -step[axis])


def status_of(stages: Sequence[Stage], axis: Axis) -> tuple[int, ...]:
    return tuple(1 if axis in stage.own else 2 if axis in stage.reduced else 0 for stage in stages)


def runs_of(stages: Sequence[Stage], axes: list[Axis]) -> list[tuple[Axis, ...]]:
    """Neighbouring axes that can be iterated as one, because every array is read along them as along one long axis."""
    offsets = [access.offset for stage in stages for access in (*stage.accesses, stage.store)]
    offsets += [node.detail for stage in stages for node in stage.nodes if node.kind == "position"]
    steps = [({t: c for t, c in offset.terms if isinstance(t, Axis)}, _apart(offset)) for offset in offsets]
    apart = frozenset(axis for _, lone in steps for axis in lone) | _individually_used(stages)
    runs: list[list[Axis]] = []
    for axis in axes:
        last = runs[-1][-1] if runs else None
        if last is not None and _mergeable(last, axis, steps, apart) and status_of(stages, last) == status_of(stages, axis):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return [tuple(run) for run in runs]


def _mergeable(outer: Axis, inner: Axis, steps: list, apart: frozenset[Axis]) -> bool:
    if outer in apart or inner in apart:
        return False
    return all(step.get(outer, 0) == step.get(inner, 0) * inner.size for step, _ in steps)


def _apart(offset: Any) -> frozenset[Axis]:
    """Axes an offset uses inside a division, a remainder or a gathered index."""
    return frozenset(axis for term, _ in offset.terms if not isinstance(term, Axis) for axis in _term_axes(term))


def _term_axes(term: Any) -> frozenset[Axis]:
    return term.index.axes if hasattr(term, "index") else term.node.axes


def _individually_used(stages: Sequence[Stage]) -> frozenset[Axis]:
    """Axes whose own position matters: in a mask of a view, an index ramp, a running sum."""
    found: set[Axis] = set()
    for stage in stages:
        for node in stage.nodes:
            if node.kind == "load":
                found.update(axis for guard in node.detail.guards for axis in guard.index.axes)
            elif node.kind == "guard":
                found.update(node.detail.index.axes)
            elif node.kind == "scan":
                found.update(node.detail[0])
    return frozenset(found)
