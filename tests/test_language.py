"""The array functions against NumPy, on many shapes: 0-d, empty, size 1, negative axes. Each runs through the interpreter."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from arrays import array, run, same

import gradc
from gradc.errors import DTypeError, ShapeError, TraceError, UnsupportedError
from gradc.ir import Value
from gradc.ops import TABLE
from gradc.trace import trace

SHAPES = [(), (1,), (5,), (0,), (3, 4), (1, 4), (3, 0), (2, 3, 4), (2, 1, 3, 1)]


OPERATORS = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: x / (y * y + 1),
    lambda x, y: x // (y * y + 1),
    lambda x, y: x % (y * y + 1),
    lambda x, y: 2 - x,
    lambda x, y: 1 / (x * x + 1),
    lambda x, y: 2.0**x,
    lambda x, y: -x + abs(y) - (+x),
    lambda x, y: x**2 + x**3 + x**4 + x**1 + y**0,
    lambda x, y: (x * x + 1) ** 0.5 + (x * x + 1) ** -0.5 + (x * x + 1) ** -1 + (x * x + 1) ** 2.5,
    lambda x, y: x < y,
    lambda x, y: (x <= y) & (x != 0) | (y > 1) ^ (x >= 0.5),
    lambda x, y: ~(x == y),
    lambda x, y: 1 > x,
]


@pytest.mark.parametrize("number", range(len(OPERATORS)))
def test_operators(number):
    for shape in SHAPES:
        for other in (shape, (), (1,) * len(shape)):
            x, y = array(*shape), array(*other, seed=1)
            same(run(OPERATORS[number], x, y), OPERATORS[number](x, y))


def test_integer_operators():
    x, y = array(7, dtype=np.int32), array(7, dtype=np.int32, seed=1)
    for f in (
        lambda x, y: x + y * 3 - 1,
        lambda x, y: x // (y + 1) + x % (y + 1),
        lambda x, y: (x << y) >> 1,
        lambda x, y: (x & y) | (x ^ y),
        lambda x, y: ~x,
        lambda x, y: x**2 + abs(-x),
    ):
        same(run(f, x, y), f(x, y))
    assert run(lambda x, y: x / (y + 1), x, y).dtype == np.float32  # as JAX and PyTorch: integers divide to float32


def test_every_row_is_published():
    for name, row in TABLE.items():
        function = getattr(gradc, name)
        assert function.__name__ == name
        assert name in function.__doc__
        if row.takes == "floating-point" and row.gives == "same":
            operands = [np.full((2, 3), 0.3 if i == 0 else 0.7) for i in range(row.arity)]
            if name == "acosh":
                operands = [operands[0] + 1]
            same(function(*operands), row.numpy(*operands))


@pytest.mark.parametrize("shape", SHAPES)
def test_reductions(shape):
    x = array(*shape)
    axes = [None, *range(-len(shape), len(shape))] + ([(0, -1)] if len(shape) > 1 else []) + [()]
    for axis in axes:
        for keepdims in (False, True):
            options = {"axis": axis, "keepdims": keepdims}
            empty = np.sum(np.ones(shape), **options).size and np.sum(np.ones(shape), **options).min() == 0
            for name in ("sum", "prod", "any", "all", "count_nonzero"):
                same(getattr(gradc, name)(x, **options), getattr(np, name)(x, **options), dtype=name != "count_nonzero")
            if not empty:
                for name in ("max", "min", "mean", "std", "var"):
                    if axis != () or name in ("max", "min", "mean"):
                        same(getattr(gradc, name)(x, **options), getattr(np, name)(x, **options))
            elif 0 in shape:
                with pytest.raises(ShapeError, match="empty axis"):
                    gradc.max(x, **options)
            if not isinstance(axis, tuple) and not empty:
                same(gradc.argmax(x, **options), np.argmax(x, **options))
                same(gradc.argmin(x, **options), np.argmin(x, **options))


def test_reduction_dtypes_and_options():
    assert gradc.sum(array(3, dtype=np.int8)).dtype == np.int64
    assert gradc.sum(array(3, dtype=np.uint8)).dtype == np.uint64
    assert gradc.sum(array(3, dtype=bool)).dtype == np.int64
    assert gradc.prod(array(3, dtype=np.int16)).dtype == np.int64
    assert gradc.sum(array(3, dtype=np.float32), dtype="float64").dtype == np.float64
    assert gradc.mean(array(3, dtype=np.int32)).dtype == np.float32
    x = array(4, 5)
    same(gradc.var(x, axis=0, correction=1), np.var(x, axis=0, ddof=1))
    same(gradc.std(x, axis=-1, correction=1), np.std(x, axis=-1, ddof=1))
    assert np.isnan(gradc.mean(np.zeros((0,))))
    assert np.isnan(gradc.var(np.ones((1,)), correction=1))
    assert np.isposinf(gradc.var(np.array([1.0, 2.0]), correction=3))
    assert np.isnan(gradc.max(np.array([1.0, np.nan, 2.0])))
    with pytest.raises(ShapeError, match="axis 2 is out of range"):
        gradc.sum(x, axis=2)
    with pytest.raises(ShapeError, match="twice"):
        gradc.sum(x, axis=(0, -2))
    with pytest.raises(DTypeError, match="not ordered"):
        gradc.max(np.array([True]))


def test_sixteen_bit_floats_accumulate_in_float32():
    x = np.full((4096,), 0.01, ml_dtypes.bfloat16)
    total = gradc.sum(x)
    assert total.dtype == x.dtype
    assert abs(float(total) - x.astype(np.float64).sum()) < 0.2


@pytest.mark.parametrize("shape", [(5,), (3, 4), (1, 4), (2, 3, 4), (2, 0), (2, 1, 3, 1)])
def test_cumulative_sums(shape):
    x = array(*shape)
    for axis in range(-len(shape), len(shape)):
        same(gradc.cumsum(x, axis=axis), np.cumsum(x, axis=axis))
        same(gradc.cumulative_sum(x, axis=axis, include_initial=True), np.cumulative_sum(x, axis=axis, include_initial=True))
        same(gradc.diff(x, axis=axis), np.diff(x, axis=axis))
    same(gradc.cumsum(x), np.cumsum(x))
    assert gradc.cumsum(array(3, dtype=np.int8)).dtype == np.int64


def test_stable_exponentials():
    x = np.array([[1e4, 1e4 - 1, 0.0], [-1e4, -1e4, -1e4]])
    shifted = np.exp(x - x.max(-1, keepdims=True))
    same(gradc.softmax(x), shifted / shifted.sum(-1, keepdims=True))
    same(gradc.log_softmax(x), x - np.logaddexp.reduce(x, axis=-1, keepdims=True))
    same(gradc.logsumexp(x, axis=-1), np.logaddexp.reduce(x, axis=-1))
    same(gradc.logsumexp(x, axis=(0, 1), keepdims=True), np.logaddexp.reduce(x, axis=None).reshape(1, 1))
    same(gradc.logsumexp(x), np.logaddexp.reduce(x, axis=None))
    assert gradc.logsumexp(np.full((2, 3), -np.inf), axis=1).tolist() == [-np.inf, -np.inf]
    assert gradc.logsumexp(np.array([np.inf, 0.0])) == np.inf
    assert np.isnan(gradc.logsumexp(np.array([np.nan, 0.0])))


SHAPING = [
    (gradc.reshape, np.reshape, (2, 3, 4), [((6, 4),), ((-1,),), ((2, -1),), (24,)]),
    (gradc.permute_dims, np.transpose, (2, 3, 4), [((2, 0, 1),), ((0, -1, 1),)]),
    (gradc.transpose, np.transpose, (2, 3, 4), [(), ((1, 0, 2),)]),
    (gradc.moveaxis, np.moveaxis, (2, 3, 4), [(0, -1), ((0, 1), (-1, 0)), (2, 0)]),
    (gradc.swapaxes, np.swapaxes, (2, 3, 4), [(0, -1), (1, 1)]),
    (gradc.expand_dims, np.expand_dims, (2, 3), [(0,), (-1,), ((0, -1),), ((1, 2),)]),
    (gradc.squeeze, np.squeeze, (1, 3, 1), [(), (0,), (-1,), ((0, 2),)]),
    (gradc.broadcast_to, np.broadcast_to, (3, 1), [((3, 4),), ((2, 3, 1),), ((2, 3, 4),)]),
    (gradc.flip, np.flip, (3, 4), [(), (0,), (-1,), ((0, 1),)]),
    (gradc.roll, np.roll, (3, 4), [(1,), (-5,), (2, 1), ((1, -1), (0, 1))]),
    (gradc.tile, np.tile, (2, 3), [(2,), ((2, 3),), ((2, 1, 2),), ((0, 2),)]),
    (gradc.repeat, np.repeat, (2, 3), [(2,), (3, 0), (2, -1), (0, 1)]),
    (gradc.tril, np.tril, (2, 3, 4), [()]),
    (gradc.triu, np.triu, (4, 3), [()]),
    (
        gradc.diagonal,
        np.diagonal,
        (3, 4, 5),
        [
            (),
        ],
    ),
    (gradc.split, np.split, (6, 4), [(3,), ([1, 3],), ([1, 3, 9],), (2, 1), ([-2],)]),
]


@pytest.mark.parametrize("row", SHAPING, ids=lambda row: row[1].__name__)
def test_shaping(row):
    ours, theirs, shape, calls = row
    for dtype in (np.float32, np.int16, bool):
        x = array(*shape, dtype=dtype)
        for arguments in calls:
            got, want = ours(x, *arguments), theirs(x, *arguments)
            for a, b in zip(got, want, strict=True) if isinstance(want, list) else [(got, want)]:
                same(a, b)


def test_more_shaping():
    x, y = array(3, 4), array(2, 4, seed=1)
    same(gradc.concat([x, y]), np.concatenate([x, y]))
    same(gradc.concat([x, y], axis=None), np.concatenate([x, y], axis=None))
    same(gradc.concat([x.T, y.T], axis=-1), np.concatenate([x.T, y.T], axis=-1))
    same(gradc.concat([x, array(0, 4)]), x)
    assert gradc.concat([array(2, dtype=np.int32), array(2, dtype=np.float64)]).dtype == np.float64
    for axis in (0, 1, -1):
        same(gradc.stack([x, x + 1], axis=axis), np.stack([x, x + 1], axis=axis))
    for got, want in zip(gradc.unstack(x, axis=1), x.T, strict=True):
        same(got, want)
    for got, want in zip(gradc.broadcast_arrays(x, y[:1]), np.broadcast_arrays(x, y[:1]), strict=True):
        same(got, want)
    same(gradc.matrix_transpose(array(2, 3, 4)), array(2, 3, 4).swapaxes(1, 2))
    for k in range(-4, 5):
        same(gradc.tril(x, k=k), np.tril(x, k))
        same(gradc.triu(x, k=k), np.triu(x, k))
        same(gradc.diagonal(x, offset=k), np.diagonal(x, offset=k))
        same(gradc.eye(3, 4, k=k), np.eye(3, 4, k=k, dtype=np.float32))
    same(gradc.diagonal(array(2, 3, 3), axis1=1, axis2=-1), np.diagonal(array(2, 3, 3), axis1=1, axis2=2))
    with pytest.raises(ShapeError, match="do not divide"):
        gradc.reshape(x, (5, -1))
    with pytest.raises(ShapeError, match="12 elements"):
        gradc.reshape(x, (5, 2))
    with pytest.raises(ShapeError, match="equal parts"):
        gradc.split(x, 2)
    with pytest.raises(ShapeError, match="another dimension"):
        gradc.concat([x, y], axis=1)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "wrap"])
def test_pad(mode):
    x = array(3, 4)
    for width in (0, 1, (2, 1), ((1, 2), (0, 3)), ((0, 0), (5, 7))):
        same(gradc.pad(x, width, mode), np.pad(x, width, mode))
    if mode != "constant":
        with pytest.raises(ShapeError, match="nothing to pad"):
            gradc.pad(array(3, 0), 1, mode)
    same(gradc.pad(array(1), 2, "constant", constant_values=-1.5), np.pad(array(1), 2, constant_values=-1.5))
    same(gradc.pad(array(2, dtype=bool), 1, constant_values=True), np.pad(array(2, dtype=bool), 1, constant_values=True))


def test_creation():
    for arguments in [(5,), (2, 7), (7, 2, -2), (0,), (3, 3), (1, 10, 3), (0.0, 1.0, 0.25), (5, 0, -1.5), (-3,)]:
        want = np.arange(*arguments)
        same(gradc.arange(*arguments), want.astype(np.float32) if want.dtype == np.float64 else want)
    for arguments in [(0, 1, 5), (2, -3, 4), (1, 1, 3), (0, 1, 1), (0, 1, 0), (0.1, 0.7, 11)]:
        same(gradc.linspace(*arguments, dtype="float64"), np.linspace(*arguments))
        same(gradc.linspace(*arguments, dtype="float64", endpoint=False), np.linspace(*arguments, endpoint=False))
    same(gradc.zeros((2, 3)), np.zeros((2, 3), np.float32))
    same(gradc.ones(3, dtype="int8"), np.ones(3, np.int8))
    same(gradc.full((2,), 7), np.full((2,), 7))
    same(gradc.full((), 1.5), np.float32(1.5))
    same(gradc.full_like(array(2, dtype=np.int32), 3), np.array([3, 3], np.int32))
    same(gradc.zeros_like(array(0, 2)), np.zeros((0, 2)))
    same(gradc.asarray([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]]))
    assert gradc.asarray([1.0]).dtype == np.float32
    assert gradc.asarray(True).dtype == bool
    same(run(lambda x: gradc.asarray([x[0], 2.0, x[1]]), array(2)), np.array([array(2)[0], 2.0, array(2)[1]]))
    for indexing in ("xy", "ij"):
        for got, want in zip(
            gradc.meshgrid(array(2), array(3), array(4), indexing=indexing),
            np.meshgrid(array(2), array(3), array(4), indexing=indexing),
            strict=True,
        ):
            same(got, want)
    assert isinstance(gradc.arange(3), np.ndarray)
    kinds = []
    trace(lambda x: kinds.append(type(gradc.zeros(2))) or x, [array(1)])
    assert kinds == [Value]


INTEGERS = ["int8", "int16", "int32", "int64"]
UNSIGNED = ["uint8", "uint16", "uint32"]


def test_promotion_is_the_array_api_table():
    kinds = [INTEGERS, [*UNSIGNED, "uint64"], ["float32", "float64"]]
    for kind in kinds:
        for i, a in enumerate(kind):
            for j, b in enumerate(kind):
                assert gradc.add(array(2, dtype=a), array(2, dtype=b)).dtype == kind[max(i, j)]
    for i, a in enumerate(INTEGERS):
        for j, b in enumerate(UNSIGNED):
            assert gradc.add(array(2, dtype=a), array(2, dtype=b)).dtype == INTEGERS[max(i, j + 1)]
    bf16 = array(2).astype(ml_dtypes.bfloat16)
    assert gradc.add(bf16, array(2, dtype=np.float16)).dtype == np.float32
    assert gradc.add(bf16, array(2, dtype=np.float32)).dtype == np.float32
    assert gradc.add(bf16, array(2, dtype=np.int32)).dtype == ml_dtypes.bfloat16
    with pytest.raises(DTypeError, match="no common integer dtype"):
        gradc.add(array(2, dtype=np.int64), array(2, dtype=np.uint64))


def test_python_numbers_are_weak():
    for dtype in (np.float32, np.float64, ml_dtypes.bfloat16, np.float16):
        assert gradc.add(array(2).astype(dtype), 2.5).dtype == dtype
        assert gradc.multiply(array(2).astype(dtype), 2).dtype == dtype
    assert gradc.add(array(2, dtype=np.int8), 2).dtype == np.int8
    assert gradc.add(array(2, dtype=np.int8), 2.5).dtype == np.float32
    assert run(lambda x: 2**x - 1, array(3, dtype=np.int8)).dtype == np.int8
    assert gradc.multiply(array(2, dtype=np.float32), np.sqrt(3)).dtype == np.float32  # a numpy.float64 is a Python float
    assert gradc.multiply(array(2, dtype=np.int32), np.sqrt(3)).dtype == np.float64
    assert gradc.exp(np.sqrt(3)).dtype == np.float64
    with pytest.raises(DTypeError, match="does not fit"):
        gradc.add(array(2, dtype=np.int8), 300)
    with pytest.raises(DTypeError, match="numeric"):
        gradc.add(np.ones(2, bool), np.ones(2, bool))


def test_dtypes():
    assert gradc.result_type(gradc.int8, array(2, dtype=np.uint8)) == gradc.int16
    assert gradc.result_type("float16", 2.5) == gradc.float16
    assert gradc.result_type(gradc.int8, 2.5) == gradc.float32
    assert gradc.can_cast("int8", "float32")
    assert not gradc.can_cast("float32", "int8")
    assert not gradc.can_cast("int64", "uint64")
    assert gradc.isdtype("bfloat16", "real floating")
    assert gradc.isdtype(np.int8, ("bool", "signed integer"))
    assert not gradc.isdtype(gradc.uint8, gradc.int8)
    assert float(gradc.finfo("bfloat16").eps) == 2**-7
    assert gradc.iinfo(array(2, dtype=np.int8)).max == 127
    with pytest.raises(UnsupportedError, match=r"gradc\.where"):
        gradc.nonzero(array(3))


def test_selection():
    x = np.array([-2.0, -0.5, 0.0, np.nan, 3.0, np.inf])
    for low, high in ((-1, 1), (None, 1), (-1, None), (2, 1), (None, None)):
        same(gradc.clip(x, low, high), np.clip(x, low, high) if (low, high) != (None, None) else x)
    same(gradc.where(x > 0, x, 0), np.where(x > 0, x, 0))
    assert gradc.where(np.array([True]), 1, 2.5).dtype == np.float32
    same(gradc.nan_to_num(np.array([np.nan, np.inf, -np.inf, 1.0])), np.nan_to_num(np.array([np.nan, np.inf, -np.inf, 1.0])))
    with pytest.raises(DTypeError, match="is bool"):
        gradc.where(x, 1.0, 2.0)


def test_methods():
    x = array(2, 3, 4)
    for f in (
        lambda x: x.sum(axis=-1),
        lambda x: x.mean(axis=(0, 2), keepdims=True),
        lambda x: x.max(axis=1),
        lambda x: x.reshape(6, 4),
        lambda x: x.reshape((4, -1)),
        lambda x: x.transpose(),
        lambda x: x.transpose(1, 0, 2),
        lambda x: x.transpose((1, 0, 2)),
        lambda x: x[0].T,
        lambda x: x.mT,
        lambda x: x.flatten(),
        lambda x: x.astype("float32"),
        lambda x: x.swapaxes(0, 1).squeeze(),
        lambda x: x.std(axis=0) + x.var(),
        lambda x: x.cumsum(axis=1),
        lambda x: x.clip(-1, 1).argmax(axis=-1),
        lambda x: sum(row.sum() for row in x) * len(x),
    ):
        same(run(f, x), f(x))
    assert run(lambda x: x[0] * x.ndim + x.size, x).shape == (3, 4)


def test_numpy_beside_values():
    x, y = array(3), array(3, seed=1)
    same(run(lambda x: y + x, x), x + y)
    same(run(lambda x: np.float64(2) * x, x), 2 * x)
    same(run(lambda x: y > x, x), y > x)
    same(run(lambda x: np.exp(x) + np.maximum(x, y), x), np.exp(x) + np.maximum(x, y))
    with pytest.raises(TraceError, match=r"numpy\.sum"):
        run(lambda x: np.sum(x), x)
    with pytest.raises(TraceError, match="add"):
        run(lambda x: np.add.reduce(x), x)


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    x = torch.arange(6.0).reshape(2, 3)
    got = gradc.softmax(x.to(torch.bfloat16))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, torch.softmax(x, -1).to(torch.bfloat16))
    assert torch.equal(gradc.matmul(x, x.mT), x @ x.mT)
    assert all(isinstance(part, torch.Tensor) for part in gradc.split(x, 2))
    with pytest.raises(UnsupportedError, match=r"gradc\.compile"):
        gradc.exp(x.requires_grad_())


def test_identity_hash():
    def f(x):
        y = x + 1
        assert len({x: 1, y: 2}) == 2
        assert {x: "x"}[x] == "x"
        return x == y

    assert run(f, array(3)).dtype == bool


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limits", ["both", "min", "max", "numbers"])
def test_clip_keeps_the_nan_of_every_operand(limits, dtype):
    """NumPy's, at every combination of special numbers, by arrays and by Python's numbers as limits."""
    x, low, high = (part.astype(dtype).ravel() for part in np.meshgrid(SPECIAL, SPECIAL, SPECIAL))
    chosen = {"both": (low, high), "min": (low, None), "max": (None, high)}
    for a, b in [chosen[limits]] if limits in chosen else itertools.product([*SPECIAL.tolist(), None], repeat=2):
        if a is None and b is None:
            continue
        found = gradc.clip(x, a, b)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.clip(x, a, b))
