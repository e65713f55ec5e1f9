"""Every row of the table through an emitted kernel: against its NumPy column, and its gradient against PyTorch's in float64.

Special values are compared by their exact class (NaN, inf, the sign of zero); the reference's gradient stands in for PyTorch's
there, since each has its own conventions at kinks (`test_ops.py` holds gradc's).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import check  # noqa: E402

import gradc  # noqa: E402
from gradc.ops import ANY, BITS, BOOL, FLOAT, INTEGER, NUMBER, TABLE  # noqa: E402

pytestmark = pytest.mark.triton

INF, NAN = math.inf, math.nan
ORDINARY = [-11.375, -2.75, -1.5, -0.875, -0.25, 0.3125, 0.5, 0.9375, 1.125, 1.75, 2.5, 7.375]
SPECIAL = [0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 0.5, 2.0, 3.0, -3.0, 1e-30, -1e-30, 100.0, -100.0, 1e30, -1e30]
FLOATING = [row for row in TABLE.values() if row.takes in (FLOAT, NUMBER, ANY) and not row.is_selection]
SMOOTH = [row for row in FLOATING if row.gives != "bool" and any(partial is not None for partial in row.partials)]
INTEGERS = [row for row in TABLE.values() if row.takes in (NUMBER, ANY, INTEGER, BITS) and not row.is_selection]
LOGICAL = [row for row in TABLE.values() if row.takes in (BOOL, BITS, ANY) and not row.is_selection]
INTEGER_DTYPES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DOMAINS: dict[str, Any] = {
    "x > 0": lambda x, *_: x > 0,
    "x > 1": lambda x: x > 1,
    "x > -1": lambda x: x > -1,
    "|x| < 1": lambda x: abs(x) < 1,
    "x != 0": lambda x, *_: x != 0,
    "y != 0": lambda x, y: y != 0,
    "x != y": lambda x, y: x != y,
    "(x, y) != 0": lambda x, y: (x, y) != (0, 0),
    "x != 0, y != 0": lambda x, y: x != 0 and y != 0,
    "real": lambda *_: True,
}
TORCH: dict[str, Any] = {
    "absorbing_divide": torch.divide,
    "absorbing_multiply": torch.multiply,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
    "round": torch.round,
    "fmod": torch.fmod,
    "softplus": lambda x: torch.nn.functional.softplus(x, threshold=1000.0),
}


def torch_function(row: Any) -> Any:
    return TORCH.get(row.name) or getattr(torch, row.name)


def points(numbers: list[float], arity: int, allowed: Any = lambda *_: True) -> list[np.ndarray]:
    """Every combination of the numbers as operands, one array per operand."""
    return [
        np.array(part, np.float64)
        for part in zip(*(p for p in itertools.product(numbers, repeat=arity) if allowed(*p)), strict=True)
    ]


def extremes(dtype: str) -> list[float]:
    """The special numbers with those of a dtype: subnormal, smallest, largest, beside 1, halves, edges of whole numbers."""
    limits = np.finfo(dtype)
    own = [
        limits.smallest_subnormal,
        limits.tiny,
        limits.max,
        1 + limits.eps,
        1 - limits.epsneg,
        1 / limits.eps,
        0.5 / limits.eps,
    ]
    return [*SPECIAL, *(sign * float(x) for x in (*own, 1.5, 2.5, 2.0**31, 2.0**63) for sign in (1, -1))]


def through_a_kernel(row: Any, *arrays: np.ndarray) -> np.ndarray:
    return gradc.compile(backend="interpret")(getattr(gradc, row.name))(*arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", FLOATING, ids=lambda row: row.name)
def test_ordinary_numbers(row, dtype):
    arrays = [x.astype(dtype) for x in points(ORDINARY, row.arity, DOMAINS[row.domain])]
    got = through_a_kernel(row, *arrays)
    want = row(*(x.astype(np.float64) for x in arrays))
    assert got.dtype == (bool if row.gives == "bool" else np.dtype(dtype))
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", FLOATING, ids=lambda row: row.name)
def test_special_numbers(row, dtype):
    arrays = [x.astype(dtype) for x in points(extremes(dtype), row.arity)]
    got, want = through_a_kernel(row, *arrays), np.asarray(row(*arrays))
    wrong = differing(got, want, dtype)
    said = [f"{row.name}{tuple(float(x[i]) for x in arrays)} is {got[i]}, not {want[i]}" for i in np.flatnonzero(wrong)[:8]]
    assert not said, "\n".join(said)


def differing(got: np.ndarray, want: np.ndarray, dtype: str) -> np.ndarray:
    """Where two results differ by more than rounding, in NaN, infinity or the sign of a zero."""
    if want.dtype == bool:
        return got != want
    a, b = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= 8 * np.finfo(dtype).eps * np.abs(b) + 8 * np.finfo(dtype).tiny
    same = (a == b) & (np.signbit(a) == np.signbit(b)) | np.isnan(a) & np.isnan(b) | near & (b != 0)
    return ~same


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", SMOOTH, ids=lambda row: row.name)
def test_gradients(row, dtype):
    arrays = [torch.from_numpy(x).to(dtype) for x in points(ORDINARY, row.arity, DOMAINS[row.domain])]
    if row.name in ("remainder", "fmod", "copysign"):
        arrays = [arrays[0] + 0.01, arrays[1]]
    check(getattr(gradc, row.name), torch_function(row), *arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", SMOOTH, ids=lambda row: row.name)
def test_gradients_at_special_numbers(row, dtype):
    arrays = [x.astype(dtype) for x in points(SPECIAL, row.arity)]
    slopes = gradc.grad(lambda *xs: gradc.sum(getattr(gradc, row.name)(*xs)), argnums=tuple(range(row.arity)))
    got, want = (gradc.compile(backend=backend)(slopes)(*arrays) for backend in ("interpret", "numpy"))
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        wrong = differing(np.abs(a), np.abs(b), dtype)
        said = [
            f"d{number} {row.name}{tuple(float(x[i]) for x in arrays)} is {a[i]}, not {b[i]}" for i in np.flatnonzero(wrong)[:8]
        ]
        assert not said, "\n".join(said)


BINARY = [row for row in TABLE.values() if row.arity == 2 and row.takes in (FLOAT, NUMBER, ANY)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("row", BINARY, ids=lambda row: row.name)
def test_a_python_number_beside_an_array(row, dtype):
    """The number is as exact as the array's dtype, on either side: 0.1 in float64 is not a float32."""
    is_float = np.dtype(dtype).kind == "f"
    if row.takes == FLOAT and not is_float:
        pytest.skip("takes floats only")
    x = np.array([0.03, 0.1, 0.7, 4.1] if is_float else [1, 2, 3, 5]).astype(dtype)
    number = 0.1 if is_float else 2
    function, exact = getattr(gradc, row.name), np.asarray(number).astype(dtype)
    got = gradc.compile(backend="interpret")(lambda x: (function(x, number), function(number, x)))(x)
    for a, b in zip(got, (row.numpy(x, exact), row.numpy(exact, x)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a.astype(np.float64), b.astype(np.float64), rtol=8 * np.finfo(dtype if is_float else "float64").eps
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_python_number_in_a_selection(dtype):
    x, condition = np.array([0.03, 0.1, 0.7, 4.1]).astype(dtype), np.array([True, False, True, False])
    compiled = gradc.compile(backend="interpret")
    got = compiled(lambda c, x: (gradc.where(c, x, 0.1), gradc.where(c, 0.1, x), gradc.clip(x, 0.1, 0.7)))(condition, x)
    exact = [np.asarray(number).astype(dtype) for number in (0.1, 0.7)]
    want = (np.where(condition, x, exact[0]), np.where(condition, exact[0], x), np.clip(x, *exact))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
@pytest.mark.parametrize("row", INTEGERS, ids=lambda row: row.name)
def test_integers(row, dtype):
    arrays = [x.astype(dtype) for x in integer_points(row, np.iinfo(dtype))]
    with np.errstate(all="ignore"):
        want = np.asarray(row.numpy(*arrays))
    got = through_a_kernel(row, *arrays)
    assert got.dtype == (np.bool_ if row.gives == "bool" else np.dtype(dtype))
    np.testing.assert_array_equal(got, want)


def integer_points(row: Any, limits: np.iinfo) -> list[np.ndarray]:
    """Numbers of either sign, about powers of two, the ends of the range; divisors are not 0, shifts fewer than the bits."""
    edges = [limits.max, limits.max - 1, limits.min, limits.min + 1, limits.max // 3, limits.bits, 2 ** (limits.bits // 2)]
    numbers = sorted(
        {n for n in (-100, -7, -3, -2, -1, 0, 1, 2, 3, 7, 39, 62, 63, 64, *edges) if limits.min <= n <= limits.max}
    )
    second = numbers
    if row.name in ("remainder", "fmod", "floor_divide"):
        second = [n for n in numbers if n != 0]
    elif row.name.endswith("_shift"):
        second = [n for n in numbers if 0 <= n < limits.bits]
    pairs = list(itertools.product(*([numbers, second][: row.arity])))
    return [np.array(part, dtype=object) for part in zip(*pairs, strict=True)]


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_a_power_of_integers_is_exact_or_as_torch_has_it(dtype):
    limits = np.iinfo(dtype)
    pairs = [
        (x, y)
        for x in (-7, -3, -2, -1, 0, 1, 2, 3, 7, 10, 100)
        for y in (-3, -2, -1, 0, 1, 2, 5, 13, 39, 62, 63, 64, 101)
        if all(limits.min <= n <= limits.max for n in (x, y)) and (y > 0 or x != 0)
        if limits.min <= abs(x) ** max(y, 0) <= limits.max
    ]
    x, y = (np.array(part).astype(dtype) for part in zip(*pairs, strict=True))
    exact = [int(x**y) if y >= 0 else x ** (-y) if abs(x) == 1 else 0 for x, y in pairs]
    for backend in ("numpy", "interpret"):
        assert gradc.compile(gradc.pow, backend=backend)(x, y).tolist() == exact
    for number in {y for _, y in pairs if y > 0}:
        chosen = y == number
        assert gradc.compile(lambda x, n=number: x**n, backend="interpret")(x[chosen]).tolist() == [
            e for e, (_, y) in zip(exact, pairs, strict=True) if y == number
        ]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(["bool", *INTEGER_DTYPES], repeat=2)))
def test_bits_of_two_dtypes(first, second):
    """All functions of bits at once, of operands of every pair of dtypes that have a common one."""
    x, y = (np.array(n).astype(dtype) for n, dtype in (([0, 1, 7, 100, 1], first), ([1, 1, 2, 3, 0], second)))
    functions = [getattr(gradc, row.name) for row in TABLE.values() if row.takes == BITS and row.arity == 2]
    functions += [getattr(gradc, row.name) for row in TABLE.values() if row.takes == INTEGER and "bool" not in (first, second)]
    functions += [gradc.logical_xor, gradc.equal, lambda x, y: gradc.bitwise_xor(x != 0, y), lambda x, y: ~x ^ ~y]
    try:
        want = [function(x, y) for function in functions[:-2]]
    except gradc.DTypeError:  # uint64 with a signed dtype
        pytest.skip("no common dtype")
    got = gradc.compile(lambda x, y: [function(x, y) for function in functions], backend="interpret")(x, y)
    for a, b in zip(got, [*want, np.bitwise_xor(x != 0, y), ~x ^ ~y], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("row", LOGICAL, ids=lambda row: row.name)
def test_bools(row):
    arrays = [np.array(part) for part in zip(*itertools.product([False, True], repeat=row.arity), strict=True)]
    got = through_a_kernel(row, *arrays)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, row.numpy(*arrays))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", *INTEGER_DTYPES])
def test_where_selects_whatever_the_other_branch_holds(dtype):
    condition = np.array([True, False, True, False, True])
    yes, no = np.array([1, 0, 1, 1, 0]).astype(dtype), np.array([0, 1, 1, 0, 0]).astype(dtype)
    if np.dtype(dtype).kind == "f":
        no[0], yes[1] = NAN, INF
    np.testing.assert_array_equal(
        gradc.compile(backend="interpret")(gradc.where)(condition, yes, no), np.where(condition, yes, no)
    )


def test_the_branch_not_taken_has_no_gradient():
    x = torch.tensor([-1.0, 0.0, 4.0, INF, NAN])
    check(
        lambda x: gradc.where(x > 0, gradc.sqrt(gradc.where(x > 0, x, 1.0)), 0.0),
        lambda x: torch.where(x > 0, torch.sqrt(torch.where(x > 0, x, 1.0)), 0.0),
        x,
    )


CASTS = ["float16", "bfloat16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint32"]


@pytest.mark.parametrize("target", CASTS)
@pytest.mark.parametrize("origin", CASTS)
def test_casts(origin, target):
    import ml_dtypes

    dtypes = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in (origin, target)}
    x = np.array([0, 1, 2, 3, 100, 127]).astype(dtypes[origin])
    if dtypes[origin].kind in "fV" and dtypes[target].kind in "fVb":
        x = np.array([0.0, -0.0, 1.5, -2.7182817, 0.1, 3.0e-5, 1.00390625, 65504.0, NAN]).astype(dtypes[origin])
    with np.errstate(all="ignore"):
        want = x != 0 if target == "bool" else x.astype(dtypes[target])
    got = gradc.compile(backend="interpret")(lambda x: gradc.astype(x, target))(x)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))


@pytest.mark.parametrize("origin", ["float32", "float64"])
def test_floats_become_integers_toward_zero(origin):
    x = np.array([-2.75, -0.5, 0.5, 0.99, 2.75, 1e6]).astype(origin)
    np.testing.assert_array_equal(gradc.compile(backend="interpret")(lambda x: gradc.astype(x, "int32"))(x), x.astype(np.int32))
