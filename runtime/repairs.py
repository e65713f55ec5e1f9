"""Makes Triton's interpreter say what the GPU says, where the two are known to differ.

As it ships it gives a comparison the dtype it compares, multiplies and compares bfloat16 by their bit patterns, rounds to bfloat16 towards zero, keeps a NaN that
compiled code drops, folds a reduction one element at a time, and returns None from libdevice. Each repair stands beside
its reason; nothing here changes what is compiled.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, ScanOps, TensorHandle

from gradc.runtime import libdevice

BITS = np.dtype(np.uint16)  # how the interpreter holds bfloat16


@functools.cache
def install() -> None:
    """Repair the interpreter of this process, once."""
    _repair_comparisons(InterpreterBuilder)
    _repair_bfloat16(InterpreterBuilder)
    _repair_nan(InterpreterBuilder)
    _repair_all_ones(InterpreterBuilder)
    ReduceOps.apply_impl = _reduced(ReduceOps.apply_impl)
    ScanOps.generic_scan = _scanned(ScanOps.generic_scan)
    _repair_tensor()
    libdevice.install()


def numbers(handle: TensorHandle) -> np.ndarray:
    """The numbers a handle stands for: bfloat16 bit patterns become float32."""
    if handle.dtype.scalar == tl.bfloat16 and handle.data.dtype == BITS:
        return handle.data.view(ml_dtypes.bfloat16).astype(np.float32)
    return handle.data


def rounded(data: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers as the interpreter holds them in a Triton dtype, rounded to nearest even."""
    if dtype == tl.bfloat16:
        return data.astype(np.float32).astype(ml_dtypes.bfloat16).view(BITS)
    return data.astype(interpreter._get_np_dtype(dtype))


def _repair_comparisons(builder: Any) -> None:
    """A comparison is of the dtype it compares, so that one of two scalars is no truth value once it is spread over a block."""
    binary = builder.binary_op

    def repaired_binary(self, left, right, operation):
        result = binary(self, left, right, operation)
        return TensorHandle(result.data, tl.int1) if result.data.dtype == bool else result

    builder.binary_op = repaired_binary


def _repair_bfloat16(builder: Any) -> None:
    cast, binary, dot = builder.cast_impl, builder.binary_op, builder.create_dot

    def repaired_cast(self, source, target):
        if tl.bfloat16 not in (source.dtype.scalar, target.scalar):
            return cast(self, source, target)
        return TensorHandle(rounded(numbers(source), target.scalar), target.scalar)

    def repaired_binary(self, left, right, operation):
        if left.dtype.scalar != tl.bfloat16:
            return binary(self, left, right, operation)
        output = operation(numbers(left), numbers(right))
        dtype = tl.int1 if output.dtype == bool else tl.bfloat16
        return TensorHandle(rounded(output, dtype), dtype)

    def repaired_dot(self, left, right, *rest, **named):
        return dot(self, _widened(left), _widened(right), *rest, **named)

    builder.cast_impl, builder.binary_op, builder.create_dot = repaired_cast, repaired_binary, repaired_dot


def _widened(handle: TensorHandle) -> TensorHandle:
    """A product of two bfloat16 is exact in float32, where tensor cores add them up."""
    return TensorHandle(numbers(handle), tl.float32) if handle.dtype.scalar == tl.bfloat16 else handle


def _repair_nan(builder: Any) -> None:
    """`maxnum` and `minnum`, which `tl.maximum` means unless told otherwise, return the operand that is a number."""

    def clamp(self, value, low, high, propagate):
        keep = propagate == tl.PropagateNan.ALL
        larger, smaller = (np.maximum, np.minimum) if keep else (np.fmax, np.fmin)
        return self.binary_op(self.binary_op(value, low, larger), high, smaller)

    builder.create_maxnumf = lambda self, left, right: self.binary_op(left, right, np.fmax)
    builder.create_minnumf = lambda self, left, right: self.binary_op(left, right, np.fmin)
    builder.create_clampf = clamp


def _repair_all_ones(builder: Any) -> None:
    """NumPy refuses -1 in an unsigned dtype, which `~x` asks for."""

    def all_ones(self, dtype):
        signed = np.full(1, -1, np.dtype(f"i{interpreter._get_np_dtype(dtype).itemsize}"))
        return TensorHandle(signed.view(interpreter._get_np_dtype(dtype)), dtype.scalar)

    original = builder.get_all_ones_value
    builder.get_all_ones_value = lambda self, dtype: (all_ones if dtype.scalar.is_int_unsigned() else original)(self, dtype)


def _reduced(original: Callable[..., Any]) -> Callable[..., Any]:
    """Reduce by a tree of neighbours with the combining function itself: log2(n) calls, and its own NaNs and ties."""

    def apply_impl(self, tensors):
        if self.combine_fn is tl.standard._sum_combine:
            return original(self, tensors)
        try:
            return _tree(self, tensors)
        except (BranchError, InterpreterError):
            return self.generic_reduce(tensors)

    return apply_impl


