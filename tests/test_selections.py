"""A cotangent that a selection made 0 stays 0 whatever the partial behind it, by every route to the derivative."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradc
from gradc.ir import topological
from gradc.ranges import interval_of
from gradc.trace import trace

X = np.array([0.0, 4.0, -1.0, 200.0, 100.0], np.float32)
INFINITE = gradc.inf

# A function with an infinite or undefined value or derivative somewhere on X, and the mask of where it is used.
SINGULAR = {
    "exp": (lambda x: gradc.exp(10 * x), lambda x: x < 10),
    "exp2": (lambda x: gradc.exp2(10 * x), lambda x: x < 10),
    "expm1": (lambda x: gradc.expm1(10 * x), lambda x: x < 10),
    "sinh": (lambda x: gradc.sinh(10 * x), lambda x: x < 10),
    "log": (gradc.log, lambda x: x > 0),
    "log1p": (gradc.log1p, lambda x: x > 0),
    "log2": (gradc.log2, lambda x: x > 0),
    "sqrt": (gradc.sqrt, lambda x: x > 0),
    "rsqrt": (gradc.rsqrt, lambda x: x > 0),
    "reciprocal": (lambda x: 1 / x, lambda x: x > 0),
    "pow": (lambda x: x**1.5, lambda x: x > 0),
    "negative pow": (lambda x: x**-3.0, lambda x: x > 0),
    "general pow": (lambda x: x**x, lambda x: (x > 0) & (x < 10)),
    "atanh": (lambda x: gradc.atanh(x / 4), lambda x: x < 2),
    "asin": (lambda x: gradc.asin(x / 4), lambda x: x < 2),
    "acosh": (gradc.acosh, lambda x: x > 1),
    "entropy": (lambda x: x * gradc.log(x), lambda x: x > 0),
    "ratio": (lambda x: gradc.exp(10 * x) / (1 + gradc.exp(10 * x)), lambda x: x < 5),
    "product": (lambda x: gradc.exp(10 * x) * gradc.exp(20 * x) * x, lambda x: x < 2),
    "remainder": (lambda x: gradc.remainder(4.5 + x, x), lambda x: x > 0),
    "norm": (lambda x: gradc.sqrt(x * x) + gradc.log(x * x), lambda x: x > 0),
}

# Ways from a masked value to a result: f(X), the mask, x.
FORMS = {
    "once": lambda f, m, x: gradc.where(m, f, 0),
    "the same mask twice": lambda f, m, x: gradc.where(m, f, 0) + gradc.where(m, f * f, 0),
    "two masks": lambda f, m, x: gradc.where(m, f, 0) + gradc.where(m & (x > -5), f, 0),
    "nested masks": lambda f, m, x: gradc.where(m, gradc.where(x > -3, f, 7), 0) * x,
    "reshape": lambda f, m, x: gradc.where(m[:, None], gradc.reshape(f, (5, 1)), 0),
    "broadcast": lambda f, m, x: gradc.where(m[:, None], gradc.broadcast_to(f[:, None], (5, 3)), 0),
    "sum before": lambda f, m, x: gradc.where(m, gradc.sum(gradc.stack([f, f]), axis=0), 0),
    "sum after": lambda f, m, x: gradc.sum(gradc.where(m[:, None], f[:, None] * np.ones((1, 3), np.float32), 0), axis=1),
    "slice": lambda f, m, x: gradc.where(m, f, 0)[1:] * 2,
    "sliced away": lambda f, m, x: gradc.where(m, f, 0)[gradc.asarray([1])],
    "gather": lambda f, m, x: gradc.take(gradc.where(m, f, 0), np.array([1, 1, 2])),
    "concat": lambda f, m, x: gradc.concat([gradc.where(m, f, 0), x])[2:7],
    "minimum": lambda f, m, x: gradc.minimum(gradc.where(m, f, 0), 1.2),
    "relu": lambda f, m, x: gradc.maximum(gradc.where(m, f, 0), 0),
    "clip": lambda f, m, x: gradc.clip(gradc.where(m, f, 0), -3, 3),
    "matmul": lambda f, m, x: gradc.where(m, f, 0) @ np.ones((5, 2), np.float32),
    "max": lambda f, m, x: gradc.max(gradc.where(m, f, -1), axis=0),
    "cumsum": lambda f, m, x: gradc.cumulative_sum(gradc.where(m, f, 0)),
    "cast": lambda f, m, x: gradc.astype(gradc.where(m, gradc.astype(f, gradc.float64), 0), x.dtype),
}


def form(name, singular):
    function, mask = SINGULAR[singular]

    def value(x):
        with np.errstate(all="ignore"):
            return FORMS[name](function(x), mask(x), x)

    return value


def total(function):
    return lambda x: gradc.sum(function(x))


def on_torchs_tape(function, x):
    torch = pytest.importorskip("torch")
    x = torch.tensor(x, requires_grad=True)
    gradc.compile(total(function))(x).backward()
    return x.grad.numpy()


def by_forward_mode(function, x):
    return np.array([np.sum(gradc.jvp(function, (x,), (tangent,))[1]) for tangent in np.eye(len(x), dtype=x.dtype)])


ROUTES = {
    "grad": lambda f, x: gradc.grad(total(f))(x),
    "compiled gradient": lambda f, x: gradc.compile(gradc.grad(total(f)))(x),
    "gradient of a compiled function": lambda f, x: gradc.grad(gradc.compile(total(f)))(x),
    "torch's tape": on_torchs_tape,
    "jvp": by_forward_mode,
}


def slopes(function, x):
    """Central differences of the sum of the results, taken result by result."""
    found = np.zeros(len(x))
    with np.errstate(all="ignore"):
        for i, unit in enumerate(np.eye(len(x))):
            step = 1e-5 * max(1, abs(x[i]))
            found[i] = np.sum((function(x + step * unit) - function(x - step * unit)) / (2 * step))
    return found


@pytest.mark.parametrize("singular", SINGULAR)
def test_the_gradient_is_finite_and_the_slope(singular):
    """The slope is taken in float64 and off 0, where half of the functions have their pole and the mask its edge."""
    x = X.astype(np.float64)
    for name in FORMS:
        function = form(name, singular)
        gradient, size = ROUTES["grad"](function, x), np.max(np.abs(function(x)))
        assert np.isfinite(gradient).all(), f"{name}: {gradient}"
        np.testing.assert_allclose(gradient[1:], slopes(function, x)[1:], rtol=1e-4, atol=1e-7 * (1 + size), err_msg=name)


@pytest.mark.parametrize("singular", SINGULAR)
def test_every_route_gives_the_same(singular):
    """All forms in one program, whose gradient is the sum of theirs."""

    def all_forms(x):
        return gradc.stack([gradc.astype(gradc.sum(form(name, singular)(x)), x.dtype) for name in FORMS])

    want = np.sum([ROUTES["grad"](form(name, singular), X) for name in FORMS], axis=0)
    for route, take in ROUTES.items():
        np.testing.assert_allclose(take(all_forms, X), want, rtol=2e-4, atol=1e-6, err_msg=route)


@pytest.mark.parametrize("singular", ["exp", "log", "sqrt", "reciprocal", "entropy", "ratio", "pow"])
def test_second_derivatives_stay_finite(singular):
    for name in FORMS:
        found = gradc.hessian(total(form(name, singular)))(X)
        assert np.isfinite(found).all(), f"{name}: {found}"


def test_a_clipped_ratio_of_probabilities():
    """PPO's loss where a ratio overflows: the clip decides, and nothing comes back."""
    x, advantage = np.array([100.0, 0.1, -0.5], np.float32), np.array([1.0, 1.0, -1.0], np.float32)

    def loss(x):
        ratio = gradc.exp(x)
        return -gradc.sum(gradc.minimum(ratio * advantage, gradc.clip(ratio, 0.8, 1.2) * advantage))

    for take in ROUTES.values():
        np.testing.assert_allclose(take(loss, x), [0, -math.exp(0.1), 0], rtol=1e-6)


