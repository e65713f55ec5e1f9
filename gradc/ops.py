"""THE TABLE: every elementwise function, one row. To add a function is to add a row.

A row says what the function means in NumPy, in SymPy and in Triton, and its partial derivative with respect to each
operand, written with the table's own functions. Tracing, both interpreters, differentiation, proof and printing read the
row; nothing else in gradc knows a function's derivative. Operands are x, y, z; the result is `out`.

A partial takes the operands and `out`. It is read three ways: on Values it builds the derivative graph, on SymPy
expressions it is proved, on arrays it runs. `None` says the partial is zero wherever it exists. `table.py` has the columns.
"""

# mypy: disable-error-code="has-type"
# (partials name rows that stand further down)

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradc.ir import Value
from gradc.leaves import constant_of
from gradc.table import ANY, BITS, BOOL, FLOAT, INTEGER, NUMBER, TABLE, Elementwise, exactly, fill_like, row

__all__ = ["ANY", "BITS", "BOOL", "FLOAT", "INTEGER", "NUMBER", "TABLE", "Elementwise", "exactly", "fill_like", "row"]

LN2, LN10, TWO_OVER_ROOT_PI = math.log(2), math.log(10), 2 / math.sqrt(math.pi)
FMOD = "libdevice.fmod({x}, {y})"
SIGNS_DIFFER = f"({FMOD} != 0) & (({FMOD} < 0) ^ ({{y}} < 0))"
NO_FLOOR = 'tl.where(({y} == 0) | (tl.abs({x}) == float("inf")), {x} / {y}, '  # the quotient is infinite or NaN as it is
MAXIMUM = "tl.maximum({x}, {y}, propagate_nan=tl.PropagateNan.ALL)"  # NaN wins, as in NumPy; Triton drops it unless told


def _chosen(condition: Any, x: Any, yes: float, no: Any) -> Any:
    """`yes` where the condition holds, else `no`: a selection, into which a cotangent is pushed so that 0·inf never arises."""
    return where(condition, fill_like(x, yes), no if isinstance(no, type(x)) else fill_like(x, no))


def _nonzero(x: Any) -> Any:
    """`x` with 1 in place of 0, for a denominator: then 0/0 is 0 here and in every higher derivative."""
    return _chosen(equal(x, 0), x, 1, x)


def _power_slope(x: Any, y: Any, out: Any) -> Any:
    """y·x^(y-1), and 0 for y = 0 where x^(y-1) is no number; the inner selection keeps higher derivatives finite."""
    power = constant_of(y) if isinstance(y, Value) else None
    if power is not None:
        return power * x ** (power - 1) if power else fill_like(x, 0)
    no_number = logical_and(equal(y, 0), logical_not(greater(abs_(x), 0)))  # elsewhere y = 0 is as smooth as its neighbours
    return _chosen(no_number, x, 0, y * pow_(x, _chosen(no_number, y, 1, y - 1)))


def _power_growth(x: Any, y: Any, out: Any) -> Any:
    """out·log(x), whose limit at x = 0 is 0 for y > 0 and -inf for y < 0; 0 at the origin."""
    vanishes = logical_and(equal(x, 0), greater_equal(y, 0))
    return _chosen(vanishes, x, 0, out * log(_chosen(vanishes, x, 1, x)))


def _extremum_share(x: Any, y: Any, wins: Any) -> Any:
    """1 where `x` wins, 1/2 in a tie, 0 where it loses."""
    return _chosen(wins, x, 1, _chosen(equal(x, y), x, 0.5, 0))


def _turn(numerator: Any, x: Any, y: Any) -> Any:
    """numerator / (x² + y²) without overflow or underflow of the squares, 0 at the origin."""
    radius = _nonzero(hypot(x, y))
    return numerator / radius / radius


def _numpy_floor_divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """NumPy's, but an infinity over a finite number is infinite, as the array API has it and IEEE's quotient is."""
    quotient = np.floor_divide(x, y)
    return np.where(np.isinf(x), x / y, quotient).astype(quotient.dtype) if np.asarray(x).dtype.kind == "f" else quotient


def _numpy_power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """NumPy's. Of integers, to an exponent that is not in 0..63: a power of ±1 where `x` is that, else 0, as 1/x^n truncates."""
    if np.asarray(x).dtype.kind == "f":
        return np.power(x, y)
    unit = np.where((x == 1) | (x + 1 == 0), np.where(y & 1, x, x * x), 0)
    within = (y >= 0) & (y < 64)
    return np.where(within, np.power(x, np.where(within, y, 0)), unit).astype(np.asarray(x).dtype)