def _tree(reduction: Any, tensors: Sequence[Any]) -> list[Any]:
    rank = len(tensors[0].handle.data.shape)
    tensors, axis = reduction.unravel(tensors, reduction.axis)
    parts, dtypes = _parts(tensors)
    axis %= parts[0].ndim
    while parts[0].shape[axis] > 1:
        even, odd = ([_every_second(part, axis, start) for part in parts] for start in (0, 1))
        parts = _combined(reduction, even, odd, dtypes)
    dropped = [_dropped(reduction, part, axis, rank) for part in parts]
    return [reduction.to_tensor(part, dtype) for part, dtype in zip(dropped, dtypes, strict=True)]


def _parts(tensors: Sequence[Any]) -> tuple[list[np.ndarray], list[Any]]:
    return [tensor.handle.data for tensor in tensors], [tensor.dtype for tensor in tensors]


def _dropped(reduction: Any, part: np.ndarray, axis: int, rank: int) -> Any:
    if reduction.keep_dims:
        return part if reduction.axis is not None else part.reshape((1,) * rank)
    dropped = np.squeeze(part, axis)
    return dropped if dropped.shape else dropped.item()


def _every_second(part: np.ndarray, axis: int, start: int) -> np.ndarray:
    return part[(slice(None),) * axis + (slice(start, None, 2),)]


def _combined(reduction: Any, left: Sequence[Any], right: Sequence[Any], dtypes: Sequence[Any]) -> list[np.ndarray]:
    """Whole slices at once. Raises BranchError where the function asks one element at a time."""
    both = zip([*left, *right], [*dtypes, *dtypes], strict=True)
    operands = [reduction.to_tensor(part, dtype) for part, dtype in both]
    function = ARGUMENT_OF.get(reduction.combine_fn, reduction.combine_fn.fn)
    with _no_branches():
        merged = function(*operands)
    merged = merged if isinstance(merged, tuple) else (merged,)
    return [np.broadcast_to(item.handle.data, left[0].shape) for item in merged]


def _scanned(original: Callable[..., Any]) -> Callable[..., Any]:
    """Scan slice by slice along the axis, all the other elements at once."""

    def generic_scan(self, tensors):
        try:
            return _slices(self, tensors)
        except (BranchError, InterpreterError):
            return original(self, tensors)

    return generic_scan


def _slices(scan: Any, tensors: Sequence[Any]) -> list[Any]:
    parts, dtypes = _parts(tensors)
    axis = scan.axis % parts[0].ndim
    slices = [[np.take(part, [position], axis) for part in parts] for position in range(parts[0].shape[axis])]
    done = [slices[0]]
    for current in slices[1:]:
        done.append(_combined(scan, done[-1], current, dtypes))
    columns = zip(*done, strict=True)
    return [scan.to_tensor(np.concatenate(column, axis), dtype) for column, dtype in zip(columns, dtypes, strict=True)]


def _argument(compare: Callable[..., Any], first_wins: bool) -> Callable[..., Any]:
    """Triton's argmax and argmin in elementwise words; its own say `and` and `or`, which ask one element at a time."""

    def combine(left, left_index, right, right_index):
        chosen = compare(left, right)
        if first_wins:
            chosen |= (left == right) & (left_index < right_index)
        return tl.where(chosen, left, right), tl.where(chosen, left_index, right_index)

    return combine


ARGUMENT_OF = {
    tl.standard._argmax_combine_tie_break_left: _argument(operator.gt, True),
    tl.standard._argmax_combine_tie_break_fast: _argument(operator.gt, False),
    tl.standard._argmin_combine_tie_break_left: _argument(operator.lt, True),
    tl.standard._argmin_combine_tie_break_fast: _argument(operator.lt, False),
}


class BranchError(Exception):
    """A combining function branched on a value: `if`, `and`, `or`, `not`."""


@contextlib.contextmanager
def _no_branches() -> Iterator[None]:
    """Where slices stand for single elements, a block has no truth value."""
    before, _VECTORISED[0] = _VECTORISED[0], True
    try:
        yield
    finally:
        _VECTORISED[0] = before


_VECTORISED = [False]


def _repair_tensor() -> None:
    """Branches in combining functions are noticed, and loops with runtime bounds work: Triton 3.6 calls int() on arrays
    of shape (1,), which NumPy 2.4 refuses.
    """
    original = interpreter._patch_lang_tensor

    def patched(tensor, *rest):
        original(tensor, *rest)
        truth = tensor.__bool__
        tensor.__bool__ = lambda self: _truth(self, truth)
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    interpreter._patch_lang_tensor = patched


def _truth(tensor: Any, truth: Callable[[Any], bool]) -> bool:
    if _VECTORISED[0] and tensor.type.is_block():
        raise BranchError
    return truth(tensor)
