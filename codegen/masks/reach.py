"""How far a condition on data lets a loop reach: a short loop before it finds the first and the last tile in which any term counts.

Only where the condition is far cheaper than the loop: it compares rows of numbers (which document a position belongs to), and the
loop multiplies matrices. Tiles between the first and the last are gone through even where no term of theirs counts. As in
`skips.py`, a tile left out is not read, and at least one is gone through.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc import types
from gradc.codegen.masks.skips import Known
from gradc.codegen.masks.whole import Stretch
from gradc.codegen.nodes import Node, walk
from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.expressions import Expressions
from gradc.codegen.printing.scope import Scope

FEWEST_TILES = 8  # of a loop that is worth another one before it
LONGEST = 16  # expressions of a condition that is cheap


def deciding(kernel: Expressions, reductions: Sequence[Node], loop: KernelAxis) -> Node | None:
    """The condition without which no term of the loop counts, where it looks at nothing but rows of data and positions."""
    nodes = walk([x for node in reductions for x in node.operands])
    if loop.tiles < FEWEST_TILES or not any(node.kind == "dot" for node in nodes):
        return None
    along = frozenset(loop.axes)
    for node in reversed(nodes):
        if node.dtype == types.bool_ and node.axes & along and _is_thin(kernel, node):
            known = Known(along, assumed={node: False})
            if all(known.is_neutral(reduction) for reduction in reductions):
                return node
    return None


def _is_thin(kernel: Expressions, condition: Node) -> bool:
    """Whether a condition reads rows, and nothing wider; no product or sum is in it, and not much else."""
    inner = walk([condition])
    widths = {len(kernel.tile_axes(node.axes)) for node in inner if node.kind == "load"}
    simple = all(node.kind in ("load", "constant", "position", "guard", "cast", "apply") for node in inner)
    return simple and widths <= {0, 1} and 1 in widths and len(inner) <= LONGEST


def narrowed(kernel: Expressions, scope: Scope, loop: KernelAxis, condition: Node, ends: tuple[str, str]) -> tuple[str, str]:
    """The ends of a loop over the tiles from the first to the last in which the condition holds anywhere."""
    first, stop = ends
    names, positions = kernel.names, kernel.positions
    begin, end = names.fresh(f"{loop.name}_from"), names.fresh(f"{loop.name}_to")
    scope.add(f"{begin} = {stop}", "the tiles in which a term counts")
    scope.add(f"{end} = {first}")
    body = Scope(scope, scope.bound | {loop})
    kernel.open_loop(body, loop, Stretch(ends, {}))
    holds = kernel.at(condition, body)
    masks = [positions.mask(axis, holds.axes, body) for axis in holds.axes if axis.overhangs]
    text = " & ".join([f"({holds.text})", *masks]) if masks else holds.operand()
    counts, start = names.fresh("counts"), positions.start(loop)
    body.add(f"{counts} = tl.max(({text}).to(tl.int32)) > 0" if masks else f"{counts} = tl.max({text}.to(tl.int32)) > 0")
    body.add(f"{begin} = tl.where({counts}, tl.minimum({begin}, {start}), {begin})")
    body.add(f"{end} = tl.where({counts}, {start} + {positions.block(loop)}, {end})")
    body.close(until=scope)
    scope.add(f"{begin} = tl.where({end} > {first}, {begin}, {first})")
    scope.add(f"{end} = tl.maximum({end}, {begin} + 1)")
    return begin, end


__all__ = ["deciding", "narrowed"]
