"""Arrays that a kernel may write over: what it reads there, nothing reads again.

Within one program every element is read before it is written, and by no other program. Only arrays of equal shape and dtype lying row
by row are weighed, between kernels that are launched one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradc.codegen.cascades.riding import crosses, joined, passes
from gradc.codegen.nodes import Access, Node, walk
from gradc.codegen.plan import Plan, Scheduled
from gradc.codegen.stages import Stage, storage_dtype
from gradc.ir import Value


def written_over(kernels: Sequence[Scheduled], outputs: frozenset[Value]) -> dict[Value, Value]:
    """For each array that need not be one of its own, the earlier one it is written over. `outputs` are arrays of the caller."""
    made: dict[Value, None] = {}
    gone: set[Value] = set()
    found: dict[Value, Value] = {}
    for place, kernel in enumerate(kernels):
        later = {value for other in kernels[place + 1 :] for value in other.reads}
        for value in (v for v in kernel.writes if v not in outputs):
            free = (x for x in made if x in kernel.reads and x not in later and x not in gone)
            over = next((x for x in free if _alike(x, value) and _is_read_first(x, value, kernel)), None)
            if over is not None:
                found[value] = found.get(over, over)
                gone.add(over)
        made |= dict.fromkeys(value for value in kernel.writes if value not in outputs)
    return found


def _alike(x: Value, value: Value) -> bool:
    none: frozenset[Value] = frozenset()
    return x.shape == value.shape and storage_dtype(x, none) == storage_dtype(value, none)


def _is_read_first(x: Value, value: Value, kernel: Scheduled) -> bool:
    """Whether a kernel reads every element of an array for the element that it writes there, and for nothing else."""
    stages: Mapping[Value, Stage] = {stage.value: stage for stage in kernel.plan.stages}
    if (
        value not in stages
        or value in kernel.left
        or _comes_back(kernel.plan, stages[value])
        or not _one_program_each(kernel.plan, stages[value])
    ):
        return False
    offsets = {access.offset for stage in stages.values() for access in stage.accesses if access.buffer is x}
    reads = [node for node in stages[value].nodes if _reads(node, x)]
    return offsets == {stages[value].store.offset} and bool(reads)


def _reads(node: Node, x: Value) -> bool:
    return node.kind == "load" and isinstance(node.detail, Access) and node.detail.buffer is x


def _comes_back(p: Plan, stage: Stage) -> bool:
    """Whether a program may read along its loop in a later pass than the one in which the stage is written."""
    looped = tuple(axis for k in p.axes if k.role == "loop" for axis in k.axes)
    if p.is_product or p.partial or any(k.searches for k in p.axes):
        return True
    nodes = joined(p.stages)
    order = walk([nodes[other.root] for other in p.stages])
    ready = passes(order, looped, p.recipes).ready
    folds = (ready[node] - 1 for node in order if crosses(node, looped))
    writes = (ready[nodes[other.root]] for other in p.stages if not frozenset(looped).isdisjoint(other.own))
    return max((*folds, *writes), default=0) > ready[nodes[stage.root]]


def _one_program_each(p: Plan, stage: Stage) -> bool:
    """Whether no two programs compute the same element."""
    return not any(axis.programs > 1 and axis.covers.isdisjoint(stage.own) for axis in p.axes)
