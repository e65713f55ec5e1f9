"""Singular points of the library's own functions: derivatives of every order, through products, and what the emitted kernels cost there."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradc
from gradc import nn

NOTHING = -math.inf
POINTS = {
    "std": (lambda x: gradc.sum(gradc.std(x, axis=-1)), [[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]]),
    "logsumexp": (lambda x: gradc.sum(nn.relu(gradc.logsumexp(x, axis=-1))), [[NOTHING] * 3, [1.0, 2.0, 4.0]]),
    "logsumexp of inf": (lambda x: gradc.sum(gradc.logsumexp(x, axis=-1)), [[math.inf, 0.0, 1.0], [1.0, NOTHING, 4.0]]),
    "normalize": (lambda x: gradc.sum(nn.normalize(x, dim=-1)[:, 0]), [[0.0, 0.0, 0.0], [1.0, 0.0, 4.0]]),
    "normalize, 0.5": (lambda x: gradc.sum(nn.normalize(x, 0.5, dim=-1)[:, 0]), [[0.0, 0.0, 0.0], [1.0, 0.0, 4.0]]),
    "normalize, -1": (lambda x: gradc.sum(nn.normalize(x, -1.0, dim=-1)[:, 0]), [[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]),
    "cosine": (lambda x: gradc.sum(nn.cosine_similarity(x, x[::-1] + 1, dim=-1)), [[0.0, 0.0, 0.0], [1.0, 0.0, 4.0]]),
    "binary_cross_entropy": (lambda x: gradc.sum(nn.binary_cross_entropy(x, 1 - x)), [[0.0, 1.0, 0.5], [1.0, 0.0, 0.25]]),
}


@pytest.mark.parametrize("name", POINTS)
def test_derivatives_of_every_order_are_numbers(name):
    function, x = POINTS[name][0], np.array(POINTS[name][1])
    first = gradc.grad(function)
    second = gradc.grad(lambda x: gradc.sum(first(x) * np.array([1.0, 2.0, 3.0])))
    third = gradc.grad(lambda x: gradc.sum(second(x) * np.array([3.0, 1.0, 2.0])))
    for order in (first, second, third, gradc.compile(first), gradc.compile(second)):
        assert np.isfinite(order(x)).all()
    assert np.isfinite(gradc.jvp(function, (x,), (np.ones_like(x),))[1])


def squared_distances(x, y):
    return gradc.sum(x * x, axis=-1)[:, None] + gradc.sum(y * y, axis=-1) - 2.0 * (x @ y.mT)


@pytest.mark.parametrize(
    "scores", [lambda x, y: x @ y.mT, lambda x, y: -squared_distances(x, y)], ids=["products", "distances"]
)
def test_a_masked_row_of_a_product_leaves_the_gradient_of_the_others(scores):
    """The row's log-sum-exp is -inf; where it is used with any cotangent, it adds nothing."""
    random = np.random.default_rng(0)
    x, y, cotangent = (random.standard_normal(shape) for shape in ((5, 4), (6, 4), 5))
    seen = random.random((5, 6)) > 0.4
    seen[2] = False
    kept = [0, 1, 3, 4]

    def function(x, y, seen):
        return gradc.logsumexp(gradc.where(seen, scores(x, y), NOTHING), axis=-1)

    def loss(x, y, seen, cotangent):
        value = function(x, y, seen)
        return gradc.sum(gradc.where(value == NOTHING, 0.0, value) * cotangent)

    want = gradc.grad(loss, (0, 1))(x[kept], y, seen[kept], cotangent[kept])
    _, pull = gradc.vjp(lambda x, y: function(x, y, seen), x, y)
    for dx, dy in (pull(cotangent), gradc.compile(gradc.grad(loss, (0, 1)))(x, y, seen, cotangent)):
        np.testing.assert_allclose(dx[kept], want[0])
        np.testing.assert_allclose(dx[2], 0)
        np.testing.assert_allclose(dy, want[1], atol=1e-12)


@pytest.mark.triton
def test_a_forward_alone_still_reads_a_long_row_once():
    low = gradc.compile(lambda x: gradc.logsumexp(x, axis=-1)).lower(gradc.spec((4096, 400_000), "bfloat16"), wrt=())
    assert low.cost.launches == 1
    assert low.kernels[0].source.count("tl.load(") == 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_over_an_empty_axis(dtype):
    nothing = np.zeros((2, 0), dtype)
    for function in (gradc.softmax, gradc.log_softmax, gradc.compile(gradc.softmax)):
        assert function(nothing, axis=-1).shape == (2, 0)
        assert function(nothing, axis=0).shape == (2, 0)
    for axis, shape in ((-1, (2,)), (0, (0,)), (None, ()), ((0, 1), ())):
        out = gradc.logsumexp(nothing, axis=axis)
        assert out.shape == shape
        assert out.dtype == dtype
        assert (out == NOTHING).all()
    assert gradc.logsumexp(nothing, axis=-1, keepdims=True).shape == (2, 1)
    assert gradc.vjp(lambda x: gradc.logsumexp(x, axis=-1), nothing)[1](np.ones(2, dtype))[0].shape == (2, 0)
    with pytest.raises(gradc.ShapeError, match="axis 5 is out of range"):
        gradc.softmax(nothing, axis=5)
    assert (
        nn.scaled_dot_product_attention(np.ones((3, 4)), np.ones((0, 4)), np.ones((0, 5)), np.ones((3, 0), bool)).tolist()
        == [[0.0] * 5] * 3
    )
