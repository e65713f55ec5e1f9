"""Comparisons of positions in 32 bits: index arithmetic is 64 bits wide by the language's rules, but few arrays are that long.

A comparison whose operands are sums of positions and constants, none of which can leave 32 bits, gives the same answer there.
"""

from __future__ import annotations

from dataclasses import replace

from gradc import types
from gradc.codegen.index import Datum, Part
from gradc.codegen.nodes import Node

LINEAR = frozenset(("add", "subtract", "negative", "abs", "minimum", "maximum"))  # no larger than their operands together


class Narrowing:
    """The narrow twins of positions and what is computed from them, one for each."""

    def __init__(self) -> None:
        self._twins: dict[Node, Node] = {}

    def operands(self, node: Node) -> tuple[Node, ...]:
        """The operands of an expression: narrower ones for a comparison where that changes nothing."""
        if node.kind != "apply" or node.dtype != types.bool_ or any(x.dtype != types.int64 for x in node.operands):
            return node.operands
        if any(_magnitude(x) >= 2**31 for x in node.operands):
            return node.operands
        return tuple(map(self._twin, node.operands))

    def _twin(self, node: Node) -> Node:
        if node not in self._twins:
            self._twins[node] = replace(node, dtype=types.int32, operands=tuple(map(self._twin, node.operands)))
        return self._twins[node]


def _magnitude(node: Node) -> int:
    """A bound on the absolute value of an expression and of everything within it."""
    if node.kind == "constant":
        return abs(int(node.detail))
    if node.kind == "position" and not any(isinstance(term, Datum | Part) for term, _ in node.detail.terms):
        return max(map(abs, node.detail.bounds()))
    if node.kind == "apply" and node.detail.name in LINEAR:
        return sum(map(_magnitude, node.operands))
    return 2**63
