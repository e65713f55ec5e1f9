"""Roles for kernels with products of matrices: tiles of rows and columns across programs, the summed axis in a loop.

Products that share rows, columns and the summed axis share a kernel, with what follows them element by element (epilogue) and
with sums along the same loop. Any expression may feed an operand (prologue).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gradc.codegen.estimate import finished_plan
from gradc.codegen.index import Axis, power_of_two
from gradc.codegen.nodes import Dot, Node, walk
from gradc.codegen.plan import KernelAxis, Plan, Setting
from gradc.codegen.stages import Stage

MOST_PRODUCTS = 2  # accumulators of matrix products one kernel may carry


def product_plan(stages: Sequence[Stage], products: list[Stage], setting: Setting) -> Plan | None:
    """Products that share rows, columns and the summed axes, what follows them element by element, and sums along the way."""
    first = products[0].heavy
    assert first is not None
    dot = first.detail
    own, summed = frozenset(products[0].own), frozenset(dot.summed)
    for stage in stages:
        if stage.heavy is not None and stage.heavy.kind == "dot":
            fits = stage.heavy.detail == dot and frozenset(stage.own) == own
        elif stage.heavy is None:
            fits = frozenset(stage.own) == own
        else:
            fits = stage.heavy.kind == "reduce" and frozenset(stage.reduced) == summed and frozenset(stage.own) < own
        if not fits:
            return None
    if len(products) > MOST_PRODUCTS:
        return None
    ordered = sorted(stages, key=lambda stage: stage not in products)
    tiles = [_product_axes(dot, ordered, caps) for caps in _product_tiles(dot, stages)]
    plans = (finished_plan(stages, axes, frozenset(), setting) for axes in tiles)
    return min(filter(_is_one_pass, plans), key=lambda p: p.seconds, default=None)


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
    """Rows, columns and depth a product's tile may have: smaller the more accumulators and other tiles are alive beside it."""
    nodes = walk([stage.root for stage in stages])
    products = [node for node in nodes if node.kind == "dot"]
    if max(node.dtype.itemsize for node in products) == 4:
        return [(64, 64, 32), (32, 32, 32)]
    corners, inside = frozenset((*dot.rows, *dot.columns)), {stage.value for stage in stages}
    beside = sum(
        1
        for node in nodes
        if node.kind == "load"
        and node.value not in inside
        and frozenset(dot.rows) & node.axes
        and frozenset(dot.columns) & node.axes
        and node.axes <= corners
    )
    operands = [load for node in products for x in node.operands for load in _tiles_within(x, corners)]
    pressure = len(products) + beside + max(0, len(operands) - 2 * len(products)) // 2
    return [(128, 128, 64), (128, 64, 64), (64, 64, 64)][min(2, max(0, pressure - 1)) :]


def _tiles_within(node: Node, corners: frozenset[Axis]) -> list[Node]:
    """The loads of an operand that vary along a side and along what is summed: a row of numbers takes next to nothing."""
    loads = (inner for inner in walk([node]) if inner.kind == "load")
    return [load for load in loads if load.axes & corners and load.axes - corners]
