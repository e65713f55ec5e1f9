"""Products that sum over axes: matmul, einsum and their relatives, all as two-operand contractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradc import types
from gradc.errors import DTypeError, ShapeError
from gradc.ir import Value, apply
from gradc.language import reductions
from gradc.language.arguments import normal_axes, value_of
from gradc.language.calls import array_function
from gradc.language.shaping import diagonal, permuted, reshaped
from gradc.leaves import cast
from gradc.ops import TABLE
from gradc.structure import Contract, Reduce

Labels = tuple[Any, ...]


def numbers(*operands: Any) -> tuple[Value, ...]:
    """Operands of a product in their promoted dtype; DTypeError for bools alone."""
    values = [value_of(x) for x in operands]
    dtype = types.promote(*(x.dtype for x in values))
    if dtype == types.bool_:
        raise DTypeError("a product of bool arrays is not defined", advice="Cast one of them with astype.")
    return tuple(cast(x, dtype) for x in values)


def contracted(x: Value, x_labels: Labels, y: Value, y_labels: Labels, out: Labels) -> Value:
    """The product of two labelled arrays, summed over the labels missing from `out`; size-1 dimensions broadcast.

    A label that is summed but stands in one operand alone is summed there first. Where nothing is left to sum, the result
    is a broadcast product, which stays elementwise.
    """
    sizes = label_sizes((x, x_labels), (y, y_labels))
    x, x_labels = without_stretched(x, x_labels, sizes)
    y, y_labels = without_stretched(y, y_labels, sizes)
    x, x_labels = summed(x, x_labels, set(y_labels) | set(out))
    y, y_labels = summed(y, y_labels, set(x_labels) | set(out))
    if set(x_labels) | set(y_labels) == set(out):
        return TABLE["multiply"].on_values(aligned(x, x_labels, out), aligned(y, y_labels, out))
    number = {label: i for i, label in enumerate(dict.fromkeys((*out, *x_labels, *y_labels)))}
    labels = (tuple(number[label] for label in part) for part in (x_labels, y_labels, out))
    return apply(Contract(*labels), x, y)


def label_sizes(*operands: tuple[Value, Labels]) -> dict[Any, int]:
    """The size of each label; 1 gives way to any other."""
    sizes: dict[Any, int] = {}
    for x, labels in operands:
        for label, size in zip(labels, x.shape, strict=True):
            if sizes.setdefault(label, size) != size and 1 not in (size, sizes[label]):
                raise ShapeError(
                    f"shapes {' and '.join(str(v.shape) for v, _ in operands)} differ in a shared dimension: {sizes[label]} and {size}"
                )
            sizes[label] = size if sizes[label] == 1 else sizes[label]
    return sizes


def without_stretched(x: Value, labels: Labels, sizes: dict[Any, int]) -> tuple[Value, Labels]:
    """Drops the size-1 dimensions that another operand's stretch."""
    kept = tuple(i for i, label in enumerate(labels) if x.shape[i] == sizes[label])
    return reshaped(x, tuple(x.shape[i] for i in kept)), tuple(labels[i] for i in kept)


def summed(x: Value, labels: Labels, needed: set) -> tuple[Value, Labels]:
    """Sums the dimensions whose label nobody needs."""
    axes = tuple(i for i, label in enumerate(labels) if label not in needed)
    return (apply(Reduce("sum", axes), x) if axes else x), tuple(label for label in labels if label in needed)


def aligned(x: Value, labels: Labels, out: Labels) -> Value:
    """`x` with its dimensions in the order of `out` and size 1 where it has none."""
    order = tuple(sorted(range(len(labels)), key=lambda i: out.index(labels[i])))
    sizes = dict(zip(labels, x.shape, strict=True))
    return reshaped(permuted(x, order), tuple(sizes.get(label, 1) for label in out))


