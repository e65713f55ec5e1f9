"""What a kernel costs on a device: bytes, flops and occupancy make seconds. Completes a plan whose roles are decided.

A kernel's traffic counts each array once, and again for each further pass over a looped axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from gradc.codegen.device import Device
from gradc.codegen.index import Axis
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.shares import visited_share
from gradc.codegen.stages import Stage, operations, storage_dtype
from gradc.ir import Value

CHAINED = 0.6  # of the matrix rate is reached where one product waits for what is computed from another


def finished_plan(
    stages: Sequence[Stage],
    axes: tuple[KernelAxis, ...],
    partial: frozenset[Value],
    setting: Setting,
    share: float | None = None,
) -> Plan:
    """`share` is the part of the looped axis's steps that is gone through, where the stages themselves do not tell."""
    stored = dict.fromkeys(stage.value for stage in stages if stage.value in setting.kept or stage.value in partial)
    passes = _passes(stages, axes)
    inside = {stage.value for stage in stages}
    reads: dict[Value, int] = {}
    looped = frozenset(axis for k in axes if k.role == "loop" for axis in k.axes)
    for stage in stages:
        for access in stage.accesses:
            if access.buffer not in inside:
                times = passes if access.offset.axes & looped else 1
                reads[access.buffer] = max(reads.get(access.buffer, 0), times)
    share = _share(stages, axes, passes) if share is None else share
    flops = _flops(stages, looped, share)
    programs = prod(axis.programs for axis in axes)
    written = sum(_stored_bytes(stage, axes, partial, setting) for stage in stages if stage.value in stored)
    read = sum(_read_bytes(buffer, setting) * (times * share if times > 1 else 1) for buffer, times in reads.items())
    moved = written + round(read)
    rate = _matrix_rate(stages, axes, setting.device) if any(map(is_product, stages)) else setting.device.vector_rate
    seconds = _seconds(moved, flops / rate, programs, bool(partial), setting.device)
    named = _named(axes)
    return Plan(
        tuple(stages),
        named,
        partial,
        stored,
        _warps(named, stages),
        3 if any(map(is_product, stages)) else 1,
        tuple(reads.items()),
        seconds,
        flops,
    )


def _flops(stages: Sequence[Stage], looped: frozenset[Axis], share: float) -> int:
    """Arithmetic operations; what several stages of a kernel compute at the same axes is computed once.

    Of what is computed in the loop, `share` is: the rest of its tiles are skipped.
    """
    distinct = {(node.kind, node.value.number, str(node.detail)): node for stage in stages for node in stage.nodes}
    inside = sum(operations(n) for n in distinct.values() if looped & n.axes.union(*(x.axes for x in n.operands)))
    return round(inside * share) + sum(map(operations, distinct.values())) - inside


def _share(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], passes: int) -> float:
    """The part of the steps of all passes over the looped axis that are gone through; a pass that writes along it skips none."""
    looped = frozenset(axis for k in axes if k.role == "loop" for axis in k.axes)
    writes = any(looped & frozenset(stage.own) for stage in stages)
    return (visited_share(stages, axes) * (passes - writes) + writes) / passes


def is_product(stage: Stage) -> bool:
    return any(node.kind == "dot" for node in stage.nodes)


def _matrix_rate(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], device: Device) -> float:
    """Operations per second of products: a tile half as large reads its operands twice as often."""
    if any(node.kind == "dot" and node.dtype.itemsize == 4 for stage in stages for node in stage.nodes):
        return device.vector_rate
    if any(stage.nested for stage in stages):
        rows, step = (max((axis.block for axis in axes if axis.role == role), default=1) for role in ("grid", "loop"))
        return device.matrix_rate * CHAINED * min(1.0, (rows * step / (128 * 64)) ** 0.25)
    area = prod(axis.block for axis in axes if axis.role == "grid")
    return device.matrix_rate * min(1.0, (area / (128 * 128)) ** 0.5)


def _seconds(moved: int, computing: float, programs: int, merges: bool, device: Device) -> float:
    busy = min(1.0, programs / device.processors)
    return max(moved / device.bandwidth, computing) / busy + (2 if merges else 1) * device.launch_seconds


def _read_bytes(buffer: Value, setting: Setting) -> int:
    return touched(buffer) * storage_dtype(buffer, setting.outputs).itemsize


def touched(buffer: Value) -> int:
    """How many distinct elements a Value has in memory (an expanded input repeats few)."""
    strides = getattr(buffer.operation, "strides", None)
    if strides is None:
        return buffer.size
    return prod(n for n, step in zip(buffer.shape, strides, strict=True) if step != 0) if buffer.size else 0


def _stored_bytes(stage: Stage, axes: tuple[KernelAxis, ...], partial: frozenset[Value], setting: Setting) -> int:
    if stage.value not in partial:
        return stage.value.size * storage_dtype(stage.value, setting.outputs).itemsize
    parts = prod(axis.programs for axis in axes if axis.role == "split")
    return 2 * parts * stage.value.size * stage.value.dtype.compute.itemsize


def _passes(stages: Sequence[Stage], axes: tuple[KernelAxis, ...]) -> int:
    """How many times a looped axis is gone along: once per reduction that waits for another, once more to write along it."""
    looped = frozenset(axis for k in axes if k.role == "loop" for axis in k.axes)
    if not looped:
        return 1
    level: dict[Value, int] = {}
    for stage in stages:
        before = max((level[value] for value in stage.needs if value in level), default=0)
        along = bool(looped & stage.axes) if stage.heavy is not None else bool(looped & frozenset(stage.own))
        level[stage.value] = before + (1 if along else 0)
    return max(1, *level.values())


def held_tile(stages: Sequence[Stage], held: tuple[KernelAxis, ...]) -> int:
    """Elements of the largest tile any one stage holds along the inner axes."""
    return max((prod(axis.block for axis in held if frozenset(axis.axes) & stage.axes) for stage in stages), default=1)


def _warps(axes: tuple[KernelAxis, ...], stages: Sequence[Stage]) -> int:
    if any(map(is_product, stages)):
        area = prod(axis.block for axis in axes if axis.role == "grid")
        return 8 if area >= 128 * 64 else 4
    tile = held_tile(stages, axes)
    return max(1, min(32, tile // 512))


def _named(axes: tuple[KernelAxis, ...]) -> tuple[KernelAxis, ...]:
    """Axes with a name to read: row and column for two, numbered rows before that."""
    if any(axis.name for axis in axes):
        return axes
    kinds = (
        ["at"] if len(axes) == 1 and axes[0].role in ("grid", "split") else ["row"] * (len(axes) - 1) + ["column"] * bool(axes)
    )
    counts = {kind: kinds.count(kind) for kind in kinds}
    seen: dict[str, int] = {}
    result = []
    for axis, kind in zip(axes, kinds, strict=True):
        seen[kind] = seen.get(kind, -1) + 1
        result.append(replace(axis, name=kind if counts[kind] == 1 else f"{kind}_{seen[kind]}"))
    return tuple(result)
