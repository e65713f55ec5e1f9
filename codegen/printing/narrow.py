"""Comparisons of positions in 32 bits: index arithmetic is 64 bits wide by the language's rules, but few arrays are that long.

A comparison whose operands are sums of positions and constants, none of which can leave 32 bits, gives the same answer there.
"""

from __future__ import annotations

from dataclasses import replace

from gradc import types
from gradc.codegen.index import Datum, Part
from gradc.codegen.nodes import Node, walk

LINEAR = frozenset(("add", "subtract", "negative", "abs", "minimum", "maximum"))  # no larger than their operands together


class Narrowing:
    """The narrow twins of positions and what is computed from them, one for each."""

    def __init__(self) -> None:
        self._twins: dict[Node, Node] = {}
        self._magnitudes: dict[Node, int] = {}

    def operands(self, node: Node) -> tuple[Node, ...]:
        """The operands of an expression: narrower ones for a comparison where that changes nothing."""
        if node.kind != "apply" or node.dtype != types.bool_ or any(x.dtype != types.int64 for x in node.operands):
            return node.operands
        if any(self._magnitude(x) >= 2**31 for x in node.operands):
            return node.operands
        return tuple(map(self._twin, node.operands))

    def _twin(self, node: Node) -> Node:
        for inner in walk([node], self._twins):
            twins = tuple(self._twins[x] for x in inner.operands)
            self._twins[inner] = replace(inner, dtype=types.int32, operands=twins)
        return self._twins[node]

    def _magnitude(self, node: Node) -> int:
        """A bound on the absolute value of an expression and of everything within it."""
        for inner in walk([node], self._magnitudes):
            self._magnitudes[inner] = _magnitude(inner, [self._magnitudes[x] for x in inner.operands])
        return self._magnitudes[node]


def _magnitude(node: Node, operands: list[int]) -> int:
    """A bound on the absolute value of an expression, from those of its operands."""
    if node.kind == "constant" and node.dtype.is_integer:
        return abs(int(node.detail))
    if node.kind == "position" and not any(isinstance(term, Datum | Part) for term, _ in node.detail.terms):
        return max(map(abs, node.detail.bounds()))
    if node.kind == "apply" and node.detail.name in LINEAR:
        return sum(operands)
    return 2**63
