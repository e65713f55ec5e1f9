"""What rewrites see in a Value: a number, a sign, a quotient, factors that do not depend on an axis. Makes no decision."""

from __future__ import annotations

from collections.abc import Sequence

from gradc import types
from gradc.ir import Value, apply
from gradc.leaves import Broadcast, Cast, Constant, Input, Literal, Reshape, constant, constant_of
from gradc.ranges import is_at_most_one
from gradc.structure import Permute, Reduce, StopGradient
from gradc.table import TABLE
from gradc.types import Shape

Factor = tuple[str, Value | None]  # an operation on the rest ("multiply", "divide", "negative") and its other operand


def built(name: str, *operands: Value) -> Value:
    """A row of the table on operands that already fit."""
    return apply(TABLE[name], *operands)


def inside(value: Value, name: str) -> tuple[Value, ...] | None:
    """The operands of a Value of the named row, or None."""
    return value.operands if value.operation is TABLE[name] else None


def spread(x: Value, shape: Shape, axes: Sequence[int]) -> Value:
    """`x` broadcast so that its dimension i is result dimension axes[i], in any order; `x` itself when nothing changes."""
    order = sorted(range(len(axes)), key=axes.__getitem__)
    if order != list(range(len(axes))):
        x, axes = apply(Permute(tuple(order)), x), [axes[i] for i in order]
    return x if x.shape == tuple(shape) and len(axes) == len(shape) else apply(Broadcast(tuple(shape), tuple(axes)), x)


def without(axes: Sequence[int], shape: Shape) -> tuple[int, ...]:
    """The dimensions of `shape` other than `axes`."""
    return tuple(i for i in range(len(shape)) if i not in axes)


def is_constant_along(value: Value, axes: Sequence[int]) -> bool:
    """Whether the Value is a repetition along all of `axes`."""
    return isinstance(value.operation, Broadcast) and not any(axis in axes for axis in value.operation.axes)


def dropped(value: Value, axes: Sequence[int]) -> Value:
    """A Value constant along `axes`, with those dimensions gone."""
    kept = without(axes, value.shape)
    return spread(value.operands[0], tuple(value.shape[i] for i in kept), [kept.index(axis) for axis in value.operation.axes])


def factors(value: Value, axes: Sequence[int], opaque: bool, depth: int = 12) -> tuple[Value | None, list[Factor]]:
    """Splits a Value into what varies along `axes` (None for 1) and what does not, as steps that put it together again.

    The other operands of the steps come with `axes` dropped. (x·f)/l gives (x, [multiply f, divide l]). With `opaque`, what
    the user computed stays whole (a derivative should read it, not take it apart): only what differentiation made is split.
    Of where(c, x/l, 0) the divisor is that of the whole; where l is 0 or nan, what is left out is nan too. Products and the rest
    are looked into for `depth` of them.
    """
    if is_constant_along(value, axes):
        return None, [("multiply", dropped(value, axes))]
    if (opaque and not value.note) or not depth:
        return value, []
    if operands := inside(value, "negative"):
        rest, steps = factors(operands[0], axes, opaque, depth - 1)
        return rest, [*steps, ("negative", None)]
    if operands := inside(value, "multiply"):
        (a, steps_a), (b, steps_b) = (factors(operand, axes, opaque, depth - 1) for operand in operands)
        if steps_a or steps_b:
            return built("multiply", a, b) if a is not None and b is not None else a if b is None else b, [*steps_a, *steps_b]
    if operands := inside(value, "divide"):
        rest, steps = factors(operands[0], axes, opaque, depth - 1)
        if is_constant_along(operands[1], axes):
            return rest, [*steps, ("divide", dropped(operands[1], axes))]
        if steps and rest is not None:
            return built("divide", rest, operands[1]), steps
    if (operands := inside(value, "where")) and constant_of(operands[2]) == 0:
        rest, steps = factors(operands[1], axes, opaque, depth - 1)
        if steps and rest is not None:
            return built("where", operands[0], rest, operands[2]), steps
    return value, []


def put_together(rest: Value, steps: Sequence[Factor]) -> Value:
    """The steps of `factors` applied to `rest`, whose shape the other operands have."""
    for name, other in steps:
        rest = built(name, rest) if other is None else built(name, rest, other)
    return rest


def negated(value: Value, depth: int = 3, nested: int = 8) -> Value | None:
    """The w of a Value that is visibly -w: a negation, a repetition or a choice (or 0) of one, a product with a negative factor.

    Products are looked into for a `depth` of them, repetitions and choices for `nested` ones.
    """
    if operands := inside(value, "negative"):
        return operands[0]
    if isinstance(value.operation, Broadcast):
        inner = negated(value.operands[0], nested=nested - 1) if nested else None
        return None if inner is None else apply(value.operation, inner)
    for number, other in numbered(value):
        if number < 0 and value.dtype.is_floating:
            return built("multiply", other, constant(-number, value.dtype, value.shape))
    if operands := inside(value, "where"):
        condition, yes, no = operands
        return _negated_selection(condition, yes, no, nested - 1) if nested else None
    a, b = inside(value, "multiply") or (None, None)
    if a is None or b is None or not depth:
        return None
    minus_a, minus_b = negated(a, depth - 1, nested), negated(b, depth - 1, nested)
    if (minus_a is None) == (minus_b is None):
        return None
    return built("multiply", a if minus_a is None else minus_a, b if minus_b is None else minus_b)