def _integer_power() -> str:
    """x^y of integers in Triton: the product of the powers x^1, x^2, x^4, ... that the bits of y ask for, exact in every width."""
    powers = ["{x}"]
    while len(powers) < 6:
        powers.append(f"({powers[-1]} * {powers[-1]})")
    product = " * ".join(f"tl.where(({{y}} & {2**bit}) != 0, {power}, 1)" for bit, power in enumerate(powers))
    unit = "tl.where(({x} == 1) | ({x} + 1 == 0), tl.where(({y} & 1) != 0, {x}, {x} * {x}), 0)"
    return f"tl.where(({{y}} >> 6) == 0, {product}, {unit}).to({{dtype}})"


def _difference(x: Any, y: Any) -> Any:
    """x - y, and 0 between equal infinities."""
    numbers = [constant_of(v) for v in (x, y) if isinstance(v, Value)]
    if any(number is not None and math.isfinite(number) for number in numbers):
        return x - y
    alike = logical_and(equal(x, y), isinf(x))
    return _chosen(alike, x, 0, x - y)


def _numpy_sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _by_element(function: Any) -> Any:
    """A function of one Python float as a function of arrays."""
    over_objects = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(over_objects(x), dtype=np.asarray(x).dtype)


def _trunc(S: Any, x: Any) -> Any:
    return S.sign(x) * S.floor(S.Abs(x))


def _round(S: Any, x: Any) -> Any:
    """To the nearest integer, halves to the even one."""
    below, fraction = S.floor(x), x - S.floor(x)
    half = S.Rational(1, 2)
    return S.Piecewise((below, fraction < half), (below + 1, fraction > half), (2 * S.floor((below + 1) / 2), True))


# The formatter would give every column a line; a row stays together.
# fmt: off

# Arithmetic. In the absorbing rows a 0 on the left makes 0 of everything, infinities and nan too: derivatives are written with them.
add = row(
    "add", np.add, lambda S, x, y: x + y, "{x} + {y}",
    lambda x, y, out: fill_like(x, 1), lambda x, y, out: fill_like(y, 1), takes=NUMBER)
subtract = row(
    "subtract", np.subtract, lambda S, x, y: x - y, "{x} - {y}",
    lambda x, y, out: fill_like(x, 1), lambda x, y, out: fill_like(y, -1), takes=NUMBER)
multiply = row(
    "multiply", np.multiply, lambda S, x, y: x * y, "{x} * {y}",
    lambda x, y, out: y, lambda x, y, out: x, takes=NUMBER)
divide = row(
    "divide", np.divide, lambda S, x, y: x / y, "{x} / {y}",
    lambda x, y, out: reciprocal(y), lambda x, y, out: -out / y, domain="y != 0", flops=4)
absorbing_multiply = row(
    "absorbing_multiply", lambda x, y: np.where(x == 0, np.zeros_like(y), x * y), lambda S, x, y: x * y,
    "tl.where({x} == 0, 0.0, {x} * {y})", lambda x, y, out: y, lambda x, y, out: x)
absorbing_divide = row(
    "absorbing_divide", lambda x, y: np.where(x == 0, np.zeros_like(y), x / y), lambda S, x, y: x / y,
    "tl.where({x} == 0, 0.0, {x} / {y})", lambda x, y, out: reciprocal(y), lambda x, y, out: -absorbing_divide(out, y),
    domain="y != 0", flops=4)
negative = row("negative", np.negative, lambda S, x: -x, "{x} * -1.0", lambda x, out: fill_like(x, -1), takes=NUMBER, triton_integer="-{x}")
reciprocal = row(
    "reciprocal", np.reciprocal, lambda S, x: 1 / x, "1.0 / {x}", lambda x, out: -out * out, domain="x != 0", flops=4)
square = row("square", np.square, lambda S, x: x**2, "{x} * {x}", lambda x, out: 2 * x, takes=NUMBER)
pow_ = row(
    "pow", _numpy_power, lambda S, x, y: x**y, "libdevice.pow({x}, {y})", _power_slope, _power_growth,
    takes=NUMBER, domain="x > 0", kinks=(((0, 0), (0, 0)), ((0, 1), (1, 0)), ((0, 2), (0, 0))), flops=25,
    triton_integer=_integer_power(), monotone=False)
abs_ = row(
    "abs", np.abs, lambda S, x: S.Abs(x), "tl.abs({x})", lambda x, out: sign(x),
    takes=NUMBER, domain="x != 0", kinks=(((0,), (0,)),))
