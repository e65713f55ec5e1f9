"""Tiles that a mask leaves whole: where a loop's condition over positions holds throughout a tile, the tile does without it.

Of a loop that one line bounds (`skips.py`), the tiles on whose every position the line is not negative make a loop of their own,
before or after the one in which the mask decides. What changes nothing there is found by trying the table's NumPy rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradc.codegen.index import Axis, Index
from gradc.codegen.masks.skips import Known, numbers
from gradc.codegen.nodes import Node, walk

MOST_NODES = 120  # expressions of a loop whose text may stand twice
SPECIAL = (float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True, eq=False)
class Whole:
    """The tiles where `line` is nowhere negative, and what each expression that looks at the mask is instead there."""

    line: Index
    simpler: Mapping[Node, Node]


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a loop: from where to where, and what expressions are simpler in it."""

    ends: tuple[str, str]
    simpler: Mapping[Node, Node]


def whole_tiles(reductions: Sequence[Node], axes: Iterable[Axis], lines: Sequence[Index]) -> Whole | None:
    """What a loop along `axes` does without past its only line; None where that is nothing, or there are more lines."""
    nodes = walk([x for node in reductions for x in node.operands])
    if len(lines) != 1 or len(nodes) > MOST_NODES or not any(node.kind == "dot" for node in nodes):
        return None
    loop, (line,) = frozenset(axes), lines
    known = Known(loop, line.scaled(-1) + -1)
    found = {node: same for node in nodes if node.axes & loop and (same := _same(node, known)) is not None}
    return Whole(line, found) if found else None


def _same(node: Node, known: Known) -> Node | None:
    """The operand that a row of partly known operands equals, whatever the number."""
    if node.kind != "apply" or known.constant(node) is not None:
        return None
    constants = [known.constant(x) for x in node.operands]
    if all(x is None for x in constants):
        return None
    columns = [
        _all_numbers(x) if value is None else np.asarray([value], x.dtype.compute.numpy)
        for x, value in zip(node.operands, constants, strict=True)
    ]
    grids = [part.ravel() for part in np.meshgrid(*columns, indexing="ij")]
    with np.errstate(all="ignore"):
        result = node.detail.numpy(*grids)
    for operand, value, grid in zip(node.operands, constants, grids, strict=True):
        alike = operand.dtype == node.dtype and operand.kind != "load" and value is None
        if alike and np.array_equal(result, grid, equal_nan=node.dtype.is_floating):
            return operand
    return None


def _all_numbers(node: Node) -> np.ndarray:
    found = numbers(node.dtype, ())
    return np.concatenate([found, np.array(SPECIAL, found.dtype)]) if node.dtype.is_floating else found


__all__ = ["Stretch", "Whole", "whole_tiles"]
