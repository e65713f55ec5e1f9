"""Structural primitives and language functions through emitted kernels, forward and backward, against PyTorch in float64.

Each case is a function of gradc, the same in torch, and input shapes: odd sizes, size 1, 0-d, empty.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from kernels import LARGE_PRODUCTS, LAYOUTS, as_tuple, force_loops, on, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc.codegen import recomputed  # noqa: E402

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)

I64 = torch.int64


def case(name: str, function: Any, reference: Any, *shapes: Any, **options: Any) -> Any:
    return pytest.param(function, reference, shapes, options, id=name)


def arrays_of(shapes: Any, dtype: Any = torch.float32) -> list[torch.Tensor]:
    """A tensor per shape; a tensor stays as it is."""
    return [x if isinstance(x, torch.Tensor) else tensor(*x, dtype=dtype, seed=i) for i, x in enumerate(shapes)]


VIEWS = [
    case("reshape", lambda x: gradc.reshape(x, (6, 35)), lambda x: x.reshape(6, 35), (5, 6, 7)),
    case("reshape split merge", lambda x: gradc.reshape(gradc.exp(x), (2, 3, 35)), lambda x: x.exp().reshape(2, 3, 35), (6, 5, 7)),
    case("reshape of permuted", lambda x: x.T.reshape((5, 6)) * 2, lambda x: x.T.reshape(5, 6) * 2, (15, 2)),
    case("reshape crossing", lambda x: x.reshape((10, 9)) + 1, lambda x: x.reshape(10, 9) + 1, (6, 15)),
    case("reshape to 0-d", lambda x: x.reshape(()) * 3, lambda x: x.reshape(()) * 3, (1, 1)),
    case("reshape from 0-d", lambda x: x.reshape((1, 1)) * 3, lambda x: x.reshape(1, 1) * 3, ()),
    case("permute", lambda x: gradc.permute_dims(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), (3, 4, 5)),
    case("permute 4d", lambda x: gradc.permute_dims(x, (3, 1, 0, 2)) * 2, lambda x: x.permute(3, 1, 0, 2) * 2, (3, 2, 4, 5)),
    case("transposed twice in a sum", lambda x: x + x.T, lambda x: x + x.T, (7, 7)),
    case("transpose plus shifted", lambda x: x[:, :5].T + x[:5], lambda x: x[:, :5].T + x[:5], (5, 5)),
    case("moveaxis", lambda x: gradc.moveaxis(x, 0, -1), lambda x: x.movedim(0, -1), (3, 4, 5)),
    case("swapaxes", lambda x: gradc.swapaxes(x, 0, 2), lambda x: x.swapaxes(0, 2), (3, 4, 5)),
    case("expand_dims", lambda x: gradc.expand_dims(x, axis=1), lambda x: x[:, None], (3, 4)),
    case("squeeze", lambda x: gradc.squeeze(x, axis=1), lambda x: x.squeeze(1), (3, 1, 4)),
    case("broadcast_to", lambda x: gradc.broadcast_to(x, (4, 3, 5)), lambda x: x.expand(4, 3, 5), (3, 1)),
    case("broadcast 0-d", lambda x: gradc.broadcast_to(x, (4, 5)), lambda x: x.expand(4, 5), ()),
    case("slice", lambda x: x[1:6:2, ::3], lambda x: x[1:6:2, ::3], (7, 11)),
    case("slice negative steps", lambda x: x[::-2, 8:1:-3], lambda x: x.flip(0)[::2].flip(1)[:, 2:9:3], (7, 11)),
    case("slice to nothing", lambda x: x[3:3] * 2, lambda x: x[3:3] * 2, (7, 3)),
    case("index", lambda x: x[2, :, None, -1], lambda x: x[2, :, None, -1], (5, 6, 7)),
    case("slices overlap", lambda x: x[1:] * x[:-1], lambda x: x[1:] * x[:-1], (9, 4)),
    case("stencil", lambda x: x[2:] - 2 * x[1:-1] + x[:-2], lambda x: x[2:] - 2 * x[1:-1] + x[:-2], (11, 3)),
    case("pad", lambda x: gradc.pad(x, ((1, 2), (0, 3))), lambda x: torch.nn.functional.pad(x, (0, 3, 1, 2)), (5, 7)),
    case("pad with a value", lambda x: gradc.pad(x, 2, constant_values=3.5), lambda x: torch.nn.functional.pad(x, (2,) * 4, value=3.5), (5, 7)),
    case("pad reflect", lambda x: gradc.pad(x, ((0, 0), (2, 3)), mode="reflect"), lambda x: torch.nn.functional.pad(x, (2, 3), mode="reflect"), (5, 7)),
    case("pad edge", lambda x: gradc.pad(x, ((0, 0), (2, 3)), mode="edge"), lambda x: torch.nn.functional.pad(x, (2, 3), mode="replicate"), (5, 7)),
    case("pad wrap", lambda x: gradc.pad(x, ((0, 0), (2, 3)), mode="wrap"), lambda x: torch.cat([x[:, -2:], x, x[:, :3]], 1), (5, 7)),
    case("concat", lambda x, y: gradc.concat([x, y], axis=0), lambda x, y: torch.cat([x, y]), (3, 5), (4, 5)),
    case("concat three, in use", lambda x, y: gradc.exp(gradc.concat([x, y, x], axis=1)), lambda x, y: torch.cat([x, y, x], 1).exp(), (3, 5), (3, 2)),
    case("concat with empty", lambda x, y: gradc.concat([x, y], axis=0), lambda x, y: torch.cat([x, y]), (0, 5), (4, 5)),
    case("concat flattened", lambda x, y: gradc.concat([x, y], axis=None), lambda x, y: torch.cat([x.reshape(-1), y.reshape(-1)]), (2, 5), (3,)),
    case("stack", lambda x, y: gradc.stack([x, y], axis=1), lambda x, y: torch.stack([x, y], 1), (3, 5), (3, 5)),
    case("split", lambda x: gradc.split(x, [2, 5], axis=1), lambda x: x.tensor_split([2, 5], 1), (3, 7)),
    case("unstack", lambda x: gradc.unstack(x, axis=1), lambda x: x.unbind(1), (4, 3)),
    case("flip", lambda x: gradc.flip(x, axis=1), lambda x: x.flip(1), (4, 7)),
    case("flip all", lambda x: gradc.flip(x) * x, lambda x: x.flip(0, 1) * x, (4, 7)),
    case("roll", lambda x: gradc.roll(x, 3, axis=1), lambda x: x.roll(3, 1), (4, 7)),
    case("roll two", lambda x: gradc.roll(x, (1, -2), axis=(0, 1)), lambda x: x.roll((1, -2), (0, 1)), (4, 7)),
    case("roll flattened", lambda x: gradc.roll(x, 5), lambda x: x.roll(5), (4, 7)),
    case("tile", lambda x: gradc.tile(x, (2, 3)), lambda x: x.tile(2, 3), (4, 5)),
    case("repeat", lambda x: gradc.repeat(x, 3, axis=1), lambda x: x.repeat_interleave(3, 1), (4, 5)),
    case("tril", lambda x: gradc.tril(x, k=1), lambda x: x.tril(1), (5, 7)),
    case("triu", lambda x: gradc.triu(x, k=-1), lambda x: x.triu(-1), (7, 5)),
    case("diagonal", lambda x: gradc.diagonal(x, offset=1), lambda x: x.diagonal(1), (5, 7)),
    case("trace", lambda x: gradc.trace(x), lambda x: x.trace(), (6, 6)),
    case("diff", lambda x: gradc.diff(x, axis=0, n=2), lambda x: x.diff(n=2, dim=0), (6, 4)),
    case("outer", lambda x, y: gradc.outer(x, y), lambda x, y: torch.outer(x, y), (5,), (7,)),
    case("rotated halves", lambda x: gradc.concat([-x[..., 4:], x[..., :4]], axis=-1), lambda x: torch.cat([-x[..., 4:], x[..., :4]], -1), (3, 8)),
    case("interleaved halves", lambda x: gradc.stack([-x[:, 1::2], x[:, ::2]], axis=-1).reshape((5, 8)), lambda x: torch.stack([-x[:, 1::2], x[:, ::2]], -1).reshape(5, 8), (5, 8)),
    case("channels to patches", lambda x: gradc.permute_dims(x.reshape((2, 3, 2, 3, 2)), (0, 2, 4, 1, 3)).reshape((8, 9)), lambda x: x.reshape(2, 3, 2, 3, 2).permute(0, 2, 4, 1, 3).reshape(8, 9), (2, 6, 6)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "reference", "shapes", "options"), VIEWS)
def test_views(function, reference, shapes, options):
    check(function, reference, *arrays_of(shapes), **options)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize(("function", "reference", "shapes", "options"), VIEWS[::4])
def test_views_of_arrays_that_lie_otherwise(function, reference, shapes, options, layout):
    if layout == "expanded" and 0 in shapes[0]:
        pytest.skip("nothing to expand")
    check(function, reference, *arrays_of(shapes), layout=layout, cotangent_layout=layout, **options)


@pytest.mark.parametrize(("function", "reference", "shapes", "options"), VIEWS[::3])
def test_what_follows_a_view_is_fused_with_it(function, reference, shapes, options):
    """A sum of squares of the view, so that reads and cotangents pass through it inside one kernel."""
    squares = lambda library, f: lambda *xs: sum(library.sum(out * out * 0.5) for out in as_tuple(f(*xs)))
    check(squares(gradc, function), squares(torch, reference), *arrays_of(shapes), factor=64.0, **options)


@pytest.mark.parametrize("size", [7, 8], ids=["with a mask", "without a mask"])
@pytest.mark.parametrize("name", ["sum", "max", "prod", "cumsum", "argmax", "any", "logsumexp", "take", "matmul"])
def test_what_does_not_vary_along_the_axis(name, size):
    """A broadcast operand: the axis that is reduced, summed or read along is in no array."""
    forms: dict[str, Any] = {
        "sum": (lambda x: gradc.sum(x, axis=1), lambda x: x.sum(1)),
        "max": (lambda x: gradc.max(x, axis=1), lambda x: x.amax(1)),
        "prod": (lambda x: gradc.prod(x, axis=1), lambda x: x.prod(1)),
        "cumsum": (lambda x: gradc.cumsum(x, axis=1), lambda x: x.cumsum(1)),
        "argmax": (lambda x: gradc.argmax(x, axis=1), lambda x: x.argmax(1) * 0),
        "any": (lambda x: gradc.any(x > 0, axis=1), lambda x: (x > 0).any(1)),
        "logsumexp": (lambda x: gradc.logsumexp(x, axis=1), lambda x: x.logsumexp(1)),
        "take": (lambda x: gradc.take(x, np.array([1, 5, 1]), axis=1), lambda x: x[:, [1, 5, 1]]),
        "matmul": (lambda x: x @ x.T, lambda x: x @ x.T),
    }
    function, reference = forms[name]
    for shape in ((3, 1), (1, 1), ()):
        check(
            lambda x: function(gradc.broadcast_to(x, (3, size))),
            lambda x: reference(x.expand(3, size)),
            tensor(*shape),
            factor=64.0,
        )
    ones = torch.ones(3, size, dtype=torch.float64)
    total = lambda library: lambda x, out: x * library.sum(library.where(out > 0, 1.0, 2.0))
    check(
        lambda x: total(gradc)(x, 1.0 * function(gradc.full((3, size), 1.0))),
        lambda x: total(torch)(x, 1.0 * reference(ones)),
        tensor(3),
        factor=64.0,
    )


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_sum_of_running_sums(axis, size):
    """The cotangent that is summed backward is one number."""
    check(lambda x: gradc.sum(gradc.cumsum(x, axis=axis)), lambda x: x.cumsum(axis).sum(), tensor(size, size))


# Reductions ------------------------------------------------------------------------------------------------------------

AXES = [None, 0, 1, 2, (0, 1), (0, 2), (1, 2), (0, 1, 2), -1]


def over_axes(torch_reduction: Any, x: torch.Tensor, axis: Any, keepdims: bool) -> torch.Tensor:
    """A torch reduction over one axis at a time, the last first."""
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    for a in sorted(axes, reverse=True):
        x = torch_reduction(x, a)
    return x


def with_keepdims(out: torch.Tensor, shape: Any, axis: Any) -> torch.Tensor:
    axes = range(len(shape)) if axis is None else [a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))]
    return out.reshape([1 if i in axes else n for i, n in enumerate(shape)])


REFERENCES = {
    "sum": lambda x, axis: x.sum(axis) if axis is not None else x.sum(),
    "mean": lambda x, axis: x.mean(axis) if axis is not None else x.mean(),
    "max": lambda x, axis: x.amax(axis) if axis is not None else x.amax(),
    "min": lambda x, axis: x.amin(axis) if axis is not None else x.amin(),
    "prod": lambda x, axis: over_axes(lambda y, a: y.prod(a), x, axis, False),
    "var": lambda x, axis: x.var(axis, correction=0) if axis is not None else x.var(correction=0),
    "std": lambda x, axis: x.std(axis, correction=0) if axis is not None else x.std(correction=0),
    "logsumexp": lambda x, axis: x.logsumexp(axis if axis is not None else tuple(range(x.ndim))),
}


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_reductions(name, axis):
    check(lambda x: getattr(gradc, name)(x, axis=axis), lambda x: REFERENCES[name](x, axis), tensor(3, 5, 6), factor=32.0)


@pytest.mark.parametrize("axis", [None, 1, (0, 2)], ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_reductions_used_against_their_operand(name, axis):
    def function(x):
        return x * getattr(gradc, name)(x, axis=axis, keepdims=True)

    check(function, lambda x: x * with_keepdims(REFERENCES[name](x, axis), x.shape, axis), tensor(3, 5, 6), factor=64.0)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("name", ["sum", "max", "prod", "var", "logsumexp"])
def test_reductions_that_loop_or_split(name, axis, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)
    x = tensor(5, 20, 37)
    if name == "prod":
        x = 1 + 0.1 * x
    check(lambda x: getattr(gradc, name)(x, axis=axis), lambda x: REFERENCES[name](x, axis), x, factor=64.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", REFERENCES)
def test_reductions_in_other_dtypes(name, dtype):
    check(
        lambda x: getattr(gradc, name)(x, axis=1), lambda x: REFERENCES[name](x, 1), tensor(3, 5, 6, dtype=dtype), factor=32.0
    )


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)], ids=str)
@pytest.mark.parametrize("name", ["any", "all", "count_nonzero"])
def test_reductions_to_truth(name, axis):
    x = tensor(7, 5, dtype=torch.bool) & tensor(7, 1, dtype=torch.bool, seed=1) | tensor(1, 5, dtype=torch.bool, seed=7)
    got = gradc.compile(backend="interpret")(lambda x: getattr(gradc, name)(x, axis=axis))(x.numpy())
    np.testing.assert_array_equal(got, getattr(np, name)(x.numpy(), axis=axis))


@pytest.mark.parametrize("axis", [None, 0, 1, 2], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
def test_first_extremum(name, axis, keepdims, dtype):
    x = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(dtype)
    got = gradc.compile(backend="interpret")(lambda x: getattr(gradc, name)(x, axis=axis, keepdims=keepdims))(x)
    want = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("looped", [False, True])
def test_first_extremum_with_nan_and_infinities(name, looped, monkeypatch, tmp_path):
    if looped:
        force_loops(monkeypatch, tmp_path)
    x = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    x[0, 7] = x[0, 30] = np.nan
    x[1, :] = -np.inf
    x[2, :] = np.inf
    x[3, 49] = np.nan
    x[4, 3] = x[4, 5] = np.inf
    got = gradc.compile(backend="interpret")(lambda x: getattr(gradc, name)(x, axis=1))(x)
    np.testing.assert_array_equal(got, getattr(np, name)(x, axis=1))


@pytest.mark.parametrize("name", ["max", "min", "sum", "prod"])
@pytest.mark.parametrize("looped", [False, True])
def test_reductions_of_nan_and_infinities(name, looped, monkeypatch, tmp_path):
    if looped:
        force_loops(monkeypatch, tmp_path)
    x = np.random.default_rng(0).uniform(0.5, 1.5, (6, 50)).astype(np.float32)
    x[0, 7], x[1, :], x[2, :], x[3, 49], x[4, 3], x[5, 3], x[5, 4] = np.nan, -np.inf, np.inf, np.nan, np.inf, np.inf, -np.inf
    for axis in (0, 1, None):
        got = gradc.compile(backend="interpret")(lambda x: getattr(gradc, name)(x, axis=axis))(x)  # noqa: B023
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(got, getattr(np, name)(x, axis=axis), rtol=1e-5)


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32"])
def test_reductions_of_integers(name, dtype):
    x = np.random.default_rng(0).integers(-2 if dtype[0] == "i" else 0, 3, (5, 7)).astype(dtype)
    for axis in (0, 1, None):
        got = gradc.compile(backend="interpret")(lambda x: getattr(gradc, name)(x, axis=axis))(x)  # noqa: B023
        want = getattr(np, name)(x, axis=axis)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_share_the_gradient(name):
    x = tensor(4, 9, dtype=I64, high=3).float()
    check(lambda x: getattr(gradc, name)(x, axis=1), lambda x: getattr(torch, "a" + name)(x, 1), x)
    check(lambda x: getattr(gradc, name)(x), lambda x: getattr(torch, "a" + name)(x), x)


def apart(rows, columns):
    """Numbers in a random order that no 16-bit dtype takes for each other, nor their hyperbolic tangents or squares."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(columns), (rows, 1)), axis=1)
    return torch.from_numpy((order + 1) / columns)


