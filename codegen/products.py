"""Roles for kernels with products of matrices: tiles of rows and columns across programs, the summed axis in a loop.

Products that share rows, columns and the summed axis share a kernel, with what follows them element by element (epilogue) and
with sums along the same loop. Any expression may feed an operand (prologue).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from gradc.codegen.estimate import finished_plan
from gradc.codegen.index import Axis, power_of_two
from gradc.codegen.nodes import Dot, Node, Running, walk
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.stages import Stage

WHOLE_ROWS = 128  # columns of a result whose rows one tile holds
MOST_ALIVE = 4  # tiles of 128 rows and columns that a program's registers hold for what follows a product
MOST_PRODUCTS = 2  # accumulators of matrix products one kernel may carry


def product_plans(stages: Sequence[Stage], products: list[Stage], setting: Setting) -> Iterator[Plan]:
    """Products that share rows, columns and the summed axes, what follows them element by element, and sums along the way."""
    first = products[0].heavy
    assert first is not None
    dot = first.detail
    own = frozenset(products[0].own)
    if len(products) > MOST_PRODUCTS or not all(_fits(stage, dot, own) for stage in stages):
        return
    ordered = sorted(stages, key=lambda stage: stage not in products)
    tiles = [_product_axes(dot, ordered, caps) for caps in _product_tiles(dot, stages)]
    if any(frozenset(stage.reduced) == frozenset(dot.columns) for stage in stages):
        tiles = [axes for axes in tiles if axes[-1].tiles == 1]
    yield from filter(_is_one_pass, (finished_plan(stages, axes, frozenset(), setting) for axes in tiles))


def _fits(stage: Stage, dot: Dot, own: frozenset[Axis]) -> bool:
    """Whether a stage shares the tiles: another product, elementwise work, a sum along the loop or over whole rows of the result."""
    if stage.heavy is not None and stage.heavy.kind == "dot":
        return bool(stage.heavy.detail == dot) and frozenset(stage.own) == own
    if stage.heavy is None:
        return frozenset(stage.own) == own
    if stage.heavy.kind != "reduce" or not frozenset(stage.own) < own:
        return False
    reduced = frozenset(stage.reduced)
    if reduced == frozenset(dot.columns) and frozenset(stage.own) == own - reduced:
        return prod(axis.size for axis in reduced) <= WHOLE_ROWS
    return reduced == frozenset(dot.summed)


def _is_one_pass(plan: Plan) -> bool:
    """Whether what a sum needs of another one does not make it wait: tiles of products are not read twice."""
    return all(times == 1 for _, times in plan.reads)


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
    """Rows, columns and depth a product's tile may have: smaller the more accumulators and other tiles are alive beside it.

    What is read after the loop takes the place of operands that are under way in it.
    """
    nodes = walk([stage.root for stage in stages])
    products = [node for node in nodes if node.kind == "dot"]
    if max(node.dtype.itemsize for node in products) == 4:
        return [(64, 64, 32), (32, 32, 32)]
    corners, made = frozenset((*dot.rows, *dot.columns)), {stage.value for stage in stages}
    beside = sum(
        1
        for node in nodes
        if node.kind == "load"
        and node.value not in made
        and not isinstance(node.value.operation, Running)  # read once the product is there, when its operands are gone
        and frozenset(dot.rows) & node.axes
        and frozenset(dot.columns) & node.axes
        and node.axes <= corners
    )
    operands = [load for node in products for x in node.operands for load in _loads_within(x)]
    more = len(products) - 1 + beside + max(0, len(operands) - 2 * len(products))
    crowded = _most_alive(nodes, dot) > MOST_ALIVE
    return [(128, 128, 64), (128, 64, 64), (64, 64, 64)][min(2, max(more // 2, crowded)) :]


def _most_alive(nodes: Sequence[Node], dot: Dot) -> int:
    """The most tiles of the result's extent alive at once while what follows the product is computed in order."""
    tiles = [
        node for node in nodes if set(dot.rows) & node.axes and set(dot.columns) & node.axes and not set(dot.summed) & node.axes
    ]
    place = {node: i for i, node in enumerate(tiles)}
    last = {x: i for node, i in place.items() for x in node.operands if x in place}
    return max((sum(1 for x, end in last.items() if place[x] <= i < end) for i in place.values()), default=0)


def _loads_within(node: Node) -> list[Node]:
    return [inner for inner in walk([node]) if inner.kind == "load"]
