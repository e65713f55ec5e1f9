"""Finds the Values that a result does not depend on although they are used: the maximum that a softmax subtracts.

If r is replaced by r + t, a Value may grow by c·t (a shift) or by a factor exp(c·t) (a scale). Followed through the graph,
the numbers c say, over the reals, that softmax and log-sum-exp are the same for every r. Its cotangent is then cut, by proof.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, isinf, prod
from typing import Any

from gradc.ir import Graph, Value, apply, on_behalf_of, users_of, with_operands
from gradc.leaves import Broadcast, Cast, Reshape, constant_of
from gradc.structure import Contract, Marker, Permute, Reduce, StopGradient


@dataclass(frozen=True)
class Growth:
    """How a Value changes with r: by adding amount·r ("shift") or multiplying by exp(amount·r) ("scale").

    `axes[i]` is the dimension of the Value that runs along the i-th dimension of r that is longer than 1.
    """

    kind: str
    amount: float
    axes: tuple[int, ...]


class Dependent(Exception):
    """Raised where a Value depends on r in another way."""


def cut_invariant(graph: Graph) -> Graph:
    """The graph with a stop_gradient on every maximum and minimum that no output depends on."""
    users = users_of(graph.values)
    outputs = set(graph.outputs)
    peaks = [value for value in graph.values if _is_peak(value)]
    cut = {peak for peak in peaks if peak.dtype.is_floating and _is_irrelevant(peak, users, outputs)}
    if not cut:
        return graph
    new: dict[Value, Value] = {}
    for value in graph.values:
        copy = with_operands(value, tuple(new[operand] for operand in value.operands))
        new[value] = _stopped(copy) if value in cut else copy
    return Graph(graph.inputs, tuple(new[output] for output in graph.outputs), graph.output_names, graph.title)


def _is_peak(value: Value) -> bool:
    """The greatest or least of many elements, or of two Values: `maximum(max(scores), bound)` is subtracted too."""
    if isinstance(value.operation, Reduce):
        return value.operation.kind in ("max", "min")
    return value.operation.name in ("maximum", "minimum")


def _stopped(value: Value) -> Value:
    with on_behalf_of(value, value.note):
        stopped = apply(StopGradient(), value)
    stopped.name = value.name
    return stopped


def _is_irrelevant(root: Value, users: dict[Value, list[Value]], outputs: set[Value]) -> bool:
    """Whether no output depends on `root`: its growth dies out on every path. Walks no further than it lives."""
    if all(isinstance(user.operation, StopGradient) for user in users[root]) or root in outputs:
        return False
    growths = {root: Growth("shift", 1.0, tuple(axis for axis, size in enumerate(root.shape) if size != 1))}
    waiting = {user.number: user for user in users[root]}
    try:
        while waiting:
            value = waiting.pop(min(waiting))  # operands are older, so their growth is known
            growth = growth_of(value, [growths.get(operand) for operand in value.operands])
            if growth is None:
                continue
            if value in outputs:
                return False
            growths[value] = growth
            waiting.update((user.number, user) for user in users[value])
    except Dependent:
        return False
    return True


def growth_of(value: Value, growths: list[Growth | None]) -> Growth | None:
    """The growth of a Value from those of its operands; None where it does not depend on r. Raises Dependent otherwise."""
    if not value.dtype.is_floating or not any(growths):  # what is not floating is constant between its jumps
        return None
    if isinstance(value.operation, StopGradient):  # no cotangent comes back this way: for the derivative it is a constant
        return None
    if value.operation.name in ELEMENTWISE and hasattr(value.operation, "partials"):
        growth = ELEMENTWISE[value.operation.name](value, growths)
    else:
        growth = _structural(value, growths)
    return None if growth is None or growth.amount == 0 else growth


def _structural(value: Value, growths: list[Growth | None]) -> Growth | None:
    operation, growth = value.operation, growths[0]
    if isinstance(operation, Contract):
        return _contract(operation, growths)
    if growth is None or any(growths[1:]):
        raise Dependent
    if isinstance(operation, Cast | Marker):
        return growth
    if isinstance(operation, Broadcast):
        return replace(growth, axes=tuple(operation.axes[axis] for axis in growth.axes))
    if isinstance(operation, Permute):
        return replace(growth, axes=tuple(operation.axes.index(axis) for axis in growth.axes))
    if isinstance(operation, Reduce):
        return _reduce(value, growth)
    if isinstance(operation, Reshape):
        return _reshape(value, growth)
    raise Dependent


def _reduce(value: Value, growth: Growth) -> Growth:
    """A sum of n shifts is n times the shift; a sum of scales and an extremum of either is one itself."""
    kind, axes = value.operation.kind, value.operation.axes
    if kind not in ("sum", "max", "min") or set(axes) & set(growth.axes):
        raise Dependent
    count = prod(value.operands[0].shape[axis] for axis in axes) if kind == "sum" and growth.kind == "shift" else 1
    remaining = [axis for axis in range(value.operands[0].ndim) if axis not in axes]
    return replace(growth, amount=growth.amount * count, axes=tuple(remaining.index(axis) for axis in growth.axes))


def _reshape(value: Value, growth: Growth) -> Growth:
    """A reshape that only adds or drops dimensions of size 1 keeps the others in order."""
    before, after = value.operands[0].shape, value.shape
    old, new = ([i for i, size in enumerate(shape) if size != 1] for shape in (before, after))
    if [before[i] for i in old] != [after[i] for i in new] or not set(growth.axes) <= set(old):
        raise Dependent
    return replace(growth, axes=tuple(new[old.index(axis)] for axis in growth.axes))


def _contract(operation: Contract, growths: list[Growth | None]) -> Growth:
    """Scales multiply, if r does not vary along what is summed."""
    found = []
    for growth, labels in zip(growths, (operation.lhs, operation.rhs), strict=True):
        if growth is not None:
            along = [labels[axis] for axis in growth.axes]
            if growth.kind != "scale" or not set(along) <= set(operation.out):
                raise Dependent
            found.append(Growth("scale", growth.amount, tuple(operation.out.index(label) for label in along)))
    return _merged(found, sum(growth.amount for growth in found))


def _merged(growths: list[Growth], amount: float) -> Growth:
    """Growths of one kind along the same axes, with another amount."""
    if len({(growth.kind, growth.axes) for growth in growths}) != 1:
        raise Dependent
    return replace(growths[0], amount=amount)


def _sum(sign: int) -> Any:
    """Shifts add; equal scales stay."""

    def rule(value: Value, growths: list[Growth | None]) -> Growth:
        a, b = growths
        found = [growth for growth in growths if growth is not None]
        if found[0].kind == "shift":
            return _merged(found, (a.amount if a else 0) + sign * (b.amount if b else 0))
        if a is None or b is None or a.amount != b.amount:
            raise Dependent
        return _merged(found, a.amount)

    return rule


def _product(sign: int) -> Any:
    """Scales add their exponents; a number multiplies a shift."""

    def rule(value: Value, growths: list[Growth | None]) -> Growth:
        a, b = growths
        found = [growth for growth in growths if growth is not None]
        if found[0].kind == "scale":
            return _merged(found, (a.amount if a else 0) + sign * (b.amount if b else 0))
        number = constant_of(value.operands[1 if a else 0])
        if number is None or not isfinite(number) or (sign < 0 and (b or not number)):
            raise Dependent
        return _merged(found, found[0].amount * number if sign > 0 else found[0].amount / number)

    return rule


def _one(before: str, after: str, factor: float) -> Any:
    """A function of one operand that turns one kind of growth into another."""

    def rule(value: Value, growths: list[Growth | None]) -> Growth:
        (growth,) = growths
        if growth is None or growth.kind != before:
            raise Dependent
        return Growth(after, factor * growth.amount, growth.axes)

    return rule


def _negative(value: Value, growths: list[Growth | None]) -> Growth:
    (growth,) = growths
    assert growth is not None
    return replace(growth, amount=-growth.amount) if growth.kind == "shift" else growth


def _where(value: Value, growths: list[Growth | None]) -> Growth | None:
    """Both sides grow alike, or one is a number that growth does not change: ±inf under a shift, 0 under a scale."""
    sides = list(zip(growths[1:], value.operands[1:], strict=True))
    found = [growth for growth, _ in sides if growth is not None]
    for growth, side in sides:
        number = constant_of(side)
        fixed = number is not None and (isinf(number) if found[0].kind == "shift" else number == 0)
        if growth is None and not fixed:
            raise Dependent
    if len({growth.amount for growth in found}) != 1:
        raise Dependent
    return _merged(found, found[0].amount)


ELEMENTWISE = {
    "add": _sum(1),
    "subtract": _sum(-1),
    "multiply": _product(1),
    "divide": _product(-1),
    "negative": _negative,
    "reciprocal": _one("scale", "scale", -1),
    "sqrt": _one("scale", "scale", 0.5),
    "rsqrt": _one("scale", "scale", -0.5),
    "exp": _one("shift", "scale", 1),
    "log": _one("scale", "shift", 1),
    "where": _where,
}
