"""How much of its loop a kernel goes through when some tiles hold no term: an estimate, from lines of `skips.py`.

The share of points at which no line is negative, counted at evenly spread points. What a schedule costs is weighed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gradc.codegen.index import Axis, Index
from gradc.codegen.masks.bounds import whole_step
from gradc.codegen.masks.skips import needed_lines
from gradc.codegen.nodes import Node
from gradc.codegen.plan import KernelAxis, gone_along
from gradc.codegen.stages import Stage

POINTS = 4096
ROOTS = np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0])  # multiples of these spread evenly over the unit cube


def visited_share(stages: Sequence[Stage], axes: Sequence[KernelAxis]) -> float:
    """The part of the steps of a kernel's loop, or of one that programs share out, that its reductions need."""
    loop = gone_along(axes)
    along = frozenset(loop.axes) if loop else frozenset()
    heavies = tuple(
        dict.fromkeys(stage.heavy for stage in stages if stage.heavy is not None and along & frozenset(stage.reduced))
    )
    scans = any(stage.heavy is not None and stage.heavy.kind == "scan" for stage in stages)
    if loop is None or scans or not heavies:
        return 1.0
    return share_of(tuple(line for line in _lines(heavies, along) if whole_step(line, loop)))


@lru_cache(maxsize=1024)
def _lines(reductions: tuple[Node, ...], loop: frozenset[Axis]) -> tuple[Index, ...]:
    return needed_lines(reductions, loop)


@lru_cache(maxsize=1024)
def share_of(lines: tuple[Index, ...]) -> float:
    """The part of the points over the axes of some lines where none is negative."""
    axes = sorted({axis for line in lines for axis in line.axes}, key=lambda axis: (axis.atom, axis.copy))
    if not axes or len(axes) > len(ROOTS):
        return 1.0
    steps = np.arange(POINTS)
    at = {axis: np.floor((0.5 + steps * root) % 1 * axis.size) for axis, root in zip(axes, ROOTS, strict=False)}
    inside = np.ones(POINTS, bool)
    for line in lines:
        inside &= line.offset + sum(step * at[axis] for axis, step in line.terms if isinstance(axis, Axis)) >= 0
    return max(1 / POINTS, float(inside.mean()))
