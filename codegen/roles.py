"""A role for every axis of a group of stages that would share a kernel, or the answer that there is none.

Roles: `grid` (tiles across programs), `split` (each program takes every parts-th tile and leaves partial results),
`loop` (a sequential loop in the program) and `resident` (the whole extent in the tile). The few possible assignments are
costed and the cheapest is kept. Nothing is emitted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from gradc.codegen.device import Device
from gradc.codegen.index import Axis
from gradc.codegen.nodes import Dot, Node, walk
from gradc.codegen.stages import Stage, own_index, storage_dtype
from gradc.ir import Value

LIVE_ELEMENTS = 49152  # elements a program can hold in registers, over all tiles alive at once
ROW_TILE = 2048  # elements a program should at least work on
ALONG_MEMORY = 32  # elements a tile has at least along the axis that is contiguous in memory, so that loads are wide
MOST_PRODUCTS = 2  # accumulators of matrix products one kernel may carry
REDUNDANT_WORK = 8192  # a stage this small may be repeated by every program


@dataclass(frozen=True)
class KernelAxis:
    """One or more axes iterated together (outermost first), with a role. `block` is the tile's extent along it; 1 is a scalar."""

    name: str
    axes: tuple[Axis, ...]
    role: str
    block: int
    parts: int = 1

    @property
    def size(self) -> int:
        return prod(axis.size for axis in self.axes)

    @property
    def tiles(self) -> int:
        return max(1, -(-self.size // self.block))

    @property
    def overhangs(self) -> bool:
        return self.size % self.block != 0 or self.size == 0

    @property
    def programs(self) -> int:
        return {"grid": self.tiles, "split": min(self.parts, self.tiles)}.get(self.role, 1)


@dataclass(frozen=True, eq=False)
class Plan:
    """A kernel to be: its stages, its axes in tile order, which stages leave partial results, and what it costs."""

    stages: tuple[Stage, ...]
    axes: tuple[KernelAxis, ...]
    partial: frozenset[Value]
    stored: Mapping[Value, None]  # an ordered set: Values compare element by element, so they are never looked up in a tuple
    warps: int
    pipeline: int
    reads: tuple[tuple[Value, int], ...]
    seconds: float
    flops: int

    @property
    def is_product(self) -> bool:
        return any(stage.heavy is not None and stage.heavy.kind == "dot" for stage in self.stages)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a plan depends on besides its stages: the Values that must be stored, the program's outputs, the device."""

    kept: frozenset[Value]
    outputs: frozenset[Value]
    device: Device


def plan(stages: Sequence[Stage], setting: Setting) -> Plan | None:
    """The cheapest legal assignment of roles for stages sharing one kernel, or None."""
    products = [stage for stage in stages if stage.heavy is not None and stage.heavy.kind == "dot"]
    plans = (
        [_product_plan(stages, products, setting)]
        if products
        else [_row_plan(stages, grid, setting) for grid in _grids(stages)]
    )
    return min((p for p in plans if p is not None), key=lambda p: p.seconds, default=None)


def _grids(stages: Sequence[Stage]) -> Iterator[frozenset[Axis]]:
    """Candidate sets of axes to spread over programs; none at all is one of them."""
    yield frozenset()
    seen: set[frozenset[Axis]] = {frozenset()}
    for stage in stages:
        scanned = set(stage.heavy.detail[0] if stage.heavy is not None and stage.heavy.kind == "scan" else ())
        for grid in (frozenset(stage.own) - scanned, (frozenset(stage.own) | frozenset(stage.reduced)) - scanned):
            if grid not in seen:
                seen.add(grid)
                yield grid


def scanned_axes(stage: Stage) -> frozenset[Axis]:
    """The axis a running sum goes along."""
    return frozenset(stage.heavy.detail[0]) if stage.heavy is not None and stage.heavy.kind == "scan" else frozenset()


# Kernels without a product of matrices ------------------------------------------------------------------------------


def _row_plan(stages: Sequence[Stage], grid: frozenset[Axis], setting: Setting) -> Plan | None:
    partial = _partial_stages(stages, grid)
    if partial is None:
        return None
    order = _memory_order(stages)
    inner = [axis for axis in order if axis not in grid]
    split = frozenset(axis for stage in stages if stage.value in partial for axis in stage.reduced if axis in grid)
    held = _inner_axes(stages, inner, partial)
    if held is None:
        return None
    outer = _grid_axes(stages, [axis for axis in order if axis in grid], split, held, setting.device)
    if outer is None:
        return None
    axes = sorted((*outer, *held), key=lambda axis: order.index(axis.axes[-1]))
    return _finish(stages, tuple(axes), partial, setting)


def _partial_stages(stages: Sequence[Stage], grid: frozenset[Axis]) -> frozenset[Value] | None:
    """The stages whose reduction runs across programs; None where some stage cannot be computed over this grid."""
    partial = set()
    if any(grid & scanned_axes(stage) for stage in stages):
        return None
    for stage in stages:
        own, reduced = frozenset(stage.own), frozenset(stage.reduced)
        if grid <= own:
            continue
        if reduced & grid and grid <= own | reduced and _can_split(stage):
            partial.add(stage.value)
        elif reduced & grid or stage.work() > REDUNDANT_WORK:
            return None
    if any(stage.needs & partial for stage in stages):
        return None
    return frozenset(partial)


def _can_split(stage: Stage) -> bool:
    return stage.heavy is not None and stage.heavy.kind == "reduce" and stage.heavy.detail[0] in ("sum", "max", "min", "prod")


def _memory_order(stages: Sequence[Stage]) -> list[Axis]:
    """Every axis, the one with the largest step in memory first."""
    step: dict[Axis, int] = {}
    for stage in stages:
        for axis in (*stage.own, *stage.reduced):
            step.setdefault(axis, 0)
        for access in (*stage.accesses, stage.store):
            for term, coefficient in access.offset.terms:
                if isinstance(term, Axis):
                    step[term] = max(step.get(term, 0), abs(coefficient))
    return sorted(step, key=lambda axis: -step[axis])


def _inner_axes(stages: Sequence[Stage], inner: list[Axis], partial: frozenset[Value]) -> tuple[KernelAxis, ...] | None:
    """Roles of the axes inside a program: resident where they fit, otherwise the longest run is looped over."""
    if not inner:
        return ()
    runs = _runs(stages, inner)
    held = _held(runs)
    beside = 1 if _memory_order(stages)[-1] in inner else ALONG_MEMORY  # what the grid adds to the tile so that loads are wide
    if held_tile(stages, held) * beside * _live_tiles(stages, frozenset(inner), partial) <= LIVE_ELEMENTS:
        return held
    if len(runs) > 1 and len({_status(stages, axis) for axis in inner}) == 1:
        runs = [tuple(inner)]
        held = _held(runs)
    longest = max(runs, key=lambda run: prod(a.size for a in run))
    if any(frozenset(stage.own) & frozenset(longest) for stage in stages if stage.value in partial):
        return None
    scans = {stage.heavy.detail for stage in stages if stage.heavy is not None and stage.heavy.kind == "scan"}
    if (
        any(frozenset(axes) & frozenset(longest) and axes != longest for axes, _ in scans)
        or len({backwards for _, backwards in scans}) > 1
    ):
        return None
    rest = beside * prod(axis.block for axis in held if axis.axes != longest)
    if rest * 16 > 4 * ROW_TILE:
        return None
    block = max(16, min(power_of_two(prod(a.size for a in longest)), 4096 // rest))
    return tuple(KernelAxis("", axis.axes, "loop", block) if axis.axes == longest else axis for axis in held)


def _held(runs: list[tuple[Axis, ...]]) -> tuple[KernelAxis, ...]:
    return tuple(KernelAxis("", run, "resident", power_of_two(prod(a.size for a in run))) for run in runs)


def _live_tiles(stages: Sequence[Stage], inner: frozenset[Axis], partial: frozenset[Value]) -> float:
    """About how many tiles of 32-bit registers are alive at once: arrays read, accumulators, and what is being computed."""
    buffers = {access.buffer for stage in stages for access in stage.accesses if inner <= access.offset.axes}
    accumulators = sum(1 for stage in stages if stage.value in partial and inner <= frozenset(stage.own))
    return sum(buffer.dtype.itemsize / 4 for buffer in buffers) + accumulators + 0.5


def _grid_axes(
    stages: Sequence[Stage], grid: list[Axis], split: frozenset[Axis], held: tuple[KernelAxis, ...], device: Device
) -> tuple[KernelAxis, ...] | None:
    if len({_status(stages, axis) for axis in split}) > 1:
        return None
    shared_out = tuple(axis for axis in grid if axis in split)
    runs = _runs(stages, [axis for axis in grid if axis not in split]) + ([shared_out] if shared_out else [])
    runs.sort(key=lambda run: grid.index(run[-1]))
    blocks = _grid_blocks(stages, runs, split, held)
    others = prod(
        max(1, -(-prod(a.size for a in run) // block))
        for run, block in zip(runs, blocks, strict=True)
        if not frozenset(run) & split
    )
    parts = max(1, (device.processors if held else 2 * device.processors) // max(1, min(others, 2 * device.processors)))
    return tuple(
        KernelAxis("", run, "split" if frozenset(run) & split else "grid", block, parts if frozenset(run) & split else 1)
        for run, block in zip(runs, blocks, strict=True)
    )


def _grid_blocks(
    stages: Sequence[Stage], runs: list[tuple[Axis, ...]], split: frozenset[Axis], held: tuple[KernelAxis, ...]
) -> list[int]:
    """Tile extents of the grid axes, the innermost filled first. The axis along memory gets at least 32 where it is a grid axis."""
    wanted = ROW_TILE if held else 4096 if split else 1024
    tile = held_tile(stages, held)
    along_memory = _memory_order(stages)[-1:]
    blocks = []
    for position, run in enumerate(reversed(runs)):
        size = power_of_two(prod(axis.size for axis in run))
        cap = 128 if position == 0 and len(runs) > 1 and split and not frozenset(run) & split else wanted
        least = ALONG_MEMORY if held and [run[-1]] == along_memory else 1
        blocks.append(max(1, min(size, max(least, min(cap, wanted // tile)))))
        tile *= blocks[-1]
    return blocks[::-1]


def held_tile(stages: Sequence[Stage], held: tuple[KernelAxis, ...]) -> int:
    """Elements of the largest tile any one stage holds along the inner axes."""
    return max((prod(axis.block for axis in held if frozenset(axis.axes) & stage.axes) for stage in stages), default=1)


def _status(stages: Sequence[Stage], axis: Axis) -> tuple[int, ...]:
    return tuple(1 if axis in stage.own else 2 if axis in stage.reduced else 0 for stage in stages)


def _runs(stages: Sequence[Stage], axes: list[Axis]) -> list[tuple[Axis, ...]]:
    """Neighbouring axes that can be iterated as one, because every array is read along them as along one long axis."""
    offsets = [access.offset for stage in stages for access in (*stage.accesses, stage.store)]
    steps = [({t: c for t, c in offset.terms if isinstance(t, Axis)}, _apart(offset)) for offset in offsets]
    apart = frozenset(axis for _, lone in steps for axis in lone) | _individually_used(stages)
    runs: list[list[Axis]] = []
    for axis in axes:
        last = runs[-1][-1] if runs else None
        if last is not None and _mergeable(last, axis, steps, apart) and _status(stages, last) == _status(stages, axis):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return [tuple(run) for run in runs]


def _mergeable(outer: Axis, inner: Axis, steps: list, apart: frozenset[Axis]) -> bool:
    if outer in apart or inner in apart:
        return False
    return all(step.get(outer, 0) == step.get(inner, 0) * inner.size for step, _ in steps)


def _apart(offset) -> frozenset[Axis]:
    """Axes an offset uses inside a division, a remainder or a gathered index."""
    return frozenset(axis for term, _ in offset.terms if not isinstance(term, Axis) for axis in _term_axes(term))


def _term_axes(term) -> frozenset[Axis]:
    return term.index.axes if hasattr(term, "index") else term.node.axes


def _individually_used(stages: Sequence[Stage]) -> frozenset[Axis]:
    """Axes whose own position matters: in a mask of a view, an index ramp, a running sum."""
    found: set[Axis] = set()
    for stage in stages:
        for node in stage.nodes:
            if node.kind == "load":
                found.update(axis for guard in node.detail.guards for axis in guard.index.axes)
            elif node.kind == "position":
                found.update(node.detail.axes)
            elif node.kind == "guard":
                found.update(node.detail.index.axes)
            elif node.kind == "scan":
                found.update(node.detail[0])
    return frozenset(found)


# Products of matrices -----------------------------------------------------------------------------------------------


def _product_plan(stages: Sequence[Stage], products: list[Stage], setting: Setting) -> Plan | None:
    """Products that share rows, columns and the summed axes, what follows them element by element, and sums along the way."""
    first = products[0].heavy
    assert first is not None
    dot = first.detail
    own, summed = frozenset(products[0].own), frozenset(dot.summed)
    values = {stage.value for stage in stages}
    for stage in stages:
        if stage.heavy is not None and stage.heavy.kind == "dot":
            fits = stage.heavy.detail == dot and frozenset(stage.own) == own and not _within(stage.heavy, values)
        elif stage.heavy is None:
            fits = frozenset(stage.own) == own
        else:
            fits = stage.heavy.kind == "reduce" and frozenset(stage.reduced) == summed and frozenset(stage.own) < own
            fits = fits and not _within(stage.heavy, values)
        if not fits:
            return None
    if len(products) > MOST_PRODUCTS:
        return None
    ordered = sorted(stages, key=lambda stage: stage not in products)
    tiles = [_product_axes(dot, ordered, caps) for caps in _product_tiles(dot, stages)]
    return min((_finish(stages, axes, frozenset(), setting) for axes in tiles), key=lambda p: p.seconds)


def _within(heavy: Node, values: set[Value]) -> bool:
    """Whether the body of a reduction reads another stage of the same kernel."""
    return any(node.kind == "load" and node.detail.buffer in values for node in walk([heavy]))


def _product_axes(dot: Dot, stages: Sequence[Stage], caps: tuple[int, int, int]) -> tuple[KernelAxis, ...]:
    sizes = [prod(axis.size for axis in part) for part in (dot.rows, dot.columns, dot.summed)]
    blocks = [max(16, min(power_of_two(size), cap)) for size, cap in zip(sizes, caps, strict=True)]
    batch = tuple(axis for axis in stages[0].own if axis not in dot.rows and axis not in dot.columns)
    return (
        *((KernelAxis("batch", batch, "grid", 1),) if batch else ()),
        KernelAxis("row", dot.rows, "grid", blocks[0]),
        KernelAxis("inner", dot.summed, "loop", blocks[2]),
        KernelAxis("column", dot.columns, "grid", blocks[1]),
    )


def _product_tiles(dot: Dot, stages: Sequence[Stage]) -> list[tuple[int, int, int]]:
    """Rows, columns and depth a product's tile may have: smaller the more accumulators and other tiles are alive beside it."""
    nodes = walk([stage.root for stage in stages])
    products = [node for node in nodes if node.kind == "dot"]
    if max(node.dtype.itemsize for node in products) == 4:
        return [(64, 64, 32), (32, 32, 32)]
    corners = frozenset((*dot.rows, *dot.columns))
    beside = sum(
        1
        for node in nodes
        if node.kind == "load"
        and frozenset(dot.rows) & node.axes
        and frozenset(dot.columns) & node.axes
        and node.axes <= corners
    )
    pressure = (
        len(products)
        + beside
        + max(0, sum(len(_loads_within(x)) for node in products for x in node.operands) - 2 * len(products)) // 2
    )
    return [(128, 128, 64), (128, 64, 64), (64, 64, 64)][min(2, max(0, pressure - 1)) :]


def _loads_within(node: Node) -> list[Node]:
    return [inner for inner in walk([node]) if inner.kind == "load"]


# Cost ---------------------------------------------------------------------------------------------------------------


def _finish(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], partial: frozenset[Value], setting: Setting) -> Plan:
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
    flops = sum(stage.flops for stage in stages)
    programs = prod(axis.programs for axis in axes)
    written = sum(_stored_bytes(stage, axes, partial, setting) for stage in stages if stage.value in stored)
    moved = written + sum(_read_bytes(buffer, setting) * times for buffer, times in reads.items())
    rate = _matrix_rate(stages, axes, setting.device) if any(map(_is_dot, stages)) else setting.device.vector_rate
    seconds = _seconds(moved, flops / rate, programs, bool(partial), setting.device)
    named = _named(axes)
    return Plan(
        tuple(stages),
        named,
        partial,
        stored,
        _warps(named, stages),
        3 if any(map(_is_dot, stages)) else 1,
        tuple(reads.items()),
        seconds,
        flops,
    )


def _is_dot(stage: Stage) -> bool:
    return stage.heavy is not None and stage.heavy.kind == "dot"


def _matrix_rate(stages: Sequence[Stage], axes: tuple[KernelAxis, ...], device: Device) -> float:
    """Operations per second of products: a tile half as large reads its operands twice as often."""
    if any(stage.heavy is not None and stage.heavy.kind == "dot" and stage.heavy.dtype.itemsize == 4 for stage in stages):
        return device.vector_rate
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


def _warps(axes: tuple[KernelAxis, ...], stages: Sequence[Stage]) -> int:
    if any(map(_is_dot, stages)):
        area = prod(axis.block for axis in axes if axis.role == "grid")
        return 8 if area >= 128 * 64 else 4
    tile = held_tile(stages, axes)
    return max(1, min(32, tile // 512))


def _named(axes: tuple[KernelAxis, ...]) -> tuple[KernelAxis, ...]:
    """Axes with a name to read: row and column for two, numbered rows before that."""
    from dataclasses import replace

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


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size` (1 for 0)."""
    return 1 << max(0, size - 1).bit_length()


__all__ = ["KernelAxis", "Plan", "Setting", "own_index", "plan", "power_of_two", "touched"]
