"""How many tiles a program holds in registers at once when its inner axes are resident.

Arrays under way to their first use count as they lie in memory, in half a register an element for 16 bits; what is needed again
after a reduction counts as it is computed with, in 32 bits: it waits there while all of the row is folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from gradc.codegen.cascades.riding import crosses, joined, passes
from gradc.codegen.index import Axis
from gradc.codegen.nodes import Node, walk
from gradc.codegen.stages import Stage
from gradc.ir import Value

PRODUCT_TILES = 2  # tiles alive where a tile is larger than any array: a product before it is summed, and its operands
FOLD_TILES = 3  # tiles alive for each fold inside a body: what it folds, what that is made of, and what follows
COMPUTING = 0.5  # of a tile is being computed


@dataclass(frozen=True)
class Alive:
    """Tiles over all inner axes, as multiples of one of 32-bit registers: at the worst moment, and those that every row shares."""

    tiles: float
    shared: float


def alive(stages: Sequence[Stage], inner: frozenset[Axis], partial: frozenset[Value]) -> Alive:
    """What stages hold at once whose inner axes are resident; sums over programs (`partial`) are carried from row to row."""
    accesses = [access for stage in stages for access in stage.accesses if inner <= access.offset.axes]
    buffers = {access.buffer: inner.issuperset(access.offset.axes) for access in accesses}
    accumulators = sum(1 for stage in stages if stage.value in partial and inner <= frozenset(stage.own))
    computing = FOLD_TILES * folds(stages) or (COMPUTING if buffers or len(inner) <= 2 else PRODUCT_TILES)
    coming = sum(buffer.dtype.itemsize / 4 for buffer in buffers) + computing
    shared = sum(buffer.dtype.compute.itemsize / 4 for buffer, same in buffers.items() if same) if partial else 0
    return Alive(accumulators + max(coming, _waiting(stages, inner, partial)), shared)


def folds(stages: Sequence[Stage]) -> int:
    """How many folds inside the bodies keep a tile alive each."""
    return len({node.value for stage in stages for node in stage.inner})


def _waiting(stages: Sequence[Stage], inner: frozenset[Axis], partial: frozenset[Value]) -> float:
    """The most tiles that are used both before and after some reduction along the inner axes is finished."""
    if not any(
        crosses(node, tuple(inner)) for stage in stages for node in (*stage.inner, *([stage.heavy] if stage.heavy else ()))
    ):
        return 0.0
    nodes = joined(stages)
    carried = [nodes[stage.heavy] for stage in stages if stage.value in partial and stage.heavy is not None]
    order = walk([*(nodes[stage.root] for stage in stages if stage.value not in partial), *carried])
    ready = passes(order, tuple(inner), None).ready
    used: dict[Node, list[int]] = {}
    for node in order:
        level = max((ready[x] for x in node.operands), default=0)
        for x in map(_held, node.operands):
            used.setdefault(x, []).append(level)
    waits = [(node, min(levels), max(levels)) for node, levels in used.items() if not crosses(node, tuple(inner))]
    last = max(ready.values(), default=0)
    return max((_tiles((n for n, first, end in waits if first < k <= end), inner) for k in range(1, last + 1)), default=0)


def _held(node: Node) -> Node:
    """The expression whose registers a cast to what it is computed in has."""
    while node.kind == "cast" and node.operands[0].dtype.compute == node.dtype == node.dtype.compute:
        (node,) = node.operands
    return node


def _tiles(nodes: Iterable[Node], inner: frozenset[Axis]) -> float:
    """Registers of these expressions' tiles, as multiples of a whole tile."""
    whole = prod(axis.size for axis in inner)
    kept = (node for node in nodes if node.kind in ("load", "apply", "cast", "scan") and not node.axes.isdisjoint(inner))
    return sum(max(1, node.dtype.itemsize // 4) * prod(axis.size for axis in node.axes & inner) / whole for node in kept)
