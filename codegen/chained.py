"""Roles for kernels with products inside a reduction: products of products, and statistics of a product that is never stored.

The summed axes of the inner products are resident; the axis of the outer reductions is looped over, and shared by all of
them; what they own besides is spread over programs in tiles. Which products are inner is decided in `recomputed.py`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.estimate import finished_plan
from gradc.codegen.index import Axis, power_of_two
from gradc.codegen.masks.skips import Positional
from gradc.codegen.nodes import Node, walk
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.runs import status_of
from gradc.codegen.stages import Stage

MOST_RESIDENT = 256  # extent of one resident axis
TILES = ((128, 64), (128, 32), (64, 64), (64, 32), (32, 32))  # extents of a program's rows and of a step of the loop
WIDE_TILES = ((32, 32), (32, 16), (16, 16))  # the same where 32-bit operands are multiplied without a matrix unit
REGISTERS_USED = 185  # 32-bit registers of a thread that tiles may take; the rest holds addresses, masks and operands
WIDE_REGISTERS = (
    430  # the same with the operands of a thread that multiplies without a matrix unit; it reads most of them as needed
)
COMPUTED = 4  # transposing a computed operand moves it through memory; one that is loaded is only read another way
LONG, LONG_LIVE = 20, 3  # functions in an expression that keeps so many intermediate results alive
SMALLEST = 16  # extent of a matrix unit's operand

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Assignment:
    """The axes by role: one program has one index of `batch`, a tile of each of `tiles`, all of `resident`, and loops over `loop`."""

    batch: Axes
    tiles: tuple[Axes, ...]
    loop: Axes
    scalar_loop: bool
    resident: tuple[Axes, ...]


def chained_plans(stages: Sequence[Stage], setting: Setting) -> Iterator[Plan | None]:
    """Plans for stages of which some have products inside their reduction; none where the roles contradict each other."""
    found = None if _multiply_differently(stages) else _assigned(stages)
    if found is None:
        return
    products = [node for node in walk([stage.root for stage in stages]) if node.kind == "dot"]
    wide = max(node.dtype.itemsize for node in products) == 4
    for tile, step in WIDE_TILES if wide else TILES:
        axes = _kernel_axes(found, tile, step)
        ordered = _ordered(axes, products)
        if ordered is None:
            continue
        warps = _warps(ordered, stages, wide)
        stages_ahead = _pipeline(ordered, stages, setting)
        if warps and stages_ahead:
            yield replace(finished_plan(stages, ordered, frozenset(), setting), warps=warps, pipeline=stages_ahead)


def _multiply_differently(stages: Sequence[Stage]) -> bool:
    """Whether stages want an inner product at different places: they would share no work, and neither could skip what its mask empties."""
    sides: dict[int, set] = {}
    for stage in stages:
        for node in stage.nested:
            sides.setdefault(node.value.number, set()).add(frozenset(n.detail for n in stage.nested if n.value is node.value))
    return any(len(found) > 1 for found in sides.values())


# Which axis has which role ----------------------------------------------------------------------------------------------


def _assigned(stages: Sequence[Stage]) -> Assignment | None:
    products = list(dict.fromkeys(node for stage in stages for node in stage.nodes if node.kind == "dot"))
    nested = [node for stage in stages for node in stage.inner]
    owned = [frozenset(stage.own) for stage in stages]
    common, everything = frozenset.intersection(*owned), frozenset().union(*owned)
    inside = frozenset(axis for node in nested for axis in node.axes)
    batch = frozenset(axis for node in products for axis in node.axes - {*node.detail.rows, *node.detail.columns})
    beside = frozenset(axis for axis in common - batch if axis not in inside)
    summed = list(dict.fromkeys(_summed(node) for node in nested))
    resident = frozenset(axis for axes in summed for axis in axes) | (everything - common) | beside
    loops = {frozenset(stage.reduced) for stage in stages} - {frozenset()}
    loops = {axes for axes in loops if not axes <= resident}
    if len(loops) > 1 or resident & batch or any(loop & (resident | everything) for loop in loops):
        return None
    loop = next((stage.reduced for stage in stages if frozenset(stage.reduced) in loops), ())
    if frozenset(loop) & batch and not frozenset(loop) <= batch:
        return None
    groups = _resident_groups(summed, [axis for stage in stages for axis in stage.own if axis in resident], stages)
    if groups is None or any(prod(axis.size for axis in group) > MOST_RESIDENT for group in groups):
        return None
    spread = [axis for axis in stages[0].own if axis in common and axis not in resident]
    tiles = _tiles([axis for axis in spread if axis not in batch], products)
    scalars = tuple(axis for axis in spread if not any(axis in tile for tile in tiles))
    return Assignment(scalars, tiles, loop, bool(loop) and frozenset(loop) <= batch, groups)


def _summed(node: Node) -> Axes:
    """The axes that a product of matrices or another fold folds."""
    return node.detail.summed if node.kind == "dot" else node.detail[1]


def _resident_groups(summed: list[Axes], own: list[Axis], stages: Sequence[Stage]) -> tuple[Axes, ...] | None:
    """Resident axes that are iterated as one: those summed together, and those that the same stages own and the same ones sum over."""
    groups = list(summed)
    taken = [axis for group in groups for axis in group]
    if len(set(taken)) < len(taken):
        return None
    rest: dict[tuple[int, ...], Axes] = {}
    for axis in dict.fromkeys(axis for axis in own if axis not in taken):
        status = status_of(stages, axis)
        rest[status] = (*rest.get(status, ()), axis)
    return (*groups, *rest.values())


def _tiles(spread: list[Axis], products: Sequence[Node]) -> tuple[Axes, ...]:
    """The axes programs have tiles of: of each side of a product the last ones, as many as make a tile."""
    tiles: list[Axes] = []
    for side in dict.fromkeys(frozenset(axes) for node in products for axes in (node.detail.rows, node.detail.columns)):
        tile: Axes = ()
        for axis in reversed([axis for axis in spread if axis in side]):
            if prod(a.size for a in tile) < 4 * SMALLEST:
                tile = (axis, *tile)
        if tile and tile not in tiles:
            tiles.append(tile)
    return tuple(tiles)


# Blocks -----------------------------------------------------------------------------------------------------------------


def _kernel_axes(found: Assignment, tile: int, step: int) -> tuple[KernelAxis, ...]:
    """Every axis with its block: `tile` the extent of a program's rows, `step` that of a step of the loop."""
    caps = (tile, step)
    spread = [
        KernelAxis(name, axes, "grid", _block(axes, cap))
        for name, axes, cap in zip(("row", "column"), found.tiles, caps, strict=False)
    ]
    loop = [KernelAxis("inner", found.loop, "loop", 1 if found.scalar_loop else _block(found.loop, step))] if found.loop else []
    names = ["width"] if len(found.resident) == 1 else [f"width_{i}" for i in range(len(found.resident))]
    held = [
        KernelAxis(name, axes, "resident", _block(axes, MOST_RESIDENT))
        for name, axes in zip(names, found.resident, strict=True)
    ]
    batch = [KernelAxis("batch", found.batch, "grid", 1)] if found.batch else []
    return (*batch, *spread, *loop, *held)


