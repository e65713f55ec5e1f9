"""The table: NumPy column against the exact meaning, derivatives in floats at hard points, dtypes, Triton spelling."""

from __future__ import annotations

import ast
import itertools
import math
import warnings

import mpmath
import numpy as np
import pytest
import sympy

import gradc  # noqa: F401  (attaches the operators that partials are written with)
from gradc import types
from gradc.autodiff import jvp_graph, vjp_graph
from gradc.errors import DTypeError, ShapeError
from gradc.interpret import evaluate
from gradc.ir import Graph, apply
from gradc.leaves import constant, make_input
from gradc.ops import ANY, BITS, BOOL, FLOAT, INTEGER, NUMBER, TABLE

INF, NAN = math.inf, math.nan
ORDINARY = [-2.75, -1.5, -0.875, -0.25, 0.0, 0.3125, 0.5, 0.9375, 1.0, 1.75, 2.5, 11.375]
DOMAINS = {
    "x > 0": lambda x, *_: x > 0,
    "x > 1": lambda x: x > 1,
    "x > -1": lambda x: x > -1,
    "|x| < 1": lambda x: abs(x) < 1,
    "x != 0": lambda x: x != 0,
    "y != 0": lambda x, y: y != 0,
    "(x, y) != 0": lambda x, y: (x, y) != (0, 0),
}
FLOATING = [row for row in TABLE.values() if row.takes in (FLOAT, NUMBER, ANY) and not row.is_selection]
DISCRETE = [row for row in TABLE.values() if row.takes in (INTEGER, BITS, BOOL)]


def points(row):
    """Ordinary operands inside the row's domain, one tuple per point."""
    inside = DOMAINS.get(row.domain, lambda *_: True)
    return [point for point in itertools.product(ORDINARY, repeat=row.arity) if inside(*point)]


