"""What a kernel costs on a device: bytes, arithmetic and occupancy make seconds. Completes a plan whose roles are decided.

A kernel's traffic counts each array once, and again for each further pass over a looped axis that reads it (`riding.py`),
unless the rows of all the programs in flight stay in the cache meanwhile. Its time is that of the slowest of four: memory, the
cache that programs share, arithmetic, and the tiles that one program goes through one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.atomics import launches
from gradc.codegen.cascades.recipes import Recipes
from gradc.codegen.cascades.riding import crosses, joined
from gradc.codegen.cascades.riding import passes as passes_of
from gradc.codegen.device import Device
from gradc.codegen.index import Axis
from gradc.codegen.masks.shares import visited_share
from gradc.codegen.nodes import Node, Running, walk
from gradc.codegen.plan import Bounds, KernelAxis, Plan, Setting, gone_along
from gradc.codegen.stages import Stage, operations, storage_dtype
from gradc.ir import Value

CHAINED = 0.6  # of the matrix rate is reached where one product waits for what is computed from another
SEVERAL = 0.9  # of that, since each of several products has narrower tiles
OPERANDS_AHEAD = 3  # tiles of a product's operands under way at once
MINOR, SMALL = (
    16,
    1 << 20,
)  # a result so many times smaller than all that is moved, or of fewer bytes: how it is written matters little
EACH = 8  # rows that one thread has elements of, at most
STATES = 2  # numbers carried for a reduction folded tile by tile: itself and what others are kept for
OTHER_REGISTERS = 32  # of a thread: offsets, masks, what is being computed
MOST_THREADS = 512  # of one program: with more, a thread has 64 registers, half of them for addresses and masks
MOST_RESIDENT = 16  # programs of one processor
OWN_SHARE = 0.25  # of a processor's own memory that what all its programs read may keep for itself
SPILLED = 24  # bytes for each register that there is not: written and read back, about three times
CACHE_SHARE = 0.5  # of the cache that rows can count on: the rest holds what is written and what is read once


def finished_plan(
    stages: Sequence[Stage],
    axes: tuple[KernelAxis, ...],
    partial: frozenset[Value],
    setting: Setting,
    share: float | None = None,
    rereads: bool = False,
    atomic: bool = False,
) -> Plan:
    """The plan with these roles: sums ride along with what they depend on where that is cheaper than a pass.

    `share` is the part of the looped axis's steps that is gone through, where the stages themselves do not tell; `rereads` says
    that what all rows of a program have in common is read for each of them; `atomic`, that memory adds up partial results.
    """
    choices = dict.fromkeys((setting.recipes, None)) if any(axis.role == "loop" for axis in axes) else (setting.recipes,)
    plans = [_plan(stages, axes, partial, setting, recipes, share, atomic) for recipes in choices]
    return replace(min(plans, key=lambda p: p.seconds), rereads=rereads)


def _plan(
    stages: Sequence[Stage],
    axes: tuple[KernelAxis, ...],
    partial: frozenset[Value],
    setting: Setting,
    recipes: Recipes | None,
    share: float | None,
    atomic: bool,
) -> Plan:
    """What the roles make of the stages: what is stored and read, warps, and seconds."""
    axes = _named(axes)
    stored = dict.fromkeys(stage.value for stage in stages if stage.value in setting.kept or stage.value in partial)
    multiplies, arrays = any(map(is_product, stages)), _arrays(stages, axes, setting)
    written = {stage: _stored_bytes(stage, axes, partial, setting, atomic) for stage in stages if stage.value in stored}
    warps = _warps(axes, stages, setting.device)
    if not multiplies:
        warps = min(warps, _storing_warps(axes, written, arrays, setting))
    looped = tuple(axis for k in axes if k.role == "loop" for axis in k.axes)
    split = tuple(axis for k in axes if k.role == "split" for axis in k.axes)
    nothing: frozenset[Value] = frozenset()
    if looped:
        times, repeated, folded = _repeated(stages, looped, partial, stored, recipes)
    elif any(stage.needs & partial for stage in stages):  # sums that ride along with others that are shared out
        times, repeated, folded = _repeated(stages, split, nothing, stored, recipes)
    else:
        times, repeated, folded = _reads(stages), 0, nothing
    passes = max(times.values(), default=1)
    programs = prod(axis.programs for axis in axes)
    needed = _registers(stages, axes, partial, folded, arrays, warps, setting.device)
    flying = min(programs, setting.device.processors * resident(needed, warps, setting.device))
    stays = passes == 1 or _stays_in_cache(arrays, flying, setting.device)
    reads = {array.value: 1 if stays else times[array.value] for array in arrays}
    share = _share(stages, axes, passes) if share is None else share
    moved = sum(written.values()) + sum(array.bytes * _visits(reads[array.value], share) for array in arrays)
    readers = {array: _readers(array, programs, setting.device) for array in arrays}
    spilled = 0 if multiplies else SPILLED * max(0, needed - setting.device.registers) * programs
    shared: float = sum(written.values()) + spilled
    shared += sum(array.bytes * _visits_by_all(array, readers[array], times[array.value], share) for array in arrays)
    flops = _flops(stages, axes, share)
    tiles = share * prod(_rounds(axis, passes) for axis in axes) * -(-programs // flying)
    afterwards = _running_bytes(stages) / setting.device.bandwidth if multiplies else 0.0
    bounds = Bounds(
        moved / _reach(programs, setting.device),
        0.0 if multiplies else shared / setting.device.cache_bandwidth,
        (flops + share * repeated) / _rate(stages, axes, setting.device) / busy(programs, setting.device) + afterwards,
        tiles * setting.device.round_seconds / (OPERANDS_AHEAD if multiplies else 1),
        setting.device.launch_seconds,
        setting.device.launch_seconds * _launches_after(stages, partial, setting, atomic),
    )
    pipeline = OPERANDS_AHEAD if multiplies else 1
    reads_in_all = tuple(reads.items())
    plan = Plan(tuple(stages), axes, partial, stored, warps, pipeline, reads_in_all, bounds, flops, recipes, needed, passes)
    return replace(plan, atomic=atomic)


def is_product(stage: Stage) -> bool:
    """Whether a stage multiplies matrices, in its reduction or inside its body."""
    return bool(stage.nested) or (stage.heavy is not None and stage.heavy.kind == "dot")


# Bytes --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Array:
    """An array a kernel reads: its bytes in memory, elements and bytes of one tile, bytes of a program's row, and how many programs read each."""

    value: Value
    bytes: int
    elements: int
    tile: int
    row: int
    readers: int
    looped: bool


