"""What is known of the elements of a Value before the program runs: an interval, found once.

Every operation says the interval of its results (`interval`); this file walks, and knows two relations between Values: what is
subtracted from itself as a maximum leaves nothing positive, and a sum of the exponentials of such differences holds a 1.
"""

from __future__ import annotations

from math import inf

import numpy as np

from gradc.interval import Interval, image
from gradc.ir import Value, inherited
from gradc.leaves import Broadcast, Reshape
from gradc.structure import Reduce, StopGradient
from gradc.table import TABLE


@inherited
def interval_of(value: Value, operands: list[Interval]) -> Interval:
    """The interval of a Value's elements."""
    if is_below_its_maximum(value):
        return Interval(-inf, 0.0, operands[0].finite)
    found: Interval = value.operation.interval(value, tuple(operands))
    return Interval(1.0, found.high, found.finite) if _holds_a_one(value) else found


def given_interval(value: Value, interval: Interval) -> Value:
    """An input of whose elements so much is known."""
    value.inherited[interval_of.__wrapped__] = interval  # type: ignore[attr-defined]
    return value


def may_be_zero(value: Value) -> bool:
    """Whether an element may be 0 or nan, or so small that its reciprocal overflows."""
    return not image(np.reciprocal, (interval_of(value),), (0,), True, value.dtype.compute.name).finite


def is_at_most_one(value: Value) -> bool:
    """Whether every element lies between 0 and 1, as an exponential of what is below its maximum does."""
    found = interval_of(value)
    return found.low >= 0 and found.high <= 1


def is_below_its_maximum(value: Value) -> bool:
    """Whether the Value is x - max(x), over whichever axes: nowhere positive. Normal form may write it -(y + max(-y))."""
    return _peak_under(value) is not None


def _peak_under(value: Value) -> Value | None:
    """The repeated maximum in x - max(x)."""
    if value.operation is TABLE["subtract"]:
        x, peak = value.operands
        return peak if _maximum_of(peak) is _itself(x) else None
    if value.operation is not TABLE["negative"] or value.operands[0].operation is not TABLE["add"]:
        return None
    for y, peak in (value.operands[0].operands, value.operands[0].operands[::-1]):
        top = _maximum_of(peak)
        if top is not None and top.operation is TABLE["negative"] and top.operands[0] is _itself(y):
            return peak
    return None


def _maximum_of(peak: Value) -> Value | None:
    """The x of a max(x) that is repeated along the axes that were folded."""
    if not isinstance(peak.operation, Broadcast):
        return None
    along = [axis for axis in peak.operation.axes if peak.shape[axis] != 1]
    top = peak.operands[0]
    while isinstance(top.operation, StopGradient | Reshape | Broadcast) and top.operands[0].size == top.size:
        top = top.operands[0]
    if not isinstance(top.operation, Reduce) or top.operation.kind != "max":
        return None
    x = _itself(top.operands[0])
    return x if along == [axis for axis in range(x.ndim) if axis not in top.operation.axes and x.shape[axis] != 1] else None


def _itself(x: Value) -> Value:
    """The Value that another is but for its derivative: x for stop_gradient(x) and where(c, x, stop_gradient(x))."""
    found = _inner(x)
    return x if found is None else found


@inherited
def _inner(value: Value, operands: list[Value | None]) -> Value | None:
    """`_itself` where that is another Value."""
    same = [x if inner is None else inner for x, inner in zip(value.operands, operands, strict=True)]
    if isinstance(value.operation, StopGradient):
        return same[0]
    return same[1] if value.operation is TABLE["where"] and same[1] is same[2] else None


def _holds_a_one(value: Value) -> bool:
    """Whether the Value is the sum of exp(x - max(x)) over the axes of the maximum: its greatest term is 1."""
    operation = value.operation
    if not isinstance(operation, Reduce) or operation.kind != "sum" or value.operands[0].operation is not TABLE["exp"]:
        return False
    (power,) = value.operands[0].operands
    peak = _peak_under(power)
    return peak is not None and all(axis in operation.axes for axis in range(power.ndim) if axis not in peak.operation.axes)
