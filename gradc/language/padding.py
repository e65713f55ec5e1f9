"""pad: more elements around an array, constant or copied from it, as concatenations of parts. Never gathers."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc import leaves, types
from gradc.errors import ShapeError, UnsupportedError
from gradc.ir import Value, apply
from gradc.language.arguments import value_of
from gradc.language.calls import array_function
from gradc.language.shaping import joined, part
from gradc.leaves import constant
from gradc.ops import TABLE
from gradc.structure import Flip, Pad


@array_function
def pad(x: Any, pad_width: Any, /, mode: str = "constant", *, constant_values: float = 0) -> Value:
    """More elements around: `pad_width` is one number, (before, after), or a pair per dimension.

    Modes: "constant", and numpy.pad's "edge", "reflect", "symmetric" and "wrap".
    """
    value = value_of(x)
    widths = np.broadcast_to(np.asarray(pad_width, dtype=np.int64), (value.ndim, 2)).tolist()
    if any(n < 0 for pair in widths for n in pair):
        raise ShapeError(f"pad widths are not negative, got {pad_width}", advice="Take a slice to crop.")
    if mode == "constant":
        return _padded(value, widths, constant_values)
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        raise UnsupportedError(f"pad has no mode {mode!r}", advice='Use "constant", "edge", "reflect", "symmetric" or "wrap".')
    for axis, width in enumerate(widths):
        if any(width):
            if value.shape[axis] == 0:
                raise ShapeError(f"dimension {axis} of shape {value.shape} is empty: there is nothing to pad it with")
            order = np.pad(np.arange(value.shape[axis]), width, mode=mode)  # type: ignore[call-overload]
            value = _in_order(value, order.tolist(), axis)
    return value


def _padded(x: Value, widths: list[list[int]], fill: float) -> Value:
    if not any(n for pair in widths for n in pair):
        return x
    padding = Pad(tuple(pair[0] for pair in widths), tuple(pair[1] for pair in widths), (0,) * x.ndim)
    padded = apply(padding, x)
    if fill == 0:
        return padded
    inside = apply(padding, constant(True, types.bool_, x.shape))
    return TABLE["where"](inside, padded, constant(fill, x.dtype))


def _in_order(x: Value, order: list[int], axis: int) -> Value:
    """`x` along `axis` in a given order, as runs of neighbours (forward, backward or the same) one after another."""
    return joined(tuple(_run(x, run, axis) for run in neighbour_runs(order)), axis)


def neighbour_runs(order: list[int]) -> list[list[int]]:
    """The order cut where the step changes or exceeds one."""
    runs, run = [], [order[0]]
    for position in order[1:]:
        step = position - run[-1]
        if abs(step) > 1 or (len(run) > 1 and step != run[1] - run[0]):
            runs.append(run)
            run = []
        run.append(position)
    return [*runs, run]


def _run(x: Value, run: list[int], axis: int) -> Value:
    first, last = run[0], run[-1]
    if len(run) > 1 and first == last:
        shape = tuple(len(run) if i == axis else n for i, n in enumerate(x.shape))
        return leaves.broadcast_to(part(x, axis, first, first + 1), shape)
    piece = part(x, axis, min(first, last), max(first, last) + 1)
    return apply(Flip((axis,)), piece) if last < first else piece