EXTREMES_OF_COMPUTED = {
    "largest": (lambda x: gradc.max(gradc.tanh(x), axis=1), lambda x: x.tanh().amax(1)),
    "smallest": (lambda x: gradc.min(x * x * 0.3, axis=1), lambda x: (x * x * 0.3).amin(1)),
    "given out as well": (lambda x: (y := gradc.tanh(x), gradc.max(y, axis=1)), lambda x: (y := x.tanh(), y.amax(1))),
    "used further": (
        lambda x: (y := gradc.tanh(x), gradc.exp(gradc.max(y, axis=1))),
        lambda x: (y := x.tanh(), y.amax(1).exp()),
    ),
    "of products": (lambda x: gradc.max(x @ x[:9].mT, axis=1), lambda x: (x @ x[:9].mT).amax(1)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("backend", ["interpret", "numpy"])
@pytest.mark.parametrize("name", EXTREMES_OF_COMPUTED)
def test_the_extremum_of_what_is_not_rounded_in_between_is_found_again(name, backend, dtype, monkeypatch, tmp_path):
    """The result is rounded where it is stored, what it is the largest of is not: both are compared as the dtype holds them."""
    ours, theirs = EXTREMES_OF_COMPUTED[name]
    x = apart(17, 20).to(dtype)
    x = x * torch.linspace(1, 3, 17)[:, None].to(dtype) if name == "of products" else x
    check(ours, theirs, x, backend=backend)
    force_loops(monkeypatch, tmp_path)
    check(ours, theirs, x, backend=backend)


def test_what_is_compared_with_its_own_extremum_is_kept(monkeypatch, tmp_path):
    """A quotient is a product with an inverse beside products of matrices: computed again there, it would equal nothing."""
    force_loops(monkeypatch, tmp_path)
    monkeypatch.setattr(recomputed, "LARGER", 0)
    monkeypatch.setattr(recomputed, "MEMORY_WEIGHT", 1e6)

    def ours(y):
        return gradc.min(gradc.softmax(y, axis=1), axis=0) * (y @ y)

    def theirs(y):
        return y.softmax(1).amin(0) * (y @ y)

    check(ours, theirs, tensor(24, 24))
    saved = gradc.compile(ours).lower(gradc.spec((24, 24), "float32"), device=LARGE_PRODUCTS).saved
    assert [s.shape for s in saved if "compared" in s.why] == [(24, 24)]
    once = gradc.compile(lambda x: gradc.max(gradc.abs(gradc.tanh(x)), axis=1)).lower(gradc.spec((24, 24), "float32"))
    assert not any("compared" in s.why for s in once.saved)


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_products_with_zeros(zeros):
    x = tensor(3, 6)
    x[:, :zeros] = 0
    check(lambda x: gradc.prod(x, axis=1), lambda x: x.prod(1), x)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_running_sums(axis, reverse):
    turned = lambda library: lambda x: library.flip(x, (axis,)) if reverse else x
    there, back = turned(gradc), turned(torch)
    check(lambda x: there(gradc.cumsum(there(x), axis=axis)), lambda x: back(back(x).cumsum(axis)), tensor(3, 5, 6))


@pytest.mark.parametrize("looped", [False, True])
def test_running_sums_in_use(looped, monkeypatch, tmp_path):
    if looped:
        force_loops(monkeypatch, tmp_path)
    check(lambda x: gradc.cumsum(x, axis=0), lambda x: x.cumsum(0), tensor(40, 3), factor=64.0)
    check(lambda x: gradc.cumsum(gradc.exp(x), axis=1) * x, lambda x: x.exp().cumsum(1) * x, tensor(3, 21))
    check(lambda x: gradc.cumsum(x), lambda x: x.reshape(-1).cumsum(0), tensor(3, 21))
    initial = lambda x: gradc.cumulative_sum(x, axis=0, include_initial=True)
    check(initial, lambda x: torch.cat([torch.zeros_like(x[:1]), x.cumsum(0)]), tensor(5, 3))


# Products ------------------------------------------------------------------------------------------------------------

MATMULS = [
    ((5, 7), (7, 3)),
    ((17, 33), (33, 18)),
    ((1, 7), (7, 1)),
    ((16, 16), (16, 16)),
    ((7,), (7,)),
    ((7,), (7, 4)),
    ((4, 7), (7,)),
    ((3, 4, 7), (7,)),
    ((7,), (3, 7, 4)),
    ((3, 4, 7), (3, 7, 2)),
    ((3, 4, 7), (7, 2)),
    ((4, 7), (3, 7, 2)),
    ((2, 1, 4, 7), (3, 7, 2)),
    ((2, 3, 4, 7), (2, 3, 7, 5)),
    ((1, 4, 7), (3, 7, 2)),
    ((4, 1), (1, 5)),
    ((4, 0), (0, 5)),
    ((0, 4), (4, 5)),
    ((4, 5), (5, 0)),
    ((3, 0, 4), (3, 4, 5)),
    ((0, 3, 4), (0, 4, 5)),
]


@pytest.mark.parametrize(("first", "second"), MATMULS, ids=str)
def test_matmul(first, second):
    check(gradc.matmul, torch.matmul, tensor(*first), tensor(*second, seed=1), factor=64.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("first", "second"), MATMULS[1:13:3], ids=str)
def test_matmul_in_other_dtypes(first, second, dtype):
    check(gradc.matmul, torch.matmul, tensor(*first, dtype=dtype), tensor(*second, dtype=dtype, seed=1), factor=8.0)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_matmul_of_arrays_that_lie_otherwise(layout):
    check(
        gradc.matmul, torch.matmul, tensor(17, 19), tensor(19, 18, seed=1), layout=layout, cotangent_layout=layout, factor=64.0
    )
    check(
        gradc.matmul,
        torch.matmul,
        tensor(3, 5, 6),
        tensor(3, 6, 4, seed=1),
        layout=layout,
        cotangent_layout=layout,
        factor=64.0,
    )


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "int8"])
def test_matmul_of_integers(dtype):
    x, y = (np.random.default_rng(seed).integers(0, 9, shape).astype(dtype) for seed, shape in ((0, (5, 7)), (1, (7, 3))))
    got = on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(gradc.matmul))(x, y)
    np.testing.assert_array_equal(got, x @ y)


