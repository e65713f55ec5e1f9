"""The NumPy reference: precision rules, contractions, indices, ownership of results, and the symbolic walk."""

from __future__ import annotations

import random
import warnings
import weakref
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
import sympy

import gradc
from gradc import types
from gradc.autodiff import vjp_graph
from gradc.errors import GradcError, ShapeError
from gradc.interpret import contract, evaluate, evaluate_symbolic, evaluate_values, to_numpy
from gradc.ir import Graph, apply
from gradc.leaves import Literal, as_value, cast, constant, make_input
from gradc.ops import TABLE
from gradc.structure import Contract, Gather, Marker, Permute, Reduce, ScatterAdd, Slice

BF16 = np.dtype(ml_dtypes.bfloat16)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def inputs(*specs):
    return [make_input(shape, types.as_dtype(dtype)) for shape, dtype in specs]


def run(values, leaves, arrays):
    return evaluate(Graph(tuple(leaves), tuple(values)), arrays)


def test_16_bit_floats_are_computed_in_float32_and_rounded_once_at_the_end():
    (x,) = inputs(((), "bfloat16"))
    sum_of_small = TABLE["subtract"](TABLE["add"](x, 2**-10), x)
    (found,) = run([sum_of_small], [x], [np.array(1, BF16)])
    assert found.dtype == BF16
    assert found == np.float32(2**-10)  # lost if 1 + 2⁻¹⁰ were rounded to bfloat16


def test_a_cast_to_16_bits_rounds_and_a_cast_to_32_does_not():
    (x,) = inputs(((), "bfloat16"))
    fine = TABLE["add"](x, 2**-10)
    widened = TABLE["subtract"](cast(fine, types.float32), 1)
    narrowed = TABLE["subtract"](cast(cast(cast(fine, types.float32), types.bfloat16), types.float32), 1)
    found = run([widened, narrowed], [x], [np.array(1, BF16)])
    assert [float(y) for y in found] == [2**-10, 0]


def test_operands_of_a_contraction_are_rounded_and_its_result_is_not():
    (x, y) = inputs(((1, 2), "bfloat16"), ((2, 1), "bfloat16"))
    product = apply(Contract((0, 1), (1, 2), (0, 2)), TABLE["add"](x, 2**-10), y)
    arrays = [np.ones((1, 2), BF16), np.array([[1], [2**-9]], BF16)]
    found = evaluate_values([product], dict(zip((x, y), arrays, strict=True)))[product]
    assert found.dtype == np.float32
    assert found == 1 + 2**-9


def test_sums_of_16_bit_floats_accumulate_in_float32():
    (x,) = inputs(((4096,), "float16"))
    (found,) = run([apply(Reduce("sum", (0,)), x)], [x], [np.full(4096, 1.001, np.float16)])
    assert found == np.float16(4096 * float(np.float16(1.001)))


def test_float64_and_integers_keep_their_dtypes():
    (x, i) = inputs(((3,), "float64"), ((3,), "int8"))
    found = run([TABLE["tanh"](x), TABLE["add"](i, i), TABLE["less"](x, 0)], [x, i], [np.zeros(3), np.full(3, 100, np.int8)])
    assert [y.dtype for y in found] == [np.float64, np.int8, bool]
    np.testing.assert_array_equal(found[1], np.full(3, -56))


def test_random_contractions_equal_einsum():
    choose = random.Random(0)
    for _ in range(200):
        sizes = [0 if choose.random() < 0.05 else choose.randint(1, 3) for _ in range(5)]
        lhs, rhs = (tuple(choose.sample(range(5), choose.randint(0, 4))) for _ in range(2))
        out = [label for label in {*lhs, *rhs} if label not in lhs or label not in rhs or choose.random() < 0.5]
        choose.shuffle(out)
        operation = Contract(lhs, rhs, tuple(out))
        x, y = (RNG.random([sizes[label] for label in labels]) for labels in (lhs, rhs))
        expected = np.asarray(operation.numpy(np.asarray(x), np.asarray(y)))
        found = contract(operation, np.asarray(x), np.asarray(y))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("lhs", "rhs", "out"), [((0, 1), (1, 2), (0, 2)), ((1, 0), (2, 1), (0, 2)), ((3, 0, 1), (3, 1, 2), (3, 0, 2))]
)
def test_a_matrix_product_reaches_blas_without_copies(monkeypatch, lhs, rhs, out):
    seen = []
    multiply = np.matmul
    monkeypatch.setattr(np, "matmul", lambda x, y: seen.append((x, y)) or multiply(x, y))
    sizes = (4, 5, 6, 2)
    arrays = [RNG.random([sizes[label] for label in labels], np.float32) for labels in (lhs, rhs)]
    leaves = inputs(*((array.shape, "float32") for array in arrays))
    run([apply(Contract(lhs, rhs, out), *leaves)], leaves, arrays)
    ((x, y),) = seen
    assert np.shares_memory(x, arrays[0])
    assert np.shares_memory(y, arrays[1])
    assert x.dtype == np.float32


