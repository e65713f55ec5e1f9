"""Proofs of rows, structural rules and whole gradients; and that a wrong derivative of every kind is caught."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

import gradc
from gradc import leaves, structure, types
from gradc.autodiff import vjp_graph
from gradc.errors import UnsupportedError, VerificationError
from gradc.interpret import evaluate
from gradc.ir import Graph, Value, apply
from gradc.leaves import Broadcast, Cast, Constant, Given, Iota, Reshape, Structural, View, constant, make_input
from gradc.ops import TABLE, fill_like
from gradc.prove import prove, prove_row, prove_structure
from gradc.structure import (
    Concatenate,
    Contract,
    Cumulative,
    Flip,
    Gather,
    Keep,
    Pad,
    Permute,
    Reduce,
    ScatterAdd,
    Slice,
    StopGradient,
    Variable,
)

spec = gradc.spec


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_every_row_is_proved(row):
    proof = prove_row(row)
    assert row.name in str(proof)
    assert proof.pieces or all(partial is None for partial in row.partials)


WRONG = {
    "a sign": ("cos", lambda x, out: TABLE["sin"](x)),
    "a missing factor": ("square", lambda x, out: x),
    "a rounded constant": ("erf", lambda x, out: 2 / math.sqrt(math.pi) * TABLE["exp"](-x * x)),
    "a wrong constant": ("exp2", lambda x, out: out),
    "the other branch": ("maximum", lambda x, y, out: TABLE["where"](TABLE["less"](x, y), fill_like(x, 1), fill_like(x, 0))),
    "one side of a kink": ("abs", lambda x, out: fill_like(x, 1)),
    "a convention at a tie": (
        "minimum",
        lambda x, y, out: TABLE["where"](TABLE["less_equal"](x, y), fill_like(x, 1), fill_like(x, 0)),
    ),
    "a convention at a kink": ("pow", lambda x, y, out: out * y / x),
    "right only for large x": ("softplus", lambda x, out: fill_like(x, 1)),
    "a missing partial": ("tanh", None),
    "a step that is not flat": ("floor", lambda x, out: fill_like(x, 1)),
    "a discrete result": ("less", lambda x, y, out: fill_like(x, 1)),
    "a hidden discontinuity": ("copysign", lambda x, y, out: TABLE["copysign"](fill_like(x, 1), y)),
}


@pytest.mark.parametrize(("name", "partial"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_partial_is_caught(name, partial):
    row = TABLE[name]
    with pytest.raises(VerificationError, match=name):
        prove_row(dataclasses.replace(row, partials=(partial, *row.partials[1:])))


def test_a_wrong_meaning_is_caught():
    with pytest.raises(VerificationError, match="is wrong at"):
        prove_row(dataclasses.replace(TABLE["log1p"], symbolic=lambda S, x: S.log(2 + x)))


def test_a_domain_nobody_described_is_an_error():
    with pytest.raises(UnsupportedError, match="x is prime"):
        prove_row(dataclasses.replace(TABLE["exp"], domain="x is prime"))


INDEX = np.array([[0], [2], [2], [-1]])
STRUCTURES = [
    (Permute((1, 2, 0)), [(2, 3, 2)]),
    (Slice((1, 0), (4, 3), (2, 1)), [(5, 3)]),
    (Slice((1, 2), (1, 3), (1, 1)), [(2, 3)]),
    (Pad((1, 0), (2, 1), (1, 0)), [(3, 2)]),
    (Pad((1,), (0,), (2,)), [(0,)]),
    (Flip((0,)), [(3, 2)]),
    (Flip((0, 1)), [(2, 2)]),
    (Concatenate(1), [(2, 1), (2, 3), (2, 2)]),
    (Gather(0), [(4, 2), INDEX]),
    (Gather(1), [(2, 3), np.array([[0, 1], [2, 2]])]),
    (ScatterAdd(0, 4), [(4, 2), INDEX]),
    (ScatterAdd(1, 3), [(2, 2), np.array([[0, 0], [2, 1]])]),
    (Reduce("sum", (0,)), [(2, 3)]),
    (Reduce("sum", (0, 2)), [(2, 2, 3)]),
    (Reduce("prod", (1,)), [(2, 5)]),
    (Reduce("prod", (0, 1)), [(2, 3)]),
    (Reduce("max", (1,)), [(2, 3)]),
    (Reduce("max", (0, 2)), [(2, 2, 2)]),
    (Reduce("min", (0, 1)), [(2, 3)]),
    (Reduce("argmax", (1,)), [(2, 3)]),
    (Reduce("any", (1,)), [(2, 3)]),
    (Contract((0, 1), (1, 2), (0, 2)), [(2, 3), (3, 2)]),
    (Contract((0, 1, 2), (0, 3, 2), (3, 0, 1)), [(2, 2, 2), (2, 2, 2)]),
    (Contract((0,), (1,), (1, 0)), [(2,), (3,)]),
    (Contract((0, 1), (0, 1), (0,)), [(2, 3), (2, 3)]),
    (Contract((0, 1), (0, 1), ()), [(2, 2), (2, 2)]),
    (Cumulative(1), [(2, 3)]),
    (Cumulative(0, True), [(3, 2)]),
    (Broadcast((2, 3, 2), (1,)), [(3,)]),
    (Broadcast((2, 2), ()), [()]),
    (Reshape((3, 2)), [(2, 3)]),
    (Cast(types.float32), [(2,)]),
    (Cast(types.int32), [(2,)]),
    (Variable(), [(2,)]),
    (Keep(), [(2,)]),
]
NOT_DIFFERENTIATED = {"Input", "Constant", "Literal", "Iota", "StopGradient", "Marker"}


@pytest.mark.parametrize(("operation", "operands"), STRUCTURES, ids=lambda x: getattr(x, "name", ""))
def test_every_structural_rule_is_proved(operation, operands):
    prove_structure(operation, operands)


def test_no_structural_class_is_left_out():
    classes = {
        x
        for module in (leaves, structure)
        for x in vars(module).values()
        if isinstance(x, type) and issubclass(x, Structural) and x not in (Structural, View, Given)
    }
    assert {x.__name__ for x in classes} - NOT_DIFFERENTIATED == {type(operation).__name__ for operation, _ in STRUCTURES}


def test_constants_have_no_derivative():
    for operation in (Constant(2.0, types.float64, "2.0"), Iota(3, types.int64)):
        prove_structure(operation, [])


def test_the_larger_of_equal_numbers_shares_its_derivative():
    proof = prove_structure(Reduce("max", (0,)), [(3,)])
    assert proof.pieces == 3  # whichever is largest
    tied = evaluate(*_slope_of(Reduce("max", (0,)), np.array([2.0, 5.0, 5.0])))
    np.testing.assert_array_equal(tied[0], [0, 0.5, 0.5])


def _slope_of(operation, array):
    x = make_input(array.shape, types.float64)
    value = apply(operation, x)
    one = constant(1, types.float64, value.shape)
    return Graph((x,), tuple(vjp_graph([value], [x], [one]))), [array]


@dataclasses.dataclass(frozen=True)
class FlipThatForgets(Flip):
    """A reversal whose cotangent is not reversed back."""

    def transpose(self, value: Value, cotangent: Value):
        return (cotangent,)


@dataclasses.dataclass(frozen=True)
class ContractThatSwaps(Contract):
    """A contraction that contracts one cotangent with the wrong operand."""

    def transpose(self, value: Value, cotangent: Value):
        left, _ = super().transpose(value, cotangent)
        return left, apply(Permute((1, 0)), left)


@dataclasses.dataclass(frozen=True)
class CumulativeThatRunsForward(Cumulative):
    """A running sum whose cotangent runs the same way."""

    def transpose(self, value: Value, cotangent: Value):
        return (apply(Cumulative(self.axis, self.reverse), cotangent),)


@dataclasses.dataclass(frozen=True)
class MaxThatSums(Reduce):
    """A maximum that passes every element's tangent on."""

    def jvp(self, value: Value, tangents):
        return apply(Reduce("sum", self.axes), tangents[0])


