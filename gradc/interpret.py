"""The NumPy reference: runs a Graph one Value at a time, by each operation's own NumPy meaning.

It is what every kernel is compared with. Values of a 16-bit floating dtype are held in float32 and rounded only by a
cast, as operands of a contraction, where ties are looked for, and as results; nothing is fused, reordered or remembered
between calls.
`evaluate_symbolic` is the same walk on arrays of SymPy expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from gradc import types
from gradc.errors import OutOfMemoryError, ShapeError
from gradc.ir import Graph, Value, topological
from gradc.leaves import Cast, Constant, Literal
from gradc.markers import Within
from gradc.ops import TABLE
from gradc.structure import Contract, Gather, Keep, ScatterAdd
from gradc.table import Elementwise, as_exact
from gradc.types import DType

Compute = Callable[..., np.ndarray]


def evaluate(graph: Graph, arrays: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """The outputs for `arrays` (NumPy or torch, one per graph input), as fresh arrays in the outputs' own dtypes.

    Raises ShapeError for an argument of another shape and, at the user's line, for an index out of bounds.
    """
    given = {value: to_numpy(array) for value, array in zip(graph.inputs, arrays, strict=True)}
    results = evaluate_values(graph.outputs, given)
    literals = (value.operation.array for value in graph.values if isinstance(value.operation, Literal))
    return finished(graph.outputs, results, (*given.values(), *literals))


def finished(outputs: Sequence[Value], results: Mapping[Value, np.ndarray], foreign: Iterable[Any]) -> tuple[np.ndarray, ...]:
    """The results as they are handed out: rounded to the outputs' own dtypes, sharing memory with none of `foreign`."""
    held = {id(array) for array in foreign}
    return tuple(_own(results[value], value, held) for value in outputs)


def evaluate_values(values: Iterable[Value], bindings: Mapping[Value, Any]) -> dict[Value, np.ndarray]:
    """The arrays of `values`, where `bindings` gives those of some Values they depend on (inputs or any others).

    The arrays have the dtype that arithmetic runs in, not yet rounded to a 16-bit one, and may be views of the bindings.
    """
    wanted = tuple(values)
    known = {value: _held(to_numpy(array), value) for value, array in bindings.items()}
    with np.errstate(all="ignore"):
        return _run(wanted, known, compute)