@pytest.mark.parametrize("bad", [4, -5])
@pytest.mark.parametrize("operation", [Gather(0), ScatterAdd(0, 4)])
def test_an_index_out_of_bounds_names_the_line(operation, bad):
    (x, i) = inputs(((4,), "float32"), ((4,), "int64"))
    picked = apply(operation, x, i)  # this very line
    with pytest.raises(GradcError, match=f"index {bad} is out of bounds for axis 0 of size 4") as caught:
        run([picked], [x, i], [np.zeros(4, np.float32), np.array([0, bad, 3, -4])])
    assert "picked = apply(operation, x, i)  # this very line" in str(caught.value)
    assert caught.value.source.file == __file__


def test_negative_indices_count_from_the_end():
    (x, i) = inputs(((4,), "float32"), ((2,), "int64"))
    (found,) = run([apply(Gather(0), x, i)], [x, i], [np.arange(4, dtype=np.float32), np.array([-1, -4])])
    np.testing.assert_array_equal(found, [3, 0])


@dataclass(frozen=True, eq=False)
class Watched(Marker):
    """Passes its operand on, copied, and counts how often it ran and which of its results are still held."""

    runs: list
    name = "watched"

    def numpy(self, x):
        result = x.copy()
        self.runs.append(weakref.ref(result))
        return result


def test_each_value_is_computed_once_and_forgotten_after_its_last_use():
    (x,) = inputs(((3,), "float32"))
    held, value = Watched([]), x
    for _ in range(5):
        value = apply(held, value)
        value = TABLE["add"](value, value)
    alive = []
    last = apply(_Inspector(lambda: alive.append(sum(ref() is not None for ref in held.runs))), value)
    run([last, last], [x], [np.ones(3, np.float32)])
    assert len(held.runs) == 5
    assert alive == [0]


@dataclass(frozen=True, eq=False)
class _Inspector(Marker):
    """Calls a function when it runs."""

    look: object
    name = "inspector"

    def numpy(self, x):
        self.look()
        return x


def test_results_are_fresh_memory():
    (x,) = inputs(((2, 3), "float32"))
    array = np.ones((2, 3), np.float32)
    closed_over = np.ones(2, np.float32)
    swapped = apply(Permute((1, 0)), x)
    part = apply(Slice((0, 0), (1, 3), (1, 1)), x)
    filled = constant(1, types.float32, (4,))
    found = run([x, x, swapped, part, as_value(closed_over), filled], [x], [array])
    for i, result in enumerate(found):
        assert result.flags.writeable
        assert result.flags.c_contiguous
        for other in (array, closed_over, *found[:i]):
            assert not np.shares_memory(result, other)


def test_results_that_are_already_owned_are_not_copied():
    (x,) = inputs(((3,), "float32"))
    held = Watched([])
    (found,) = run([apply(held, x)], [x], [np.ones(3, np.float32)])
    assert held.runs[0]() is found


def test_strided_expanded_and_empty_arguments_are_read_as_they_are():
    (x, y) = inputs(((3, 2), "float32"), ((0, 2), "float32"))
    strided = np.arange(12, dtype=np.float32).reshape(6, 2)[::2]
    total = TABLE["add"](x, 1)
    found = run([total, apply(Reduce("sum", (0,)), y)], [x, y], [strided, np.zeros((0, 2), np.float32)])
    np.testing.assert_array_equal(found[0], strided + 1)
    np.testing.assert_array_equal(found[1], [0, 0])
    (expanded,) = run([total], [x], [np.broadcast_to(np.float32(2), (3, 2))])
    np.testing.assert_array_equal(expanded, np.full((3, 2), 3))


def test_literals_are_read_by_reference_at_each_call():
    (x,) = inputs(((2,), "float32"))
    closed_over = np.ones(2, np.float32)
    graph = Graph((x,), (TABLE["add"](x, as_value(closed_over)),))
    evaluate(graph, [np.zeros(2, np.float32)])
    closed_over[:] = 5
    np.testing.assert_array_equal(evaluate(graph, [np.zeros(2, np.float32)])[0], [5, 5])


