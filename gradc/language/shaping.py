"""Array functions that move elements without computing: shapes, orders, joins and parts. Names and meanings are the array API's."""

from __future__ import annotations

from operator import index
from typing import Any

from gradc import leaves, types
from gradc.errors import ShapeError, UnsupportedError
from gradc.ir import Value, apply
from gradc.language.arguments import as_shape, filled_shape, normal_axes, normal_axis, value_of
from gradc.language.calls import array_function
from gradc.leaves import Reshape, cast, lift
from gradc.ops import TABLE
from gradc.structure import Concatenate, Flip, Permute, Slice


def reshaped(x: Value, shape: tuple[int, ...]) -> Value:
    """`x` under another shape; `x` itself when it has it."""
    return x if x.shape == shape else apply(Reshape(shape), x)


def permuted(x: Value, axes: tuple[int, ...]) -> Value:
    """`x` with its dimensions in the order of `axes`; `x` itself when they are."""
    return x if axes == tuple(range(x.ndim)) else apply(Permute(axes), x)


def part(x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """`x[start:stop:step]` along one axis, with 0 <= start <= stop and step > 0; `x` itself when that is everything."""
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    starts = tuple(start if i == axis else 0 for i in range(x.ndim))
    stops = tuple(stop if i == axis else n for i, n in enumerate(x.shape))
    return apply(Slice(starts, stops, tuple(step if i == axis else 1 for i in range(x.ndim))), x)


def joined(values: tuple[Value, ...], axis: int) -> Value:
    """The values one after another; a single one as it is."""
    return values[0] if len(values) == 1 else apply(Concatenate(axis), *values)


@array_function
def reshape(x: Any, /, shape: Any) -> Value:
    """The same elements in row-major order under another shape; one size may be -1."""
    value = value_of(x)
    return reshaped(value, filled_shape(shape, value.size))


@array_function
def permute_dims(x: Any, /, axes: Any) -> Value:
    """Result dimension i is dimension axes[i] of `x`."""
    value = value_of(x)
    order = normal_axes(tuple(axes), value.ndim)
    if len(order) != value.ndim:
        raise ShapeError(f"axes {tuple(axes)} do not name each of the {value.ndim} dimensions once")
    return permuted(value, order)


@array_function
def transpose(x: Any, /, axes: Any = None) -> Value:
    """NumPy's transpose: the dimensions reversed, or in the order of `axes`."""
    value = value_of(x)
    return permute_dims(value, tuple(reversed(range(value.ndim))) if axes is None else axes)


@array_function
def matrix_transpose(x: Any, /) -> Value:
    """The last two dimensions exchanged."""
    value = value_of(x)
    if value.ndim < 2:
        raise ShapeError(f"a matrix has two dimensions or more, got shape {value.shape}")
    return swapaxes(value, -1, -2)


@array_function
def swapaxes(x: Any, /, axis1: int, axis2: int) -> Value:
    """Two dimensions exchanged."""
    value = value_of(x)
    order = list(range(value.ndim))
    first, second = normal_axis(axis1, value.ndim), normal_axis(axis2, value.ndim)
    order[first], order[second] = order[second], order[first]
    return permuted(value, tuple(order))


@array_function
def moveaxis(x: Any, source: Any, destination: Any, /) -> Value:
    """Dimensions `source` moved to positions `destination`; the others keep their order."""
    value = value_of(x)
    origins, targets = normal_axes(source, value.ndim), normal_axes(destination, value.ndim)
    if len(origins) != len(targets):
        raise ShapeError(f"source {source} and destination {destination} differ in length")
    order = [axis for axis in range(value.ndim) if axis not in origins]
    for target, origin in sorted(zip(targets, origins, strict=True)):
        order.insert(target, origin)
    return permuted(value, tuple(order))


@array_function
def expand_dims(x: Any, /, axis: Any = 0) -> Value:
    """New dimensions of size 1 at `axis` (an int or a tuple, positions in the result)."""
    value = value_of(x)
    count = len(axis) if isinstance(axis, tuple | list) else 1
    places = normal_axes(axis, value.ndim + count)
    sizes = iter(value.shape)
    return reshaped(value, tuple(1 if i in places else next(sizes) for i in range(value.ndim + count)))


@array_function
def squeeze(x: Any, /, axis: Any = None) -> Value:
    """Dimensions of size 1 taken away: those of `axis`, or all."""
    value = value_of(x)
    axes = tuple(i for i, n in enumerate(value.shape) if n == 1) if axis is None else normal_axes(axis, value.ndim)
    if any(value.shape[i] != 1 for i in axes):
        raise ShapeError(f"axis {axis} of shape {value.shape} is not of size 1")
    return reshaped(value, tuple(n for i, n in enumerate(value.shape) if i not in axes))


@array_function
def broadcast_to(x: Any, /, shape: Any) -> Value:
    """`x` repeated to a shape by NumPy's broadcasting."""
    return leaves.broadcast_to(value_of(x), as_shape(shape))


@array_function
def broadcast_arrays(*arrays: Any) -> tuple[Value, ...]:
    """The arrays repeated to their common shape."""
    values = [value_of(x) for x in arrays]
    shape = types.broadcast_shapes(*(x.shape for x in values))
    return tuple(leaves.broadcast_to(x, shape) for x in values)


@array_function
def concat(arrays: Any, /, axis: int | None = 0) -> Value:
    """The arrays one after another along `axis`, or flattened for None; dtypes promote."""
    values = lift(*arrays)
    if not values:
        raise ShapeError("concat takes at least one array")
    if axis is None:
        return joined(tuple(reshaped(x, (x.size,)) for x in values), 0)
    place = normal_axis(axis, values[0].ndim)
    others = {(*x.shape[:place], *x.shape[place + 1 :]) for x in values}
    if len(others) != 1 or len({x.ndim for x in values}) != 1:
        raise ShapeError(
            f"shapes {' and '.join(str(x.shape) for x in values)} differ in another dimension than {axis}",
            advice="Only the sizes along `axis` may differ; gradc.stack joins along a new axis.",
        )
    return joined(values, place)


@array_function
def stack(arrays: Any, /, axis: int = 0) -> Value:
    """Arrays of one shape side by side along a new dimension at `axis`; dtypes promote."""
    values = lift(*arrays)
    if len({x.shape for x in values}) != 1:
        raise ShapeError(f"stack takes arrays of one shape, got {' and '.join(str(x.shape) for x in values) or 'none'}")
    place = normal_axis(axis, values[0].ndim + 1)
    return joined(tuple(expand_dims(x, axis=place) for x in values), place)


@array_function
def split(x: Any, indices_or_sections: Any, /, axis: int = 0) -> tuple[Value, ...]:
    """Parts along `axis`: so many of equal size, or cut before each of the given indices (NumPy's split)."""
    value = value_of(x)
    place = normal_axis(axis, value.ndim)
    size = value.shape[place]
    if isinstance(indices_or_sections, int):
        if indices_or_sections <= 0 or size % indices_or_sections:
            raise ShapeError(f"{size} elements along axis {axis} do not split into {indices_or_sections} equal parts")
        width = size // indices_or_sections
        bounds = [(i * width, (i + 1) * width) for i in range(indices_or_sections)]
    else:
        cuts = [slice(0, index(cut)).indices(size)[1] for cut in indices_or_sections]
        bounds = [(a, max(a, b)) for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    return tuple(part(value, place, start, stop) for start, stop in bounds)


@array_function
def unstack(x: Any, /, axis: int = 0) -> tuple[Value, ...]:
    """The slices along `axis`, without it."""
    value = value_of(x)
    place = normal_axis(axis, value.ndim)
    shape = (*value.shape[:place], *value.shape[place + 1 :])
    return tuple(reshaped(part(value, place, i, i + 1), shape) for i in range(value.shape[place]))


@array_function
def flip(x: Any, /, axis: Any = None) -> Value:
    """The order reversed along `axis` (an int, a tuple, or None for all)."""
    value = value_of(x)
    axes = tuple(sorted(normal_axes(axis, value.ndim)))
    return apply(Flip(axes), value) if axes else value


@array_function
def roll(x: Any, /, shift: Any, axis: Any = None) -> Value:
    """Elements moved forward by `shift` along `axis`, around the end; None rolls the flattened array."""
    value = value_of(x)
    if axis is None:
        return reshaped(roll(reshaped(value, (value.size,)), shift, axis=0), value.shape)
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    shifts = shift if isinstance(shift, tuple | list) else (shift,) * len(axes)
    for place, amount in zip((normal_axis(a, value.ndim) for a in axes), shifts, strict=True):
        size = value.shape[place]
        cut = -amount % size if size else 0
        if cut:
            value = joined((part(value, place, cut, size), part(value, place, 0, cut)), place)
    return value


@array_function
def tile(x: Any, repetitions: Any, /) -> Value:
    """The whole array repeated so many times along each dimension."""
    value = value_of(x)
    counts = as_shape(repetitions)
    rank = max(value.ndim, len(counts))
    counts = (1,) * (rank - len(counts)) + counts
    shape = (1,) * (rank - value.ndim) + value.shape
    doubled = tuple(n for pair in zip((1,) * rank, shape, strict=True) for n in pair)
    repeated = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
    return reshaped(
        leaves.broadcast_to(reshaped(value, doubled), repeated), tuple(c * n for c, n in zip(counts, shape, strict=True))
    )


@array_function
def repeat(x: Any, repeats: int, /, axis: int | None = None) -> Value:
    """Each element repeated `repeats` times along `axis`; None repeats the flattened array's."""
    value = value_of(x)
    if not isinstance(repeats, int):
        raise UnsupportedError(
            "repeat takes one integer for all elements", advice="Use gradc.take with numpy.repeat(numpy.arange(n), repeats)."
        )
    if axis is None:
        value, axis = reshaped(value, (value.size,)), 0
    place = normal_axis(axis, value.ndim)
    before, size, after = value.shape[:place], value.shape[place], value.shape[place + 1 :]
    repeated = leaves.broadcast_to(reshaped(value, (*before, size, 1, *after)), (*before, size, repeats, *after))
    return reshaped(repeated, (*before, size * repeats, *after))


@array_function
def diagonal(x: Any, /, *, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """The elements with equal indices (the second larger by `offset`) in two dimensions, as a new last dimension."""
    value = value_of(x)
    first, second = normal_axes((axis1, axis2), value.ndim)
    matrix = moveaxis(value, (first, second), (-2, -1))
    rows, columns = matrix.shape[-2:]
    length = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    start = max(offset, 0) + max(-offset, 0) * columns
    flat = reshaped(matrix, (*matrix.shape[:-2], rows * columns))
    stop = start + (length - 1) * (columns + 1) + 1 if length else 0
    return part(flat, flat.ndim - 1, start if length else 0, stop, columns + 1)


@array_function
def astype(x: Any, dtype: Any, /) -> Value:
    """`x` in another dtype: floats to integers truncate toward zero, anything to bool is `!= 0`."""
    return cast(value_of(x), types.as_dtype(dtype))


@array_function
def diff(x: Any, /, *, axis: int = -1, n: int = 1) -> Value:
    """The differences of neighbours along `axis`, taken n times."""
    value = value_of(x)
    place = normal_axis(axis, value.ndim)
    row = TABLE["not_equal" if value.dtype == types.bool_ else "subtract"]
    for _ in range(n):
        size = value.shape[place]
        value = row.on_values(part(value, place, min(1, size), size), part(value, place, 0, max(size - 1, 0)))
    return value