def gradient(name, *operands, dtype=np.float32):
    """The gradient of the sum of a row's results with respect to each operand, by reverse mode and the reference."""
    arrays = [np.asarray(x, dtype) for x in operands]
    inputs = [make_input(x.shape, types.as_dtype(x.dtype)) for x in arrays]
    value = TABLE[name](*inputs)
    cotangents = vjp_graph([value], inputs, [constant(1, value.dtype, value.shape)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluate(Graph(tuple(inputs), tuple(cotangents)), arrays)


@pytest.mark.parametrize("row", FLOATING, ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_numpy_column_is_the_meaning(row, dtype):
    operands = np.array(points(row), dtype).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = row(*operands)
    assert found.dtype == (bool if row.gives == "bool" else dtype)
    with mpmath.workdps(40):
        chosen = range(0, operands.shape[1], max(1, operands.shape[1] // 24))
        meant = [row(*(mpmath.mpf(float(x)) for x in operands[:, i])) for i in chosen]
        expected = np.array([x if isinstance(x, bool) else float(x) for x in meant])
    tolerance = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found[list(chosen)].astype(float), expected.astype(float), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("row", DISCRETE, ids=lambda row: row.name)
def test_discrete_functions_mean_the_same_in_numpy_and_sympy(row):
    numbers = [True, False] if row.takes in (BOOL, BITS) else [-5, 0, 3]
    second = [True, False] if row.takes in (BOOL, BITS) else [0, 1, 4]
    for point in itertools.product(*([numbers, second][: row.arity])):
        exact = row.on_exact(*point)
        assert row(*(np.asarray(x) for x in point)) == (bool(exact) if numbers[0] is True else int(exact))


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("sigmoid", (-1000.0,), 0.0),
        ("sigmoid", (1000.0,), 1.0),
        ("softplus", (1000.0,), 1000.0),
        ("softplus", (-INF,), 0.0),
        ("logaddexp", (-INF, -INF), -INF),
        ("maximum", (NAN, 1.0), NAN),
        ("minimum", (1.0, NAN), NAN),
        ("round", (0.5,), 0.0),
        ("round", (2.5,), 2.0),
        ("round", (-1.5,), -2.0),
        ("sign", (NAN,), NAN),
        ("pow", (0.0, 0.0), 1.0),
        ("rsqrt", (0.0,), INF),
        ("hypot", (1e30, 1e30), math.sqrt(2) * 1e30),
        ("fmod", (-7.0, 3.0), -1.0),
        ("remainder", (-7.0, 3.0), 2.0),
        ("floor_divide", (-7.0, 3.0), -3.0),
        ("erf", (NAN,), NAN),
        ("erfc", (27.0,), 0.0),
        ("copysign", (3.0, -0.0), -3.0),
        ("log1p", (-1.0,), -INF),
    ],
)
def test_values_at_hard_points(name, operands, expected):
    found = TABLE[name](*(np.float32(x).reshape(()) for x in operands))
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=1e-6, atol=1e-37)


QUOTIENTS = [  # (x, y, x // y, x % y), the special cases of the array API standard; NaN where it says NaN
    (0.0, 3.0, 0.0, 0.0), (-0.0, 3.0, -0.0, 0.0), (0.0, -3.0, -0.0, -0.0), (-0.0, -3.0, 0.0, -0.0),
    (0.0, INF, 0.0, 0.0), (-0.0, INF, -0.0, 0.0), (0.0, -INF, -0.0, -0.0), (-0.0, -INF, 0.0, -0.0),
    (2.0, 0.0, INF, NAN), (2.0, -0.0, -INF, NAN), (-2.0, 0.0, -INF, NAN), (-2.0, -0.0, INF, NAN),
    (INF, 2.0, INF, NAN), (INF, -2.0, -INF, NAN), (-INF, 2.0, -INF, NAN), (-INF, -2.0, INF, NAN),
    (2.0, INF, 0.0, 2.0), (2.0, -INF, -1.0, -INF), (-2.0, INF, -1.0, INF), (-2.0, -INF, 0.0, -2.0),
    (INF, INF, NAN, NAN), (-INF, INF, NAN, NAN), (INF, -INF, NAN, NAN), (0.0, 0.0, NAN, NAN), (-0.0, 0.0, NAN, NAN),
    (NAN, 2.0, NAN, NAN), (2.0, NAN, NAN, NAN), (INF, NAN, NAN, NAN), (NAN, 0.0, NAN, NAN),
    (6.0, 3.0, 2.0, 0.0), (6.0, -3.0, -2.0, -0.0), (-6.0, 3.0, -2.0, 0.0), (-6.0, -3.0, 2.0, -0.0),
    (1.0, 3.0, 0.0, 1.0), (-1.0, -3.0, 0.0, -1.0), (1.0, -3.0, -1.0, -2.0), (-1.0, 3.0, -1.0, 2.0),
    (5e-324, 2.0, 0.0, 5e-324), (-5e-324, -2.0, 0.0, -5e-324), (5e-324, -2.0, -1.0, -2.0), (1e308, 1e-308, INF, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("x", "y", "quotient", "rest"), QUOTIENTS)
def test_a_quotient_and_its_rest_are_the_array_apis(x, y, quotient, rest):
    """Signs of zeros count. The rest of a quotient past every float is not looked at."""
    for name, expected in (("floor_divide", quotient), ("remainder", rest)):
        found = float(TABLE[name](np.asarray(x), np.asarray(y)))
        if name == "floor_divide" or math.isfinite(quotient) or math.isnan(rest):
            assert repr(found) == repr(expected), name


@pytest.mark.parametrize(
    ("x", "sign"), [(0.0, 0.0), (-0.0, 0.0), (5e-324, 1.0), (-5e-324, -1.0), (INF, 1.0), (-INF, -1.0), (NAN, NAN)]
)
def test_a_sign_is_the_array_apis(x, sign):
    assert repr(float(TABLE["sign"](np.asarray(x)))) == repr(sign)


SLOPES = [
    ("sigmoid", (0.0, 100.0, -100.0, INF, -INF), (0.25, 0, 3.783506e-44, 0, 0)),
    ("tanh", (0.0, -0.0, 50.0, -50.0, INF, -INF), (1, 1, 0, 0, 0, 0)),
    ("softplus", (0.0, 100.0, -20.0, INF, -INF), (0.5, 1, 2.0611537e-9, 1, 0)),
    ("log1p", (0.0, -0.0, -1.0, 1e30, INF), (1, 1, INF, 1e-30, 0)),
    ("expm1", (0.0, -50.0, -INF), (1, 1.9287498e-22, 0)),
    ("exp", (0.0, -200.0, -INF), (1, 0, 0)),
    ("log", (0.0, 1.0, INF), (INF, 1, 0)),
    ("sqrt", (0.0, 4.0, 1e-30, INF), (INF, 0.25, 5e14, 0)),
    ("rsqrt", (0.0, 4.0, INF), (-INF, -1 / 16, 0)),
    ("reciprocal", (2.0, INF, -INF, 1e30), (-0.25, 0, 0, 0)),
    ("abs", (-2.0, -0.0, 0.0, 3.0, INF, -INF), (-1, 0, 0, 1, 1, -1)),
    ("sign", (-2.0, 0.0, 3.0), (0, 0, 0)),
    ("erf", (0.0, 30.0, 1e30, INF, -INF), (2 / math.sqrt(math.pi), 0, 0, 0, 0)),
    ("atan", (0.0, 1e30, INF), (1, 0, 0)),
    ("asinh", (0.0, 1e30, -INF), (1, 0, 0)),
    ("asin", (0.0, 1.0, -1.0, 0.99999994), (1, INF, INF, 2896.3093)),
    ("floor", (0.5, 1.0), (0, 0)),
]


@pytest.mark.parametrize(("name", "at", "slopes"), SLOPES, ids=[name for name, *_ in SLOPES])
def test_slopes_at_hard_points_in_float32(name, at, slopes):
    np.testing.assert_allclose(gradient(name, at)[0], np.array(slopes, np.float32), rtol=1e-6, atol=1e-44)


PAIRS = [
    ("maximum", (1.0, 1.0), (0.5, 0.5)),
    ("maximum", (0.0, -0.0), (0.5, 0.5)),
    ("maximum", (INF, 1.0), (1, 0)),
    ("minimum", (-INF, 1.0), (1, 0)),
    ("minimum", (2.0, 2.0), (0.5, 0.5)),
    ("logaddexp", (0.0, 0.0), (0.5, 0.5)),
    ("logaddexp", (1000.0, -1000.0), (1, 0)),
    ("logaddexp", (-INF, 0.0), (0, 1)),
    ("logaddexp", (-INF, -INF), (0.5, 0.5)),
    ("logaddexp", (INF, INF), (0.5, 0.5)),
    ("logaddexp", (INF, -INF), (1, 0)),
    ("hypot", (0.0, 0.0), (0, 0)),
    ("hypot", (1e30, 1e30), (math.sqrt(0.5), math.sqrt(0.5))),
    ("atan2", (0.0, 0.0), (0, 0)),
    ("atan2", (1e-25, 1e-25), (5e24, -5e24)),
    ("atan2", (1e30, 1e30), (5e-31, -5e-31)),
    ("pow", (0.0, 0.0), (0, 0)),
    ("pow", (0.0, 1.0), (1, 0)),
    ("pow", (0.0, 2.0), (0, 0)),
    ("pow", (0.0, 0.5), (INF, 0)),
    ("pow", (0.0, -1.0), (-INF, -INF)),  # x^y log(x) as x falls to 0
    ("pow", (0.0, -0.5), (-INF, -INF)),
    ("pow", (0.0, -INF), (-INF, -INF)),
    ("pow", (NAN, 0.0), (0, NAN)),
    ("pow", (NAN, 2.0), (NAN, NAN)),
    ("pow", (2.0, 0.0), (0, math.log(2))),
    ("pow", (INF, 0.0), (0, INF)),
    ("pow", (-2.0, 3.0), (12, NAN)),  # x^y has no neighbourhood in y at x < 0
    ("divide", (1.0, 1e30), (1e-30, 0)),
    ("divide", (INF, 2.0), (0.5, -INF)),
    ("fmod", (7.5, -2.0), (1, 3)),
    ("remainder", (7.5, -2.0), (1, 4)),
    ("copysign", (0.0, -1.0), (0, 0)),
]


@pytest.mark.parametrize(("name", "at", "slopes"), PAIRS, ids=[f"{name}{at}" for name, at, _ in PAIRS])
def test_slopes_of_two_operands_at_hard_points_in_float32(name, at, slopes):
    found = [float(slope) for slope in gradient(name, *at)]
    np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "exp", "sqrt", "abs", "erf", "softplus", "log1p", "atan"])
def test_nan_stays_nan_in_slopes(name):
    assert np.isnan(gradient(name, NAN)[0])


def test_the_branch_not_taken_contributes_nothing():
    x = make_input((3,), types.float32)
    safe = TABLE["where"](TABLE["greater"](x, 0), TABLE["log"](x), 0)
    (slope,) = vjp_graph([safe], [x], [constant(1, types.float32, (3,))])
    (found,) = evaluate(Graph((x,), (slope,)), [np.array([0, -1, 4], np.float32)])
    np.testing.assert_array_equal(found, np.array([0, 0, 0.25], np.float32))


@pytest.mark.parametrize(("base", "power", "curvature"), [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 2.0, 2.0), (2.0, 3.0, 12.0)])
def test_the_second_derivative_of_a_power_at_zero(base, power, curvature):
    x, y = make_input((), types.float64), make_input((), types.float64)
    one = constant(1, types.float64)
    (slope,) = vjp_graph([TABLE["pow"](x, y)], [x], [one])
    (second,) = vjp_graph([slope], [x], [one])
    assert evaluate(Graph((x, y), (second,)), [np.float64(base), np.float64(power)])[0] == curvature