sign = row(
    "sign", np.sign, lambda S, x: S.sign(x), "tl.where({x} > 0, 1, tl.where({x} < 0, -1, tl.abs({x})))", None,
    takes=NUMBER, domain="x != 0", flops=3, triton_integer="({x} > 0).to({dtype}) - ({x} < 0).to({dtype})")
floor_divide = row(
    "floor_divide", _numpy_floor_divide, lambda S, x, y: S.floor(x / y),
    f"libdevice.copysign({NO_FLOOR}libdevice.rint(({{x}} - {FMOD}) / {{y}}) - tl.where({SIGNS_DIFFER}, 1.0, 0.0)), {{x}} / {{y}})",
    None, None, takes=NUMBER, domain="y != 0", flops=20,
    triton_integer="{x} // {y} - (({x} % {y} != 0) & (({x} < 0) ^ ({y} < 0))).to({dtype})", monotone=False)
remainder = row(
    "remainder", np.remainder, lambda S, x, y: x - y * S.floor(x / y),
    f"libdevice.copysign(tl.where({SIGNS_DIFFER}, {FMOD} + {{y}}, {FMOD}), {{y}})",
    lambda x, y, out: fill_like(x, 1), lambda x, y, out: (out - x) / y, takes=NUMBER, domain="y != 0", flops=20,
    triton_integer="tl.where(({x} % {y} != 0) & (({x} < 0) ^ ({y} < 0)), {x} % {y} + {y}, {x} % {y})", monotone=False)
fmod = row(
    "fmod", np.fmod, lambda S, x, y: x - y * _trunc(S, x / y), FMOD,
    lambda x, y, out: fill_like(x, 1), lambda x, y, out: (out - x) / y, takes=NUMBER, domain="y != 0", flops=15,
    triton_integer="{x} % {y}", monotone=False)

# Exponentials and logarithms
exp = row("exp", np.exp, lambda S, x: S.exp(x), "tl.exp({x})", lambda x, out: out, flops=8)
exp2 = row("exp2", np.exp2, lambda S, x: 2**x, "tl.exp2({x})", lambda x, out: out * exactly(x, LN2), flops=6)
expm1 = row("expm1", np.expm1, lambda S, x: S.exp(x) - 1, "libdevice.expm1({x})", lambda x, out: exp(x), flops=12)
log = row("log", np.log, lambda S, x: S.log(x), "tl.log({x})", lambda x, out: reciprocal(x), domain="x > 0", flops=8)
log2 = row(
    "log2", np.log2, lambda S, x: S.log(x) / S.log(2), "tl.log2({x})",
    lambda x, out: 1 / (x * exactly(x, LN2)), domain="x > 0", flops=6)
log10 = row(
    "log10", np.log10, lambda S, x: S.log(x) / S.log(10), "libdevice.log10({x})",
    lambda x, out: 1 / (x * exactly(x, LN10)), domain="x > 0", flops=8)
log1p = row(
    "log1p", np.log1p, lambda S, x: S.log(1 + x), "libdevice.log1p({x})",
    lambda x, out: 1 / (1 + x), domain="x > -1", flops=12)
logaddexp = row(
    "logaddexp", np.logaddexp, lambda S, x, y: S.log(S.exp(x) + S.exp(y)),
    f"tl.where({{x}} == {{y}}, {{x}} + {LN2!r}, {MAXIMUM} + libdevice.log1p(tl.exp(-tl.abs({{x}} - {{y}}))))",
    lambda x, y, out: sigmoid(_difference(x, y)), lambda x, y, out: sigmoid(_difference(y, x)), flops=25)
softplus = row(
    "softplus", lambda x: np.logaddexp(x, np.zeros_like(x)), lambda S, x: S.log(1 + S.exp(x)),
    "tl.maximum({x}, 0.0, propagate_nan=tl.PropagateNan.ALL) + libdevice.log1p(tl.exp(-tl.abs({x})))",
    lambda x, out: sigmoid(x), flops=22)
sigmoid = row(
    "sigmoid", _numpy_sigmoid, lambda S, x: 1 / (1 + S.exp(-x)), "tl.sigmoid({x})",
    lambda x, out: out * (1 - out), flops=12)

# Roots
sqrt = row(
    "sqrt", np.sqrt, lambda S, x: S.sqrt(x), "tl.sqrt({x})",
    lambda x, out: exactly(x, 0.5) / out, domain="x > 0", flops=4)