def _negated_selection(condition: Value, yes: Value, no: Value, nested: int) -> Value | None:
    """where(c, w, 0) of where(c, -w, 0), on either side."""
    if constant_of(no) == 0 and (inner := negated(yes, nested=nested)) is not None:
        return built("where", condition, inner, no)
    if constant_of(yes) == 0 and (inner := negated(no, nested=nested)) is not None:
        return built("where", condition, yes, inner)
    return None


def numbered(value: Value) -> list[tuple[bool | int | float, Value]]:
    """(c, x) of a product c·x of a number and something that is none, if it is one."""
    a, b = inside(value, "multiply") or (None, None)
    if a is None or b is None:
        return []
    x, y = constant_of(a), constant_of(b)
    return [(x, b)] if x is not None and y is None else [(y, a)] if y is not None and x is None else []


Divisor = tuple[object, int]


def quotient(value: Value) -> tuple[Value, Value, Divisor] | None:
    """(numerator, divisor, what identifies the divisor) of a quotient, of its negation, or of a repetition of one."""
    if operands := inside(value, "divide"):
        return operands[0], operands[1], _identity(operands[1])
    if operands := inside(value, "negative"):
        found = quotient(operands[0])
        return None if found is None else (built("negative", found[0]), found[1], found[2])
    if isinstance(value.operation, Broadcast):
        found = quotient(value.operands[0])
        if found is not None:
            top, bottom = (spread_again(part, value.operation) for part in found[:2])
            return top, bottom, _identity(bottom)
    return None


def _identity(value: Value) -> Divisor:
    """What two equal Values share when one of them is a repetition that was only just written down."""
    if isinstance(value.operation, Broadcast):
        return value.operation, value.operands[0].number
    return None, value.number


def spread_again(x: Value, broadcast: Broadcast) -> Value:
    """`x` under a broadcast, as one broadcast."""
    if not isinstance(x.operation, Broadcast):
        return apply(broadcast, x)
    return apply(Broadcast(broadcast.shape, tuple(broadcast.axes[axis] for axis in x.operation.axes)), x.operands[0])


def is_deviation(value: Value, axes: Sequence[int]) -> bool:
    """Whether the Value is x - mean(x) over `axes`, whose sum over them is 0."""
    x, mean = inside(value, "subtract") or (None, None)
    if x is None or mean is None or not is_constant_along(mean, axes):
        return False
    top, bottom = inside(dropped(mean, axes), "divide") or (None, None)
    if top is None or bottom is None or not isinstance(top.operation, Reduce):
        return False
    count = 1
    for axis in axes:
        count *= value.shape[axis]
    return top.operation == Reduce("sum", tuple(axes)) and top.operands[0] is x and constant_of(bottom) == count


def is_share(value: Value, axes: Sequence[int]) -> bool:
    """Whether the Value is e/sum(e) over `axes`, whose sum over them is 1."""
    e, total = inside(value, "divide") or (None, None)
    if e is None or total is None or not is_constant_along(total, axes):
        return False
    whole = dropped(total, axes)
    return whole.operation == Reduce("sum", tuple(axes)) and whole.operands[0] is e


def fits_instead(rest: Value, steps: Sequence[Factor], whole: Value) -> bool:
    """Whether `rest` may be rounded to its dtype, as an operand of a contraction is, where `whole`, with these steps, was.

    Only float16 has less than the range of what it is computed in. Taking a number off what lies in memory as float16 is within it,
    taking its sum off what is at most 1, and taking off what a rewrite put there; and so are the derivatives of these.
    """
    if rest.dtype != types.float16 or is_made_of_written(whole):
        return True
    if is_at_most_one(rest):
        return all(name == "divide" for name, _ in steps)
    return _lies_in_memory(rest) and all(other is None or constant_of(other) is not None for _, other in steps)


def is_made_of_written(value: Value) -> bool:
    """Whether a Value is no more than a quotient, a multiple or the negative of what the user wrote, which rewrites made."""
    top: Value | None = value
    while top is not None and top.auxiliary:
        numbers, (first, *_) = numbered(top), inside(top, "divide") or inside(top, "negative") or (None,)
        top = numbers[0][1] if numbers else first
    return value.auxiliary and top is not None


def _lies_in_memory(x: Value) -> bool:
    """Whether a Value is an argument, a number or something cast, repeated or seen in another order."""
    while isinstance(x.operation, Broadcast | Reshape | Permute | StopGradient) or inside(x, "negative"):
        (x,) = x.operands
    return isinstance(x.operation, Input | Literal | Cast | Constant)


def squeezed(x: Value) -> Value:
    """`x` without its dimensions of size 1."""
    shape = tuple(size for size in x.shape if size != 1)
    return x if shape == x.shape else apply(Reshape(shape), x)
