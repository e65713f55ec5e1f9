"""A role for every axis of a group of stages that would share a kernel, or the answer that there is none.

The few possible assignments are costed and the cheapest is kept. Kernels with products of matrices are in `products.py` and `chained.py`,
which axes can be iterated as one in `runs.py`. Nothing is emitted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from gradc.codegen.chained import chained_plans
from gradc.codegen.device import Device
from gradc.codegen.estimate import finished_plan, held_tile
from gradc.codegen.index import Axis
from gradc.codegen.plan import KernelAxis, Plan, Setting, power_of_two
from gradc.codegen.products import product_plan
from gradc.codegen.runs import memory_order, runs_of, status_of
from gradc.codegen.searches import search_plan
from gradc.codegen.stages import Stage
from gradc.ir import Value

LIVE_ELEMENTS = 49152  # elements a program can hold in registers, over all tiles alive at once
ROW_TILE = 2048  # elements a program should at least work on
ALONG_MEMORY = 32  # elements a tile has at least along the axis that is contiguous in memory, so that loads are wide
REDUNDANT_WORK = 8192  # a stage this small may be repeated by every program


def plan(stages: Sequence[Stage], setting: Setting) -> Plan | None:
    """The cheapest legal assignment of roles for stages sharing one kernel, or None."""
    products = [stage for stage in stages if stage.heavy is not None and stage.heavy.kind == "dot"]
    if any(stage.nested for stage in stages):
        plans = list(chained_plans(stages, setting))
    elif products:
        plans = [product_plan(stages, products, setting)]
    else:
        plans = [search_plan(stages, setting), *(_row_plan(stages, grid, setting) for grid in _grids(stages))]
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


def _row_plan(stages: Sequence[Stage], grid: frozenset[Axis], setting: Setting) -> Plan | None:
    partial = _partial_stages(stages, grid)
    if partial is None:
        return None
    order = memory_order(stages)
    inner = [axis for axis in order if axis not in grid]
    split = frozenset(axis for stage in stages if stage.value in partial for axis in stage.reduced if axis in grid)
    held = _inner_axes(stages, inner, partial)
    if held is None:
        return None
    outer = _grid_axes(stages, [axis for axis in order if axis in grid], split, held, setting.device)
    if outer is None:
        return None
    axes = sorted((*outer, *held), key=lambda axis: order.index(axis.axes[-1]))
    return finished_plan(stages, tuple(axes), partial, setting)


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


def _inner_axes(stages: Sequence[Stage], inner: list[Axis], partial: frozenset[Value]) -> tuple[KernelAxis, ...] | None:
    """Roles of the axes inside a program: resident where they fit, otherwise the longest run is looped over."""
    if not inner:
        return ()
    runs = runs_of(stages, inner)
    held = _held(runs)
    beside = 1 if memory_order(stages)[-1] in inner else ALONG_MEMORY  # what the grid adds to the tile so that loads are wide
    if held_tile(stages, held) * beside * _live_tiles(stages, frozenset(inner), partial) <= LIVE_ELEMENTS:
        return held
    if len(runs) > 1 and len({status_of(stages, axis) for axis in inner}) == 1:
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
    others = prod(axis.block for axis in held if axis.axes != longest)
    if others > 1 and others * beside * 16 > 4 * ROW_TILE:
        return None
    block = max(16, min(power_of_two(prod(a.size for a in longest)), 2 * ROW_TILE // (others * beside)))
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
    if len({status_of(stages, axis) for axis in split}) > 1:
        return None
    shared_out = tuple(axis for axis in grid if axis in split)
    runs = runs_of(stages, [axis for axis in grid if axis not in split]) + ([shared_out] if shared_out else [])
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
    along_memory = memory_order(stages)[-1:]
    blocks = []
    for position, run in enumerate(reversed(runs)):
        size = power_of_two(prod(axis.size for axis in run))
        cap = 128 if position == 0 and len(runs) > 1 and split and not frozenset(run) & split else wanted
        least = ALONG_MEMORY if held and [run[-1]] == along_memory else 1
        blocks.append(max(1, min(size, max(least, min(cap, wanted // tile)))))
        tile *= blocks[-1]
    return blocks[::-1]