def _arrays(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], setting: Setting) -> list[Array]:
    inside = {stage.value for stage in stages}
    along: dict[Value, frozenset[Axis]] = {}
    for stage in stages:
        for access in stage.accesses:
            if access.buffer not in inside:
                along[access.buffer] = along.get(access.buffer, frozenset()) | access.offset.axes
    return [_array(value, [not own.isdisjoint(k.covers) for k in axes], axes, setting) for value, own in along.items()]


def _array(value: Value, along: list[bool], axes: tuple[KernelAxis, ...], setting: Setting) -> Array:
    itemsize = storage_dtype(value, setting.outputs).itemsize
    tile = row = itemsize
    readers, looped = 1, False
    for axis, varies in zip(axes, along, strict=True):
        if not varies:
            readers *= axis.programs
            continue
        tile *= axis.block
        row *= axis.size if axis.role == "loop" else axis.block
        looped = looped or axis.role == "loop"
    return Array(value, touched(value) * itemsize, tile // itemsize, tile, row, readers, looped)


def touched(buffer: Value) -> int:
    """How many distinct elements a Value has in memory (an expanded input repeats few)."""
    strides = getattr(buffer.operation, "strides", None)
    if strides is None:
        return buffer.size
    return prod(n for n, step in zip(buffer.shape, strides, strict=True) if step != 0) if buffer.size else 0


def _launches_after(stages: Sequence[Stage], partial: frozenset[Value], setting: Setting, atomic: bool) -> int:
    """Launches that partial results cost besides the kernel's own."""
    if not atomic:
        return 1 if partial else 0
    return launches([stage for stage in stages if stage.value in partial], setting.outputs)


def _stored_bytes(stage: Stage, axes: tuple[KernelAxis, ...], partial: frozenset[Value], setting: Setting, atomic: bool) -> int:
    if stage.value not in partial:
        return stage.value.size * storage_dtype(stage.value, setting.outputs).itemsize
    if atomic:  # zeros, and the sum, which stays in the cache meanwhile
        return 2 * stage.value.size * stage.value.dtype.compute.itemsize
    parts = prod(axis.programs for axis in axes if axis.role == "split")
    return 2 * parts * stage.value.size * stage.value.dtype.compute.itemsize


def _running_bytes(stages: Sequence[Stage]) -> int:
    """What sums that go on in place read and write: a product's program does nothing else meanwhile."""
    arrays = {access.buffer for stage in stages for access in stage.accesses if isinstance(access.buffer.operation, Running)}
    return 2 * sum(array.bytes for array in arrays)


def _stays_in_cache(arrays: Sequence[Array], flying: int, device: Device) -> bool:
    """Whether the rows of all programs in flight are still in the cache when they are gone over again."""
    return flying * sum(array.row for array in arrays if array.looped) <= CACHE_SHARE * device.cache_bytes


def _reads(stages: Sequence[Stage]) -> dict[Value, int]:
    inside = {stage.value for stage in stages}
    return {access.buffer: 1 for stage in stages for access in stage.accesses if access.buffer not in inside}


def _repeated(
    stages: Sequence[Stage],
    looped: tuple[Axis, ...],
    partial: frozenset[Value],
    stored: Mapping[Value, None],
    recipes: Recipes | None,
) -> tuple[dict[Value, int], int, frozenset[Value]]:
    """How often each array is read, and the operations done again: once for each pass over the looped axis that needs them.

    And the stages whose reductions move together: each tile of them is folded at once.
    """
    nodes = joined(stages)
    carried = {nodes[stage.heavy] for stage in stages if stage.value in partial and stage.heavy is not None}
    order = walk(
        [*(nodes[stage.root] for stage in stages if stage.value not in partial), *(x for n in carried for x in n.operands)]
    )
    found = passes_of(order, looped, recipes)
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
    together = {*found.rides, *(x for ride in found.rides.values() for sources in ride.sources for x in sources)}
    folded = frozenset(stage.value for stage in stages if stage.heavy is not None and nodes[stage.heavy] in together)
    return reads, again + repairs, folded


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


# Arithmetic and occupancy -------------------------------------------------------------------------------------------


def _flops(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], share: float) -> int:
    """Operations of all programs: what stages have in common once, what several programs compute as often.

    Of what is computed in the loop, `share` is: the rest of its tiles are skipped.
    """
    looped = _covered(gone_along(axes))
    found: dict[tuple, int] = {}
    for stage in stages:
        repeated = prod(axis.programs for axis in axes if stage.axes.isdisjoint(axis.covers))
        found.update({key: count * repeated for key, count in stage.operations.items()} if repeated > 1 else stage.operations)
    if share == 1:
        return sum(found.values())
    return round(sum(count if looped.isdisjoint(key[0]) else count * share for key, count in found.items()))