def evaluate_symbolic(graph: Graph, arrays: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """The outputs as arrays of SymPy expressions, for object arrays of SymPy or mpmath expressions and numbers.

    Floating constants and inputs become exact rationals. Integer and bool inputs may be ordinary arrays, as indices must.
    """
    known = {value: _exact(np.asarray(array), value.dtype) for value, array in zip(graph.inputs, arrays, strict=True)}
    results = _run(graph.outputs, known, compute_exact)
    return tuple(results[value] for value in graph.outputs)


def _run(wanted: Sequence[Value], known: dict[Value, np.ndarray], rule: Compute) -> dict[Value, np.ndarray]:
    """Computes each Value once, operands first, and forgets an array after its last use."""
    order = topological(wanted, known)
    last_use = {operand: value for value in order for operand in value.operands}
    kept = {*wanted, *known}
    arrays = dict(known)
    for value in order:
        try:
            arrays[value] = rule(value, *(arrays[operand] for operand in value.operands))
        except MemoryError:
            raise OutOfMemoryError(
                f"{value!r} takes {value.bytes / 1e9:.3g} GB, more than there is room for",
                advice="The reference stores every intermediate whole; the kernels of a compiled function need not.",
                source=value.source,
            ) from None
        for operand in dict.fromkeys(value.operands):
            if last_use[operand] is value and operand not in kept:
                del arrays[operand]
    return {value: arrays[value] for value in wanted}


def compute(value: Value, *operands: np.ndarray) -> np.ndarray:
    """One Value from its operands' arrays."""
    operation = value.operation
    if isinstance(operation, Elementwise):
        result = operation.numpy(*operands)
    elif isinstance(operation, Literal):
        result = to_numpy(operation.array)
    elif isinstance(operation, Keep):
        result = _rounded(operands[0], value.dtype)
    elif isinstance(operation, Contract):
        result = contract(operation, *(_rounded(x, operand.dtype) for x, operand in zip(operands, value.operands, strict=True)))
    else:
        check_indices(value, operands)
        result = operation.numpy(*operands)
    return _held(np.asarray(result), value)


def compute_exact(value: Value, *operands: np.ndarray) -> np.ndarray:
    """One Value from arrays of expressions."""
    operation = value.operation
    if isinstance(operation, Elementwise):
        return np.asarray(operation(*operands))
    if isinstance(operation, Constant):
        return _exact(np.asarray(operation.value, object), value.dtype)
    if isinstance(operation, Literal):
        return _exact(to_numpy(operation.array), value.dtype)
    if isinstance(operation, Cast):
        return _cast_exact(operands[0], value.operands[0].dtype, operation.dtype)
    check_indices(value, operands)
    return _exact(np.asarray(operation.numpy(*operands)), value.dtype)


def contract(operation: Contract, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The contraction as one (batched) matrix product, which reaches BLAS for float32 and float64."""
    if len(set(operation.lhs)) < len(operation.lhs) or len(set(operation.rhs)) < len(operation.rhs):
        return operation.numpy(x, y)
    sizes = dict(zip((*operation.lhs, *operation.rhs), (*x.shape, *y.shape), strict=True))
    shared = [label for label in operation.lhs if label in operation.rhs]
    batch = [label for label in shared if label in operation.out]
    summed = [label for label in shared if label not in operation.out]
    rows = [label for label in operation.lhs if label not in shared]
    columns = [label for label in operation.rhs if label not in shared]
    left = _grouped(x, operation.lhs, (batch, rows, summed), sizes)
    right = _grouped(y, operation.rhs, (batch, summed, columns), sizes)
    labels = (*batch, *rows, *columns)
    product = np.matmul(left, right).reshape([sizes[label] for label in labels])
    return product.transpose([labels.index(label) for label in operation.out])


def _grouped(x: np.ndarray, labels: tuple[int, ...], groups: Sequence[Sequence[int]], sizes: Mapping[int, int]) -> np.ndarray:
    """`x` with one dimension per group of labels; without a batch, two dimensions (a view where possible)."""
    shape = [prod(sizes[label] for label in group) for group in groups]
    ordered = x.transpose([labels.index(label) for group in groups for label in group])
    return ordered.reshape(shape if groups[0] else shape[1:])


def check_indices(value: Value, operands: Sequence[np.ndarray]) -> None:
    """Raises ShapeError at the user's line when a gather or scatter index lies outside its axis, or a number names nothing."""
    operation = value.operation
    if isinstance(operation, Within):
        check_numbers(value, operands[0])
    if not isinstance(operation, Gather | ScatterAdd):
        return
    size = operation.size if isinstance(operation, ScatterAdd) else operands[0].shape[operation.axis]
    index = np.asarray(operands[1])
    outside = index[(index < -size) | (index >= size)]
    if outside.size:
        raise ShapeError(
            f"index {outside[0]} is out of bounds for axis {operation.axis} of size {size}",
            advice=f"Indices lie in {-size}..{size - 1}; negative ones count from the end.",
            source=value.source,
        )


def check_numbers(value: Value, numbers: np.ndarray) -> None:
    """Raises ShapeError at the user's line for a number that names none of the things it should."""
    operation = value.operation
    for number in operation.outside(np.asarray(numbers))[:1]:
        allowed = "" if operation.ignored is None else f", or {operation.ignored} to be ignored"
        raise ShapeError(
            f"{operation.what} {number} is out of bounds for {operation.of}",
            advice=f"They are numbered 0..{operation.size - 1}{allowed}.",
            source=value.source,
        )


def to_numpy(array: Any) -> np.ndarray:
    """A NumPy array (or number) as it is; a torch tensor as an array over the same memory where it is on the CPU."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    tensor = array.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    import torch

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def row_major(array: np.ndarray) -> np.ndarray:
    """The elements as torch takes them over: row-major, in this machine's byte order, writeable.

    NumPy calls an array contiguous whatever the strides of axes with one element or none are; torch refuses negative and odd ones.
    """
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    return array.copy() if any(stride < 0 or stride % array.itemsize for stride in array.strides) else array


def _held(array: np.ndarray, value: Value) -> np.ndarray:
    """`array` as a Value's array is held: in the dtype arithmetic runs in."""
    if array.shape != value.shape:
        raise ShapeError(f"{value!r} has shape {value.shape}, got an array of shape {array.shape}", source=value.source)
    return array.astype(value.dtype.compute.numpy, copy=False)


def _rounded(array: np.ndarray, dtype: DType) -> np.ndarray:
    """`array` rounded to a 16-bit floating dtype and back; other dtypes are never held wider."""
    return array if dtype.compute == dtype else array.astype(dtype.numpy).astype(array.dtype)


def _own(array: np.ndarray, value: Value, foreign: set[int]) -> np.ndarray:
    """The result in its own dtype, in memory nobody else holds; marks it as held."""
    result = np.asarray(array, value.dtype.numpy, order="C")
    if id(result) in foreign or not result.flags.owndata:
        result = result.copy()
    foreign.add(id(result))
    return result


def _exact(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Floating numbers as exact SymPy numbers; integers and bools as they are."""
    return np.asarray(np.frompyfunc(as_exact, 1, 1)(array), object) if dtype.is_floating else array


def _cast_exact(x: np.ndarray, origin: DType, target: DType) -> np.ndarray:
    """Rounding does not exist among exact numbers: what is left is truth to number and number to truth."""
    if target == types.bool_:
        return np.asarray(TABLE["not_equal"](x, 0))
    if origin == types.bool_:
        return _exact(np.asarray(TABLE["where"](x, 1, 0)), target)
    if origin.is_floating and target.is_integer:
        return np.asarray(TABLE["trunc"](x))
    return _exact(x, target)