@pytest.mark.parametrize("power", [-1.5, -1, 0.0, 0.5, 1.5, 2.5, 3, 7])
def test_a_constant_power_has_the_slope_of_a_computed_one(power):
    x = make_input((4,), types.float64)
    at = np.array([0.25, 1, 1.5, 3])
    (slope,) = vjp_graph([TABLE["pow"](x, power)], [x], [constant(1, types.float64, (4,))])
    np.testing.assert_allclose(evaluate(Graph((x,), (slope,)), [at])[0], power * at ** (power - 1), rtol=1e-14)
    names = {value.operation.name for value in Graph((x,), (slope,)).values}
    assert "where" not in names
    assert "equal" not in names


@pytest.mark.parametrize("row", [row for row in FLOATING if row.gives == "same"], ids=lambda row: row.name)
def test_both_modes_agree_with_differences_of_the_numpy_column(row):
    operands = np.array(points(row)[::5], float).T + np.array([[0.0123], [0.0371]])[: row.arity]
    inside = [DOMAINS.get(row.domain, lambda *_: True)(*column) for column in operands.T]
    operands = operands[:, inside]
    inputs = [make_input(x.shape, types.float64) for x in operands]
    value = row(*inputs)
    ones = constant(1, types.float64, value.shape)
    for position, slope in enumerate(gradient(row.name, *operands, dtype=np.float64)):
        if row.name == "pow" and position == 1:
            continue
        move = np.zeros_like(operands)
        move[position] = 1e-6
        numeric = (row(*(operands + move)) - row(*(operands - move))) / 2e-6
        np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-6)
        tangents = [ones if i == position else None for i in range(row.arity)]
        (tangent,) = jvp_graph([value], inputs, tangents)
        if tangent is not None:
            np.testing.assert_array_equal(evaluate(Graph(tuple(inputs), (tangent,)), list(operands))[0], slope)


