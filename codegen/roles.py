"""A role for every axis of a group of stages that would share a kernel, or the answer that there is none.

The few possible assignments are costed and the cheapest is kept. Kernels with products of matrices are in `products.py` and `chained.py`,
which axes can be iterated as one in `runs.py`. Nothing is emitted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from gradc.codegen.alive import alive, folds
from gradc.codegen.atomics import can_add
from gradc.codegen.cascades.riding import reduced_axes
from gradc.codegen.chained import chained_plans
from gradc.codegen.device import Device
from gradc.codegen.estimate import finished_plan, held_tile, is_product
from gradc.codegen.index import Axis, power_of_two
from gradc.codegen.nodes import Running
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.products import product_plans
from gradc.codegen.runs import memory_order, runs_of, status_of
from gradc.codegen.scattered import scattering_plan
from gradc.codegen.searches import search_plan
from gradc.codegen.splits import parts_for, split_plans
from gradc.codegen.stages import Stage
from gradc.ir import Value

LIVE_ELEMENTS = 49152  # elements a program can hold in registers, over all tiles alive at once
MOST_TAKEN = 7 / 8  # of a processor's registers may go to a program that has more rows than need be
ROW_TILE = 2048  # elements a program should at least work on
ALONG_MEMORY = 32  # elements a tile has at least along the axis that is contiguous in memory, so that loads are wide
WIDE = (128, 32)  # elements of a tile along memory where the sum goes across it: fewer leave more programs for fewer parts
LARGER = (1, 2, 4, 8)  # times that: programs that go through tile after tile need more of it under way
REDUNDANT_WORK = 8192  # a stage this small may be repeated by every program


def plan(stages: Sequence[Stage], setting: Setting) -> Plan | None:
    """The cheapest legal assignment of roles for stages sharing one kernel, or None; of equal ones that take many registers the leanest.

    Registers of products are counted where their tiles are chosen.
    """
    multiplies, few = any(map(is_product, stages)), setting.device.registers // 2
    return min(plans(stages, setting), key=lambda p: (p.seconds, 0 if multiplies else max(p.registers, few)), default=None)


def plans(stages: Sequence[Stage], setting: Setting) -> Iterator[Plan]:
    """The legal assignments that are weighed."""
    products = [stage for stage in stages if stage.heavy is not None and stage.heavy.kind == "dot"]
    if any(stage.nested for stage in stages) or (products and any(stage.folded for stage in stages)):
        found: Iterable[Plan | None] = chained_plans(stages, setting)
    elif products:
        found = product_plans(stages, products, setting)
    else:
        whole = any(stage.folded for stage in stages)  # axes of folds inside have no role among the terms of one owner
        added = scattering_plan(stages, setting) if setting.device.atomics and not whole else None
        found = [
            None if whole else search_plan(stages, setting),
            added,
            *(p for grid in _grids(stages) for p in _row_plans(stages, grid, setting)),
        ]
    one_after_another = [p for p in found if p is not None and _is_legal(p)]
    yield from one_after_another
    yield from filter(_is_legal, split_plans([p for p in one_after_another if not p.atomic], setting))


def _is_legal(p: Plan) -> bool:
    return goes_on_once(p) and _folds_whole_axes(p) and _scans_within_programs(p)


def goes_on_once(p: Plan) -> bool:
    """Whether no two programs add to the same element of a sum that goes on in place."""
    spread = [axis.covers for axis in p.axes if axis.programs > 1]
    running = (stage for stage in p.stages if stage.value not in p.partial and reads_running(stage))
    return not any(axes.isdisjoint(stage.own) for stage in running for axes in spread)


def reads_running(stage: Stage) -> bool:
    """Whether a stage adds to what its array holds."""
    return any(isinstance(access.buffer.operation, Running) for access in stage.accesses)


def _folds_whole_axes(p: Plan) -> bool:
    """Whether every sum goes over all of a kernel's axis or none of it: over a part it would count what lies beside it."""
    nodes = [node for stage in p.stages for node in stage.nodes]
    folded = {frozenset(node.detail[0] if node.kind == "scan" else reduced_axes(node)) for node in nodes}
    return all(axes >= set(k.axes) or not axes & set(k.axes) for axes in folded for k in p.axes)


