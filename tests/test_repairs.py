"""Triton's interpreter, repaired: it must say what the GPU says, or a kernel that passes here fails there."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
special = pytest.importorskip("scipy.special")

from gradc.runtime.workers import WorkerError, interpret  # noqa: E402

pytestmark = pytest.mark.triton

HEADER = """
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice
"""

FUNCTION = """
@triton.jit
def {name}_kernel(x_ptr, y_ptr, out_ptr, size, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < size, other=0.5)
    y = tl.load(y_ptr + at, mask=at < size, other=0.5)
    tl.store(out_ptr + at, {formula}, mask=at < size)


def {name}(x, y, out):
    {name}_kernel[(1,)](x, y, out, x.numel(), BLOCK=triton.next_power_of_2(x.numel()))
    return out
"""

EDGES = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 0.49999997, 3.0, 1e-8, 88.0, -88.0, 1e30, math.inf, math.nan]


def run(formula: str, x, y=None, out=None):
    """The formula of x and y, elementwise, by the interpreter; `out` gives the result's dtype."""
    y = x if y is None else y
    out = torch.empty_like(x) if out is None else out
    (result,) = interpret(HEADER + FUNCTION.format(name="f", formula=formula), "f", (x, y, out))
    return result


def test_a_comparison_of_scalars_is_a_truth():
    """It is combined with one of blocks."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int32):
        x = torch.tensor([2, 1, 3, 2], dtype=dtype)
        for formula, want in (
            ("tl.where((tl.load(x_ptr) > 1) & (x > 1), 1, 0)", [1, 0, 1, 1]),
            ("tl.where((tl.load(x_ptr) < 1) | (x > 2), 1, 0)", [0, 0, 1, 0]),
            ("tl.where((tl.load(x_ptr) == 2) ^ (x == 2), 1, 0)", [0, 1, 1, 0]),
        ):
            assert run(formula, x, out=torch.zeros(4, dtype=torch.int32)).tolist() == want


UNARY = {
    "tanh": np.tanh,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "exp": np.exp,
    "exp2": np.exp2,
    "exp10": lambda x: 10.0**x,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt,
    "sin": np.sin,
    "cos": np.cos,
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "normcdf": special.ndtr,
    "normcdfinv": special.ndtri,
    "lgamma": lambda x: np.where(np.isinf(x), np.inf, special.gammaln(x)),
    "tgamma": lambda x: np.where((x < 0) & (x == np.floor(x)), np.nan, special.gamma(x)),
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "rint": np.rint,
    "nearbyint": np.rint,
    "round": lambda x: np.where(np.abs(x) < 2**50, np.copysign(np.floor(np.abs(x) + 0.5), x), x),
    "abs": np.abs,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "signbit": np.signbit,
    "saturatef": lambda x: np.where(np.isnan(x), 0, np.clip(x, 0, 1)),
}
BINARY = {
    "pow": np.power,
    "atan2": np.arctan2,
    "hypot": np.hypot,
    "fmod": np.fmod,
    "copysign": np.copysign,
    "fdim": lambda x, y: np.where(x <= y, 0, x - y),
    "remainder": np.vectorize(lambda x, y: math.nan if math.isinf(x) or y == 0 else math.remainder(x, y)),
}


@pytest.fixture(scope="module")
def libdevice_results():
    """Every function on float32 operands, in one call: a worker takes longer to reach than to answer."""
    operands = torch.tensor(EDGES + [value * 0.37 for value in range(-20, 21)], dtype=torch.float32)
    others = torch.roll(operands, 7)
    calls = {name: f"libdevice.{name}(x)" for name in UNARY} | {name: f"libdevice.{name}(x, y)" for name in BINARY}
    source = HEADER + "".join(FUNCTION.format(name=f"run_{name}", formula=call) for name, call in calls.items())
    results = ", ".join(f"run_{name}(x, y, torch.empty(x.shape, dtype=torch.float64))" for name in calls)
    source += f"\n\ndef run_all(x, y):\n    return {results}\n"
    return (
        operands.double().numpy(),
        others.double().numpy(),
        dict(zip(calls, interpret(source, "run_all", (operands, others)), strict=True)),
    )


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_libdevice_function(libdevice_results, name):
    x, y, results = libdevice_results
    with np.errstate(all="ignore"):
        expected = UNARY[name](x) if name in UNARY else BINARY[name](x, y)
        expected = np.asarray(expected, np.float32).astype(np.float64)
    np.testing.assert_allclose(results[name].numpy(), expected, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["tanh", "erf", "pow", "log1p"])
def test_libdevice_stays_in_float32(libdevice_results, name):
    result = libdevice_results[2][name]
    torch.testing.assert_close(result, result.float().double(), rtol=0, atol=0, equal_nan=True)


def test_libdevice_in_float64():
    x = torch.linspace(-2, 2, 16, dtype=torch.float64)
    torch.testing.assert_close(run("libdevice.erf(x)", x), torch.erf(x), rtol=1e-15, atol=0)


def test_libdevice_broadcasts_and_takes_numbers():
    x = torch.linspace(0.1, 2, 16)
    torch.testing.assert_close(run("libdevice.pow(x, 3)", x), x**3)
    torch.testing.assert_close(run("libdevice.pow(tl.load(x_ptr), x)", x), x[0] ** x)
    torch.testing.assert_close(run("libdevice.tanh(1.0) * x", x), math.tanh(1) * x)
    column = "tl.sum(libdevice.hypot(x[:, None], y[None, :]), axis=1)"
    torch.testing.assert_close(run(column, x), torch.hypot(x[:, None], x[None, :]).sum(1))
    torch.testing.assert_close(run("cuda_libdevice.tanh(x)", x), torch.tanh(x))


def test_libdevice_says_what_it_lacks():
    with pytest.raises(WorkerError, match=r"libdevice\.j0 has no meaning"):
        run("libdevice.j0(x)", torch.zeros(4))


HALVES = torch.cat(
    [
        torch.tensor([*EDGES, 1.99999, 3.0e38, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8, 1e-40, 65519.0, 65520.0, 1e-7]),
        torch.randn(512, generator=torch.Generator().manual_seed(0)),
    ]
).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_halves(dtype):
    """To nearest even, carries and overflow included."""
    rounded = run("x", HALVES, out=torch.empty(HALVES.shape, dtype=dtype))
    torch.testing.assert_close(rounded, HALVES.to(dtype), rtol=0, atol=0, equal_nan=True)
    explicit = 'x.to(out_ptr.dtype.element_ty, fp_downcast_rounding="rtne")'
    rounded = run(explicit, HALVES, out=torch.empty(HALVES.shape, dtype=dtype))
    torch.testing.assert_close(rounded, HALVES.to(dtype), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(run("x", rounded, out=HALVES.clone()), rounded.float(), rtol=0, atol=0, equal_nan=True)


def test_integers_to_bfloat16():
    x = torch.arange(-40, 40)
    torch.testing.assert_close(run("x", x, out=torch.empty(80, dtype=torch.bfloat16)), x.bfloat16())


def test_bfloat16_arithmetic():
    x, y = torch.randn(64).bfloat16(), torch.randn(64).bfloat16()
    torch.testing.assert_close(run("x * y", x, y), x * y, rtol=0, atol=0)
    torch.testing.assert_close(run("tl.where(x < y, x, y)", x, y), torch.minimum(x, y), rtol=0, atol=0)
    torch.testing.assert_close(run("(x < y).to(tl.bfloat16)", x, y), (x < y).bfloat16(), rtol=0, atol=0)


NAN = math.nan


@pytest.mark.parametrize("comparison", ["==", "!=", "<", "<=", ">", ">="])
def test_comparison_of_two_scalars_beside_a_block(comparison):
    of_scalars = f"(tl.full([], 1.0, tl.float32) {comparison} 1.0)"
    found = run(f"tl.where((x > 0.0) & {of_scalars}, 1.0, 0.0)", torch.tensor([2.0, -2.0, 3.0]))
    assert found.tolist() == ([1.0, 0.0, 1.0] if "=" in comparison.replace("!=", "") else [0.0] * 3)


def test_maximum_treats_nan_as_compiled_code_does():
    x, y = torch.tensor([1.0, NAN, 3.0, NAN]), torch.tensor([2.0, 2.0, NAN, NAN])
    results = [
        run("tl.maximum(x, y)", x, y),
        run("tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)", x, y),
        run("tl.clamp(x, 0.0, y)", x, torch.full((4,), 2.0)),
        run("tl.clamp(x, 0.0, y, propagate_nan=tl.PropagateNan.ALL)", x, torch.full((4,), 2.0)),
        run("tl.max(x, axis=0) + tl.zeros_like(y)", x, y),
    ]
    expected = [[2, 2, 3, NAN], [2, NAN, NAN, NAN], [1, 0, 2, 0], [1, NAN, 2, NAN], [3, 3, 3, 3]]
    for result, values in zip(results, expected, strict=True):
        torch.testing.assert_close(result, torch.tensor(values, dtype=torch.float32), equal_nan=True)


REDUCTIONS = (
    HEADER
    + """
