"""What a kernel costs on a device: bytes, flops and occupancy make seconds. Completes a plan whose roles are decided.

A kernel's traffic counts each array once, and again for each further pass over a looped axis that reads it (`riding.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from gradc.codegen.device import Device
from gradc.codegen.index import Axis
from gradc.codegen.nodes import Node, walk
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.recipes import Recipes
from gradc.codegen.riding import crosses, joined, passes
from gradc.codegen.stages import Stage, operations, storage_dtype
from gradc.ir import Value

CHAINED = 0.6  # of the matrix rate is reached where one product waits for what is computed from another


def finished_plan(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], partial: frozenset[Value], setting: Setting) -> Plan:
    """The plan of stages whose axes have roles: sums ride along with what they depend on where that is cheaper than a pass."""
    plans = [_plan(stages, axes, partial, setting, recipes) for recipes in dict.fromkeys((setting.recipes, None))]
    return min(plans, key=lambda p: p.seconds)


def _plan(
    stages: Sequence[Stage],
    axes: tuple[KernelAxis, ...],
    partial: frozenset[Value],
    setting: Setting,
    recipes: Recipes | None,
) -> Plan:
    stored = dict.fromkeys(stage.value for stage in stages if stage.value in setting.kept or stage.value in partial)
    looped = tuple(axis for k in axes if k.role == "loop" for axis in k.axes)
    reads, again = _repeated(stages, looped, partial, stored, recipes) if looped else (_reads(stages), 0)
    flops = _flops(stages)
    programs = prod(axis.programs for axis in axes)
    written = sum(_stored_bytes(stage, axes, partial, setting) for stage in stages if stage.value in stored)
    moved = written + sum(_read_bytes(buffer, setting) * times for buffer, times in reads.items())
    rate = _matrix_rate(stages, axes, setting.device) if any(map(is_product, stages)) else setting.device.vector_rate
    seconds = _seconds(moved, (flops + again) / rate, programs, bool(partial), setting.device)
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
        recipes,
    )


def _reads(stages: Sequence[Stage]) -> dict[Value, int]:
    inside = {stage.value for stage in stages}
    return {access.buffer: 1 for stage in stages for access in stage.accesses if access.buffer not in inside}


def _repeated(
    stages: Sequence[Stage],
    looped: tuple[Axis, ...],
    partial: frozenset[Value],
    stored: Mapping[Value, None],
    recipes: Recipes | None,
) -> tuple[dict[Value, int], int]:
    """How often each array is read, and the operations done again: once for each pass over the looped axis that needs them."""
    nodes = joined(stages)
    carried = {nodes[stage.heavy] for stage in stages if stage.value in partial and stage.heavy is not None}
    order = walk(
        [*(nodes[stage.root] for stage in stages if stage.value not in partial), *(x for n in carried for x in n.operands)]
    )
    found = passes(order, looped, recipes)
    needed: dict[int, list[Node]] = {}
    for node in order:
        if crosses(node, looped):
            needed.setdefault(found.ready[node] - 1, []).extend(node.operands)
    for node in carried:
        needed.setdefault(max(found.ready[x] for x in node.operands), []).extend(node.operands)
    for stage in stages:
        if stage.value in stored and stage.value not in partial and not frozenset(looped).isdisjoint(stage.own):
            needed.setdefault(found.ready[nodes[stage.root]], []).append(nodes[stage.root])
    times = Counter(node for sinks in needed.values() for node in _within_a_pass(sinks, looped))
    reads = _reads(stages)
    for node, count in times.items():
        if node.kind == "load":
            reads[node.detail.buffer] = max(reads[node.detail.buffer], count)
    again = sum((count - 1) * operations(node) for node, count in times.items())
    repairs = sum(2 * (ride.recipe.rank - 1) * operations(node) for node, ride in found.rides.items())
    return reads, again + repairs


def _within_a_pass(sinks: Sequence[Node], looped: tuple[Axis, ...]) -> set[Node]:
    """The nodes along the looped axis that are computed for the sinks of one pass."""
    seen: set[Node] = set()
    stack = list(sinks)
    while stack:
        node = stack.pop()
        if node not in seen and not crosses(node, looped) and not node.axes.isdisjoint(looped):
            seen.add(node)
            stack.extend(node.operands)
    return seen


def _flops(stages: Sequence[Stage]) -> int:
    """Arithmetic operations; what several stages of a kernel compute at the same axes is computed once."""
    distinct = {(node.kind, node.value.number, str(node.detail)): node for stage in stages for node in stage.nodes}
    return sum(map(operations, distinct.values()))


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
