"""Says in words what was decided: the comment over each kernel, and the story `explain()` tells."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from gradc.codegen.cost import Buffer, Traffic
from gradc.codegen.plan import KernelAxis, Scheduled
from gradc.ir import Value

if TYPE_CHECKING:
    from gradc.codegen.lower import LaunchSequence


def heading(kernel: Scheduled, title: str, phase: str, identifiers: Mapping[Value, str], traffic: Traffic) -> list[str]:
    """The comment lines above a kernel: what it makes, its schedule, its traffic."""
    made = ", ".join(identifiers[value] for value in kernel.writes)
    source = next((f"  {stage.value.source}" for stage in kernel.plan.stages if stage.value.source), "")
    return [
        f"# {title}, {phase}: {made}{source}",
        f"# schedule   {schedule_line(kernel)}",
        f"# traffic    reads {_listed(traffic.reads)}; writes {_listed(traffic.writes)}",
    ]


def schedule_line(kernel: Scheduled) -> str:
    """A kernel's schedule in one line: `row: split 132 x 1   column: resident`."""
    if kernel.parts:
        return f"{len(kernel.parts)} parts launched together"
    host = [f"chunk: host {kernel.loop.chunk} x {kernel.loop.count}"] if kernel.loop else []
    return "   ".join([*host, *(f"{axis.name}: {_role(axis)}" for axis in kernel.plan.axes)]) or "one program"


def _role(axis: KernelAxis) -> str:
    if axis.role == "split":
        return f"split {axis.programs}" + (f" x loop {axis.block}" if axis.tiles > axis.programs else "")
    if axis.searches:
        return f"search {axis.parts}"
    return axis.role if axis.role == "resident" else f"{axis.role} {axis.block}"


BOUNDS = {
    "memory": "memory",
    "cache": "the cache that programs share",
    "arithmetic": "arithmetic",
    "rounds": "the latency of one tile after another",
    "launch": "launching",
}


def bound_line(kernel: Scheduled) -> str:
    """How long a kernel is said to take, and what for: `about 49 µs, bound by memory`."""
    return f"about {duration(kernel.plan.bounds.alone * kernel.times)}, bound by {BOUNDS[kernel.plan.bounds.largest]}"


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def _listed(buffers: tuple[Buffer, ...]) -> str:
    return (
        ", ".join(f"{buffer.name} ({size(buffer.bytes)})" if buffer.bytes >= 1e5 else buffer.name for buffer in buffers)
        or "nothing"
    )


def size(count: int) -> str:
    """Bytes for a reader."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def story(sequence: LaunchSequence) -> str:
    """A launch sequence in words: a line per kernel, what rides along in it, and why the next kernel is another one.

    Seconds are predictions of the cost model, not measurements.
    """
    count = sum(kernel.launches for kernel in sequence.scheduled)
    filling = sum(len(kernel.zeroed) for kernel in sequence.scheduled) * sequence.device.launch_seconds
    seconds = sum(kernel.plan.bounds.alone * kernel.times for kernel in sequence.scheduled) + filling
    lines = [
        f"{sequence.phase}: {count} launch{'' if count == 1 else 'es'}, about {duration(seconds)} on {sequence.device.name}"
    ]
    lines += [f"  {note}" for note in sequence.notes]
    loop = None
    for kernel, emitted in zip(sequence.scheduled, sequence.emitted, strict=True):
        if kernel.loop is not None and kernel.loop is not loop:
            lines += [f"  {line}" for line in kernel.loop.why]
        loop = kernel.loop
        lines.append(f"  {emitted.name:<32} {schedule_line(kernel)}   {bound_line(kernel)}")
        lines.append(
            f"      writes {', '.join(sequence.identifiers[v] for v in kernel.writes)}{_inside(kernel, sequence.identifiers)}"
        )
        lines += [f"      {_part(part, sequence.identifiers)}" for part in kernel.parts]
        lines += [f"      {reason}" for reason in (*_reasons(kernel, sequence), *emitted.notes)]
    return "\n".join(lines)


def _part(part: Scheduled, identifiers: Mapping[Value, str]) -> str:
    """One of the kernels launched together: what it writes, and how."""
    return f"part {', '.join(identifiers[v] for v in part.writes)}: {schedule_line(part)}"


def _inside(kernel: Scheduled, identifiers: Mapping[Value, str]) -> str:
    """Reductions that are computed and used in the kernel without being stored."""
    stages = [stage for stage in kernel.plan.stages if stage.heavy is not None and stage.value not in kernel.plan.stored]
    kept = dict.fromkeys(
        stage.heavy.value.name or stage.heavy.value.operation.name for stage in stages if stage.heavy is not None
    )
    unwritten = [name for name in kept if name not in {identifiers[value] for value in kernel.writes}]
    return f"; computed in passing: {', '.join(unwritten)}" if unwritten else ""


def _reasons(kernel: Scheduled, sequence: LaunchSequence) -> list[str]:
    identifiers, processors = sequence.identifiers, sequence.device.processors
    reasons = []
    for axis in kernel.plan.axes:
        others = prod(other.programs for other in kernel.plan.axes) // axis.programs
        if axis.role == "split" and others < processors:
            reasons.append(
                f"{axis.name} is shared out: without that {others} programs would be at work on {processors} processors"
            )
    for stage in kernel.plan.stages:
        name = identifiers.get(stage.value) or stage.value.name or stage.value.operation.name
        if stage.value in kernel.plan.partial:
            how = (
                "adds its part to zeros in memory by atomics, in any order"
                if kernel.plan.atomic or any(p.atomic and stage.value in p.partial for p in kernel.plan.parts)
                else "leaves a partial result, merged by a later kernel"
            )
            reasons.append(f"{name} is summed over what the programs share out: each {how}")
    for value, why in kernel.apart:
        reasons.append(f"not one kernel with {identifiers.get(value) or value.name or value.operation.name}: {why}")
    if kernel.plan.passes > 1:
        again = any(times > 1 for _, times in kernel.plan.reads)
        reasons.append(
            f"a row does not fit in registers: {kernel.plan.passes} passes, "
            + ("each from memory" if again else "the later ones from the cache, which holds the rows of all programs")
        )
    return reasons