def _scans_within_programs(p: Plan) -> bool:
    """Whether a program has all of the axes that running sums go along."""
    scanned = frozenset[Axis]().union(*(scanned_axes(stage) for stage in p.stages))
    return not any(scanned & set(k.axes) for k in p.axes if k.role in ("grid", "split") and k.tiles > 1)


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
    seen: set[tuple] = set()
    for longer, rereads, held in _inner_axes(stages, [axis for axis in order if axis not in grid], partial):
        for larger, outer in _grid_axes(stages, [axis for axis in order if axis in grid], split, held, setting.device):
            axes = tuple(sorted((*outer, *held), key=lambda axis: order.index(axis.axes[-1])))
            key = (rereads, *((axis.axes, axis.role, axis.block, axis.programs) for axis in axes))
            if key in seen:  # small arrays have one tile of whatever size
                continue
            seen.add(key)
            found = finished_plan(stages, axes, partial, setting, rereads=rereads)
            most = LIVE_ELEMENTS if longer else MOST_TAKEN * setting.device.registers
            if not (longer or larger) or found.registers <= most:
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
) -> Iterator[tuple[bool, bool, tuple[KernelAxis, ...]]]:
    """Roles of the axes inside a program: resident where they fit, otherwise the longest run is looped over.

    With each, whether its tile is longer than need be: fewer programs are in flight then, and their rows may stay in the cache;
    and whether what all rows share is read again for each, because there are no registers to keep it in.
    """
    if not inner:
        yield False, False, ()
        return
    runs = runs_of(stages, inner)
    held = _held(runs)
    beside = 1 if memory_order(stages)[-1] in inner else ALONG_MEMORY  # what the grid adds to the tile so that loads are wide
    needed, tile = alive(stages, frozenset(inner), partial), held_tile(stages, held) * beside
    if tile * needed.tiles <= LIVE_ELEMENTS:
        yield False, tile * (needed.tiles + needed.shared) > LIVE_ELEMENTS, held
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
        wanted = 2 * ROW_TILE * more // (others * beside * max(1, power_of_two(folds(stages))))
        block = max(16, min(power_of_two(prod(a.size for a in longest)), wanted))
        looped = KernelAxis("", longest, "loop", block)
        yield more > 1, False, tuple(looped if axis.axes == longest else axis for axis in held)


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
    orders = [list(reversed(runs)), *([] if split or held else _shared_first(stages, runs))]
    for size, across, order in product(sizes, WIDE if split else WIDE[:1], orders):
        narrow = order is not orders[0] or bool(split and split.isdisjoint(order[0]))
        blocks = _grid_blocks(stages, runs, order, held, size, across if narrow else size)
        tiles = tuple(KernelAxis("", run, "grid", block) for run, block in zip(runs, blocks, strict=True))
        others = prod(tile.tiles for tile in tiles if tile.axes != shared_out)
        for parts in parts_for(device, others) if split else (1,):
            split_up = (replace(tile, role="split", parts=parts) if tile.axes == shared_out else tile for tile in tiles)
            yield size > least, tuple(split_up)


def _shared_first(stages: Sequence[Stage], runs: list[tuple[Axis, ...]]) -> Iterator[list[tuple[Axis, ...]]]:
    """Orders to fill a tile in that begin, after the axis along memory, with one that some array is the same along: it is read less often."""
    accesses = [access for stage in stages for access in stage.accesses]
    for run in runs[:-1]:
        if any(access.offset.axes.isdisjoint(run) and len(access.offset.axes) > 1 for access in accesses):
            yield [runs[-1], run, *(other for other in reversed(runs[:-1]) if other is not run)]


def _grid_blocks(
    stages: Sequence[Stage],
    runs: list[tuple[Axis, ...]],
    order: list[tuple[Axis, ...]],
    held: tuple[KernelAxis, ...],
    wanted: int,
    across: int,
) -> tuple[int, ...]:
    """Tile extents of the grid axes to make tiles of `wanted` elements, filled in that `order`: usually the innermost first.

    The first gets at most `across` elements if there are others; the axis along memory at least 32 where it is a grid axis.
    """
    tile = held_tile(stages, held)
    along_memory = memory_order(stages)[-1:]
    blocks = {}
    for position, run in enumerate(order):
        size = power_of_two(prod(axis.size for axis in run))
        cap = across if position == 0 and len(runs) > 1 else wanted
        least = ALONG_MEMORY if held and [run[-1]] == along_memory else 1
        blocks[run] = max(1, min(size, max(least, min(cap, wanted // tile))))
        tile *= blocks[run]
    return tuple(blocks[run] for run in runs)
