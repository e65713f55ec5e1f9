"""What has no elements, or is made of what has none, as a constant: nothing after this pass reads an array of size 0.

A result of size 0 is a filled array; what is folded or summed over no elements is the neutral element, as in the reference. An
index into an axis without places stays, because it is an error where the reference runs.
"""

from __future__ import annotations

from gradc.ir import Graph, Value, apply, mapped, on_behalf_of
from gradc.leaves import Broadcast, Constant, Iota, constant
from gradc.structure import Concatenate, Contract, Gather, Pad, Reduce, ScatterAdd

NEUTRAL = {"sum": 0, "prod": 1, "any": False, "all": True}


def without_empties(graph: Graph) -> Graph:
    """The graph with constants for Values without elements, other than inputs, and for what is made of nothing else."""
    if all(value.size for value in graph.values):
        return graph
    return mapped(graph, _settled)


def _settled(value: Value) -> Value:
    """A Value whose operands are settled, settled itself."""
    with on_behalf_of(value, value.note):
        found = _filled(value) if value.operands or isinstance(value.operation, Iota) else None
    if found is None:
        return value
    found.name = found.name or value.name
    return found


def _filled(value: Value) -> Value | None:
    """What a Value is where it or an operand has no elements; None where neither is so."""
    operation, empty = value.operation, [x for x in value.operands if not x.size]
    if not value.size and not _is_filled(value) and not (isinstance(operation, ScatterAdd) and not empty):
        return constant(0, value.dtype, value.shape)
    if not value.size or not empty or isinstance(operation, Gather):
        return None
    if isinstance(operation, Concatenate):
        parts = [x for x in value.operands if x.size]
        return apply(operation, *parts) if len(parts) > 1 else parts[0]
    assert isinstance(operation, Reduce | Contract | ScatterAdd | Pad), f"{value!r} is made of nothing"
    return constant(NEUTRAL[operation.kind] if isinstance(operation, Reduce) else 0, value.dtype, value.shape)


def _is_filled(value: Value) -> bool:
    return isinstance(value.operation, Broadcast) and isinstance(value.operands[0].operation, Constant)
