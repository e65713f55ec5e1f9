"""Runs a graph on many examples at once: every Value that depends on a batched one gets a new leading axis.

Gives `vmap` and the Jacobians, whose rows are one linear graph on the vectors of a basis. A class may bring its own rule as
`batched(size, operands, flags)`; those below need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gradc.errors import UnsupportedError
from gradc.ir import Value, apply, on_behalf_of, topological
from gradc.leaves import Broadcast, Cast, Iota, Reshape, cast
from gradc.markers import StraightThrough, Within
from gradc.structure import (
    Concatenate,
    Contract,
    Cumulative,
    Flip,
    Gather,
    Keep,
    Pad,
    Permute,
    Reduce,
    ScatterAdd,
    Slice,
    StopGradient,
    Variable,
)
from gradc.table import TABLE
from gradc.types import DType, Shape, int64

Rule = Callable[[Value, int, list[Value], list[bool]], Value]


def batch_graph(outputs: Sequence[Value], batched: Mapping[Value, Value], size: int) -> list[Value]:
    """The outputs for all `size` examples along a new first axis; `batched` gives the examples of some Values they depend on.

    An output that depends on none of them is repeated. Raises UnsupportedError for an operation without a rule.
    """
    new: dict[Value, Value] = dict(batched)
    for value in topological(outputs, batched):
        flags = [operand in new for operand in value.operands]
        if any(flags):
            operands = [new.get(operand, operand) for operand in value.operands]
            with on_behalf_of(value, value.note):
                new[value] = _batched(value, size, operands, flags)
            new[value].name = value.name
    return [new[output] if output in new else repeated(output, size) for output in outputs]


def repeated(x: Value, size: int) -> Value:
    """`x` for every one of `size` examples."""
    return apply(Broadcast((size, *x.shape), tuple(range(1, x.ndim + 1))), x)


def basis(shape: Shape, dtype: DType) -> Value:
    """The unit vectors of the arrays of a shape, along a new first axis: an identity matrix, reshaped."""
    size = 1
    for extent in shape:
        size *= extent
    place = apply(Iota(size, int64))
    rows, columns = (apply(Broadcast((size, size), (axis,)), place) for axis in (0, 1))
    return apply(Reshape((size, *shape)), cast(TABLE["equal"](rows, columns), dtype))


def _batched(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    operation = value.operation
    if hasattr(operation, "batched"):
        return operation.batched(size, operands, flags)
    rule = _elementwise if hasattr(operation, "partials") else RULES.get(type(operation))
    if rule is None:
        raise UnsupportedError(
            f"{operation.name} has no batching rule", advice="Write the batch axis out in the function.", source=value.source
        )
    return rule(value, size, operands, flags)


def _filled(size: int, operands: Sequence[Value], flags: Sequence[bool]) -> list[Value]:
    """The operands, those without a batch repeated."""
    return [x if flag else repeated(x, size) for x, flag in zip(operands, flags, strict=True)]


def _elementwise(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(value.operation, *_filled(size, operands, flags))


def _shifted(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in axes)


def _broadcast(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Broadcast((size, *value.shape), (0, *_shifted(value.operation.axes))), *operands)


def _reshape(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Reshape((size, *value.shape)), *operands)


def _permute(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Permute((0, *_shifted(value.operation.axes))), *operands)


def _slice(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    operation = value.operation
    return apply(Slice((0, *operation.starts), (size, *operation.stops), (1, *operation.steps)), *operands)


def _pad(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    operation = value.operation
    return apply(Pad((0, *operation.low), (0, *operation.high), (0, *operation.interior)), *operands)


def _flip(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Flip(_shifted(value.operation.axes)), *operands)


def _reduce(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Reduce(value.operation.kind, _shifted(value.operation.axes)), *operands)


def _cumulative(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Cumulative(value.operation.axis + 1, value.operation.reverse), *operands)


def _concatenate(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Concatenate(value.operation.axis + 1), *_filled(size, operands, flags))


def _gather(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(Gather(value.operation.axis + 1), *_with_index(size, operands, flags))


def _scatter_add(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    return apply(ScatterAdd(value.operation.axis + 1, value.operation.size), *_with_index(size, operands, flags))


def _with_index(size: int, operands: list[Value], flags: list[bool]) -> tuple[Value, Value]:
    """An array repeated if it must be, and an index that may keep a batch axis of size 1."""
    (x,) = _filled(size, operands[:1], flags[:1])
    index = operands[1] if flags[1] else apply(Reshape((1, *operands[1].shape)), operands[1])
    return x, index


def _contract(value: Value, size: int, operands: list[Value], flags: list[bool]) -> Value:
    operation = value.operation
    batch = 1 + max((*operation.lhs, *operation.rhs), default=0)
    lhs, rhs = (
        (batch, *labels) if flag else labels for labels, flag in zip((operation.lhs, operation.rhs), flags, strict=True)
    )
    return apply(Contract(lhs, rhs, (batch, *operation.out)), *operands)


RULES: dict[type, Rule] = {
    Broadcast: _broadcast,
    Cast: _elementwise,
    Concatenate: _concatenate,
    Contract: _contract,
    Cumulative: _cumulative,
    Flip: _flip,
    Gather: _gather,
    Keep: _elementwise,
    Pad: _pad,
    Permute: _permute,
    Reduce: _reduce,
    Reshape: _reshape,
    ScatterAdd: _scatter_add,
    Slice: _slice,
    StopGradient: _elementwise,
    StraightThrough: _elementwise,
    Variable: _elementwise,
    Within: _elementwise,
}