def test_torch_tensors_are_read_without_copies():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.0, 2.5, -3.0], dtype=torch.bfloat16, requires_grad=True)
    array = to_numpy(tensor)
    assert array.dtype == BF16
    np.testing.assert_array_equal(array.astype(np.float32), [1, 2.5, -3])
    assert array.__array_interface__["data"][0] == tensor.data_ptr()
    (x,) = inputs(((3,), "bfloat16"))
    literal = apply(Literal(tensor, (3,), types.bfloat16))
    (found,) = run([TABLE["add"](x, literal)], [x], [tensor])
    assert found.dtype == BF16
    np.testing.assert_array_equal(found.astype(np.float32), [2, 5, -6])
    turned = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T
    np.testing.assert_array_equal(to_numpy(turned).astype(np.float32), np.arange(6).reshape(2, 3).T)


def test_defined_results_do_not_warn():
    (x,) = inputs(((3,), "float32"))
    at = np.array([0, -np.inf, 1e30], np.float32)
    names = ("exp", "reciprocal", "rsqrt", "square", "sigmoid", "softplus")
    found = run([*(TABLE[name](x) for name in names), cast(TABLE["log"](x), types.int32)], [x], [at])
    np.testing.assert_array_equal(found[1], [np.inf, 0, np.float32(1e-30)])


def test_an_argument_of_another_shape_is_an_error():
    (x,) = inputs(((3,), "float32"))
    with pytest.raises(ShapeError, match=r"shape \(3,\), got an array of shape \(4,\)"):
        run([TABLE["exp"](x)], [x], [np.zeros(4, np.float32)])


def test_any_value_can_be_bound():
    (x,) = inputs(((2,), "float32"))
    middle = TABLE["exp"](x)
    last = TABLE["add"](middle, 1)
    found = evaluate_values([last, middle], {middle: np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(found[last], [2, 3])
    np.testing.assert_array_equal(found[middle], [1, 2])


def test_the_symbolic_walk_is_exact():
    (x, i) = inputs(((2, 2), "float32"), ((2, 1), "int64"))
    a, b, c, d = symbols = sympy.symbols("a b c d", real=True)
    third = TABLE["multiply"](x, 0.5)
    outputs = [
        apply(Contract((0, 1), (1, 2), (0, 2)), x, x),
        apply(Reduce("max", (0, 1)), x),
        apply(Gather(1), third, i),
        cast(TABLE["greater"](x, 1), types.float32),
    ]
    found = evaluate_symbolic(Graph((x, i), tuple(outputs)), [np.array(symbols, object).reshape(2, 2), np.array([[1], [-2]])])
    assert found[0].tolist() == [[a * a + b * c, a * b + b * d], [a * c + c * d, b * c + d * d]]
    assert found[1].item() == sympy.Max(a, b, c, d)
    assert found[2].tolist() == [[b / 2], [c / 2]]
    assert found[3][0, 0] == sympy.Piecewise((1, a > 1), (0, True))


def test_the_symbolic_walk_runs_at_high_precision():
    mpmath = pytest.importorskip("mpmath")
    (x,) = inputs(((3,), "float32"))
    shifted = TABLE["subtract"](x, apply(Reduce("max", (0,)), x))
    with mpmath.workdps(60):
        numbers = np.array([mpmath.mpf(1) / 3, mpmath.mpf(2) / 7, mpmath.mpf(5)], object)
        (found,) = evaluate_symbolic(Graph((x,), (TABLE["exp"](shifted),)), [numbers])
        for number, result in zip(numbers, found, strict=True):
            assert abs(mpmath.mpf(str(result)) - mpmath.exp(number - 5)) < mpmath.mpf(10) ** -50


def test_a_network_and_its_gradient_run_in_the_reference():
    (x, w, v) = inputs(((5, 4), "float32"), ((4, 3), "float32"), ((3, 2), "float32"))
    hidden = TABLE["maximum"](x @ w, 0)
    loss = gradc.mean((hidden @ v) ** 2)
    slopes = vjp_graph([loss], [w, v], [constant(1, types.float32)])
    arrays = [RNG.standard_normal(y.shape).astype(np.float32) for y in (x, w, v)]
    found, dw, dv = run([loss, *slopes], [x, w, v], arrays)
    a, b, c = (array.astype(np.float64) for array in arrays)
    active = np.maximum(a @ b, 0)
    error = active @ c * 2 / 10
    np.testing.assert_allclose(found, np.mean((active @ c) ** 2), rtol=1e-5)
    np.testing.assert_allclose(dv, active.T @ error, rtol=1e-5)
    np.testing.assert_allclose(dw, a.T @ ((error @ c.T) * (a @ b > 0)), rtol=1e-4, atol=1e-6)