rsqrt = row(
    "rsqrt", lambda x: 1 / np.sqrt(x), lambda S, x: 1 / S.sqrt(x), "tl.rsqrt({x})",
    lambda x, out: exactly(x, -0.5) * out * out * out, domain="x > 0", flops=4)
hypot = row(
    "hypot", np.hypot, lambda S, x, y: S.sqrt(x**2 + y**2), "libdevice.hypot({x}, {y})",
    lambda x, y, out: x / _nonzero(out), lambda x, y, out: y / _nonzero(out),
    domain="(x, y) != 0", kinks=(((0, 0), (0, 0)),), flops=10)

# Circular and hyperbolic functions
sin = row("sin", np.sin, lambda S, x: S.sin(x), "tl.sin({x})", lambda x, out: cos(x), flops=15, monotone=False)
cos = row("cos", np.cos, lambda S, x: S.cos(x), "tl.cos({x})", lambda x, out: -sin(x), flops=15, monotone=False)
tan = row("tan", np.tan, lambda S, x: S.tan(x), "libdevice.tan({x})", lambda x, out: 1 + out * out, flops=20, monotone=False)
asin = row(
    "asin", np.arcsin, lambda S, x: S.asin(x), "libdevice.asin({x})",
    lambda x, out: rsqrt((1 - x) * (1 + x)), domain="|x| < 1", flops=15)
acos = row(
    "acos", np.arccos, lambda S, x: S.acos(x), "libdevice.acos({x})",
    lambda x, out: -rsqrt((1 - x) * (1 + x)), domain="|x| < 1", flops=15)
atan = row(
    "atan", np.arctan, lambda S, x: S.atan(x), "libdevice.atan({x})", lambda x, out: 1 / (1 + x * x), flops=15)
atan2 = row(
    "atan2", np.arctan2, lambda S, x, y: S.atan2(x, y), "libdevice.atan2({x}, {y})",
    lambda x, y, out: _turn(y, x, y), lambda x, y, out: -_turn(x, x, y),
    domain="(x, y) != 0", kinks=(((0, 0), (0, 0)),), flops=20, monotone=False)
sinh = row("sinh", np.sinh, lambda S, x: S.sinh(x), "libdevice.sinh({x})", lambda x, out: cosh(x), flops=15)
cosh = row("cosh", np.cosh, lambda S, x: S.cosh(x), "libdevice.cosh({x})", lambda x, out: sinh(x), flops=15)
tanh = row("tanh", np.tanh, lambda S, x: S.tanh(x), "libdevice.tanh({x})", lambda x, out: 1 - out * out, flops=15)
asinh = row(
    "asinh", np.arcsinh, lambda S, x: S.asinh(x), "libdevice.asinh({x})", lambda x, out: rsqrt(1 + x * x), flops=15)
acosh = row(
    "acosh", np.arccosh, lambda S, x: S.acosh(x), "libdevice.acosh({x})",
    lambda x, out: rsqrt((x - 1) * (x + 1)), domain="x > 1", flops=15)
atanh = row(
    "atanh", np.arctanh, lambda S, x: S.atanh(x), "libdevice.atanh({x})",
    lambda x, out: 1 / ((1 - x) * (1 + x)), domain="|x| < 1", flops=15)

# The error function
erf = row(
    "erf", _by_element(math.erf), lambda S, x: S.erf(x), "tl.erf({x})",
    lambda x, out: exactly(x, TWO_OVER_ROOT_PI) * exp(-(x * x)), flops=20)
erfc = row(
    "erfc", _by_element(math.erfc), lambda S, x: S.erfc(x), "libdevice.erfc({x})",
    lambda x, out: -exactly(x, TWO_OVER_ROOT_PI) * exp(-(x * x)), flops=25)

# Rounding
floor = row("floor", np.floor, lambda S, x: S.floor(x), "tl.floor({x})", None, takes=NUMBER, triton_integer="{x}")
ceil = row("ceil", np.ceil, lambda S, x: S.ceiling(x), "tl.ceil({x})", None, takes=NUMBER, triton_integer="{x}")
round_ = row("round", np.round, _round, "libdevice.rint({x})", None, takes=NUMBER, triton_integer="{x}")
trunc = row("trunc", np.trunc, _trunc, "libdevice.trunc({x})", None, takes=NUMBER, triton_integer="{x}")

# Selection
maximum = row(
    "maximum", np.maximum, lambda S, x, y: S.Max(x, y), MAXIMUM,
    lambda x, y, out: _extremum_share(x, y, greater(x, y)), lambda x, y, out: _extremum_share(y, x, greater(y, x)),
    takes=NUMBER, domain="x != y", kinks=(((1, 1), (0.5, 0.5)),), triton_integer="tl.maximum({x}, {y})")
