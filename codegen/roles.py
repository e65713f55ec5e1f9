"""A role for every axis of a group of stages that would share a kernel, or the answer that there is none.

The few possible assignments are costed and the cheapest is kept. Kernels with products of matrices are in `products.py` and `chained.py`,
which axes can be iterated as one in `runs.py`. Nothing is emitted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from gradc.codegen.atomics import can_add
from gradc.codegen.chained import chained_plans
from gradc.codegen.device import Device
from gradc.codegen.estimate import finished_plan, held_tile
from gradc.codegen.index import Axis, power_of_two
from gradc.codegen.nodes import Running
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.products import product_plan
from gradc.codegen.runs import memory_order, runs_of, status_of
from gradc.codegen.scattered import scattering_plan
from gradc.codegen.searches import search_plan
from gradc.codegen.stages import Stage
from gradc.ir import Value

LIVE_ELEMENTS = 49152  # elements a program can hold in registers, over all tiles alive at once
ROW_TILE = 2048  # elements a program should at least work on
ALONG_MEMORY = 32  # elements a tile has at least along the axis that is contiguous in memory, so that loads are wide
WIDE = (128, 32)  # elements of a tile along memory where the sum goes across it: fewer leave more programs for fewer parts
LARGER = (1, 2, 4, 8)  # times that: programs that go through tile after tile need more of it under way
PRODUCT_TILES = 2  # tiles alive where a tile is larger than any array: a product before it is summed, and its operands
FOLD_TILES = 3  # tiles alive for each fold inside a body: what it folds, what that is made of, and what follows
REDUNDANT_WORK = 8192  # a stage this small may be repeated by every program


def plan(stages: Sequence[Stage], setting: Setting) -> Plan | None:
    """The cheapest legal assignment of roles for stages sharing one kernel, or None."""
    return min(plans(stages, setting), key=lambda p: p.seconds, default=None)


def plans(stages: Sequence[Stage], setting: Setting) -> Iterator[Plan]:
    """The legal assignments that are weighed."""
    products = [stage for stage in stages if stage.heavy is not None and stage.heavy.kind == "dot"]
    if any(stage.nested for stage in stages) or (products and any(stage.folded for stage in stages)):
        found: Iterable[Plan | None] = chained_plans(stages, setting)
    elif products:
        found = [product_plan(stages, products, setting)]
    else:
        added = scattering_plan(stages, setting) if setting.device.atomics else None
        found = [
            search_plan(stages, setting),
            added,
            *(p for grid in _grids(stages) for p in _row_plans(stages, grid, setting)),
        ]
    return (p for p in found if p is not None and goes_on_once(p))


def goes_on_once(p: Plan) -> bool:
    """Whether no two programs add to the same element of a sum that goes on in place."""
    spread = [axis.covers for axis in p.axes if axis.programs > 1]
    running = (stage for stage in p.stages if stage.value not in p.partial and reads_running(stage))
    return not any(axes.isdisjoint(stage.own) for stage in running for axes in spread)


def reads_running(stage: Stage) -> bool:
    """Whether a stage adds to what its array holds."""
    return any(isinstance(access.buffer.operation, Running) for access in stage.accesses)


def _grids(stages: Sequence[Stage]) -> Iterator[frozenset[Axis]]:
    """Candidate sets of axes to spread over programs; none at all is one of them."""
    yield frozenset()
    seen: set[frozenset[Axis]] = {frozenset()}
    folded = frozenset(axis for stage in stages for axis in stage.folded)
    for stage in stages:
        whole = folded | scanned_axes(stage)
        for grid in (frozenset(stage.own) - whole, (frozenset(stage.own) | frozenset(stage.reduced)) - whole):
            if grid not in seen:
                seen.add(grid)
                yield grid


def scanned_axes(stage: Stage) -> frozenset[Axis]:
    """The axis a running sum goes along."""
    return frozenset(stage.heavy.detail[0]) if stage.heavy is not None and stage.heavy.kind == "scan" else frozenset()


def _row_plans(stages: Sequence[Stage], grid: frozenset[Axis], setting: Setting) -> Iterator[Plan]:
    """The plans that spread exactly these axes over programs: tiles and parts of different sizes."""
    partial = _partial_stages(stages, grid)
    if partial is None:
        return
    order = memory_order(stages)
    split = frozenset(axis for stage in stages if stage.value in partial for axis in stage.reduced if axis in grid)
    if len({status_of(stages, axis) for axis in split}) > 1:
        return
    for longer, held in _inner_axes(stages, [axis for axis in order if axis not in grid], partial):
        for larger, outer in _grid_axes(stages, [axis for axis in order if axis in grid], split, held, setting.device):
            axes = tuple(sorted((*outer, *held), key=lambda axis: order.index(axis.axes[-1])))
            found = finished_plan(stages, axes, partial, setting)
            if not (longer or larger) or found.registers <= LIVE_ELEMENTS:
                yield found
                if setting.device.atomics and partial and can_add(stage for stage in stages if stage.value in partial):
                    yield finished_plan(stages, axes, partial, setting, atomic=True)


def _partial_stages(stages: Sequence[Stage], grid: frozenset[Axis]) -> frozenset[Value] | None:
    """The stages whose reduction runs across programs; None where some stage cannot be computed over this grid."""
    partial = set()
    if any(grid & scanned_axes(stage) for stage in stages):
        return None
    for stage in stages:
        own, reduced = frozenset(stage.own), frozenset(stage.reduced)
        if grid <= own:
            continue
        if reduced & grid and _can_split(stage):  # repeated by every program along the axes of the grid it does not have
            partial.add(stage.value)
        elif reduced & grid or stage.work() > REDUNDANT_WORK:
            return None
    if any(stage.needs & partial for stage in stages):
        return None
    return frozenset(partial)


def _can_split(stage: Stage) -> bool:
    return stage.heavy is not None and stage.heavy.kind == "reduce" and stage.heavy.detail[0] in ("sum", "max", "min", "prod")


def _inner_axes(
    stages: Sequence[Stage], inner: list[Axis], partial: frozenset[Value]
) -> Iterator[tuple[bool, tuple[KernelAxis, ...]]]:
    """Roles of the axes inside a program: resident where they fit, otherwise the longest run is looped over.

    With each, whether its tile is longer than need be: fewer programs are in flight then, and their rows may stay in the cache.
    """
    if not inner:
        yield False, ()
        return
    runs = runs_of(stages, inner)
    held = _held(runs)
    beside = 1 if memory_order(stages)[-1] in inner else ALONG_MEMORY  # what the grid adds to the tile so that loads are wide
    if held_tile(stages, held) * beside * _live_tiles(stages, frozenset(inner), partial) <= LIVE_ELEMENTS:
        yield False, held
        return
    if len(runs) > 1 and len({status_of(stages, axis) for axis in inner}) == 1:
        runs = [tuple(inner)]
        held = _held(runs)
    folded = frozenset(axis for stage in stages for axis in stage.folded)
    longest = max((run for run in runs if folded.isdisjoint(run)), key=lambda run: prod(a.size for a in run), default=None)
    if longest is None:
        return
    others = held_tile(stages, tuple(axis for axis in held if axis.axes != longest))
    if not _can_loop(stages, longest, partial) or (others > 1 and others * beside * 16 > 4 * ROW_TILE):
        return
    for more in LARGER[:2]:
        wanted = 2 * ROW_TILE * more // (others * beside * max(1, power_of_two(_folds(stages))))
        block = max(16, min(power_of_two(prod(a.size for a in longest)), wanted))
        looped = KernelAxis("", longest, "loop", block)
        yield more > 1, tuple(looped if axis.axes == longest else axis for axis in held)


def _can_loop(stages: Sequence[Stage], run: tuple[Axis, ...], partial: frozenset[Value]) -> bool:
    """Whether a program can go along a run tile by tile: no sum over programs has it, and running sums go along it the same way."""
    scans = {stage.heavy.detail for stage in stages if stage.heavy is not None and stage.heavy.kind == "scan"}
    return (
        not any(frozenset(stage.own) & frozenset(run) for stage in stages if stage.value in partial)
        and not any(frozenset(axes) & frozenset(run) and axes != run for axes, _ in scans)
        and len({backwards for _, backwards in scans}) <= 1
    )


def _held(runs: list[tuple[Axis, ...]]) -> tuple[KernelAxis, ...]:
    return tuple(KernelAxis("", run, "resident", power_of_two(prod(a.size for a in run))) for run in runs)


def _live_tiles(stages: Sequence[Stage], inner: frozenset[Axis], partial: frozenset[Value]) -> float:
    """About how many tiles of 32-bit registers are alive at once: arrays read, accumulators, and what is being computed."""
    buffers = {access.buffer for stage in stages for access in stage.accesses if inner <= access.offset.axes}
    accumulators = sum(1 for stage in stages if stage.value in partial and inner <= frozenset(stage.own))
    computing = FOLD_TILES * _folds(stages) or (0.5 if buffers or len(inner) <= 2 else PRODUCT_TILES)
    return sum(buffer.dtype.itemsize / 4 for buffer in buffers) + accumulators + computing


def _folds(stages: Sequence[Stage]) -> int:
    """How many folds inside the bodies keep a tile alive each."""
    return len({node.value for stage in stages for node in stage.inner})


def _grid_axes(
    stages: Sequence[Stage],
    grid: list[Axis],
    split: frozenset[Axis],
    held: tuple[KernelAxis, ...],
    device: Device,
) -> Iterator[tuple[bool, tuple[KernelAxis, ...]]]:
    """Roles of the axes over programs, for every tile and number of parts worth weighing, and whether the tile is larger than need be."""
    shared_out = tuple(axis for axis in grid if axis in split)
    runs = runs_of(stages, [axis for axis in grid if axis not in split]) + ([shared_out] if shared_out else [])
    runs.sort(key=lambda run: grid.index(run[-1]))
    least = ROW_TILE if held else 2 * ROW_TILE if split else ROW_TILE // 2
    sizes = [least * more for more in LARGER] if split else [least]
    for size, across in product(sizes, WIDE if split else WIDE[:1]):
        blocks = _grid_blocks(stages, runs, split, held, size, across)
        tiles = tuple(KernelAxis("", run, "grid", block) for run, block in zip(runs, blocks, strict=True))
        others = prod(tile.tiles for tile in tiles if tile.axes != shared_out)
        for parts in _parts(device, others) if split else (1,):
            split_up = (replace(tile, role="split", parts=parts) if tile.axes == shared_out else tile for tile in tiles)
            yield size > least, tuple(split_up)


def _parts(device: Device, others: int) -> Iterator[int]:
    """Among how many programs a sum may be shared out: more keep memory busier, and leave more partial results to add up.

    `others` are the programs along other axes. One part is none: it would only be copied.
    """
    for programs in dict.fromkeys((device.processors * 2, device.processors, device.processors * 7 // 8)):
        if programs > others:
            yield -(-programs // others)


def _grid_blocks(
    stages: Sequence[Stage],
    runs: list[tuple[Axis, ...]],
    split: frozenset[Axis],
    held: tuple[KernelAxis, ...],
    wanted: int,
    across: int,
) -> tuple[int, ...]:
    """Tile extents of the grid axes to make tiles of `wanted` elements, the innermost filled first.

    It gets at most `across` elements where it is not the one that is split.

    The axis along memory gets at least 32 where it is a grid axis.
    """
    tile = held_tile(stages, held)
    along_memory = memory_order(stages)[-1:]
    blocks = []
    for position, run in enumerate(reversed(runs)):
        size = power_of_two(prod(axis.size for axis in run))
        cap = across if position == 0 and len(runs) > 1 and split and not frozenset(run) & split else wanted
        least = ALONG_MEMORY if held and [run[-1]] == along_memory else 1
        blocks.append(max(1, min(size, max(least, min(cap, wanted // tile)))))
        tile *= blocks[-1]
    return tuple(blocks[::-1])
