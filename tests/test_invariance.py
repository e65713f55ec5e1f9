"""The maximum that a softmax subtracts is found to be irrelevant, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

import gradc
from gradc import types
from gradc.autodiff import vjp_graph
from gradc.interpret import evaluate
from gradc.invariance import cut_invariant
from gradc.ir import Graph
from gradc.leaves import make_input
from gradc.normalise import normalise
from gradc.trace import tracing_scope


def peak(x):
    return gradc.max(x, axis=-1, keepdims=True)


def softmax(x):
    weight = gradc.exp(x - peak(x))
    return weight / gradc.sum(weight, axis=-1, keepdims=True)


IRRELEVANT = {
    "softmax": softmax,
    "softmax over the first axis": lambda x: softmax(x.T).T,
    "log-softmax": lambda x: x - peak(x) - gradc.log(gradc.sum(gradc.exp(x - peak(x)), axis=-1, keepdims=True)),
    "log-sum-exp": lambda x: gradc.log(gradc.sum(gradc.exp(x - peak(x)), axis=-1)) + peak(x)[:, 0],
    "masked": lambda x: softmax(gradc.where(gradc.tril(gradc.ones((4, 4))) > 0, x, -gradc.inf)),
    "a bound beside the maximum": lambda x: (
        lambda m: gradc.exp(x - m) / (gradc.sum(gradc.exp(x - m), axis=-1, keepdims=True) + gradc.exp(0.1 - m))
    )(gradc.maximum(peak(x), 0.1)),
    "masked after": lambda x: (lambda e: e / gradc.sum(e, axis=-1, keepdims=True))(
        gradc.where(x > 0.1, gradc.exp(x - peak(x)), 0.0)
    ),
    "scaled": lambda x: softmax(x * 0.5),
    "temperature outside": lambda x: (lambda e: e / gradc.sum(e, axis=-1, keepdims=True))(gradc.exp((x - peak(x)) / 0.7)),
    "attention": lambda x: softmax(x @ x.T) @ x,
    "weighted": lambda x: (lambda e: (e @ x) / gradc.sum(e, axis=-1, keepdims=True))(gradc.exp(x - peak(x))),
    "by reciprocal": lambda x: (lambda e: e * gradc.reciprocal(gradc.sum(e, axis=-1, keepdims=True)))(gradc.exp(x - peak(x))),
    "root mean square": lambda x: (lambda e: e * gradc.rsqrt(gradc.sum(e * e, axis=-1, keepdims=True)))(gradc.exp(x - peak(x))),
    "centred": lambda x: (lambda s: s - gradc.mean(s, axis=-1, keepdims=True))(x - peak(x)),
}
RELEVANT = {
    "the maximum itself": lambda x: peak(x),
    "a difference": lambda x: x - peak(x),
    "normalised by the wrong sum": lambda x: gradc.exp(x - peak(x)) / gradc.sum(gradc.exp(x - peak(x)), axis=0, keepdims=True),
    "a bound that is not subtracted everywhere": lambda x: (
        lambda m: gradc.exp(x - m) / (gradc.sum(gradc.exp(x - m), axis=-1, keepdims=True) + gradc.exp(0.1 - peak(x)))
    )(gradc.maximum(peak(x), 0.1)),
    "one too many": lambda x: softmax(x) + peak(x),
    "two powers": lambda x: (lambda e: e * e / gradc.sum(e, axis=-1, keepdims=True))(gradc.exp(x - peak(x))),
    "tanh": lambda x: gradc.tanh(x - peak(x)),
    "a product": lambda x: (x - peak(x)) * x,
    "another constant": lambda x: (
        softmax(gradc.where(x > 0.1, x - peak(x), 0.0)) * 1.0 + gradc.where(x > 0.1, x - peak(x), 0.0)
    ),
    "added": lambda x: gradc.exp(x - peak(x)) + 1.0,
    "sliced": lambda x: (x - peak(x))[:, 1:],
    "straight through": lambda x: x * (peak(x) - gradc.stop_gradient(peak(x)) + 1.0),
}


def graph_of(function):
    x = make_input((4, 4), types.float64, "x")
    with tracing_scope():
        return Graph((x,), (function(x),))


def stops(graph):
    return sum(value.operation.name == "stop_gradient" for value in graph.values)


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_no_output_depends_on_is_cut(name):
    graph = graph_of(IRRELEVANT[name])
    assert stops(normalise(graph)) >= 1
    plain, cut = gradients(graph), gradients(normalise(graph))
    np.testing.assert_allclose(plain, cut, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RELEVANT)
def test_what_an_output_depends_on_is_not_cut(name):
    graph = graph_of(RELEVANT[name])
    np.testing.assert_allclose(gradients(graph), gradients(normalise(graph)), rtol=1e-9, atol=1e-12)
    kept = normalise(graph)
    maxima = [value for value in kept.values if value.operation.name == "max"]
    assert any(
        user.operation.name != "stop_gradient" for user in kept.values for peak in maxima if peak in set(user.operands)
    ) or peak_is_output(kept)


def peak_is_output(graph):
    return any(output.operation.name in ("max", "broadcast", "reshape") for output in graph.outputs)


def gradients(graph):
    (x,), (y,) = graph.inputs, graph.outputs
    cotangent = make_input(y.shape, y.dtype)
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((4, 4)), random.standard_normal(y.shape)]
    return evaluate(Graph((x, cotangent), tuple(vjp_graph([y], [x], [cotangent]))), arrays)[0]


def test_a_graph_without_a_maximum_is_itself():
    graph = graph_of(lambda x: gradc.exp(x))
    assert cut_invariant(graph) is graph