F32, F64, I32, I64, U8, B1, BF16 = (types.as_dtype(name) for name in ("f32", "f64", "i32", "i64", "u8", "bool", "bf16"))


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("add", (I32, I64), I64),
        ("add", (I32, F32), F32),
        ("add", (BF16, F32), F32),
        ("add", (BF16, 2.5), BF16),
        ("add", (I32, 2), I32),
        ("add", (I32, 2.5), F32),
        ("add", (F64, 2.5), F64),
        ("add", (U8, I32), I32),
        ("divide", (I32, I32), F32),
        ("exp", (I64,), F32),
        ("exp", (B1,), F32),
        ("sqrt", (BF16,), BF16),
        ("floor", (I32,), I32),
        ("abs", (I64,), I64),
        ("pow", (I32, 2), I32),
        ("less", (I32, 2.5), B1),
        ("equal", (B1, B1), B1),
        ("isnan", (I32,), B1),
        ("logical_and", (I32, F32), B1),
        ("bitwise_and", (B1, B1), B1),
        ("bitwise_and", (U8, I32), I32),
        ("where", (B1, I32, F32), F32),
        ("where", (B1, BF16, 0), BF16),
        ("where", (True, F64, 1.0), F64),
        ("maximum", (BF16, 0), BF16),
    ],
)
def test_result_dtypes(name, operands, expected):
    values = [make_input((3,), x) if isinstance(x, types.DType) else x for x in operands]
    assert TABLE[name](*values).dtype == expected


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("add", (B1, B1)),
        ("negative", (B1,)),
        ("less", (B1, B1)),
        ("bitwise_and", (F32, F32)),
        ("bitwise_left_shift", (B1, B1)),
        ("bitwise_left_shift", (F32, 1)),
        ("where", (I32, F32, F32)),
        ("add", (types.int64, types.uint64)),
    ],
)
def test_refused_dtypes(name, operands):
    values = [make_input((3,), x) if isinstance(x, types.DType) else x for x in operands]
    with pytest.raises(DTypeError):
        TABLE[name](*values)


