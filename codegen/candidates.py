"""The plans of a kernel that are worth timing: the one chosen, its neighbours, and what else was weighed; best predicted first.

All leave the same arrays in the same shapes, so that any of them can stand for the kernel in its program. Nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from gradc.codegen.device import Device
from gradc.codegen.estimate import MOST_THREADS, finished_plan
from gradc.codegen.index import power_of_two
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.roles import goes_on_once, plans
from gradc.ir import Value

MOST = 24  # plans to time for one kernel
HOPELESS = 2.0  # times the seconds of the chosen plan: what is predicted to be slower than that is not timed
SMALLEST = 16  # extent of a matrix unit's operand


def candidates(chosen: Plan, outputs: frozenset[Value], device: Device) -> tuple[Plan, ...]:
    """At most 24 plans for a kernel, the chosen one first, the others by predicted seconds; none is there twice."""
    if chosen.parts:
        return (chosen,)  # each part is a choice of its own
    kept = frozenset(value for value in chosen.stored if value not in chosen.partial)
    setting = Setting(kept, outputs, device, chosen.recipes)
    others = (p for p in plans(chosen.stages, setting) if _interchangeable(p, chosen))
    found = {_key(p): p for p in (chosen, *others, *_neighbours(chosen, setting))}
    nearest = list(found.values())
    for p in sorted(nearest[1:], key=lambda p: p.seconds)[:4]:
        found |= {_key(far): far for far in _neighbours(p, setting) if _key(far) not in found}
    limit = HOPELESS * chosen.seconds
    rest = [p for p in list(found.values())[1:] if p.seconds <= limit and _fits(p, device)]
    return (chosen, *sorted(rest, key=lambda p: p.seconds)[: MOST - 1])


def _key(p: Plan) -> tuple:
    return tuple((axis.axes, axis.role, axis.block, axis.parts) for axis in p.axes), p.warps, p.pipeline


def _interchangeable(p: Plan, chosen: Plan) -> bool:
    """Whether a plan leaves the arrays that the chosen one leaves."""
    return goes_on_once(p) and p.partial == chosen.partial and (not p.partial or _parts(p) == _parts(chosen))


def _parts(p: Plan) -> int:
    return prod(axis.programs for axis in p.axes if axis.role == "split")


def _neighbours(p: Plan, setting: Setting) -> Iterator[Plan]:
    """One thing changed: a tile half or twice as long along one axis, half or twice the warps, a step more or less ahead."""
    for place, axis in enumerate(p.axes):
        for block in (axis.block // 2, axis.block * 2):
            if _is_block(axis, block, p):
                axes = (*p.axes[:place], replace(axis, block=block), *p.axes[place + 1 :])
                changed = finished_plan(p.stages, axes, p.partial, setting)
                if _interchangeable(changed, p):
                    yield replace(changed, pipeline=p.pipeline)
    yield from (replace(p, warps=warps) for warps in (p.warps // 2, p.warps * 2) if warps)
    if p.pipeline > 1:
        yield from (replace(p, pipeline=ahead) for ahead in (p.pipeline - 1, p.pipeline + 1))


def _is_block(axis: KernelAxis, block: int, p: Plan) -> bool:
    """Whether a tile may have another extent: what is resident is whole, and tiles of products with products in them fit each other."""
    if axis.role == "resident" or any(k.searches for k in p.axes) or any(stage.nested for stage in p.stages):
        return False
    least = SMALLEST if p.is_product and axis.block > 1 else 1
    return least <= block <= power_of_two(axis.size) and (axis.block > 1 or not p.is_product)


def _fits(p: Plan, device: Device) -> bool:
    """Whether a processor can hold the program: its threads, its registers, and the operands of products that are under way."""
    return p.warps * device.warp <= MOST_THREADS and p.registers <= device.registers and _ahead(p) <= device.shared_bytes


def _ahead(p: Plan) -> int:
    """Bytes of shared memory that the operands of products take."""
    if not p.is_product:
        return 0
    loads = {access.buffer: access for stage in p.stages for access in stage.accesses}
    tiles = (
        prod(axis.block for axis in p.axes if axis.covers & access.offset.axes) * access.buffer.dtype.itemsize
        for access in loads.values()
        if any(axis.role == "loop" and axis.covers & access.offset.axes for axis in p.axes)
    )
    return p.pipeline * sum(tiles)