@triton.jit
def larger(x, y):
    return tl.where((x >= y) | (x != x), x, y)


CALLS = []


@triton.jit
def counted(x, y):
    CALLS.append(1)
    return x + y


@triton.jit
def counting_kernel(x_ptr, out_ptr, scan_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.arange(0, ROWS), tl.arange(0, COLS)
    x = tl.load(x_ptr + row[:, None] * COLS + col[None, :])
    tl.store(out_ptr + row, tl.reduce(x, 1, counted))
    tl.store(scan_ptr + row[:, None] * COLS + col[None, :], tl.associative_scan(x, 1, counted))


@triton.jit
def branching(x, y):
    if x > y and x > 0.0:
        return x
    else:
        return y


@triton.jit
def branching_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.arange(0, ROWS), tl.arange(0, COLS)
    x = tl.load(x_ptr + row[:, None] * COLS + col[None, :])
    tl.store(out_ptr + row, tl.reduce(x, 1, branching))


@triton.jit
def chained(a, b, c, d):
    return a * c, b * c + d


@triton.jit
def reduce_kernel(x_ptr, rows_ptr, cols_ptr, best_ptr, first_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.arange(0, ROWS), tl.arange(0, COLS)
    x = tl.load(x_ptr + row[:, None] * COLS + col[None, :])
    tl.store(rows_ptr + row, tl.reduce(x, 1, larger))
    tl.store(cols_ptr + col[None, :], tl.reduce(x, 0, larger, keep_dims=True))
    tl.store(best_ptr, tl.max(x))
    tl.store(first_ptr + row, tl.argmax(x, axis=1, tie_break_left=True))


@triton.jit
def scan_kernel(a_ptr, b_ptr, out_ptr, back_ptr, product_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    a, b = tl.load(a_ptr + at), tl.load(b_ptr + at)
    tl.store(out_ptr + at, tl.associative_scan((a, b), 1, chained)[1])
    tl.store(back_ptr + at, tl.associative_scan((a, b), 1, chained, reverse=True)[1])
    tl.store(product_ptr + at, tl.cumprod(a, axis=0))


@triton.jit
def last_kernel(a_ptr, b_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    tl.store(out_ptr + tl.arange(0, ROWS), tl.reduce((tl.load(a_ptr + at), tl.load(b_ptr + at)), 1, chained)[1])


@triton.jit
def loop_kernel(x_ptr, out_ptr, size):
    total = 0.0
    for position in range(0, size):
        total += tl.load(x_ptr + position)
    tl.store(out_ptr, total)


def reduce(x):
    rows, cols, best, first = x.new_empty(len(x)), x.new_empty(x.shape[1]), x.new_empty(1), torch.empty(len(x), dtype=torch.int32)
    reduce_kernel[(1,)](x, rows, cols, best, first, *x.shape)
    return rows, cols, best, first


def count(x):
    out, scanned = x.new_empty(len(x)), torch.empty_like(x)
    counting_kernel[(1,)](x, out, scanned, *x.shape)
    return out, scanned, len(CALLS)


def branch(x):
    out = x.new_empty(len(x))
    branching_kernel[(1,)](x, out, *x.shape)
    return out


def scan(a, b):
    outs = [torch.empty_like(a) for _ in range(3)]
    scan_kernel[(1,)](a, b, *outs, *a.shape)
    last = a.new_empty(len(a))
    last_kernel[(1,)](a, b, last, *a.shape)
    return *outs, last


def loop(x):
    out = x.new_empty(1)
    loop_kernel[(1,)](x, out, x.numel())
    return out
"""
)


def test_reductions_with_a_function():
    x = torch.randn(4, 8)
    x[1, 3], x[2, 5], x[2, 2] = NAN, 9.0, 9.0
    rows, cols, best, first = interpret(REDUCTIONS, "reduce", (x,))
    torch.testing.assert_close(rows, x.amax(1), equal_nan=True)
    torch.testing.assert_close(cols[None], x.amax(0, keepdim=True), equal_nan=True)
    assert best.item() == 9.0
    assert first[2] == 2, "the first of two equal ones"
    assert first[[0, 3]].tolist() == x.argmax(1)[[0, 3]].tolist()


def test_reductions_run_on_whole_slices():
    """Element by element, as the interpreter ships, a kernel on real blocks takes minutes."""
    x = torch.rand(16, 32)
    out, scanned, calls = interpret(REDUCTIONS, "count", (x,))
    torch.testing.assert_close(out, x.sum(1))
    torch.testing.assert_close(scanned, x.cumsum(1))
    assert calls == 5 + 31


def test_reductions_that_branch_run_element_by_element():
    x = torch.rand(4, 8)
    (result,) = interpret(REDUCTIONS, "branch", (x,))
    torch.testing.assert_close(result, x.amax(1))


def test_scans_with_a_function():
    """h ← a·h + b, which is not commutative, so the order of the operands shows."""
    a, b = torch.rand(2, 8), torch.randn(2, 8)
    out, back, product, last = interpret(REDUCTIONS, "scan", (a, b))
    torch.testing.assert_close(out, recurrence(a, b))
    torch.testing.assert_close(back, recurrence(a.flip(1), b.flip(1)).flip(1))
    torch.testing.assert_close(product, a.cumprod(0))
    torch.testing.assert_close(last, recurrence(a, b)[:, -1])


def recurrence(a, b):
    h, steps = torch.zeros(len(a)), []
    for position in range(a.shape[1]):
        h = a[:, position] * h + b[:, position]
        steps.append(h)
    return torch.stack(steps, 1)


def test_loops_with_runtime_bounds():
    x = torch.randn(5)
    (total,) = interpret(REDUCTIONS, "loop", (x,))
    torch.testing.assert_close(total, x.sum()[None])
