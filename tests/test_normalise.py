"""Normal forms: the backward that people write by hand appears, in little time, and no value or gradient changes."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradc
from gradc import types
from gradc.autodiff import vjp_graph
from gradc.interpret import evaluate
from gradc.ir import Graph, apply, format_graph, topological
from gradc.leaves import cast, constant, make_input
from gradc.normalise import normalise
from gradc.structure import Keep, Reduce, StopGradient, Variable
from gradc.table import TABLE
from gradc.trace import tracing_scope
from tests.work import calls_of

op = dict(TABLE)


# What the forms are for: the backward that people write by hand.


def differentiated(function, *shapes, dtype="float32"):
    """The normalised joint graph of a function and its gradient: (inputs, dy, y, gradients)."""
    inputs = tuple(make_input(shape, types.as_dtype(dtype), name) for shape, name in zip(shapes, "xwbkv", strict=False))
    with tracing_scope():
        output = function(*inputs)
    (output,) = normalise(Graph(inputs, (output,))).outputs
    dy = make_input(output.shape, output.dtype, "dy")
    gradients = vjp_graph([output], inputs, [dy])
    joint = Graph((*inputs, dy), (output, *gradients))
    graph = normalise(joint, "after")
    graph.check()
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(v.shape).astype(v.dtype.numpy) for v in joint.inputs]
    for before, after in zip(evaluate(joint, arrays), evaluate(graph, arrays), strict=True):
        np.testing.assert_allclose(before, after, rtol=3e-4, atol=1e-5)
    return graph.inputs, graph.inputs[-1], graph.outputs[0], graph.outputs[1:]


def names_of(values):
    return [value.operation.name for value in values if value.operands]


def reductions(values, axis):
    return [value for value in values if isinstance(value.operation, Reduce) and axis in value.operation.axes]


def own_softmax(x):
    weight = gradc.exp(x - gradc.max(x, axis=-1, keepdims=True))
    return weight / gradc.sum(weight, axis=-1, keepdims=True)


@pytest.mark.parametrize("softmax", [gradc.softmax, own_softmax])
def test_softmax_backward_is_written_in_its_output(softmax):
    _, dy, y, (dx,) = differentiated(softmax, (4, 5))
    backward = topological([dx], [dy, y])
    assert sorted(names_of(backward)) == ["broadcast", "multiply", "multiply", "subtract", "sum"]


def test_log_softmax_backward_needs_one_row_sum():
    _, _, y, (dx,) = differentiated(gradc.log_softmax, (4, 5))
    forward = set(topological([y]))
    backward = [value for value in topological([dx]) if value not in forward]
    assert len(reductions(backward, 1)) == 1


def rms_norm(x, w):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w


def layer_norm(x, w, b):
    centred = x - gradc.mean(x, axis=-1, keepdims=True)
    return centred * gradc.rsqrt(gradc.mean(centred * centred, axis=-1, keepdims=True) + 1e-5) * w + b


def layer_norm_by_var(x, w, b):
    return (x - gradc.mean(x, axis=-1, keepdims=True)) / gradc.sqrt(gradc.var(x, axis=-1, keepdims=True) + 1e-5) * w + b


@pytest.mark.parametrize(
    ("norm", "shapes", "row_sums"),
    [(rms_norm, ((4, 5), (5,)), 1), (layer_norm, ((4, 5), (5,), (5,)), 2), (layer_norm_by_var, ((4, 5), (5,), (5,)), 2)],
)
def test_norm_backward_is_one_pass(norm, shapes, row_sums):
    _, _, y, (dx, *_) = differentiated(norm, *shapes)
    forward = set(topological([y]))
    backward = [value for value in topological([dx]) if value not in forward]
    sums = reductions(backward, 1)
    assert len(sums) == row_sums
    for each in sums:  # none waits for another
        assert not any(other is not each and other in set(topological([each])) for other in sums)


def attention(q, k, v):
    return gradc.softmax(gradc.where(gradc.tril(gradc.ones((6, 6))) > 0, q @ k.T / 2.0, -gradc.inf), axis=-1) @ v


def test_attention_backward_is_flash_attention_2():
    _, dy, o, (dq, dk, dv) = differentiated(attention, (6, 4), (6, 4), (6, 4))
    assert o.operation.name == "divide"  # (Σ_k e·v) / l
    forward = set(topological([o]))
    backward = [value for value in topological([dq, dk, dv]) if value not in forward]
    (only,) = [value for value in backward if isinstance(value.operation, Reduce)]
    assert set(only.operands[0].operands) == {dy, o}  # D = rowsum(dO∘O): no pass over the keys
    assert names_of(backward).count("contract") == 4


def test_gelu_and_silu_take_the_cotangent_once():
    for function in (lambda x: 0.5 * x * (1 + gradc.erf(x / 2**0.5)), lambda x: x * gradc.sigmoid(x)):
        _, dy, y, (dx,) = differentiated(function, (3, 4))
        backward = [value for value in topological([dx]) if value not in set(topological([y]))]
        assert sum(dy in set(value.operands) for value in backward) == 1


def test_rotary_embedding_backward_joins_its_halves():
    def rotate(x, w):
        return x * w + gradc.concat([-x[..., 2:], x[..., :2]], axis=-1) * w

    _, _, _, (dx, _) = differentiated(rotate, (3, 4), (3, 4))
    assert "pad" not in names_of(topological([dx]))


def test_cross_entropy_backward_scatters_nothing():
    target = np.array([[1], [0], [3], [-2]])
    _, _, _, (dx,) = differentiated(
        lambda x: gradc.mean(gradc.logsumexp(x, axis=-1) - gradc.take_along_axis(x, target, axis=-1)[:, 0]), (4, 5)
    )
    assert "scatter_add" not in names_of(topological([dx]))


def test_matrix_vector_products_become_sums_and_matrix_products_stay():
    *_, y, _ = differentiated(lambda x, w: x @ w, (4, 5), (5,))
    assert "contract" not in names_of(topological([y]))
    *_, y, _ = differentiated(lambda x, w: x @ w, (4, 5), (5, 3))
    assert names_of(topological([y])) == ["contract"]


def mlp(x, *weights):
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        hidden = x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        x = x + gradc.tanh(hidden @ first) @ second
    return gradc.sum(x)


def joint_of(function, *shapes):
    inputs = tuple(make_input(shape, types.float32) for shape in shapes)
    with tracing_scope():
        output = function(*inputs)
    cotangent = make_input(output.shape, output.dtype)
    return Graph((*inputs, cotangent), (output, *vjp_graph([output], inputs, [cotangent])))


def test_the_work_of_normalising_grows_with_the_values_alone():
    norm = joint_of(rms_norm, (4, 5), (5,))
    networks = [joint_of(mlp, (8, 16), *[(16, 32), (32, 16)] * layers) for layers in (3, 12)]
    assert len(networks[1].values) > 500
    for graph in (norm, *networks):
        assert calls_of(lambda graph=graph: normalise(graph, "after")) < 300 * len(graph.values)


# The pass as a whole.


def test_long_programs_do_not_recur():
    x = value = make_input((2,), types.float32)
    for _ in range(3000):
        value = op["negative"](op["sin"](value))
    assert len(normalise(Graph((x,), (value,))).values) == 6001


def test_inputs_outputs_and_names_survive():
    x, unused = make_input((3,), types.float32, "x"), make_input((2,), types.float32, "unused")
    doubled = op["add"](x, x)
    doubled.name = "doubled"
    graph = normalise(Graph((x, unused), (doubled, x, doubled), ("a", "b", "c"), "twice"))
    assert graph.inputs == (x, unused)
    assert graph.outputs[1] is x
    assert graph.outputs[0] is graph.outputs[2]
    assert graph.outputs[0].name == "doubled"
    assert (graph.output_names, graph.title) == (("a", "b", "c"), "twice")


def test_markers_go_at_their_stage():
    x = make_input((3,), types.float32, "x")
    marked = apply(Keep(), apply(StopGradient(), apply(Variable(), x)))
    assert names_of(normalise(Graph((x,), (marked,)), "before").values) == ["stop_gradient", "keep"]
    assert names_of(normalise(Graph((x,), (marked,)), "after").values) == ["keep"]
    assert normalise(Graph((x,), (marked,)), "final").outputs[0] is x


def test_equal_values_become_one_and_different_zeros_do_not():
    x, y = make_input((3,), types.float32), make_input((3,), types.float32)
    graph = normalise(Graph((x, y), (op["multiply"](x, y), op["multiply"](y, x), op["subtract"](x, y), op["subtract"](y, x))))
    assert graph.outputs[0] is graph.outputs[1]
    assert graph.outputs[2] is not graph.outputs[3]
    zeros = normalise(Graph((), (constant(0.0, types.float32), constant(-0.0, types.float32), constant(0.0, types.float32))))
    assert zeros.outputs[0] is zeros.outputs[2]
    assert math.copysign(1, zeros.outputs[1].operation.value) == -1


def test_the_graph_given_is_not_changed():
    inputs = tuple(make_input(shape, types.float32, name) for shape, name in (((4, 5), "x"), ((5,), "w")))
    with tracing_scope():
        graph = Graph(inputs, (rms_norm(*inputs),))
    text = format_graph(graph)
    normalise(graph)
    assert format_graph(graph) == text


UNARY = ["negative", "exp", "tanh", "sigmoid", "square", "sin"]
BINARY = ["add", "subtract", "multiply", "divide", "maximum"]


def random_program(random):
    """A few inputs and a random expression over elementwise functions, views and reductions."""
    inputs = [make_input((3, 4), types.float64, name) for name in "xyz"]
    values = list(inputs)
    with tracing_scope():
        for _ in range(14):
            a, b = (values[random.integers(len(values))] for _ in range(2))
            match random.integers(8):
                case 0 | 1:
                    values.append(op[random.choice(UNARY)](gradc.tanh(a)))
                case 2 | 3 | 4:
                    values.append(op[random.choice(BINARY)](a, gradc.where(gradc.abs(b) > 0.3, b, 1.5)))
                case 5:
                    axis = int(random.integers(2))
                    values.append(gradc.broadcast_to(gradc.sum(a * 0.25, axis=axis, keepdims=True), (3, 4)))
                case 6:
                    values.append(gradc.concat([a[:, 2:], b[:, :2]], axis=1) if random.integers(2) else a[::-1])
                case 7:
                    values.append(gradc.softmax(a, axis=-1) if random.integers(2) else gradc.tanh(a @ b.T) @ a * 0.1)
        return inputs, values[-1] + values[-2] * 0.5


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_keep_their_values_and_gradients(seed):
    random = np.random.default_rng(seed)
    inputs, output = random_program(random)
    arrays = [random.uniform(0.2, 1.0, (3, 4)) for _ in inputs] + [random.standard_normal((3, 4))]
    cotangent = make_input((3, 4), types.float64)
    plain = Graph((*inputs, cotangent), (output, *vjp_graph([output], inputs, [cotangent])))
    before = normalise(Graph(tuple(inputs), (output,)))
    joint = Graph((*inputs, cotangent), (*before.outputs, *vjp_graph(before.outputs, inputs, [cotangent])))
    after = normalise(joint, "after")
    after.check()
    for expected, found in zip(evaluate(plain, arrays), evaluate(after, arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
    again = normalise(after, "after")
    assert [v.operation.name for v in again.values] == [v.operation.name for v in after.values]


def test_sixteen_bit_casts_still_round_what_was_not_rounded():
    x = make_input((3,), types.bfloat16, "x")
    product = op["multiply"](x, x)
    chain = cast(cast(product, types.float32), types.bfloat16)
    graph = normalise(Graph((x,), (cast(chain, types.float32),)))
    (found,) = evaluate(graph, (np.array([1.1, 2.3, 3.7], types.bfloat16.numpy),))
    (expected,) = evaluate(Graph((x,), (cast(chain, types.float32),)), (np.array([1.1, 2.3, 3.7], types.bfloat16.numpy),))
    np.testing.assert_array_equal(found, expected)
    back = Graph((x,), (cast(cast(x, types.float32), types.bfloat16),))
    assert normalise(back).outputs[0] is x