def _block(axes: Axes, cap: int) -> int:
    return max(SMALLEST, min(power_of_two(prod(axis.size for axis in axes)), cap))


def _ordered(axes: tuple[KernelAxis, ...], products: Sequence[Node]) -> tuple[KernelAxis, ...] | None:
    """The axes in the order in which tiles have them: fewest operands transposed, and none that is itself made of a product."""
    fixed, free = [axis for axis in axes if axis.block == 1], [axis for axis in axes if axis.block > 1]
    best: tuple[int, tuple[KernelAxis, ...]] | None = None
    for order in itertools.permutations(free):
        turned = _transposed(order, products)
        if turned is not None and (best is None or turned < best[0]):
            best = (turned, (*fixed, *order))
    return best[1] if best else None


def _transposed(order: tuple[KernelAxis, ...], products: Sequence[Node]) -> int | None:
    """What transposing operands costs; None where one may not be, or a side of a product is no single tile axis."""
    count = 0
    for node in products:
        places = [_places(order, axes) for axes in (node.detail.rows, node.detail.columns, node.detail.summed)]
        row, column, summed = (place[0] if len(place) == 1 else None for place in places)
        if row is None or column is None or summed is None or len({row, column, summed}) < 3:
            return None
        first, second = node.operands if row < column else node.operands[::-1]
        for operand, is_turned in ((first, min(row, column) > summed), (second, summed > max(row, column))):
            if is_turned and any(inner.kind == "dot" for inner in walk([operand])):
                return None
            count += is_turned * (1 if operand.kind == "load" else COMPUTED)
    return count


