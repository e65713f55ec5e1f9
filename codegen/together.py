"""Kernels that need nothing of each other as one launch: its programs are those of the first, then those of the second, ...

Each keeps its own roles, so their shapes need have nothing in common. What that saves is launches; what it may cost is programs
in flight, since all of them get the registers and warps of the largest. How such a kernel is printed is in `dispatch.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from gradc.codegen.device import Device
from gradc.codegen.estimate import busy, resident
from gradc.codegen.lengths import MOST_ARRAYS
from gradc.codegen.plan import Bounds, Plan, Scheduled
from gradc.ir import Value

MOST_PARTS = 64  # branches of one kernel: each is another body to compile


def together(kernels: Sequence[Scheduled], device: Device) -> list[Scheduled]:
    """The kernels, given in launch order, with each joined to the earlier launch that saves most, if any does."""
    launches: list[list[Scheduled]] = []
    written: dict[Value, int] = {}
    for kernel in kernels:
        first = max((written[value] + 1 for value in kernel.reads if value in written), default=0)
        offers = {place: _saved(launches[place], kernel, device) for place in range(first, len(launches))}
        place = max(offers, key=lambda p: (offers[p], -p), default=None)
        if place is None or offers[place] <= 0:
            place = len(launches)
            launches.append([])
        launches[place].append(kernel)
        written |= dict.fromkeys(kernel.writes, place)
    return [_joined(parts, device) for parts in launches]


def _saved(parts: Sequence[Scheduled], kernel: Scheduled, device: Device) -> float:
    """Seconds saved by another part; not positive where it cannot or should not be one."""
    plans = [part.plan for part in (*parts, kernel)]
    arrays = {value for part in (*parts, kernel) for value in (*part.reads, *part.writes)}
    if len(plans) > MOST_PARTS or len(arrays) > MOST_ARRAYS or not _may_share(plans, device):
        return 0.0
    before = combined_bounds(plans[:-1], device)
    return before.alone + kernel.plan.bounds.alone - combined_bounds(plans, device).alone


def _may_share(plans: Sequence[Plan], device: Device) -> bool:
    """Whether one compilation suits all: products of matrices only beside others of their kind, and where none fills the device."""
    if not any(p.is_product for p in plans):
        return True
    alike = len({(p.is_product, p.warps, p.pipeline) for p in plans}) == 1
    return alike and all(p.bounds.largest == "launch" or _programs(p) < device.processors for p in plans)


def _joined(parts: Sequence[Scheduled], device: Device) -> Scheduled:
    if len(parts) == 1:
        return parts[0]
    left = {value: partial for part in parts for value, partial in part.left.items()}
    apart = {(value.number, why): (value, why) for part in parts for value, why in part.apart}
    plan = _combined([part.plan for part in parts], device)
    return replace(parts[0], plan=plan, left=left, apart=tuple(apart.values()), parts=tuple(parts))


def _combined(plans: Sequence[Plan], device: Device) -> Plan:
    """What the parts are as a whole; it has no axes of its own."""
    reads: dict[Value, int] = {}
    for p in plans:
        for value, times in p.reads:
            reads[value] = max(reads.get(value, 0), times)
    return Plan(
        tuple(stage for p in plans for stage in p.stages),
        (),
        frozenset().union(*(p.partial for p in plans)),
        {value: None for p in plans for value in p.stored},
        max(p.warps for p in plans),
        max(p.pipeline for p in plans),
        tuple(reads.items()),
        combined_bounds(plans, device),
        sum(p.flops for p in plans),
        plans[0].recipes,
        max(p.registers for p in plans),
        max(p.passes for p in plans),
        tuple(plans),
    )


def combined_bounds(plans: Sequence[Plan], device: Device) -> Bounds:
    """Bytes and arithmetic add up; programs go on side by side, as many as there is room for."""
    if len(plans) == 1:
        return plans[0].bounds
    flying = device.processors * resident(max(p.registers for p in plans), max(p.warps for p in plans), device)
    queued = sum(_programs(p) * _seconds_of_a_program(p, device) for p in plans) / flying
    return Bounds(
        sum(p.bounds.memory for p in plans),
        sum(p.bounds.cache for p in plans),
        sum(p.bounds.arithmetic * busy(_programs(p), device) for p in plans) / busy(sum(map(_programs, plans)), device),
        max(queued, *(p.bounds.rounds for p in plans)),
        device.launch_seconds,
        max(p.bounds.merging for p in plans),
    )


def _seconds_of_a_program(p: Plan, device: Device) -> float:
    """The latency of one program's tiles, of those that the rounds of all its programs one after another take."""
    flying = device.processors * resident(p.registers, p.warps, device)
    return p.bounds.rounds / -(-_programs(p) // flying)


def _programs(p: Plan) -> int:
    return prod(axis.programs for axis in p.axes)