@array_function
def matmul(x1: Any, x2: Any, /) -> Value:
    """The matrix product over the last two dimensions; leading ones broadcast, a 1-D operand is a row or a column."""
    x, y = numbers(x1, x2)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError("matmul takes arrays of one dimension or more", advice="Use `*` to scale by a number.")
    inner = (x.shape[-1], y.shape[-2 if y.ndim > 1 else -1])
    if inner[0] != inner[1]:
        raise ShapeError(f"the last dimension of the first, {inner[0]}, is not the {'second last' if y.ndim > 1 else 'last'} of the second, {inner[1]}",
                         advice="Transpose one with `.mT`, or name the dimensions with gradc.einsum.")  # fmt: skip
    rank = max(x.ndim, y.ndim) - 2
    batch = tuple(range(rank)) if rank > 0 else ()
    rows = ("row",) if x.ndim > 1 else ()
    columns = ("column",) if y.ndim > 1 else ()
    x_labels = (*batch[len(batch) - max(x.ndim - 2, 0) :], *rows, "inner")
    y_labels = (*batch[len(batch) - max(y.ndim - 2, 0) :], "inner", *columns)
    return contracted(x, x_labels, y, y_labels, (*batch, *rows, *columns))


@array_function
def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Value:
    """Sums over `axes`: the last n of the first with the first n of the second, or a pair of sequences of axes."""
    x, y = numbers(x1, x2)
    if isinstance(axes, int):
        x_axes, y_axes = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
    else:
        x_axes, y_axes = (normal_axes(part, v.ndim) for part, v in zip(axes, (x, y), strict=True))
    if [x.shape[i] for i in x_axes] != [y.shape[i] for i in y_axes]:
        raise ShapeError(f"axes {x_axes} of {x.shape} and {y_axes} of {y.shape} differ in size")
    x_labels = tuple(("s", x_axes.index(i)) if i in x_axes else ("x", i) for i in range(x.ndim))
    y_labels = tuple(("s", y_axes.index(i)) if i in y_axes else ("y", i) for i in range(y.ndim))
    return contracted(x, x_labels, y, y_labels, tuple(label for label in (*x_labels, *y_labels) if label[0] != "s"))


@array_function
def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Value:
    """The sum of products along `axis` (negative); other dimensions broadcast."""
    x, y = numbers(x1, x2)
    if axis >= 0 or min(x.ndim, y.ndim) < -axis:
        raise ShapeError(f"the axis of vecdot counts from the end of both operands, got {axis}")
    if x.shape[axis] != y.shape[axis]:
        raise ShapeError(f"sizes {x.shape[axis]} and {y.shape[axis]} along axis {axis} differ")
    rank = max(x.ndim, y.ndim)
    labels = tuple(range(rank))
    return contracted(x, labels[rank - x.ndim :], y, labels[rank - y.ndim :], tuple(i for i in labels if i != rank + axis))


@array_function
def outer(x1: Any, x2: Any, /) -> Value:
    """Every product of an element of the first with one of the second, both flattened."""
    x, y = numbers(x1, x2)
    return TABLE["multiply"].on_values(reshaped(x, (x.size, 1)), reshaped(y, (1, y.size)))


@array_function
def dot(x1: Any, x2: Any, /) -> Value:
    """NumPy's dot: a product for numbers, otherwise the sum over the last axis of the first and the second last of the second."""
    x, y = numbers(x1, x2)
    if x.ndim == 0 or y.ndim == 0:
        return TABLE["multiply"].on_values(x, y)
    return tensordot(x, y, axes=((-1,), (-1 if y.ndim == 1 else -2,)))


@array_function
def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Value:
    """The sum of the diagonal of the last two dimensions."""
    return reductions.sum(diagonal(value_of(x), offset=offset, axis1=-2, axis2=-1), axis=-1, dtype=dtype)


