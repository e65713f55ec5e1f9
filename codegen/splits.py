"""Plans in which programs share out a looped axis: more of them than the other axes give, each leaving partial results.

Any plan with one loop becomes one, whatever its reductions are, where each is finished in one pass. What programs leave, and
how that is put together, is in `partials.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from gradc.codegen.device import Device
from gradc.codegen.estimate import finished_plan, touched
from gradc.codegen.partials import shareable
from gradc.codegen.plan import Plan, Setting

WORTH = 0.6  # of the seconds of programs that loop alone, what sharing out may take: it costs a launch and memory for parts
IDLE = 0.5  # of the processors may be at work without that, at most
SHARES = (4, 2, 1, 7 / 8)  # programs of one processor that are worth weighing
FILLING = (8, 4, 2, 1)  # the same where tiles may be small: each program keeps loads of its own under way


def split_plans(plans: Sequence[Plan], setting: Setting) -> Iterator[Plan]:
    """The plans that share out the loop of one of `plans`, where that is well worth it."""
    limit = WORTH * min((p.seconds for p in plans), default=0.0)
    if not plans or _least(plans[0], setting.device) > limit:
        return
    for p in plans:
        yield from (found for found in _shared_out(p, setting) if found.seconds <= limit)


def _least(p: Plan, device: Device) -> float:
    """Seconds that any plan of the same stages takes with parts: reading all there is, and two launches."""
    return sum(touched(value) * value.dtype.itemsize for value, _ in p.reads) / device.bandwidth + 2 * device.launch_seconds


def _shared_out(p: Plan, setting: Setting) -> Iterator[Plan]:
    """The plan with its loop shared out, if its programs leave processors idle."""
    loop = next((axis for axis in p.axes if axis.role == "loop"), None)
    others = prod(axis.programs for axis in p.axes)
    if loop is None or loop.searches or loop.tiles < 2 or p.partial or others > IDLE * setting.device.processors:
        return
    partial = shareable(p.stages, loop.axes, setting.recipes)
    if not partial:
        return
    for parts in parts_for(setting.device, others, FILLING):
        split = replace(loop, role="split", parts=parts)
        axes = tuple(split if axis is loop else axis for axis in p.axes)
        yield replace(finished_plan(p.stages, axes, partial, setting), warps=p.warps, pipeline=p.pipeline, rereads=p.rereads)


def parts_for(device: Device, others: int, shares: Sequence[float] = SHARES) -> Iterator[int]:
    """Among how many programs a sum may be shared out: more keep memory busier, and leave more partial results to add up.

    `others` are the programs along other axes, `shares` programs of one processor. One part is none: it would only be copied.
    """
    for share in shares:
        programs = int(share * device.processors)
        if programs > others:
            yield -(-programs // others)
