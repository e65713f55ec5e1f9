"""Rewrites of reductions, contractions and scatters: what does not vary along a summed axis leaves the sum.

This is what makes the fast backward appear: after it the quotient rule of `sum(e·v)/l` needs no pass over the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gradc import types
from gradc.ir import Value, apply
from gradc.leaves import Broadcast, Cast, Input, Iota, Reshape, broadcast_to, cast, constant, constant_of
from gradc.ranges import is_at_most_one
from gradc.rewrites.matching import (
    Factor,
    built,
    dropped,
    factors,
    fits_instead,
    inside,
    is_constant_along,
    is_deviation,
    is_made_of_written,
    is_share,
    put_together,
    spread,
    without,
)
from gradc.rewrites.rule import DERIVATIVE, REAL, rewrite
from gradc.structure import Contract, Permute, Reduce

MOST_TERMS = 32  # of a sum that is split: each becomes a reduction of its own
FOLDS = ("sum", "prod", "max", "min", "any", "all")


@rewrite(*FOLDS)
def single_elements(value: Value) -> Value | None:
    """Folding axes of size 1, or no axes, only drops them."""
    x, operation = value.operands[0], value.operation
    axes = tuple(axis for axis in operation.axes if x.shape[axis] != 1)
    if len(axes) == len(operation.axes):
        return None if axes else x
    flat = apply(Reshape(tuple(n for i, n in enumerate(x.shape) if i in axes or i not in operation.axes)), x)
    kept = [i for i in range(x.ndim) if i in axes or i not in operation.axes]
    return apply(Reduce(operation.kind, tuple(kept.index(axis) for axis in axes)), flat) if axes else flat


@rewrite(*FOLDS, holds=REAL)
def merge_folds(value: Value) -> Value | None:
    """A fold of a fold of its kind is one fold over both axes. Sums may round differently."""
    x, operation = value.operands[0], value.operation
    if not isinstance(x.operation, Reduce) or x.operation.kind != operation.kind:
        return None
    remaining = without(x.operation.axes, x.operands[0].shape)
    axes = sorted((*x.operation.axes, *(remaining[axis] for axis in operation.axes)))
    return apply(Reduce(operation.kind, tuple(axes)), x.operands[0])


@rewrite(*FOLDS)
def fold_of_permuted(value: Value) -> Value | None:
    """A fold of a permuted array is a permuted fold, usually of nothing."""
    x, operation = value.operands[0], value.operation
    if not isinstance(x.operation, Permute):
        return None
    axes = sorted(x.operation.axes[axis] for axis in operation.axes)
    kept = [axis for i, axis in enumerate(x.operation.axes) if i not in operation.axes]
    order = tuple(sorted(kept).index(axis) for axis in kept)
    return apply(Permute(order), apply(Reduce(operation.kind, tuple(axes)), x.operands[0]))


@rewrite("sum")
def empty_sum(value: Value) -> Value | None:
    """The sum of nothing is 0."""
    return None if value.operands[0].size else constant(0, value.dtype, value.shape)


@rewrite("sum", "max", "min", "any", "all", holds=REAL)
def fold_of_repeated(value: Value) -> Value | None:
    """The sum of n equal numbers is n times one of them, their extremum one of them. One rounding; n·x may not overflow late."""
    x, operation = value.operands[0], value.operation
    repeated = [axis for axis in operation.axes if isinstance(x.operation, Broadcast) and axis not in x.operation.axes]
    count = prod(x.shape[axis] for axis in repeated)
    if not repeated or x.size == 0 or (operation.kind == "sum" and not (x.dtype.is_floating or count < 128)):
        return None  # an integer count might not fit
    one = dropped(x, repeated)
    if operation.kind == "sum":
        one = built("multiply", one, constant(count, x.dtype, one.shape))
    kept = without(repeated, x.shape)
    return apply(Reduce(operation.kind, tuple(kept.index(axis) for axis in operation.axes if axis in kept)), one)


@rewrite("sum", holds=REAL)
def factors_leave_sum(value: Value) -> Value | None:
    """sum_k(f·x_k) = f·sum_k x_k, sum_k(x_k/l) = (sum_k x_k)/l, sum_k(-x_k) = -sum_k x_k.

    The rounding differs, an overflow may come earlier or later. An infinite f beside an x_k = 0 gives inf where the terms
    gave nan; l = 0 gives nan or inf as before. Sums over nothing stay 0 (`empty_sum` comes first).
    """
    rest, steps = factors(value.operands[0], value.operation.axes, bool(value.note))
    if rest is None or not (steps or (value.note and is_share(rest, value.operation.axes))):
        return None
    return _summed(value, rest, steps)


@rewrite("sum", holds=DERIVATIVE)
def selection_leaves_sum(value: Value) -> Value | None:
    """sum_k(where(c, x_k, 0)) = where(c, sum_k x_k, 0) for a c that does not vary along what is summed."""
    axes, selected = value.operation.axes, inside(value.operands[0], "where")
    if not selected or constant_of(selected[2]) != 0 or not is_constant_along(selected[0], axes):
        return None
    return built(
        "where", dropped(selected[0], axes), apply(value.operation, selected[1]), constant(0, value.dtype, value.shape)
    )


@rewrite("contract", holds=DERIVATIVE)
def selection_leaves_contraction(value: Value) -> Value | None:
    """contract(where(c, x, 0), y) = where(c, contract(x, y), 0) for a c that does not vary along what is summed.

    Where y is infinite or nan and c does not hold, 0·y was nan.
    """
    operation = value.operation
    for side, labels in enumerate((operation.lhs, operation.rhs)):
        selected = inside(value.operands[side], "where")
        summed = [i for i, label in enumerate(labels) if label not in operation.out]
        if not selected or constant_of(selected[2]) != 0 or not is_constant_along(selected[0], summed):
            continue
        own = [operation.out.index(label) for label in labels if label in operation.out]
        condition = spread(dropped(selected[0], summed), value.shape, own)
        pair = (selected[1], value.operands[1]) if side == 0 else (value.operands[0], selected[1])
        return built("where", condition, apply(operation, *pair), constant(0, value.dtype, value.shape))
    return None


def _summed(value: Value, rest: Value, steps: Sequence[Factor]) -> Value:
    """The sum of what varies, with what does not put back; in a derivative 0 for the deviations from a mean, 1 for shares of a sum.

    An infinite or nan deviation or share comes from an x that makes the other terms of its derivative nan.
    """
    if value.note and is_deviation(rest, value.operation.axes):
        return constant(0, value.dtype, value.shape)
    if value.note and is_share(rest, value.operation.axes):
        return put_together(constant(1, value.dtype, value.shape), steps)
    return put_together(apply(value.operation, rest), steps)


@rewrite("sum", holds=DERIVATIVE)
def split_sum(value: Value) -> Value | None:
    """sum_k(f·x_k + g·y_k) = f·sum_k x_k + g·sum_k y_k, when a term has a factor that may leave and no term is only a factor.

    So the backward of layer_norm needs its row sums at once, in one pass, where a sum of the whole would wait for the
    first. (sum_k(x_k - m) stays whole: it would cancel.)
    """
    axes = value.operation.axes
    parts = [(sign, *factors(term, axes, True)) for sign, term in _terms(value.operands[0])]
    varying = [(sign, rest, steps) for sign, rest, steps in parts if rest is not None]
    if len(parts) < 2 or len(varying) < len(parts) or not any(name != "negative" for *_, steps in parts for name, _ in steps):
        return None
    result: Value | None = None
    for sign, rest, steps in varying:
        part = _summed(value, rest, steps)
        if result is None:
            result = part if sign > 0 else built("negative", part)
        else:
            result = built("add" if sign > 0 else "subtract", result, part)
    return result


def _terms(value: Value) -> list[tuple[int, Value]]:
    """The terms of nested sums and differences, with their signs; the whole where there are more than MOST_TERMS."""
    found, waiting = list[tuple[int, Value]](), [(1, value)]
    while waiting:
        sign, term = waiting.pop()
        if operands := inside(term, "negative"):
            waiting.append((-sign, operands[0]))
        elif operands := inside(term, "add"):
            waiting += [(sign, operands[1]), (sign, operands[0])]
        elif operands := inside(term, "subtract"):
            waiting += [(-sign, operands[1]), (sign, operands[0])]
        else:
            found.append((sign, term))
        if len(found) + len(waiting) > MOST_TERMS:
            return [(1, value)]
    return found


@rewrite("permute")
def permuted_contraction(value: Value) -> Value | None:
    """A permuted contraction writes its result in that order."""
    x = value.operands[0]
    if not isinstance(x.operation, Contract):
        return None
    operation = x.operation
    return apply(
        Contract(operation.lhs, operation.rhs, tuple(operation.out[axis] for axis in value.operation.axes)), *x.operands
    )


@rewrite("contract")
def contraction_of_permuted(value: Value) -> Value | None:
    """A contraction reads a permuted operand in the order it was in."""
    operation, operands, labels = value.operation, list(value.operands), [value.operation.lhs, value.operation.rhs]
    for side, x in enumerate(value.operands):
        if isinstance(x.operation, Permute):
            axes = x.operation.axes
            labels[side] = tuple(labels[side][axes.index(i)] for i in range(x.ndim))
            operands[side] = x.operands[0]
    changed = any(a is not b for a, b in zip(operands, value.operands, strict=True))
    return apply(Contract(labels[0], labels[1], operation.out), *operands) if changed else None


@rewrite("contract", holds=REAL)
def contraction_of_repeated(value: Value) -> Value | None:
    """A contraction with a repeated operand contracts what is repeated: the other operand is summed first where it must be.

    Not in float16 where that sum, which may overflow, would still be multiplied by the matrix unit.
    """
    for side in (0, 1):
        x, labels = value.operands[side], (value.operation.lhs, value.operation.rhs)[side]
        if isinstance(x.operation, Broadcast) and 0 not in x.shape:
            repeated = without(x.operation.axes, x.shape)
            found = _contracted(value, side, dropped(x, repeated), [labels[axis] for axis in repeated])
            if found is not None:
                return found
    return None


def _contracted(value: Value, side: int, x: Value, gone: Sequence[int]) -> Value | None:
    """The contraction with `x`, which lacks the labels `gone`, in place of operand `side`; None where that leaves the range."""
    operation, other = value.operation, value.operands[1 - side]
    labels, others = (operation.lhs, operation.rhs)[:: 1 - 2 * side]
    labels = tuple(label for label in labels if label not in gone)
    summed = tuple(i for i, label in enumerate(others) if label in gone and label not in operation.out)
    if summed:
        if value.dtype == types.float16 and not set(labels) <= set(operation.out):
            return None
        other, others = apply(Reduce("sum", summed), other), tuple(label for i, label in enumerate(others) if i not in summed)
    out = tuple(label for label in operation.out if label in labels or label in others)
    product = apply(Contract(labels, others, out), x, other) if side == 0 else apply(Contract(others, labels, out), other, x)
    return spread(product, value.shape, [operation.out.index(label) for label in out])


@rewrite("contract", holds=REAL)
def contraction_as_sum(value: Value) -> Value | None:
    """A contraction where one side has no label of its own, or nothing is summed, is a product and a sum.

    The operands are no longer rounded to 16 bits first.
    """
    operation, (x, y) = value.operation, value.operands
    sizes = dict(zip((*operation.lhs, *operation.rhs), (*x.shape, *y.shape), strict=True))
    long = {label for label, size in sizes.items() if size != 1}
    summed = [label for label in sizes if label not in operation.out]
    if (
        long & set(summed)
        and long & (set(operation.lhs) - set(operation.rhs))
        and long & (set(operation.rhs) - set(operation.lhs))
    ):
        return None
    wide, narrow = (operation.lhs, operation.rhs) if x.ndim >= y.ndim else (operation.rhs, operation.lhs)
    order = [*wide, *(label for label in narrow if label not in wide)]
    shape = tuple(sizes[label] for label in order)
    product = built(
        "multiply",
        *(spread(v, shape, [order.index(i) for i in labels]) for v, labels in ((x, operation.lhs), (y, operation.rhs))),
    )
    result = apply(Reduce("sum", tuple(sorted(order.index(label) for label in summed))), product)
    kept = [label for label in order if label in operation.out]
    return apply(Permute(tuple(kept.index(label) for label in operation.out)), result)


@rewrite("contract", holds=REAL)
def factors_leave_contraction(value: Value) -> Value | None:
    """contract(x/l, y) = contract(x, y)/l for an l that does not vary along what is summed; numbers and signs likewise.

    In derivatives every such factor leaves; in what the user wrote only numbers, signs and divisors do, because the
    derivative of o = a·f needs a, which nothing keeps, where that of o = a/l needs only o. Floats as in `factors_leave_sum`,
    but nothing is rounded to float16 that may lie outside its range where x/l did not. What has left one contraction stops before
    the next: x/l is what the user wrote, and what is kept.
    """
    operation = value.operation
    for side, labels in enumerate((operation.lhs, operation.rhs)):
        x = value.operands[side]
        summed = [i for i, label in enumerate(labels) if label not in operation.out]
        if is_constant_along(x, summed) or 0 in x.shape:
            continue
        rest, steps = factors(x, summed, bool(value.note))
        if rest is None or not steps or not (value.note or all(_is_light(step) for step in steps)):
            continue
        if not fits_instead(rest, steps, x) or (isinstance(rest.operation, Contract) and rest.auxiliary and not x.auxiliary):
            continue
        own = [operation.out.index(label) for label in labels if label in operation.out]
        spread_steps = [(name, None if other is None else spread(other, value.shape, own)) for name, other in steps]
        pair = (rest, value.operands[1]) if side == 0 else (value.operands[0], rest)
        return put_together(apply(operation, *pair), spread_steps)
    return None


@rewrite("contract", holds=REAL)
def divisors_leave_rounded_contraction(value: Value) -> Value | None:
    """contract(short(x/l), y) = short(contract(short(x), y)/l) for an l that does not vary along what is summed.

    What is rounded to 16 bits is another number, as far off. Nothing overflows that did not: bfloat16 has the exponents of float32, and for
    float16 x is at most 1, the exponential of what is less its own maximum. So the weights of attention need not wait for their sum.
    """
    operation = value.operation
    for side, labels in enumerate((operation.lhs, operation.rhs)):
        rounded = value.operands[side]
        if value.note or value.dtype.itemsize != 2 or rounded.operation != Cast(value.dtype) or 0 in rounded.shape:
            continue
        summed = [i for i, label in enumerate(labels) if label not in operation.out]
        rest, steps = factors(rounded.operands[0], summed, False)
        if rest is None or rest.dtype != types.float32 or not steps or any(name != "divide" for name, _ in steps):
            continue
        if value.dtype != types.bfloat16 and not is_at_most_one(rest):
            continue
        own = [operation.out.index(label) for label in labels if label in operation.out]
        spread_steps = [(name, None if other is None else spread(other, value.shape, own)) for name, other in steps]
        x = cast(rest, value.dtype)
        product = apply(operation, *((x, value.operands[1]) if side == 0 else (value.operands[0], x)))
        return cast(put_together(cast(product, types.float32), spread_steps), value.dtype)
    return None


def _is_light(step: Factor) -> bool:
    """Whether a factor may leave what the user wrote: a sign, a divisor, or a number."""
    name, other = step
    return other is None or name == "divide" or constant_of(other) is not None


@rewrite("contract", holds=DERIVATIVE)
def divisors_join_what_is_computed(value: Value) -> Value | None:
    """contract(e, x/l) = contract(e/l, x) for an argument x: it meets the matrix unit as it is, and only e/l is rounded.

    l varies along dimensions of both alone. Where l is 0, both sides are inf or nan. In float16, where little may be left of a small
    quotient, it is done to those alone that a rewrite made of what the user wrote.
    """
    operation = value.operation
    for side, labels in enumerate((operation.lhs, operation.rhs)):
        x, l = inside(value.operands[side], "divide") or (None, None)
        other, others = value.operands[1 - side], (operation.rhs, operation.lhs)[side]
        if x is None or l is None or not isinstance(l.operation, Broadcast):
            continue
        along = [labels[axis] for axis in l.operation.axes]
        narrow = value.dtype == types.float16
        wanted = is_made_of_written(value.operands[side]) if narrow else _is_given(x) and not _is_given(other)
        if not wanted or not set(along) <= set(others):
            continue
        quotient = built("divide", other, spread(l.operands[0], other.shape, [others.index(label) for label in along]))
        quotient.auxiliary = not narrow and quotient.auxiliary  # this is what the user divided
        return apply(operation, *((x, quotient) if side == 0 else (quotient, x)))
    return None


def _is_given(value: Value) -> bool:
    """Whether a Value is an argument, or the same numbers in another order."""
    while isinstance(value.operation, Reshape | Permute):
        (value,) = value.operands
    return isinstance(value.operation, Input)


@rewrite("scatter_add")
def scatter_of_one(value: Value) -> Value | None:
    """A scatter of one element along its axis is a selection: where(position == index, update, 0). Outside the axis it adds nothing."""
    updates, index = value.operands
    axis, size = value.operation.axis, value.operation.size
    if updates.shape[axis] != 1 or index.shape[axis] != 1 or value.size == 0:
        return None
    place = index = cast(index, types.int64) if index.dtype.itemsize < 4 else index  # every position fits in 32 bits
    if index.dtype.family == "int":
        end = constant(size, index.dtype, index.shape)
        place = built("where", built("less", index, constant(0, index.dtype, index.shape)), built("add", index, end), index)
    position = spread(apply(Iota(size, index.dtype)), value.shape, [axis])
    hit = built("equal", position, broadcast_to(place, value.shape))
    return built("where", hit, broadcast_to(updates, value.shape), constant(0, value.dtype, value.shape))