PRODUCTS = [
    case("prologue", lambda x, y: gradc.exp(x) @ (y * 2 + 1), lambda x, y: x.exp() @ (y * 2 + 1), (5, 7), (7, 3)),
    case("epilogue", lambda x, y: gradc.tanh(x @ y + 1), lambda x, y: torch.tanh(x @ y + 1), (5, 7), (7, 3)),
    case("transposed operands", lambda x, y: x.T @ y.T, lambda x, y: x.T @ y.T, (7, 5), (3, 7)),
    case("with itself", lambda x: x @ x.T, lambda x: x @ x.T, (5, 7)),
    case("gram", lambda x: x.T @ x, lambda x: x.T @ x, (5, 7)),
    case("chain", lambda x, y, z: x @ y @ z, lambda x, y, z: x @ y @ z, (5, 7), (7, 3), (3, 4)),
    case("sum of products", lambda x, y, z: x @ y + x @ z, lambda x, y, z: x @ y + x @ z, (5, 7), (7, 3), (7, 3)),
    case("row sums after", lambda x, y: (x @ y).sum(axis=1), lambda x, y: (x @ y).sum(1), (5, 7), (7, 3)),
    case("product and row sums", lambda x, y: (x @ y, x.sum(axis=1)), lambda x, y: (x @ y, x.sum(1)), (5, 7), (7, 3)),
    case("of a sliced operand", lambda x, y: x[:, 1::2] @ y, lambda x, y: x[:, 1::2] @ y, (5, 7), (3, 4)),
    case("of a padded operand", lambda x, y: gradc.pad(x, 1) @ y, lambda x, y: torch.nn.functional.pad(x, (1,) * 4) @ y, (5, 7), (9, 4)),
    case("of a concatenation", lambda x, y: gradc.concat([x, x * 2], axis=1) @ y, lambda x, y: torch.cat([x, x * 2], 1) @ y, (5, 3), (6, 4)),
    case("of a gather", lambda x, y: gradc.take(x, np.array([4, 0, 4, 2]), axis=0) @ y, lambda x, y: x[[4, 0, 4, 2]] @ y, (5, 3), (3, 4)),
    case("of a reshape", lambda x, y: x.reshape((6, 10)) @ y, lambda x, y: x.reshape(6, 10) @ y, (5, 3, 4), (10, 4)),
    case("heads", lambda x, w: gradc.permute_dims((x @ w).reshape((4, 2, 3)), (1, 0, 2)), lambda x, w: (x @ w).reshape(4, 2, 3).permute(1, 0, 2), (4, 5), (5, 6)),
    case("einsum bij,bjk->ik", lambda x, y: gradc.einsum("bij,bjk->ik", x, y), lambda x, y: torch.einsum("bij,bjk->ik", x, y), (2, 6, 7), (2, 7, 5)),
    case("einsum ij,kj->ik", lambda x, y: gradc.einsum("ij,kj->ik", x, y), lambda x, y: torch.einsum("ij,kj->ik", x, y), (6, 7), (5, 7)),
    case("einsum ij,ij->", lambda x, y: gradc.einsum("ij,ij->", x, y), lambda x, y: torch.einsum("ij,ij->", x, y), (6, 7), (6, 7)),
    case("einsum ij,ij->j", lambda x, y: gradc.einsum("ij,ij->j", x, y), lambda x, y: torch.einsum("ij,ij->j", x, y), (6, 7), (6, 7)),
    case("einsum bhqd,bhkd->bhqk", lambda x, y: gradc.einsum("bhqd,bhkd->bhqk", x, y), lambda x, y: torch.einsum("bhqd,bhkd->bhqk", x, y), (2, 3, 4, 5), (2, 3, 6, 5)),
    case("einsum two summed", lambda x, y: gradc.einsum("iab,abk->ik", x, y), lambda x, y: torch.einsum("iab,abk->ik", x, y), (4, 3, 5), (3, 5, 2)),
    case("einsum bilinear", lambda x, w, y: gradc.einsum("bi,oij,bj->bo", x, w, y), lambda x, w, y: torch.einsum("bi,oij,bj->bo", x, w, y), (4, 3), (2, 3, 5), (4, 5)),
    case("einsum diagonal", lambda x, y: gradc.einsum("iij,jk->ik", x, y), lambda x, y: torch.einsum("iij,jk->ik", x, y), (4, 4, 3), (3, 2)),
    case("einsum swapped out", lambda x, y: gradc.einsum("bij,bkj->kbi", x, y), lambda x, y: torch.einsum("bij,bkj->kbi", x, y), (2, 4, 3), (2, 5, 3)),
    case("tensordot", lambda x, y: gradc.tensordot(x, y, axes=2), lambda x, y: torch.tensordot(x, y, 2), (4, 3, 5), (3, 5, 2)),
    case("vecdot", lambda x, y: gradc.vecdot(x, y), lambda x, y: (x * y).sum(-1), (4, 5), (4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "reference", "shapes", "options"), PRODUCTS)
def test_products(function, reference, shapes, options):
    check(function, reference, *arrays_of(shapes), factor=128.0, **options)


@pytest.mark.parametrize(("function", "reference", "shapes", "options"), PRODUCTS[::3])
def test_products_as_small_as_they_are(function, reference, shapes, options):
    kernels.check(function, reference, *arrays_of(shapes), factor=128.0, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("function", "reference", "shapes", "options"), PRODUCTS[1::4])
def test_products_in_other_dtypes(function, reference, shapes, options, dtype):
    check(function, reference, *arrays_of(shapes, dtype), factor=32.0, **options)


@pytest.mark.parametrize(("first", "second"), [((70, 40), (40, 70)), ((2, 65, 33), (2, 33, 66)), ((130, 3), (3, 4))], ids=str)
def test_matmul_of_several_blocks(first, second):
    check(gradc.matmul, torch.matmul, tensor(*first), tensor(*second, seed=1), factor=128.0)


# Reading and writing at indices --------------------------------------------------------------------------------------


def indices(*shape: int, size: int, seed: int = 0) -> torch.Tensor:
    return tensor(*shape, dtype=I64, low=-size, high=size, seed=seed)


def at(x: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.take_along_dim(x, index % x.shape[axis], axis)


GATHERS = [
    case("take rows", lambda x, i: gradc.take(x, i, axis=0), lambda x, i: x[i], (5, 7), indices(9, size=5)),
    case("take columns", lambda x, i: gradc.take(x, i, axis=1), lambda x, i: x[:, i], (5, 7), indices(9, size=7)),
    case("embedding", lambda x, i: gradc.take(x, i, axis=0), lambda x, i: x[i], (5, 7), indices(2, 3, size=5)),
    case("take_along_axis", lambda x, i: gradc.take_along_axis(x, i, axis=1), lambda x, i: at(x, i, 1), (5, 7), indices(5, 2, size=7)),
    case("take_along_axis 0", lambda x, i: gradc.take_along_axis(x, i, axis=0), lambda x, i: at(x, i, 0), (5, 7), indices(9, 7, size=5)),
    case("target scores", lambda x, i: gradc.take_along_axis(x, i[:, None], axis=1)[:, 0], lambda x, i: at(x, i[:, None], 1)[:, 0], (5, 7), indices(5, size=7)),
    case("advanced pair", lambda x, i, j: x[i, j], lambda x, i, j: x[i, j], (5, 7), indices(9, size=5), indices(9, size=7, seed=1)),
    case("advanced and slice", lambda x, i: x[1:, i], lambda x, i: x[1:, i], (5, 7, 3), indices(4, size=7)),
    case("constant index", lambda x: x[np.array([3, 1, 1, -1])] * 2, lambda x: x[[3, 1, 1, -1]] * 2, (5, 7)),
    case("wrapped before for another size", lambda x, i: gradc.take(x, gradc.where(i - 7 < 0, i - 7 + 5, i - 7), axis=0), lambda x, i: x[torch.where(i - 7 < 0, i - 7 + 5, i - 7)], (7, 3), indices(6, size=7)),
    case("gather in use", lambda x, i: gradc.exp(gradc.take(x, i, axis=0)) * x[0], lambda x, i: x[i].exp() * x[0], (5, 7), indices(4, size=5)),
    case("gather then sum", lambda x, i: gradc.take(x, i, axis=0).sum(axis=0), lambda x, i: x[i].sum(0), (5, 7), indices(9, size=5)),
    case("add at rows", lambda x, y, i: x.at[i].add(y), lambda x, y, i: x.index_add(0, i % 5, y), (5, 3), (9, 3), indices(9, size=5)),
    case("add at a slice", lambda x, y: x.at[1:4].add(y), lambda x, y: torch.cat([x[:1], x[1:4] + y, x[4:]]), (5, 3), (3, 3)),
    case("set a slice", lambda x, y: x.at[1:4].set(y), lambda x, y: torch.cat([x[:1], y, x[4:]]), (5, 3), (3, 3)),
    case("set a row", lambda x: x.at[2].set(0.0), lambda x: torch.cat([x[:2], torch.zeros_like(x[:1]), x[3:]]), (5, 3)),
    case("multiply at", lambda x, y: x.at[1:4].multiply(y), lambda x, y: torch.cat([x[:1], x[1:4] * y, x[4:]]), (5, 3), (3, 3)),
    case("set at rows", lambda x, y: x.at[np.array([3, 0])].set(y), lambda x, y: torch.stack([y[1], x[1], x[2], y[0], x[4]]), (5, 3), (2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "reference", "shapes", "options"), GATHERS)
def test_indices(function, reference, shapes, options):
    check(function, reference, *arrays_of(shapes), **options)


@pytest.mark.parametrize(("function", "reference", "shapes", "options"), GATHERS[::2])
@pytest.mark.parametrize("layout", ["strided", "transposed"])
def test_indices_of_arrays_that_lie_otherwise(function, reference, shapes, options, layout):
    check(function, reference, *arrays_of(shapes), layout=layout, cotangent_layout=layout, **options)


def test_indices_of_other_dtypes():
    for dtype in (torch.int32, torch.int16, torch.uint8):
        index = tensor(6, dtype=dtype, low=0, high=5)
        check(lambda x, i: gradc.take(x, i, axis=0), lambda x, i: x[i.long()], tensor(5, 3), index)


def test_an_index_out_of_bounds_reads_nan_and_nothing_else():
    x, index = np.ones((5, 3), np.float32), np.array([0, 5, -6, 10**12, -(2**62)])
    got = gradc.compile(backend="interpret")(lambda x, i: gradc.take(x, i, axis=0))(x, index)
    assert (got[0] == 1).all()
    assert np.isnan(got[1:]).all()


COMPUTED_THEN_READ = {
    "scaled rows": lambda x, m: x * m[:, None],
    "rows alone": lambda x, m: gradc.broadcast_to(m[:, None], x.shape),
    "where not read": lambda x, m: gradc.where(m[:, None] > 0, m[:, None], x),
    "whole numbers": lambda x, m: (x * m[:, None]).astype("int32"),
}


@pytest.mark.parametrize("name", COMPUTED_THEN_READ)
def test_an_index_out_of_bounds_reads_nan_of_what_is_computed_too(name):
    x, index = np.full((5, 3), 2, np.float32), np.array([[2], [-1], [3], [-4], [10**12]])
    function = gradc.compile(backend="interpret")(
        lambda x, m, i: gradc.take_along_axis(COMPUTED_THEN_READ[name](x, m), i, axis=1)[:, 0]
    )
    got = function(x, np.ones(5, np.float32), index)
    assert (got[:2] > 0).all()
    assert (got[2:] == 0).all() if name == "whole numbers" else np.isnan(got[2:]).all()


def test_what_a_gathered_number_is_combined_with_stays_in_its_kernel():
    """log-probabilities of given classes: the statistics of a row and what is read at its class come from one reading."""

    def picked(x, i):
        return gradc.take_along_axis(gradc.log_softmax(x, axis=-1), i[:, None], axis=-1)[:, 0]

    low = gradc.compile(picked).lower(gradc.spec((512, 4096), "float32"), gradc.spec((512,), "int64"), wrt=(0,))
    assert low.cost.launches == 2
    check(
        picked,
        lambda x, i: at(x.log_softmax(-1), i[:, None], 1)[:, 0],
        tensor(5, 7),
        tensor(5, dtype=torch.int64, low=0, high=7),
    )


# Sizes ---------------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "add": (lambda x: x + 1, lambda x: x + 1),
    "sum": (lambda x: gradc.sum(x), lambda x: x.sum()),
    "sum last": (lambda x: gradc.sum(x, axis=-1), lambda x: x.sum(-1)),
    "sum first": (lambda x: gradc.sum(x, axis=0), lambda x: x.sum(0)),
    "softmax": (lambda x: gradc.softmax(x, axis=-1), lambda x: x.softmax(-1)),
    "normalised": (
        lambda x: x * gradc.rsqrt(gradc.mean(x * x, axis=0) + 1e-3),
        lambda x: x * torch.rsqrt((x * x).mean(0) + 1e-3),
    ),
    "mean": (lambda x: gradc.mean(x * x, axis=-1), lambda x: (x * x).mean(-1)),
}
SHAPES = [
    (1,),
    (2,),
    (17,),
    (1, 1),
    (1, 9),
    (9, 1),
    (3, 33),
    (33, 3),
    (2, 1, 5),
    (2, 3, 4, 5),
    (1, 130),
    (130, 1),
    (8, 16),
    (4, 1, 8),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes(name, shape):
    check(*FUNCTIONS[name], tensor(*shape), factor=32.0)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "softmax"])
def test_empty_arrays(name, shape):
    check(*FUNCTIONS[name], tensor(*shape))


@pytest.mark.parametrize("name", ["add", "sum"])
def test_no_dimensions(name):
    check(*FUNCTIONS[name], tensor())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 50), (50, 3), (5, 4, 33), (8, 32), (32, 2)], ids=str)
