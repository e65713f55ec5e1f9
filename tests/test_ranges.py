"""No rewrite takes a number out of the range of its dtype, or rounds one twice: float16 and bfloat16 near their edges.

The kernels are compared with float64 where the traced program, run as it was written, is finite, and may be off by one rounding
more than that is.
"""

from __future__ import annotations

import inspect

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import gradc  # noqa: E402
from gradc import nn  # noqa: E402
from gradc.interpret import evaluate  # noqa: E402
from gradc.trace import trace  # noqa: E402

T, D, HEADS = 32, 16, 2
SHAPES = {"w": (D, D), "w2": (D, D), "s": (T, T), "r": (T,), "b": (D,)}  # of all others (T, D)
NUMPY = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
EPSILON = {"float16": 2**-11, "bfloat16": 2**-8}
PROGRAMS = {}


def program(**kinds):
    """Files a function under its name, with how large its arguments are: a scale, or "eye", "small" or "positive"."""

    def file(function):
        PROGRAMS[function.__name__] = function, kinds
        return function

    return file


def softmax(x):
    e = gradc.exp(x - gradc.max(x, axis=-1, keepdims=True))
    return e / gradc.sum(e, axis=-1, keepdims=True)


def shares(x):
    e = gradc.exp(x)
    return e / gradc.sum(e, axis=-1, keepdims=True)


