"""Integers at the ends of their dtypes: indices, casts, sums of repeated numbers and extrema, against NumPy and PyTorch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from arrays import run

import gradc
from gradc.normalise import normalise
from gradc.trace import trace

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
KERNELS = [*(name for name in INTEGERS if name not in ("uint16", "uint32", "uint64"))]  # what PyTorch computes with


def normalised(function, *arrays):
    """What a function gives after the rewrites, by the reference."""
    from gradc.interpret import evaluate

    traced = trace(function, arrays)
    return traced.results(evaluate(normalise(traced.graph, "before"), arrays))


def both(function, *arrays):
    """What a function gives as traced, having made sure that the rewrites change nothing."""
    plain, rewritten = run(function, *arrays), normalised(function, *arrays)
    np.testing.assert_array_equal(rewritten, plain)
    assert rewritten.dtype == plain.dtype
    return plain


def in_kernels(function, *arrays):
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    return gradc.compile(backend="interpret")(function)(*arrays)


# Indices --------------------------------------------------------------------------------------------------------------

CUBE = np.arange(11 * 13 * 17, dtype=np.float32).reshape(11, 13, 17)


def places(size, dtype, seed):
    """Indices into a dimension, its ends among them; negative ones too where the dtype has them."""
    low = -size if dtype.startswith("i") else 0
    drawn = np.random.default_rng(seed).integers(low, size, 6)
    return np.array([low, size - 1, *drawn], dtype)


READ = {
    "two": (lambda x, i, j, k: x[i, j], lambda x, i, j, k: x[i, j]),
    "three": (lambda x, i, j, k: x[i, j, k], lambda x, i, j, k: x[i, j, k]),
    "apart": (lambda x, i, j, k: x[i, :, k], lambda x, i, j, k: x[i, :, k]),
    "a table": (lambda x, i, j, k: x[i[:, None], j[None, :]], lambda x, i, j, k: x[i[:, None], j[None, :]]),
    "one of many": (lambda x, i, j, k: x[3, j, k], lambda x, i, j, k: x[3, j, k]),
}


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", READ)
def test_indices_of_any_width_are_read_together(name, dtype):
    """Merged into one they go up to 2430, which int8 does not hold."""
    ours, numpy = READ[name]
    arrays = CUBE, *(places(size, dtype, seed) for seed, size in enumerate(CUBE.shape))
    np.testing.assert_array_equal(both(ours, *arrays), numpy(*arrays))


@pytest.mark.triton
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("name", ["two", "three"])
def test_kernels_read_indices_of_any_width(name, dtype):
    ours, numpy = READ[name]
    arrays = CUBE, *(places(size, dtype, seed) for seed, size in enumerate(CUBE.shape))
    np.testing.assert_array_equal(in_kernels(ours, *arrays), numpy(*arrays))


def written(x, *key):
    return gradc.asarray(x).at[key].add(1.0)


def replaced(x, *key):
    return gradc.asarray(x).at[key].set(gradc.arange(key[0].shape[0], dtype="float32"))


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("function", [written, replaced], ids=lambda f: f.__name__)
def test_indices_of_any_width_are_written_at(function, dtype):
    for shape in ((300,), (19, 23)):
        x = np.zeros(shape, np.float32)
        key = tuple(places(min(size, 100), dtype, seed) for seed, size in enumerate(shape))
        want = x.copy()
        if function is written:
            np.add.at(want, key, 1.0)
        else:
            want[key] = np.arange(len(key[0]))
        np.testing.assert_array_equal(both(function, x, *key), want)


def test_narrow_indices_from_the_end_of_a_long_array():
    x = np.zeros(250, np.float32)
    for dtype, last in itertools.product(("int8", "int16"), (-1, -100)):
        index = np.array([last, 5, last], dtype)
        want = x.copy()
        want[[last, 5]] = 2, 1
        np.testing.assert_array_equal(both(replaced, x, index), want)
        one = np.array([last], dtype)
        np.testing.assert_array_equal(both(written, x, one), np.eye(1, 250, 250 + last, dtype=np.float32)[0])


# Casts ----------------------------------------------------------------------------------------------------------------

DTYPES = ("bool", *INTEGERS, "float32", "float64")


def numbers(dtype):
    """The ends of a dtype and what lies just past the mantissas of the floating-point ones, as far as the dtype holds it."""
    near = [
        sign * (2**bits + step) for bits in (0, 7, 8, 11, 15, 16, 24, 31, 32, 53, 62) for step in (-1, 0, 1) for sign in (1, -1)
    ]
    if dtype == "bool":
        return np.array([False, True])
    if dtype.startswith("float"):
        return np.array([float(n) for n in near], dtype)
    ends = np.iinfo(dtype)
    return np.array([n for n in (0, ends.min, ends.max, *near) if ends.min <= n <= ends.max], dtype)


def fits(values, dtype):
    """Those that a cast to an integer dtype keeps within it: beyond, machines differ."""
    if dtype == "bool" or dtype.startswith("float") or values.dtype.kind != "f":
        return values
    ends = np.iinfo(dtype)
    return values[(values >= float(ends.min)) & (values < float(ends.max))]


@pytest.mark.parametrize("origin", DTYPES)
def test_two_casts_are_what_they_are_one_after_the_other(origin):
    for between, target in itertools.product(DTYPES, DTYPES):
        x = fits(numbers(origin), between)
        with np.errstate(invalid="ignore"):
            middle = x.astype(between)
            kept = fits(middle, target)
            x = x[np.isin(middle, kept)] if len(kept) < len(middle) else x
            want = x.astype(between).astype(target)
        got = normalised(lambda x, b=between, t=target: gradc.asarray(x).astype(b).astype(t), x)
        np.testing.assert_array_equal(got, want, err_msg=f"{origin} -> {between} -> {target}")


@pytest.mark.triton
def test_kernels_round_where_a_float_is_cast_to_and_back():
    x = np.array([2**24 + 1, -(2**24) - 1, 2**30 + 1, 16777215, 7], np.int32)
    got = in_kernels(lambda x: (x.astype("float32").astype("int32"), x.astype("float64").astype("int32")), x)
    np.testing.assert_array_equal(got[0], x.astype("float32").astype("int32"))
    np.testing.assert_array_equal(got[1], x)


# Sums and products ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 127, 128, 129, 255, 256, 300])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_a_sum_of_equal_numbers(dtype, count):
    """However many they are: the count itself need not be a number of the dtype."""
    x = np.array([0, 1, 3], dtype)
    wide = both(lambda x: gradc.sum(gradc.broadcast_to(x, (count, 3)), axis=0), x)
    np.testing.assert_array_equal(wide, count * x.astype(wide.dtype))
    same = both(lambda x: gradc.sum(gradc.broadcast_to(x, (count, 3)), axis=0, dtype=dtype), x)
    np.testing.assert_array_equal(same, np.broadcast_to(x, (count, 3)).sum(0, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_sum_of_equal_floats(dtype):
    x = np.array([0.5, -3.0], dtype)
    np.testing.assert_array_equal(both(lambda x: gradc.sum(gradc.broadcast_to(x, (200, 2)), axis=0), x), 200 * x)


# Extrema --------------------------------------------------------------------------------------------------------------


@pytest.mark.triton
@pytest.mark.parametrize("size", [1, 3, 33])
@pytest.mark.parametrize("dtype", KERNELS)
def test_the_largest_of_the_least_numbers(dtype, size):
    """Lanes that hold no element hold the least (or the largest) number there is, not 0 and none in between."""
    ends = np.iinfo(dtype)
    low = np.asarray(np.arange(3 * size).reshape(3, size) % 5 + ends.min, dtype)
    high = np.asarray(ends.max - np.arange(3 * size).reshape(3, size) % 5, dtype)
    largest, smallest = in_kernels(lambda x, y: (gradc.max(x, axis=1), gradc.min(y, axis=1)), low, high)
    np.testing.assert_array_equal(largest, low.max(1))
    np.testing.assert_array_equal(smallest, high.min(1))
    first, last = in_kernels(lambda x, y: (gradc.argmax(x, axis=1), gradc.argmin(y, axis=1)), low, high)
    np.testing.assert_array_equal(first, low.argmax(1))
    np.testing.assert_array_equal(last, high.argmin(1))


@pytest.mark.triton
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8"])
def test_the_largest_of_the_least_numbers_in_a_loop(dtype, monkeypatch, tmp_path):
    pytest.importorskip("torch")
    from kernels import force_loops

    force_loops(monkeypatch, tmp_path)
    ends = np.iinfo(dtype)
    low = np.asarray(np.arange(2 * 37).reshape(2, 37) % 5 + ends.min, dtype)
    high = np.asarray(ends.max - np.arange(2 * 37).reshape(2, 37) % 5, dtype)
    largest, smallest = in_kernels(lambda x, y: (gradc.max(x, axis=1), gradc.min(y, axis=1)), low, high)
    np.testing.assert_array_equal(largest, low.max(1))
    np.testing.assert_array_equal(smallest, high.min(1))


# Slices of what is put together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_of_a_concatenation_is_one_of_what_it_is_made_of(axis):
    """Any slice: a strided one may begin where a part begins and be as long as it without being it."""
    parts = [np.arange(n * 3.0).reshape((n, 3) if axis == 0 else (3, n)) + 100 * n for n in (4, 2, 4)]
    whole = np.concatenate(parts, axis)
    for start, stop, step in itertools.product(range(10), range(1, 11), (1, 2, 3)):
        if start < stop:
            key = (slice(start, stop, step),) if axis == 0 else (slice(None), slice(start, stop, step))
            got = normalised(lambda *parts, key=key: gradc.concat(parts, axis=axis)[key], *parts)
            np.testing.assert_array_equal(got, whole[key], err_msg=str(key))


def test_a_slice_of_a_padded_array():
    x = np.arange(1.0, 6.0)
    for low, high, (start, stop, step) in itertools.product((0, 2), (0, 3), itertools.product(range(5), range(1, 10), (1, 2))):
        if start < stop <= low + 5 + high:
            got = normalised(lambda x, k=slice(start, stop, step), p=(low, high): gradc.pad(x, (p,))[k], x)
            np.testing.assert_array_equal(got, np.pad(x, (low, high))[start:stop:step])


def test_neighbours_in_a_sum_of_padded_arrays_are_joined_in_their_order():
    x, y = np.arange(1.0, 4.0), np.arange(10.0, 12.0)
    for gap, order in itertools.product((0, 1), ((0, 1), (1, 0))):
        lows = (0, 3 + gap)
        terms = [(x, lows[0], 6 - 3 - lows[0]), (y, lows[1], 6 - 2 - lows[1])]
        terms = [t for t in terms if t[2] >= 0]
        want = sum(np.pad(a, (low, high)) for a, low, high in terms)

        def joined(*arrays, terms=terms, order=order):
            padded = [gradc.pad(a, ((low, high),)) for a, (_, low, high) in zip(arrays, terms, strict=True)]
            return padded[order[0]] + padded[order[1]] if len(padded) > 1 else padded[0]

        np.testing.assert_array_equal(normalised(joined, *(t[0] for t in terms)), want)


# Products -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [31, 32, 33, 70, 1025])
def test_the_slope_of_a_product_of_many_factors(count):
    """They are taken in groups, of which the last is made up: what it is made up with counts for nothing."""
    x = np.random.default_rng(0).uniform(0.9, 1.1, count)
    slopes = run(gradc.grad(gradc.prod), x)
    np.testing.assert_allclose(slopes, np.prod(x) / x, rtol=1e-12)
    _, slope = run(lambda x: gradc.jvp(gradc.prod, (x,), (x,)), x)
    np.testing.assert_allclose(slope, count * np.prod(x), rtol=1e-12)


# Out of bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [-12, 11, 40, -100])
def test_an_index_outside_of_one_dimension_is_outside_of_all(outside):
    """And not a place in the next row."""
    i, j = np.array([3, outside, 2], np.int16), np.array([1, 2, 3], np.int16)
    for key in ((i, j), (j, j + 30), (j, j - 30)):
        with pytest.raises(gradc.ShapeError, match="out of bounds"):
            run(lambda x, i, j: x[i, j], CUBE[:, :, 0], *key)


@pytest.mark.triton
def test_kernels_read_nan_outside_of_any_dimension():
    i, j = np.array([3, -12, 11, 2], np.int16), np.array([1, 2, 3, 14], np.int16)
    got = in_kernels(lambda x, i, j: x[i, j], CUBE[:, :, 0], i, j)
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, True])