@dataclasses.dataclass(frozen=True)
class GatherThatDropsRepeats(Gather):
    """A gather whose cotangent counts an element once however often it was read."""

    def transpose(self, value: Value, cotangent: Value):
        x, _ = value.operands
        first = Slice((0, 0), (1, cotangent.shape[1]), (1, 1))
        return apply(Pad((0, 0), (x.shape[0] - 1, 0), (0, 0)), apply(first, cotangent)), None


@pytest.mark.parametrize(
    ("operation", "operands"),
    [
        (FlipThatForgets((0,)), [(3,)]),
        (ContractThatSwaps((0, 1), (1, 2), (0, 2)), [(2, 2), (2, 2)]),
        (CumulativeThatRunsForward(0), [(3,)]),
        (MaxThatSums("max", (0,)), [(3,)]),
        (GatherThatDropsRepeats(0), [(2, 1), np.array([[0], [0]])]),
        (StopGradient(), [(2,)]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_wrong_structural_rule_is_caught(operation, operands):
    with pytest.raises(VerificationError, match="wrong at"):
        prove_structure(operation, operands)


def rms_norm(x, w, eps=1e-6):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + eps) * w


def gelu(x):
    return 0.5 * x * (1 + gradc.erf(x * math.sqrt(0.5)))


def mlp(x, layers):
    w, v = layers
    return gradc.sum(gradc.maximum(x @ w, 0) @ v)


def negative_log_likelihood(x, labels):
    return -gradc.mean(gradc.take_along_axis(gradc.log_softmax(x, axis=-1), labels, axis=-1))


def piecewise(x):
    return gradc.clip(x, -0.5, 0.5) * gradc.where(x > 0, x**2.5, gradc.abs(x)) + gradc.max(x)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (rms_norm, (spec((2, 2), "bfloat16"), spec(2, "bfloat16"))),
        (gelu, (spec(3),)),
        (mlp, (spec((2, 2)), (spec((2, 3)), spec((3, 1))))),
        (negative_log_likelihood, (spec((2, 3)), np.array([[0], [2]]))),
        (piecewise, (spec(3),)),
        (lambda x, y: x**y, (spec(2), spec(2))),
        (lambda x: gradc.softmax(x, axis=-1), (spec(3),)),
        (lambda x: {"a": gradc.logsumexp(x, axis=0), "b": x * 2}, (spec((2, 2)),)),
    ],
    ids=["rms_norm", "gelu", "mlp", "nll", "piecewise", "power", "softmax", "tree"],
)
def test_the_gradient_of_a_function_is_proved(function, arguments):
    assert prove(function, *arguments).pieces >= 1


def test_a_gradient_with_something_held_constant_is_refused_with_a_counterexample():
    with pytest.raises(VerificationError, match=r"component 0_0 is wrong at .*it is .*the derivative is"):
        prove(lambda x: x * gradc.stop_gradient(gradc.sum(x)), spec(2))


def test_what_prove_cannot_take_is_said():
    with pytest.raises(UnsupportedError, match="smaller shapes"):
        prove(lambda x: x * 2, spec((100, 100)))
    with pytest.raises(UnsupportedError, match="Pass the array"):
        prove(lambda x, i: gradc.take(x, i, axis=0), spec(3), spec(2, "int64"))
    with pytest.raises(UnsupportedError, match="real at none"):
        prove(lambda x: gradc.log(-x * x - 1), spec(2))


def test_an_ordinary_call_does_not_import_sympy():
    program = (
        "import sys, numpy as np, gradc\n"
        "from gradc.ops import TABLE\n"
        "TABLE['erf'](np.ones(3)), TABLE['tanh'](np.ones(3, np.float32))\n"
        "assert 'sympy' not in sys.modules and 'torch' not in sys.modules and 'mpmath' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