def heads(x):
    return gradc.permute_dims(gradc.reshape(x, (T, HEADS, D // HEADS)), (1, 0, 2))


def merged(x):
    return gradc.reshape(gradc.permute_dims(x, (1, 0, 2)), (T, D))


attention = nn.scaled_dot_product_attention


# Sums that wait for their division --------------------------------------------------------------------------------------


@program(q=0, k=0, v="largest", w="eye")
def attention_projected(q, k, v, w):
    return attention(q, k, v, is_causal=True) @ w


@program(v=3e4, w="small")
def attention_of_heads(q, k, v, w):
    return merged(attention(heads(q), heads(k), heads(v))) @ w


@program(v=3e4, w="small")
def weights_then_two_products(s, v, w):
    return (softmax(s) @ v) @ w


@program(s=10, v=100)
def weights_without_a_maximum(s, v):
    return shares(s) @ v


@program(s=10, v=100, w="eye")
def weights_without_a_maximum_projected(s, v, w):
    return (shares(s) @ v) @ w


@program(v=3e4, w="small")
def masked_weights(s, v, w):
    e = gradc.where(gradc.arange(T)[:, None] >= gradc.arange(T)[None, :], gradc.exp(s), 0.0)
    return ((e / gradc.sum(e, axis=1, keepdims=True)) @ v) @ w


@program(v=3e4, w="small")
def a_gate_on_attention(q, k, v, x, w):
    return (attention(q, k, v) * nn.sigmoid(x)) @ w + x


@program(v=3e4)
def attention_then_norm(q, k, v, x):
    h = attention(q, k, v) + x
    return h * gradc.rsqrt(gradc.mean(h * h, axis=-1, keepdims=True))


@program(v=3e4, w="small")
def mixture(s, v, w):
    return ((softmax(s) @ v) * softmax(s.T)[:, :1]) @ w


@program(q=1, k=1, v=1000)
def linear_attention(q, k, v):
    return softmax(q) @ (softmax(k.T) @ v)


@program(x=3e4, r="positive")
def weighted_mean(x, r):
    return (r @ x) / gradc.sum(r)


@program(x=100, r="positive")
def weighted_product(x, r):
    return ((r[:, None] * x) / gradc.sum(r)).T @ x


@program(x=1000, y=60)
def absolute_shares(x, y):
    a = gradc.abs(x)
    return (a / gradc.sum(a, axis=-1, keepdims=True)) @ y.T


@program(x=250)
def shares_of_powers(x, y):
    return (x**4 / gradc.sum(x**4, axis=-1, keepdims=True)) @ y.T


# Norms before products ----------------------------------------------------------------------------------------------------


@program(x=3000, w="eye")
def rms_norm(x, w):
    return (x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6)) @ w


@program(x=3000, w="eye")
def layer_norm(x, b, w):
    d = x - gradc.mean(x, axis=-1, keepdims=True)
    return (d * gradc.rsqrt(gradc.mean(d * d, axis=-1, keepdims=True) + 1e-5) * b) @ w


@program(x=3000, w="eye")
def unit_rows(x, w):
    return (x / gradc.sqrt(gradc.sum(x * x, axis=-1, keepdims=True))) @ w


@program(x=300, y=300)
def cosines(x, y):
    return (x / gradc.sqrt(gradc.sum(x * x, axis=-1, keepdims=True))) @ (
        y / gradc.sqrt(gradc.sum(y * y, axis=-1, keepdims=True))
    ).T


@program(x=300, y=300, w="eye")
def batch_norm(x, y, w):
    d = x - gradc.mean(x, axis=0)
    return (d * gradc.rsqrt(gradc.mean(d * d, axis=0) + 1e-5)) @ w + y * 1e-2


# Numbers that leave products ------------------------------------------------------------------------------------------------


@program(x=2000, w="eye")
def squares_scaled(x, w):
    return (x * x * 1e-4) @ w


@program(x=2000, w="eye")
def squares_divided(x, w):
    return (x * x / 1e4) @ w


@program(x=200, y=200)
def product_scaled(x, y):
    return ((x @ y.T) * 1e-3) @ (y * 1e-2)


@program(x=30, y=200, w="eye")
def chain_of_products(x, y, w):
    return ((x @ y.T) / 1000.0 @ y / 1000.0) @ w


@program(x=500, y=500)
def products_of_means(x, y):
    return (x.T @ x / T / 100) @ (y.T @ y / T / 100) * 1e-2


@program(x=200, y=200)
def product_read_twice(x, y):
    h = (x @ y.T) / 4000.0
    return gradc.tanh(h) @ y * 1e-2 + h @ x * 1e-2


@program(x=100, w="eye")
def temperature(x, w):
    return softmax((x @ w) / 1000.0)


# Means of large numbers ----------------------------------------------------------------------------------------------------


@program(x=6e4, w="small")
def a_mean_projected(x, w):
    return gradc.mean(x, axis=0, keepdims=True) @ w


@program(x=6e4, w="small")
def deviations_projected(x, w):
    return (x - gradc.mean(x)) @ w * 1e-2


@program(x=30000, w="small")
def row_means_projected(x, w):
    return (gradc.sum(x, axis=1, keepdims=True) / T * gradc.ones((T, D), dtype=x.dtype)) @ w


def numbers(kind, shape, generator):
    if kind == "eye":
        return np.eye(*shape)
    if kind == "largest":
        return np.full(shape, 3e4)
    drawn = generator.standard_normal(shape)
    if kind in ("small", "positive"):
        return 0.01 * drawn if kind == "small" else np.abs(drawn)
    return kind * drawn if kind < 1000 else np.sign(drawn) * kind * generator.uniform(0.5, 1, shape)


def arguments(name, dtype):
    function, kinds = PROGRAMS[name]
    generator = np.random.default_rng(0)
    return [
        numbers(kinds.get(argument, 1), SHAPES.get(argument, (T, D)), generator).astype(NUMPY[dtype])
        for argument in inspect.signature(function).parameters
    ]


def within_a_rounding(got, written, exact, dtype):
    """What was got is finite where what was written is and fits, and no further from the truth than one rounding more."""
    fits = np.isfinite(written) & (np.abs(exact) < 0.98 * float(ml_dtypes.finfo(NUMPY[dtype]).max))
    assert np.isfinite(got[fits]).all(), "not finite where the reference is"
    size = np.sqrt(np.mean(exact[fits] ** 2)) or 1.0
    off, allowed = (np.sqrt(np.mean((x - exact)[fits] ** 2)) / size for x in (got, written))
    assert off <= 1.5 * allowed + EPSILON[dtype], (
        f"off by {off / EPSILON[dtype]:.1f} ε, as written {allowed / EPSILON[dtype]:.1f} ε"
    )


def as_written(function, arrays):
    """The results of the program before any rewrite, and in float64."""
    graph = trace(function, tuple(arrays), {}, ()).graph
    exact = gradc.compile(function, backend="numpy")(*(x.astype(np.float64) for x in arrays))
    return [np.float64(x) for x in evaluate(graph, arrays)], list(exact) if isinstance(exact, tuple) else [exact]


def holds(function, arrays, dtype, backends=("numpy", "interpret")):
    written, exact = as_written(function, arrays)
    for backend in backends:
        got = gradc.compile(backend=backend)(function)(*arrays)
        for a, b, c in zip(got if isinstance(got, tuple) else (got,), written, exact, strict=True):
            within_a_rounding(np.float64(a), b, c, dtype)


@pytest.mark.triton
@pytest.mark.parametrize("name", PROGRAMS)
def test_float16(name):
    holds(PROGRAMS[name][0], arguments(name, "float16"), "float16")


PROJECTED = [name for name in PROGRAMS if name.startswith(("attention", "weights", "a_gate", "mixture", "rms", "unit"))]


@pytest.mark.triton
@pytest.mark.parametrize("name", PROJECTED)
def test_bfloat16_is_rounded_no_more_than_once(name):
    holds(PROGRAMS[name][0], arguments(name, "bfloat16"), "bfloat16")


BACKWARD = [
    "attention_projected", "weights_then_two_products", "rms_norm", "cosines", "squares_scaled", "product_read_twice",
    "absolute_shares", "temperature",
]  # fmt: skip


@pytest.mark.triton
@pytest.mark.parametrize("name", BACKWARD)
def test_float16_backward(name):
    """The cotangents of the emitted backward."""
    function, arrays = PROGRAMS[name][0], arguments(name, "float16")
    shape = gradc.compile(function, backend="numpy")(*arrays).shape
    cotangent = np.random.default_rng(1).standard_normal(shape).astype(np.float16)
    written, exact = as_written(lambda c, *given: gradc.vjp(function, *given)[1](c), [cotangent, *arrays])
    leaves = [torch.from_numpy(x).requires_grad_() for x in arrays]
    out = gradc.compile(backend="interpret")(function)(*leaves)
    gradients = torch.autograd.grad(out, leaves, torch.from_numpy(cotangent))
    for got, *others in zip(gradients, written, exact, strict=True):
        within_a_rounding(got.double().numpy(), *others, "float16")


@pytest.mark.parametrize("name", BACKWARD)
def test_float16_forward_mode_and_second_order(name):
    """As the reference runs them, after the rewrites."""
    function, arrays = PROGRAMS[name][0], arguments(name, "float16")
    tangents = [(x.astype(np.float32) * 0.1).astype(np.float16) for x in arrays]
    count = len(arrays)
    tangent = lambda *given: gradc.jvp(function, given[:count], given[count:])[1]
    of_the_sum = lambda *given: gradc.grad(lambda *z: gradc.mean(function(*z)), argnums=tuple(range(count)))(*given)
    holds(tangent, [*arrays, *tangents], "float16", ("numpy",))
    holds(lambda *given: gradc.jvp(of_the_sum, given[:count], given[count:])[1], [*arrays, *tangents], "float16", ("numpy",))


# How it is stored -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "wrt"), [("float16", None), ("bfloat16", ())])
def test_a_quotient_is_stored_where_its_sum_would_overflow(dtype, wrt):
    """The division stays in the kernel of the sum: what lies between kernels, and what is kept, is as short as what the user wrote."""
    shapes = [(2, 128, 128), *[(128, 128)] * 4]

    def block(x, wq, wk, wv, wo):
        q, k, v = (gradc.permute_dims(gradc.reshape(x @ w, (2, 128, 2, 64)), (0, 2, 1, 3)) for w in (wq, wk, wv))
        o = attention(q, k, v)
        return gradc.reshape(gradc.permute_dims(o, (0, 2, 1, 3)), (2, 128, 128)) @ wo

    low = gradc.compile(block).lower(*(gradc.spec(shape, dtype) for shape in shapes), wrt=wrt, device="H200")
    forward = [buffer for kernel in low.kernels if kernel.phase == "forward" for buffer in kernel.writes]
    assert {buffer.dtype for buffer in forward if np.prod(buffer.shape) >= 2 * 128 * 128} == {dtype}
    assert "o" in {buffer.name for buffer in forward}


def test_a_sum_that_waits_for_two_divisions_is_stored_in_float32():
    """It lies in memory itself, and the cost says how."""

    def two_shares(s, v, w):
        e = gradc.exp(s - gradc.max(s, axis=-1, keepdims=True))
        total = gradc.sum(e, axis=-1, keepdims=True)
        return ((e / total) @ v) @ w, ((e / (total + 1)) @ v) @ w

    specs = [gradc.spec(shape, "float16") for shape in ((512, 512), (512, 256), (256, 256))]
    low = gradc.compile(two_shares).lower(*specs, wrt=(), device="H200")
    waiting = [buffer for kernel in low.kernels for buffer in kernel.writes if not buffer.name.startswith("out")]
    assert {(buffer.dtype, buffer.bytes) for buffer in waiting} == {("float32", 512 * 256 * 4), ("float32", 512 * 4)}


@pytest.mark.triton
def test_a_gradient_does_not_read_an_output_that_rounding_made_infinite():
    """The derivative of h ** 0.3 reads h, where the output is h in float16 and h is 1e4 times a product."""

    def rounded(x, w):
        h = gradc.astype(x @ w, "float32") * 1e4
        return gradc.astype(h, "float16"), gradc.sum(h**0.3)

    generator = np.random.default_rng(0)
    arrays = [generator.uniform(1, 2, shape).astype(np.float16) for shape in ((T, D), (D, T))]
    leaves = [torch.from_numpy(x).requires_grad_() for x in arrays]
    gradients = torch.autograd.grad(gradc.compile(backend="interpret")(rounded)(*leaves)[1], leaves)
    wide = [torch.from_numpy(x).double().requires_grad_() for x in arrays]
    want = torch.autograd.grad(((1e4 * (wide[0] @ wide[1])) ** 0.3).sum(), wide)
    for a, b in zip(gradients, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-2, atol=0)