def test_operands_broadcast_and_refuse_shapes_that_do_not():
    assert TABLE["add"](make_input((3, 1), F32), make_input((4,), F32)).shape == (3, 4)
    assert TABLE["where"](make_input((2, 1), B1), make_input((), F32), make_input((3,), F32)).shape == (2, 3)
    with pytest.raises(ShapeError, match=r"\(3,\).*\(4,\)"):
        TABLE["add"](make_input((3,), F32), make_input((4,), F32))
    with pytest.raises(ShapeError):
        apply(TABLE["add"], make_input((3,), F32), make_input((4,), F32))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_integer_division_rounds_down_and_keeps_the_dtype(dtype):
    x, y = (np.array(column, dtype) for column in zip(*itertools.product((-7, -6, 0, 5, 7), (-3, -1, 2, 7)), strict=True))
    for name, expected in (("floor_divide", x // y), ("remainder", x % y), ("fmod", np.fmod(x, y))):
        found = TABLE[name](x, y)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["floor", "ceil", "round", "trunc"])
def test_integers_round_to_themselves(name):
    large = np.array([2**62 + 1, -3])
    np.testing.assert_array_equal(TABLE[name](large), large)


def test_one_row_reads_values_expressions_objects_mpmath_and_arrays():
    tanh, x = TABLE["tanh"], sympy.Symbol("x")
    assert tanh(make_input((2,), F32)).operation is tanh
    assert tanh(x) == sympy.tanh(x)
    objects = tanh(np.array([[x, 0], [sympy.Rational(1, 2), 0.5]], object))
    assert objects.dtype == object
    assert objects.tolist() == [[sympy.tanh(x), 0], [sympy.tanh(sympy.Rational(1, 2))] * 2]
    with mpmath.workdps(50):
        assert mpmath.almosteq(tanh(mpmath.mpf("0.3")), mpmath.tanh(mpmath.mpf("0.3")))
        assert TABLE["less"](mpmath.mpf(1), 2) is True
    assert tanh(np.zeros(2, np.float32)).dtype == np.float32


def test_text_is_never_an_expression():
    with pytest.raises((sympy.SympifyError, TypeError)):
        TABLE["add"](sympy.Symbol("x"), "__import__('os')")
    with pytest.raises((sympy.SympifyError, TypeError)):
        TABLE["exp"](np.array(["x"], object))


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [F32, I32, B1])
def test_the_triton_spelling_is_an_expression_of_the_operands(row, dtype):
    tree = ast.parse(row.spell(dtype, "a", "b", "c"), mode="eval")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names - {"tl", "libdevice", "float"} == set("abc"[: row.arity])