@array_function
def einsum(subscripts: str, /, *operands: Any) -> Value:
    """NumPy's einsum of any number of arrays: "bij,bjk->bik". A label twice in one operand takes its diagonal; "..." broadcasts."""
    values = numbers(*operands)
    labels, out = parse_subscripts(subscripts, [x.ndim for x in values])
    terms = [without_repeats(x, parts) for x, parts in zip(values, labels, strict=True)]
    sizes = label_sizes(*terms)
    if unknown := [label for label in out if label not in sizes]:
        raise ShapeError(f"{unknown[0]!r} of the result in {subscripts!r} stands in no operand")
    while len(terms) > 1:
        first, second = best_pair(terms, out, sizes)
        rest = [term for i, term in enumerate(terms) if i not in (first, second)]
        terms = [*rest, _joined(terms[first], terms[second], rest, out)]
    x, parts = summed(*terms[0], set(out))
    return aligned(x, parts, out)


def _joined(x: tuple[Value, Labels], y: tuple[Value, Labels], rest: list, out: Labels) -> tuple[Value, Labels]:
    """Two terms contracted over the labels that no other term and not the result needs."""
    needed = set(out).union(*(labels for _, labels in rest))
    kept = tuple(label for label in dict.fromkeys((*x[1], *y[1])) if label in needed)
    if not rest:
        kept = out
    return contracted(*x, *y, kept), kept


def parse_subscripts(subscripts: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of each operand and of the result; dimensions under "..." get integers, counted from the end."""
    text = subscripts.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    parts = inputs.split(",")
    if len(parts) != len(ranks):
        raise ShapeError(f"{subscripts!r} names {len(parts)} operands and {len(ranks)} were given")
    labels = [_labels_of(part, rank, subscripts) for part, rank in zip(parts, ranks, strict=True)]
    shared = max((hidden_count(part) for part in labels), default=0)
    if arrow:
        dots, out = tuple(range(-shared, 0)), output
        return labels, _expanded(out, dots)
    letters = sorted(set("".join(parts)) - {"."})
    once = [letter for letter in letters if "".join(parts).count(letter) == 1]
    return labels, (*range(-shared, 0), *once)


def hidden_count(labels: Labels) -> int:
    """How many dimensions stand under the ellipsis."""
    return len([label for label in labels if isinstance(label, int)])


def _labels_of(part: str, rank: int, subscripts: str) -> Labels:
    letters = part.replace("...", "")
    hidden = rank - len(letters)
    if hidden < 0 or (hidden and "..." not in part) or not (letters.isalpha() or not letters):
        raise ShapeError(f"{part!r} in {subscripts!r} does not name {rank} dimensions")
    return _expanded(part, tuple(range(-hidden, 0)))


def _expanded(part: str, dots: tuple[int, ...]) -> Labels:
    before, _, after = part.partition("...")
    return (*before, *(dots if "..." in part else ()), *after)


def without_repeats(x: Value, labels: Labels) -> tuple[Value, Labels]:
    """Takes the diagonal of dimensions that share a label."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            if x.shape[first] != x.shape[second]:
                raise ShapeError(f"the diagonal {label!r} of sizes {x.shape[first]} and {x.shape[second]}")
            x = diagonal(x, axis1=first, axis2=second)
            labels = (*(part for i, part in enumerate(labels) if i not in (first, second)), label)
    return x, labels


def best_pair(terms: list[tuple[Value, Labels]], out: Labels, sizes: dict[Any, int]) -> tuple[int, int]:
    """The two terms whose contraction makes memory grow least; the multiplications break ties (opt_einsum's greedy rule)."""
    if len(terms) == 2:
        return 0, 1

    def growth(pair: tuple[int, int]) -> tuple[int, int]:
        (x, x_labels), (y, y_labels) = terms[pair[0]], terms[pair[1]]
        rest = set(out).union(*(labels for i, (_, labels) in enumerate(terms) if i not in pair))
        both = set(x_labels) | set(y_labels)
        size = int(np.prod([sizes[label] for label in both & rest], dtype=object))
        return size - x.size - y.size, int(np.prod([sizes[label] for label in both], dtype=object))

    return min(((i, j) for i in range(len(terms)) for j in range(i + 1, len(terms))), key=growth)
