"""Rewrites a graph into what kernels are made of: searches and scatters become reductions, markers disappear.

Every rewrite here is exact in floating point, but for the order of sums. Nothing is scheduled here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan

from gradc import types
from gradc.ir import Graph, Value, apply, inherited, on_behalf_of, rebuild
from gradc.leaves import Broadcast, Cast, Input, Iota, Literal, Reshape, broadcast_to, cast, constant
from gradc.markers import Within
from gradc.ops import TABLE, Elementwise
from gradc.structure import Cumulative, Gather, Keep, Marker, Permute, Reduce, ScatterAdd


def prepare(graph: Graph, to_differentiate: bool = False) -> Graph:
    """The same program with argmax, argmin, any, all, scatter and negative indices spelt out.

    A scatter `to_differentiate` stays one: its derivative gathers, that of a sum over all places would be one too.
    """
    rules = {**RULES, ScatterAdd: _bounded_scatter} if to_differentiate else RULES
    new = rebuild(graph.outputs, {value: value for value in graph.inputs}, lambda value: _spell_out(value, rules))
    outputs = tuple(_own_memory(new[value]) for value in graph.outputs)
    prepared = Graph(graph.inputs, outputs, graph.output_names, graph.title)
    _lend_names(prepared)
    return prepared


def _lend_names(graph: Graph) -> None:
    """A result without a name takes that of the view it is known by: `mean(x, keepdims=True)` names what comes before its reshape."""
    for value in reversed(graph.values):
        if value.name and isinstance(value.operation, VIEWS) and value.operands[0].operands and value.operands[0].name is None:
            value.operands[0].name = value.name


def _own_memory(value: Value) -> Value:
    """An output that is an input as it came in is a copy."""
    if value.operands or not isinstance(value.operation, Input | Literal):
        return value
    with on_behalf_of(value):
        copy = apply(Keep(), value)
    copy.name = f"{value.name or 'value'}_copy"
    return copy


def _spell_out(value: Value, rules: Mapping[type, Rule]) -> Value:
    rule = rules.get(type(value.operation))
    if rule is None:
        return value
    with on_behalf_of(value):
        result = rule(value)
    if result is not value and result.name is None:
        result.name = value.name
    return result


def _reduce(value: Value) -> Value:
    kind = value.operation.kind
    if kind in ("any", "all"):
        flags = cast(value.operands[0], types.int32)
        return (
            cast(apply(Reduce("max" if kind == "any" else "min", value.operation.axes), flags), types.bool_)
            if value.operands[0].size
            else value
        )
    return _first_match(value) if kind.startswith("arg") else _in_steps(value)


def _in_steps(value: Value) -> Value:
    """A fold over several axes whose body has statistics along some of them is taken along those first.

    What is left of a row is then one number, which is added up when the row's statistics are complete. Sums may round differently.
    """
    (x,), operation = value.operands, value.operation
    first = tuple(axis for axis in operation.axes if axis in _measured_axes(x)) if len(operation.axes) > 1 else ()
    if not first or len(first) == len(operation.axes):
        return value
    kept = [axis for axis in range(x.ndim) if axis not in first]
    rest = tuple(kept.index(axis) for axis in operation.axes if axis not in first)
    return apply(Reduce(operation.kind, rest), apply(Reduce(operation.kind, first), x))


def _measured_axes(body: Value) -> set[int]:
    """The axes along which an elementwise expression repeats what was folded from an array as large as itself."""
    found: set[int] = set()
    for value in _elementwise(body):
        repeated = set(range(body.ndim)).difference(value.operation.axes) if isinstance(value.operation, Broadcast) else set()
        if not repeated <= found and max(map(_most_folded, value.operands)) >= body.size:
            found |= repeated
    return found


@inherited
def _most_folded(value: Value, operands: list[int]) -> int:
    """The size of the largest array that was folded on the way to a Value."""
    return max([value.operands[0].size if isinstance(value.operation, Reduce) else -1, *operands])


def _elementwise(body: Value) -> dict[Value, None]:
    """A Value and what it is computed from element by element, repetitions and leaves included."""
    found, waiting = {body: None}, [body]
    while waiting:
        value = waiting.pop()
        new = value.operands if isinstance(value.operation, Elementwise | Cast | Marker) else ()
        waiting += [x for x in new if x not in found]
        found.update(dict.fromkeys(new))
    return found


def _first_match(value: Value) -> Value:
    """argmax and argmin: the smallest position that holds the extremum (or a NaN, which is one)."""
    (x,), (axis,) = value.operands, value.operation.axes
    extremum = value.operation.expand(apply(Reduce(value.operation.kind[3:], (axis,)), x), x.shape)
    position = apply(Broadcast(x.shape, (axis,)), apply(Iota(x.shape[axis], types.int64)))
    hit = TABLE["equal"](x, extremum)
    if x.dtype.is_floating:
        hit = TABLE["logical_or"](hit, TABLE["not_equal"](x, x))
    return apply(Reduce("min", (axis,)), TABLE["where"](hit, position, x.shape[axis]))


def _scatter(value: Value) -> Value:
    """Every place sums the updates whose index it is: no atomics, and the order of the sum is fixed."""
    updates, index = value.operands
    axis, size = value.operation.axis, value.operation.size
    shape = (*updates.shape[:axis], size, *updates.shape[axis:])  # the place, then the update
    others = tuple(i for i in range(len(shape)) if i != axis)
    index = _wrapped(index, size)
    kept = tuple(i for i, n in enumerate(index.shape) if n == updates.shape[i])
    squeezed = apply(Reshape(tuple(index.shape[i] for i in kept)), index)
    index_axes = tuple(i if i < axis else i + 1 for i in kept)
    hit = TABLE["equal"](
        apply(Broadcast(shape, (axis,)), apply(Iota(size, index.dtype))),
        apply(Broadcast(shape, index_axes), squeezed),
    )
    return apply(Reduce("sum", (axis + 1,)), TABLE["where"](hit, apply(Broadcast(shape, others), updates), 0))


def _bounded_scatter(value: Value) -> Value:
    """A scatter that reads no index outside its axis: what would be added there is 0, and so is its derivative."""
    updates, index = value.operands
    size, bits = value.operation.size, 8 * index.dtype.itemsize - (index.dtype.family == "int")
    if not size or not updates.size or size >= 2**bits:  # nothing to add to, nothing to add, no index can lie outside
        return value
    inside = TABLE["less"](index, size)
    if index.dtype.family != "uint":
        inside = TABLE["logical_and"](inside, TABLE["greater_equal"](index, -size))
    kept = TABLE["where"](broadcast_to(inside, updates.shape), updates, 0)
    return apply(value.operation, kept, TABLE["where"](inside, index, 0))


def _gather(value: Value) -> Value:
    """Negative indices count from the end. An axis without places has no number for any index."""
    x, index = value.operands
    if not x.size:
        return constant(nan if value.dtype.is_floating else 0, value.dtype, value.shape)
    return apply(value.operation, x, _wrapped(index, x.shape[value.operation.axis]))


def _scan(value: Value) -> Value:
    """A running sum along one element is that element."""
    return value.operands[0] if value.shape[value.operation.axis] <= 1 else value


def _wrapped(index: Value, size: int) -> Value:
    """Negative indices counted from the end, once, in a dtype that holds every place. The reference refuses what is still outside.

    Unsigned ones have none, and those of a program prepared before are done.
    """
    done = index
    while isinstance(done.operation, VIEWS):
        (done,) = done.operands
    index = cast(index, types.int64) if index.dtype.itemsize < 4 else index
    if index.dtype.family == "uint" or (isinstance(done.operation, Within) and done.operation.what == INDEX):
        return index
    wrapped = TABLE["where"](TABLE["less"](index, 0), TABLE["add"](index, constant(size, index.dtype)), index)
    return apply(Within(size, INDEX, f"an axis of size {size}"), wrapped)


INDEX = "index"
VIEWS = (Broadcast, Reshape, Permute, Cast)
Rule = Callable[[Value], Value]
RULES: dict[type, Rule] = {Cumulative: _scan, Reduce: _reduce, ScatterAdd: _scatter, Gather: _gather}