@pytest.mark.triton
def test_kernels_keep_zeros_too():
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    for name, singular in (("two masks", "exp"), ("reshape", "log"), ("minimum", "reciprocal"), ("sum before", "sqrt")):
        function = form(name, singular)
        x = torch.tensor(X, requires_grad=True)
        gradc.compile(backend="interpret")(total(function))(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), ROUTES["grad"](function, X), rtol=1e-5, err_msg=f"{name}, {singular}")


def test_a_product_with_what_happens_to_be_zero_keeps_its_mixed_derivatives():
    """0 absorbs infinities and nothing else: d²/dx dy of where(m, x, 0)·exp(y) at x = 0 is m·exp(y)."""
    mask = np.array([True, False, True])

    def function(x, y):
        return gradc.sum(gradc.where(mask, x, 0) * gradc.exp(y))

    mixed = gradc.jacfwd(gradc.grad(function), argnums=1)(np.array([0.0, 0.0, 2.0]), np.array([0.5, 1.0, 1.5]))
    np.testing.assert_allclose(mixed, np.diag([math.exp(0.5), 0, math.exp(1.5)]))


def test_what_a_mask_multiplies_away_stays_away():
    """A mask of numbers is a selection too: sqrt at 0 and a cotangent of 0."""
    x, mask = np.array([0.0, 4.0]), np.array([False, True])
    gradient = gradc.grad(lambda x: gradc.sum(gradc.sqrt(x) * gradc.astype(gradc.asarray(mask), gradc.float64)))(x)
    np.testing.assert_allclose(gradient, [0, 0.25])


def test_nothing_is_guarded_where_nothing_can_be_infinite():
    """Softmax, norms and gates under a mask need no guard: their partials are bounded, by interval arithmetic and by proof."""

    def function(x, w, mask):
        weights = gradc.softmax(gradc.where(mask, x, -INFINITE))
        normed = x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        gated = normed * gradc.sigmoid(normed) + gradc.tanh(normed) + gradc.erf(normed)
        return gradc.sum(gradc.where(mask, gradc.log_softmax(weights * gated * w), 0).reshape(6))

    specs = gradc.spec((2, 3)), gradc.spec((3,)), gradc.spec((2, 3), "bool")
    graph = trace(gradc.grad(function, (0, 1)), specs).graph
    assert not any(value.operation.name.startswith("absorbing") for value in topological(graph.outputs))
    assert any(interval_of(value).selected for value in topological(graph.outputs))
