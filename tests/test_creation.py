"""Arrays from numbers: every number arrives exactly, or rounded once, or is refused; the default dtype is one and the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradc
from gradc.errors import DTypeError, GradcError, ShapeError, TraceError
from gradc.types import DTYPES

INTEGERS = [name for name, dtype in DTYPES.items() if dtype.is_integer]
FLOATS = [name for name, dtype in DTYPES.items() if dtype.is_floating]
EDGES = sorted(
    {sign * 2**bits + step for bits in (7, 8, 15, 16, 31, 32, 63, 64) for sign in (-1, 1) for step in (-1, 0, 1)} | {0, 44}
)
MAKERS = {  # one number by every way that leads into an array of a dtype
    "asarray": lambda number, dtype: gradc.asarray(number, dtype=dtype),
    "asarray of a list": lambda number, dtype: gradc.asarray([number], dtype=dtype)[0],
    "asarray of lists": lambda number, dtype: gradc.asarray([[0, number], (number, 0)], dtype=dtype)[1, 0],
    "asarray beside a float": lambda number, dtype: gradc.asarray([0.5, number], dtype=dtype)[1],
    "asarray beside an array": lambda number, dtype: gradc.asarray([np.zeros((), dtype), number], dtype=dtype)[1],
    "full": lambda number, dtype: gradc.full((2,), number, dtype=dtype)[1],
    "full_like": lambda number, dtype: gradc.full_like(np.zeros(2), number, dtype=dtype)[1],
    "arange": lambda number, dtype: gradc.arange(number, number + 1, dtype=dtype)[0],
    "arange to": lambda number, dtype: gradc.arange(0, number + (1 if number >= 0 else -1), number or 1, dtype=dtype)[-1],
    "where": lambda number, dtype: gradc.where(np.array(True), number, np.zeros((), dtype)),
    "maximum": lambda number, dtype: gradc.maximum(np.zeros((), dtype), number),
}


def numpy_dtype(name):
    return DTYPES[name].numpy


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_an_integer_is_exact_or_refused(maker, dtype):
    info = np.iinfo(dtype)
    for number in EDGES:
        if info.min <= number <= info.max:
            got = MAKERS[maker](number, numpy_dtype(dtype))
            assert (int(got), got.dtype) == ((max(number, 0) if maker == "maximum" else number), np.dtype(dtype)), number
        elif maker != "maximum" or number >= 0:
            with pytest.raises(DTypeError, match="does not fit in"):
                MAKERS[maker](number, numpy_dtype(dtype))


@pytest.mark.parametrize(
    "maker", ["asarray", "asarray of a list", "asarray of lists", "asarray beside a float", "full", "full_like"]
)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_a_float_that_an_integer_dtype_does_not_hold_is_refused(maker, dtype):
    info = np.iinfo(dtype)
    for number in (math.nan, math.inf, -math.inf, 2.0 * info.max + 2, 2.0 * info.min - 2, np.float64(1e300), np.float32(1e30)):
        with pytest.raises(DTypeError, match="does not fit in"):
            MAKERS[maker](number, numpy_dtype(dtype))
    assert MAKERS[maker](2.75, numpy_dtype(dtype)) == 2


@pytest.mark.parametrize("maker", [name for name in MAKERS if not name.startswith(("arange", "maximum"))])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_float_is_rounded_once_to_its_dtype(maker, dtype):
    numbers = [0.1, 1 / 3, 1e300, -1e-300, 1e-45, 16777217.0, 1 + 2.0**-40, 2**53 + 1, 2**63]
    numbers += [np.float64(0.1), np.float32(0.1)] if maker != "where" else []  # there a NumPy scalar keeps its dtype
    for number in numbers:
        with np.errstate(all="ignore"):
            want = np.asarray(float(number)).astype(numpy_dtype(dtype))
        got = MAKERS[maker](number, numpy_dtype(dtype))
        assert got.dtype == want.dtype
        assert got == want, number


@pytest.mark.parametrize("scalar", [np.int64(300), np.uint8(200), np.float64(1e9), np.int32(-1)])
def test_a_numpy_scalar_is_a_number_too(scalar):
    dtype = "int8" if scalar > 0 else "uint8"
    for maker in ("asarray", "asarray of a list", "full", "full_like", "arange"):
        with pytest.raises(DTypeError, match="does not fit in"):
            MAKERS[maker](scalar, dtype)


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda: gradc.zeros(2, dtype=None), "float32"),
        (lambda: gradc.ones(2, dtype=None), "float32"),
        (lambda: gradc.empty(2, dtype=None), "float32"),
        (lambda: gradc.linspace(0, 1, 3, dtype=None), "float32"),
        (lambda: gradc.eye(2, dtype=None), "float32"),
        (lambda: gradc.zeros_like(np.zeros(2, np.int8), dtype=None), "int8"),
        (lambda: gradc.ones_like(np.zeros(2, np.float64), dtype=None), "float64"),
        (lambda: gradc.full(2, 1, dtype=None), "int64"),
        (lambda: gradc.full(2, 1.5, dtype=None), "float32"),
        (lambda: gradc.full(2, True, dtype=None), "bool"),
        (lambda: gradc.full(2, np.float64(1.5)), "float64"),
        (lambda: gradc.arange(3, dtype=None), "int64"),
        (lambda: gradc.arange(np.int32(3)), "int64"),
        (lambda: gradc.arange(np.uint8(1), np.int64(3)), "int64"),
        (lambda: gradc.arange(3.0), "float32"),
        (lambda: gradc.asarray([1, 2]), "int64"),
        (lambda: gradc.asarray([1, 2.5]), "float32"),
        (lambda: gradc.asarray([True, False]), "bool"),
        (lambda: gradc.asarray([True, 2]), "int64"),
        (lambda: gradc.asarray([]), "float32"),
        (lambda: gradc.asarray([[], []], dtype="int8"), "int8"),
        (lambda: gradc.asarray(range(3)), "int64"),
        (lambda: gradc.asarray([np.float64(0.1)]), "float64"),
        (lambda: gradc.asarray([np.float16(0.1), 1.0]), "float16"),
        (lambda: gradc.asarray([np.ones(2), np.zeros(2)]), "float64"),
        (lambda: gradc.asarray([np.ones(2, np.int8), [1, 2]]), "int8"),
        (lambda: gradc.asarray([np.ones(2, np.int8), [1, 2.5]]), "float32"),
    ],
)
def test_the_dtype_of_what_is_made(make, dtype):
    assert make().dtype == np.dtype(dtype)


def test_a_number_beside_an_array_in_a_list_is_as_exact_as_the_array():
    np.testing.assert_array_equal(gradc.asarray([np.float64(0.25), 0.1]), np.array([0.25, 0.1]))
    inside = gradc.compile(lambda x: gradc.asarray([x, 0.1, [0.2, x][0]]))(np.float64(0.3))
    np.testing.assert_array_equal(inside, np.array([0.3, 0.1, 0.2]))


RAMPS = [
    (3, -1, -1),
    (255, -1, -255),
    (-128, 128, 255),
    (-100, 100, 1),
    (0, 128, 127),
    (200, 0, -50),
    (5, 5, 1),
    (0, 10**19, 10**18),
]
RAMPS += [
    (2**64 - 1, 2**64 - 4, -1),
    (2**63, 0, -(2**62)),
    (-(2**63), 2**63, 2**62),
    (0, 2**62 + 1, 2**62),
    (2**53 + 1, 2**53 + 4, 1),
]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("ends", RAMPS, ids=str)
def test_a_ramp_of_integers_is_exact_or_refused(dtype, ends):
    numbers, info = list(range(*ends)), np.iinfo(dtype)
    if all(info.min <= number <= info.max for number in numbers):
        got = gradc.arange(*ends, dtype=dtype)
        assert got.dtype == np.dtype(dtype)
        assert got.tolist() == numbers
    else:
        with pytest.raises(DTypeError, match="does not fit in"):
            gradc.arange(*ends, dtype=dtype)


def test_a_ramp_of_floats_is_numpys_in_float64():
    for ends in [(0.1, 1e300, 3e299), (0, 1, 0.1), (1, 0, -0.25), (0.5, 3), (0.0, -1, -0.5)]:
        assert not np.signbit(gradc.arange(*ends)[:1]).any()
        np.testing.assert_array_equal(gradc.arange(*ends, dtype="float64"), np.arange(*ends, dtype="float64"))
        np.testing.assert_array_equal(gradc.arange(*ends), np.arange(*ends, dtype="float64").astype(np.float32))


@pytest.mark.parametrize(
    "ends", [(0.1, 0.7, 4), (-1, 2, 7), (5, 5, 3), (1, 0, 1), (3, 9, 0), (1e-300, 1e300, 5), (-3, 3, 5)], ids=str
)
@pytest.mark.parametrize("endpoint", [True, False])
def test_linspace_is_numpys(ends, endpoint):
    np.testing.assert_array_equal(
        gradc.linspace(*ends, dtype="float64", endpoint=endpoint), np.linspace(*ends, dtype="float64", endpoint=endpoint)
    )
    if abs(ends[1]) < 1e9 and abs(ends[0]) > 1e-9:
        np.testing.assert_array_equal(
            gradc.linspace(*ends, dtype="int16", endpoint=endpoint), np.linspace(*ends, dtype="int16", endpoint=endpoint)
        )


def test_a_ramp_down_from_zero_begins_at_positive_zero():
    assert repr(gradc.linspace(0, -1, 3).tolist()) == "[0.0, -0.5, -1.0]"


def test_linspace_between_numbers_whose_difference_overflows():
    np.testing.assert_array_equal(gradc.linspace(-1e308, 1e308, 3, dtype="float64"), [-1e308, 0, 1e308])


@pytest.mark.parametrize("ends", [(0, 300, 4), (-1, 10, 2), (300, 0, 4), (0, math.inf, 3)], ids=str)
def test_linspace_refuses_ends_an_integer_dtype_does_not_hold(ends):
    with pytest.raises(DTypeError, match="does not fit in uint8"):
        gradc.linspace(*ends, dtype="uint8")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: gradc.asarray([[1, 2], [3]]), ShapeError),
        (lambda: gradc.asarray(["a"]), DTypeError),
        (lambda: gradc.asarray([1, None]), TraceError),
        (lambda: gradc.asarray(2**63), DTypeError),
        (lambda: gradc.asarray([2**63, -1]), DTypeError),
        (lambda: gradc.asarray(2**2000, dtype="float64"), DTypeError),
        (lambda: gradc.asarray([2**2000], dtype="float32"), DTypeError),
        (lambda: gradc.add(np.ones(2, np.float32), 10**400), DTypeError),
        (lambda: gradc.arange(0, math.inf), ShapeError),
        (lambda: gradc.arange(math.nan), ShapeError),
        (lambda: gradc.arange("3"), ShapeError),
        (lambda: gradc.linspace(0, 1, 2.5), ShapeError),
        (lambda: gradc.compile(lambda x: x.at[0].set(300))(np.zeros(2, np.uint8)), DTypeError),
        (lambda: gradc.compile(lambda x: x.at[0].add(-1))(np.zeros(2, np.uint8)), DTypeError),
        (lambda: gradc.compile(lambda x: gradc.arange(x))(np.zeros(2, np.uint8)), GradcError),
    ],
)
def test_what_is_no_number_or_fits_nowhere_is_refused(make, error):
    with pytest.raises(error):
        make()