def test_sizes_that_loop(name, shape, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)
    check(*FUNCTIONS[name], tensor(*shape), factor=64.0)


def test_results_without_arithmetic():
    x = tensor(3, 4)
    check(lambda x: (x, x, gradc.zeros((2, 3)), gradc.arange(5)), lambda x: (x, x, torch.zeros(2, 3), torch.arange(5)), x)
    check(lambda x: (x.T, 1.0 * gradc.ones((3,))), lambda x: (x.T, torch.ones(3)), x)


CREATION = [
    (lambda: gradc.arange(3, 20, 4), np.arange(3, 20, 4)),
    (lambda: gradc.arange(0.0, 1.0, 0.125), np.arange(0.0, 1.0, 0.125, dtype=np.float32)),
    (lambda: gradc.linspace(0.0, 1.0, 7), np.linspace(0.0, 1.0, 7, dtype=np.float32)),
    (lambda: gradc.eye(3, 5, k=1), np.eye(3, 5, k=1, dtype=np.float32)),
    (lambda: gradc.full((2, 3), 2.5), np.full((2, 3), 2.5, np.float32)),
    (lambda: gradc.full((2, 3), float("nan")), np.full((2, 3), np.nan, np.float32)),
    (lambda: gradc.full((2,), -float("inf"), dtype="float64"), np.full((2,), -np.inf)),
    (lambda: gradc.ones((0, 3)), np.ones((0, 3), np.float32)),
]