def _share(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], passes: int) -> float:
    """The part of the steps of all passes over the looped axis that are gone through; a pass that writes along it skips none."""
    looped = _covered(gone_along(axes))
    writes = any(looped & frozenset(stage.own) for stage in stages)
    return (visited_share(stages, axes) * (passes - writes) + writes) / passes


def _covered(axis: KernelAxis | None) -> frozenset[Axis]:
    return axis.covers if axis else frozenset()


def _visits(times: int, share: float) -> float:
    """How often an array is read in all: a loop with skipped tiles reads it once, but goes over less of it again."""
    return max(1.0, times * share)


def _visits_by_all(array: Array, readers: int, times: int, share: float) -> float:
    """How often an array goes from the cache to the programs: those that read it along the loop leave the rest of its tiles."""
    return max(1.0, times * readers * (share if array.looped else 1.0))


def _readers(array: Array, programs: int, device: Device) -> int:
    """Who fetches an array from the cache: programs, or processors where all programs read the same few bytes, which each keeps by itself."""
    alike = array.readers == programs and array.row <= OWN_SHARE * device.shared_bytes
    return min(array.readers, device.processors) if alike else array.readers


def _rate(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], device: Device) -> float:
    """Operations per second of all processors. Of products: a tile half as large reads its operands twice as often."""
    products = [node for stage in stages if is_product(stage) for node in stage.nodes if node.kind == "dot"]
    without = not products or any(product.dtype.itemsize == 4 for product in products)
    vector_rate = device.double_rate if any(stage.value.dtype.itemsize == 8 for stage in stages) else device.vector_rate
    if any(stage.nested for stage in stages):
        rows, step = (
            max((axis.block for axis in axes if axis.role in roles), default=1) for roles in (("grid",), ("loop", "split"))
        )
        rate, full = (vector_rate, 32 * 32) if without else (device.matrix_rate * CHAINED, 128 * 64)
        return rate * min(1.0, (rows * step / full) ** 0.25)
    if without:
        return vector_rate
    area = prod(axis.block for axis in axes if axis.role == "grid") * _shared(products)
    return device.matrix_rate * min(1.0, (area / (128 * 128)) ** 0.5)