def _places(order: tuple[KernelAxis, ...], axes: Axes) -> list[int]:
    return [place for place, axis in enumerate(order) if set(axis.axes) & set(axes)]


# Does it fit ------------------------------------------------------------------------------------------------------------


def _extent(axes: tuple[KernelAxis, ...], over: frozenset[Axis]) -> int:
    return prod(axis.block for axis in axes if frozenset(axis.axes) & over)


def _warps(axes: tuple[KernelAxis, ...], stages: Sequence[Stage], wide: bool) -> int:
    """The fewest warps whose registers hold accumulators and inner products; 0 where eight do not."""
    looped = frozenset(axis for k in axes if k.role == "loop" for axis in k.axes)
    rows = max((axis.block for axis in axes if axis.role == "grid"), default=1)
    carried = [stage.heavy for stage in stages if stage.heavy is not None and frozenset(stage.reduced) & looped]
    nested = {(node.value.number, node.detail): node for stage in stages for node in stage.inner}
    accumulators = sum(
        _extent(axes, heavy.axes if any(h.kind == "dot" for h in carried) else heavy.operands[0].axes) for heavy in carried
    )
    inner = [_extent(axes, node.axes if node.kind == "dot" else node.operands[0].axes) for node in nested.values()]
    tiles = accumulators + sum(inner) + max(inner) + _beside(axes, stages, looped)
    products = [node for node in nested.values() if node.kind == "dot"]
    outside = sum(_extent(axes, x.axes) // 2 for node in products for x in node.operands if not x.axes & looped)
    depth = max((_extent(axes, frozenset(node.detail.summed)) for node in products), default=0)
    for warps in (4, 8):
        threads = 32 * warps
        if wide:  # a thread of a product without a matrix unit reads the rows and columns of its square
            fits = tiles / threads + 2 * (max(inner) / threads) ** 0.5 * depth <= WIDE_REGISTERS
        else:  # a warp multiplies 16 rows: with fewer, several hold the same operands
            copies = max(1, 16 * warps // rows)
            fits = tiles + (copies - 1) * (sum(inner) + outside) <= REGISTERS_USED * threads
        if fits:
            return warps
    return 0


def _beside(axes: tuple[KernelAxis, ...], stages: Sequence[Stage], looped: frozenset[Axis]) -> int:
    """Registers of what is computed beside the products over a whole tile: a bias by distance, a mask of data, random numbers.

    A comparison of positions counts where it is used again, and less: it is kept as single bits, or made anew.
    """
    pure: set[Node] = set()
    positions, found = Positional(), {}
    rows = frozenset(axis for k in axes if k.role == "grid" and k.block > 1 for axis in k.axes)
    nodes = walk([stage.root for stage in stages])
    uses = Counter(x for node in nodes for x in set(node.operands))
    for node in nodes:
        if node.kind in ("load", "position", "constant", "guard") or (
            node.kind in ("apply", "cast") and pure.issuperset(node.operands)
        ):
            pure.add(node)
            continue
        for x in pure.intersection(node.operands):
            of_positions = positions.ramp(x) is not None
            made = uses[x] > 1 if of_positions or x.kind == "load" else x.kind in ("apply", "cast")
            if made and x.axes & rows and x.axes & looped:
                found[x.value.number] = _extent(axes, x.axes) * _words(x) * (3 if of_positions else 4) // 4
    return sum(found.values())


def _words(node: Node) -> int:
    """Registers for each element while an expression is computed: of a long one several intermediate results are alive."""
    nodes = [x for x in walk([node]) if x.kind == "apply"]
    widest = max((x.dtype.compute.itemsize for x in nodes if x.dtype.family != "int"), default=4)  # positions fit in 32 bits
    return max(1, widest // 4) * (LONG_LIVE if len(nodes) > LONG else 1)


def _pipeline(axes: tuple[KernelAxis, ...], stages: Sequence[Stage], setting: Setting) -> int:
    """How many steps of the loop are loaded ahead: as many as shared memory holds, at most three; 0 where not even one fits."""
    looped = frozenset(axis for k in axes if k.role == "loop" for axis in k.axes)
    fixed = moving = 0
    loads = {(access.buffer.number, access.offset): access for stage in stages for access in stage.accesses}
    for access in loads.values():
        size = _extent(axes, access.offset.axes) * access.buffer.dtype.itemsize
        if access.offset.axes & looped:
            moving += size
        else:
            fixed += size
    return next((ahead for ahead in (3, 2, 1) if fixed + ahead * moving <= setting.device.shared_bytes), 0)