@pytest.mark.parametrize("number", range(len(CREATION)))
def test_arrays_made_from_numbers(number):
    function, want = CREATION[number]
    got = gradc.compile(backend="interpret")(lambda x: (function(), x))(np.ones(1, np.float32))[0]
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_positions_of_a_narrow_dtype_are_exact(dtype):
    """Arithmetic on 16-bit floats runs in float32: nothing rounds 599 to 600 before it is stored."""
    numbers = lambda x: x[:, None] * (gradc.arange(5000, dtype=dtype) - 1).astype(gradc.float32)
    check(numbers, lambda x: x[:, None] * (torch.arange(5000) - 1), tensor(3))


def test_every_axis_set_is_covered():
    subsets = {frozenset(s) for n in (1, 2, 3) for s in itertools.combinations(range(3), n)}
    named = {frozenset(range(3)) if a is None else frozenset({a % 3} if isinstance(a, int) else a) for a in AXES}
    assert named == subsets


def test_a_concatenated_constant_is_not_taken_for_the_zero_of_a_masked_load():
    """A read that is masked gives 0; where a constant stands beside it, the constant is what counts."""
    check(
        lambda x: gradc.concat([x, gradc.ones((3, 2))], axis=1) * 2,
        lambda x: torch.cat([x, torch.ones(3, 2)], dim=1) * 2,
        tensor(3, 5),
    )