def _shared(products: Sequence[Node]) -> float:
    """How much more is multiplied for what is read, where products have an operand in common: as if tiles were so much larger."""
    operands = {x.value for product in products for x in product.operands}
    return (2 * len(products) / len(operands)) ** 2 * SEVERAL if len(products) > 1 else 1.0


def busy(programs: int, device: Device) -> float:
    """The fraction of processors at work, on average over the waves of programs."""
    waves = -(-programs // device.processors)
    return programs / (waves * device.processors)


def _reach(programs: int, device: Device) -> float:
    """Bytes per second that programs can take from memory: no processor has more than its share of what the cache gives."""
    return min(device.bandwidth, device.cache_bandwidth * programs / device.processors)


def _rounds(axis: KernelAxis, passes: int) -> int:
    """The tiles one program goes through along an axis."""
    return {"loop": passes * axis.tiles, "split": -(-axis.tiles // axis.programs)}.get(axis.role, 1)


def _registers(
    stages: Sequence[Stage],
    axes: tuple[KernelAxis, ...],
    partial: frozenset[Value],
    folded: frozenset[Value],
    arrays: Sequence[Array],
    warps: int,
    device: Device,
) -> int:
    """What is read, what is summed up over loops, what is being computed, and what every thread takes besides.

    A product that is summed has a tile larger than any array's. The compiler interleaves such sums, so all of them count. What
    is folded tile by tile is a number a row, which every thread has of its rows.
    """
    tiles = [_result_tile(stage, axes) if is_product(stage) else _tile(stage, axes) for stage in stages]
    looped = frozenset(axis for k in axes if k.role == "loop" for axis in k.axes)
    sums = sum(
        tile
        for stage, tile in zip(stages, tiles, strict=True)
        if stage.value in partial or (stage.value not in folded and not looped.isdisjoint(stage.reduced))
    )
    largest = max((array.elements for array in arrays), default=1)
    computing = max(max(tiles, default=1), sum(tile for tile in tiles if tile > largest))
    states = sum(STATES * min(EACH, _result_tile(stage, axes)) for stage in stages if stage.value in folded)
    return sum(array.tile for array in arrays) // 4 + computing + sums + (states + OTHER_REGISTERS) * warps * device.warp


def resident(needed: int, warps: int, device: Device) -> int:
    """The programs one processor holds at once, by their registers and warps."""
    return max(1, min(device.registers // needed, device.most_warps // warps, MOST_RESIDENT))


def held_tile(stages: Sequence[Stage], held: tuple[KernelAxis, ...]) -> int:
    """Elements of the largest tile any one stage holds along the inner axes."""
    return max((_tile(stage, held) for stage in stages), default=1)


def _tile(stage: Stage, axes: tuple[KernelAxis, ...]) -> int:
    return prod(axis.block for axis in axes if not stage.axes.isdisjoint(axis.covers))


def _result_tile(stage: Stage, axes: tuple[KernelAxis, ...]) -> int:
    """Elements of a stage's result: a product's are all that stays in registers, its operands are in shared memory."""
    return prod(axis.block for axis in axes if not axis.covers.isdisjoint(stage.own))


def _warps(axes: tuple[KernelAxis, ...], stages: Sequence[Stage], device: Device) -> int:
    """16 elements of the largest tile a thread, in warps that a program may have; fewer where sums inside it keep more tiles alive."""
    if any(map(is_product, stages)):
        area = prod(axis.block for axis in axes if axis.role == "grid")
        return 8 if area >= 128 * 64 else 4
    tile = held_tile(stages, axes)
    each = 4 if any(stage.folded for stage in stages) else 16
    return max(1, min(MOST_THREADS // device.warp, tile // (each * device.warp)))


def _storing_warps(
    axes: tuple[KernelAxis, ...], written: Mapping[Stage, int], arrays: Sequence[Array], setting: Setting
) -> int:
    """The warps that write all that is worth it 16 bytes a thread: a result may be smaller than what it is folded from."""
    most, moved = MOST_THREADS, sum(written.values()) + sum(array.bytes for array in arrays)
    for stage, count in written.items():
        if count >= SMALL and count * MINOR >= moved:
            tile = _result_tile(stage, axes) * storage_dtype(stage.value, setting.outputs).itemsize
            most = min(most, tile // (16 * setting.device.warp))
    return max(1, most)


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