minimum = row(
    "minimum", np.minimum, lambda S, x, y: S.Min(x, y), "tl.minimum({x}, {y}, propagate_nan=tl.PropagateNan.ALL)",
    lambda x, y, out: _extremum_share(x, y, less(x, y)), lambda x, y, out: _extremum_share(y, x, less(y, x)),
    takes=NUMBER, domain="x != y", kinks=(((1, 1), (0.5, 0.5)),), triton_integer="tl.minimum({x}, {y})")
where = row(
    "where", np.where, lambda S, x, y, z: S.Piecewise((y, x), (z, True)), "tl.where({x}, {y}, {z})",
    None, lambda x, y, z, out: _chosen(x, y, 1, 0), lambda x, y, z, out: _chosen(x, z, 0, 1),
    takes=ANY, domain="x or not x")
copysign = row(
    "copysign", np.copysign, lambda S, x, y: S.Abs(x) * S.Piecewise((1, y >= 0), (-1, True)),
    "libdevice.copysign({x}, {y})", lambda x, y, out: sign(x) * copysign(fill_like(x, 1), y), None,
    domain="x != 0, y != 0", kinks=(((0, 1), (0, 0)),), monotone=False)

# Comparison
equal = row("equal", np.equal, lambda S, x, y: S.Eq(x, y), "{x} == {y}", None, None, takes=ANY, gives="bool")
not_equal = row("not_equal", np.not_equal, lambda S, x, y: S.Ne(x, y), "{x} != {y}", None, None, takes=ANY, gives="bool")
less = row("less", np.less, lambda S, x, y: S.Lt(x, y), "{x} < {y}", None, None, takes=NUMBER, gives="bool")
less_equal = row(
    "less_equal", np.less_equal, lambda S, x, y: S.Le(x, y), "{x} <= {y}", None, None, takes=NUMBER, gives="bool")
greater = row("greater", np.greater, lambda S, x, y: S.Gt(x, y), "{x} > {y}", None, None, takes=NUMBER, gives="bool")
greater_equal = row(
    "greater_equal", np.greater_equal, lambda S, x, y: S.Ge(x, y), "{x} >= {y}", None, None, takes=NUMBER, gives="bool")
isnan = row("isnan", np.isnan, lambda S, x: S.false, "{x} != {x}", None, gives="bool")
isinf = row("isinf", np.isinf, lambda S, x: S.false, 'tl.abs({x}) == float("inf")', None, gives="bool")
isfinite = row("isfinite", np.isfinite, lambda S, x: S.true, 'tl.abs({x}) < float("inf")', None, gives="bool")
signbit = row("signbit", np.signbit, lambda S, x: S.Lt(x, 0), "libdevice.signbit({x}) != 0", None, gives="bool")

# Logic and bits
logical_and = row(
    "logical_and", np.logical_and, lambda S, x, y: S.And(x, y), "{x} & {y}", None, None, takes=BOOL, gives="bool")
logical_or = row(
    "logical_or", np.logical_or, lambda S, x, y: S.Or(x, y), "{x} | {y}", None, None, takes=BOOL, gives="bool")
logical_xor = row(
    "logical_xor", np.logical_xor, lambda S, x, y: S.Xor(x, y), "{x} ^ {y}", None, None, takes=BOOL, gives="bool")
logical_not = row("logical_not", np.logical_not, lambda S, x: S.Not(x), "~{x}", None, takes=BOOL, gives="bool")
bitwise_and = row("bitwise_and", np.bitwise_and, lambda S, x, y: x & y, "{x} & {y}", None, None, takes=BITS)
bitwise_or = row("bitwise_or", np.bitwise_or, lambda S, x, y: x | y, "{x} | {y}", None, None, takes=BITS)
bitwise_xor = row("bitwise_xor", np.bitwise_xor, lambda S, x, y: x ^ y, "{x} ^ {y}", None, None, takes=BITS)
bitwise_invert = row("bitwise_invert", np.invert, lambda S, x: ~x, "~{x}", None, takes=BITS)
bitwise_left_shift = row(
    "bitwise_left_shift", np.left_shift, lambda S, x, y: x << y, "{x} << {y}", None, None, takes=INTEGER)
bitwise_right_shift = row(
    "bitwise_right_shift", np.right_shift, lambda S, x, y: x >> y, "{x} >> {y}", None, None, takes=INTEGER)
# fmt: on