def test_views_of_views_are_read_at_non_negative_positions():
    """A GPU's // and % truncate toward zero; the index arithmetic means floor."""
    check(lambda x: gradc.flip(gradc.tile(x, (2,))), lambda x: x.repeat(2).flip(0), tensor(3))
    check(
        lambda x: gradc.pad(gradc.flip(x)[3::-2], ((2, 1),)) ** 2,
        lambda x: torch.nn.functional.pad(x.flip(0)[[3, 1]], (2, 1)) ** 2,
        tensor(6),
    )


def test_a_sum_counts_an_axis_its_body_does_not_vary_along():
    check(lambda x: gradc.sum(gradc.repeat(x, 2, axis=0), axis=0), lambda x: x.repeat_interleave(2, 0).sum(0), tensor(3, 2))


def test_what_runs_along_a_loop_beside_a_split_has_a_loop_of_its_own(monkeypatch, tmp_path):
    """The gradients of unused arguments are zeros; one has an axis that others sum over, in a kernel that splits their sum."""
    force_loops(monkeypatch, tmp_path)
    index = np.zeros(5, np.int32)

    def ours(x, y, z):
        return gradc.zeros((1,)).at[index].add(gradc.max(gradc.softmax(z @ z.mT, axis=1), axis=0))

    def theirs(x, y, z):
        return (z @ z.mT).softmax(1).amax(0).sum(0, keepdim=True)

    check(ours, theirs, tensor(3), tensor(), tensor(5, 8, seed=1), factor=64)
