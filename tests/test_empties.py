"""Arrays without elements: every function of the language with every dimension empty, forward and backward, on every backend.

The reference is the traced program run as it was written, before anything is rewritten.
"""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from arrays import array  # noqa: E402

import gradc  # noqa: E402
from gradc import nn  # noqa: E402
from gradc.interpret import evaluate  # noqa: E402
from gradc.ops import TABLE  # noqa: E402
from gradc.trace import trace  # noqa: E402

SIZES = {"b": 2, "m": 3, "k": 4, "n": 5}


def integers(*shape):
    return np.zeros(shape, np.int64)


def index(count, size):
    """As many valid indices as there may be; none into an axis without places."""
    return integers(count if size else 0)


# Functions of the sizes, that give a function of arrays and the arrays.
CASES = {
    "matmul": lambda b, m, k, n: (lambda x, y: x @ y, array(b, m, k), array(b, k, n)),
    "matmul of a vector": lambda b, m, k, n: (lambda x, y: x @ y, array(m, k), array(k)),
    "layers": lambda b, m, k, n: (lambda x, w, v: nn.gelu(x @ w) @ v, array(m, k), array(k, n), array(n, b)),
    "einsum": lambda b, m, k, n: (lambda x, y: gradc.einsum("bmk,mkn->nb", x, y), array(b, m, k), array(m, k, n)),
    "tensordot": lambda b, m, k, n: (lambda x, y: gradc.tensordot(x, y, axes=2), array(b, m, k), array(m, k, n)),
    "outer": lambda b, m, k, n: (gradc.outer, array(m), array(n)),
    "vecdot": lambda b, m, k, n: (gradc.vecdot, array(m, k), array(m, k)),
    "trace": lambda b, m, k, n: (gradc.trace, array(m, k, n)),
    "sum": lambda b, m, k, n: (lambda x: (gradc.sum(x, axis=1), gradc.sum(x), gradc.sum(x * x, axis=0)), array(m, k, n)),
    "prod": lambda b, m, k, n: (lambda x: (gradc.prod(x, axis=1), gradc.prod(x)), array(m, k)),
    "mean": lambda b, m, k, n: (lambda x: (gradc.mean(x, axis=0), gradc.mean(x)), array(m, k)),
    "var": lambda b, m, k, n: (lambda x: (gradc.var(x, axis=1), gradc.std(x + 1, axis=0)), array(m, k)),
    "any": lambda b, m, k, n: (lambda x: (gradc.any(x > 0, axis=0), gradc.all(x > 0, axis=1), gradc.count_nonzero(x)), array(m, k)),
    "cumsum": lambda b, m, k, n: (lambda x: (gradc.cumulative_sum(x, axis=0), gradc.cumulative_sum(x, axis=1)), array(m, k)),
    "reshape": lambda b, m, k, n: (lambda x: gradc.reshape(x, (k, n * m)) * 2, array(m, k, n)),
    "permute": lambda b, m, k, n: (lambda x: gradc.permute_dims(x, (2, 0, 1)) + 1, array(m, k, n)),
    "broadcast": lambda b, m, k, n: (lambda x, y: x[:, None] * y + gradc.broadcast_to(y, (m, n)), array(m), array(n)),
    "where": lambda b, m, k, n: (lambda x, y: gradc.where(x > y, x * y, y), array(m, k), array(k)),
    "slice": lambda b, m, k, n: (lambda x: (x[1:, ::2] * 2, x[:, :0], x[::-1]), array(m, k)),
    "pad": lambda b, m, k, n: (lambda x: gradc.pad(x, ((1, 2), (0, 1))) * 3, array(m, k)),
    "flip": lambda b, m, k, n: (lambda x: gradc.flip(x, axis=0) + gradc.roll(x, 1, axis=1), array(m, k)),
    "concat": lambda b, m, k, n: (lambda x, y: gradc.concat([x, y, x * 2], axis=0) * 2, array(m, k), array(n, k)),
    "stack": lambda b, m, k, n: (lambda x, y: gradc.stack([x, y], axis=1), array(m, k), array(m, k)),
    "repeat": lambda b, m, k, n: (lambda x: gradc.repeat(x, 2, axis=0) * gradc.tile(x, (2, 1)), array(m, k)),
    "triangle": lambda b, m, k, n: (lambda x: gradc.tril(x) - gradc.triu(x, k=1), array(m, k)),
    "take": lambda b, m, k, n: (lambda x, i: gradc.take(x, i, axis=0) * 2, array(m, k), index(n, m)),
    "take along": lambda b, m, k, n: (
        lambda x, i: gradc.take_along_axis(x, i, axis=1), array(m, k), integers(m, n if k else 0),
    ),
    "embedding": lambda b, m, k, n: (lambda x, i: nn.embedding(i, x), array(m, k), index(n, m)),
    "at add": lambda b, m, k, n: (lambda x, i, u: x.at[i].add(u), array(m, k), index(n, m), array(n if m else 0, k)),
    "at set": lambda b, m, k, n: (lambda x, i, u: x.at[i].set(u), array(m, k), index(n, m), array(n if m else 0, k)),
    "rms norm": lambda b, m, k, n: (
        lambda x, w: x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1) * w, array(m, k), array(k),
    ),
    "batch norm": lambda b, m, k, n: (
        lambda x: (x - gradc.mean(x, axis=0)) / gradc.sqrt(gradc.var(x, axis=0) + 1), array(m, k),
    ),
    "beside": lambda b, m, k, n: (lambda x, y: (gradc.sum(x) * y, x * 2, gradc.sum(x @ y)), array(m, k), array(k, n)),
    "nothing else": lambda b, m, k, n: (lambda x: x, array(m, k)),
}  # fmt: skip

WITH_A_MAXIMUM = {  # no axis that a maximum is taken along
    "max": lambda b, m, k, n: (lambda x: (gradc.max(x, axis=1), gradc.min(x, axis=(1, 2))), array(m, 3, 2, k)),
    "argmax": lambda b, m, k, n: (lambda x: (gradc.argmax(x, axis=1), gradc.argmin(x, axis=1)), array(m, 3, k)),
    "softmax": lambda b, m, k, n: (lambda x: gradc.softmax(x, axis=1), array(m, 3, k)),
    "cross entropy": lambda b, m, k, n: (lambda x, w, i: nn.cross_entropy(x @ w, i), array(m, k), array(k, 3), integers(m)),
    "attention": lambda b, m, k, n: (nn.scaled_dot_product_attention, array(b, m, k), array(b, 3, k), array(b, 3, n)),
}


def emptied(make, most=2):
    """The function and its arrays with each size, and each two of them, as nothing."""
    programs = {}
    for count in range(1, 1 + most):
        for names in itertools.combinations(SIZES, count):
            function, *arrays = make(**(SIZES | dict.fromkeys(names, 0)))
            if any(x.size == 0 for x in arrays):
                programs[tuple(x.shape for x in arrays)] = function, arrays
    return programs.values()


def everything(function, arrays):
    """A program of the results, the cotangents and the tangents of a function of these arrays."""
    places = [i for i, x in enumerate(arrays) if x.dtype == np.float32]

    def program(*given):
        def of_floats(*floats):
            full = dict(zip(places, floats, strict=True))
            results = function(*(full.get(i, x) for i, x in enumerate(given)))
            return results if isinstance(results, tuple) else (results,)

        floats = [given[i] for i in places]
        results = of_floats(*floats)
        smooth = [i for i, x in enumerate(results) if str(x.dtype) == "float32"]
        if not smooth:
            return results
        some = lambda *values: tuple(of_floats(*values)[i] for i in smooth)
        _, back = gradc.vjp(some, *floats)
        _, tangents = gradc.jvp(some, tuple(floats), tuple(x + 1 for x in floats))
        return (*results, *back(tuple(results[i] * 2 + 1 for i in smooth)), *tangents)

    return program


def agree(program, arrays, backend):
    want = evaluate(trace(program, tuple(arrays), {}, ()).graph, arrays)
    got = gradc.compile(backend=backend)(program)(*arrays)
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, *WITH_A_MAXIMUM])
def test_every_dimension_empty(name):
    for function, arrays in emptied((CASES | WITH_A_MAXIMUM)[name]):
        agree(everything(function, arrays), arrays, "numpy")


@pytest.mark.triton
@pytest.mark.parametrize("name", [*CASES, *WITH_A_MAXIMUM])
def test_every_dimension_empty_in_kernels(name):
    """All of a function's programs as one, whose kernels run."""
    programs = [(everything(function, arrays), arrays) for function, arrays in emptied((CASES | WITH_A_MAXIMUM)[name], 1)]

    def all_of_them(*given):
        left = iter(given)
        return tuple(x for program, arrays in programs for x in program(*itertools.islice(left, len(arrays))))

    agree(all_of_them, [x for _, arrays in programs for x in arrays], "interpret")


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_every_row_of_the_table(backend):
    """As one program for the rows of each kind of number."""
    for dtype in (np.float32, np.int32, np.bool_):
        rows = [row for row in TABLE.values() if _takes(row, dtype)]

        def program(x, rows=tuple(rows)):
            return tuple(row(*[x] * len(row.partials)) for row in rows)

        agree(program, [np.zeros((3, 0), dtype)], backend)


def _takes(row, dtype):
    try:
        trace(lambda x: row(*[x] * len(row.partials)), (np.zeros((2,), dtype),), {}, ())
    except gradc.GradcError:
        return False
    return True


# On torch's tape ------------------------------------------------------------------------------------------------------


TRAINED = {
    "an empty batch": (lambda x, w, v: nn.relu(x @ w) @ v, lambda x, w, v: torch.relu(x @ w) @ v, (0, 4), (4, 3), (3, 2)),
    "no hidden width": (
        lambda x, w, v: nn.gelu(x @ w) @ v,
        lambda x, w, v: torch.nn.functional.gelu(x @ w) @ v,
        (5, 4),
        (4, 0),
        (0, 2),
    ),
    "no queries": (lambda q, k: gradc.softmax(q @ k.mT, axis=-1) @ k, lambda q, k: (q @ k.mT).softmax(-1) @ k, (0, 4), (3, 4)),
    "no features": (lambda x, w, b: x @ w + b, lambda x, w, b: x @ w + b, (3, 0), (0, 2), (2,)),
    "a mean": (lambda x, w: gradc.mean(x @ w), lambda x, w: (x @ w).mean(), (0, 4), (4, 3)),
}


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
@pytest.mark.parametrize("name", TRAINED)
def test_on_the_tape(name, backend):
    function, reference, *shapes = TRAINED[name]
    arrays = [torch.from_numpy(array(*shape, seed=i)) for i, shape in enumerate(shapes)]
    got, want = ([x.clone().requires_grad_() for x in arrays] for _ in range(2))
    out, expected = gradc.compile(backend=backend)(function)(*got), reference(*want)
    torch.testing.assert_close(out, expected, equal_nan=True)
    out.sum().backward()
    expected.sum().backward()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.grad, b.grad, equal_nan=True)


# Looking inside -------------------------------------------------------------------------------------------------------


def test_a_program_without_work_has_no_kernels():
    low = gradc.compile(lambda x, y: x * y + 1).lower(gradc.spec((0, 4)), gradc.spec((4,)), wrt=())
    assert low.kernels == ()
    assert low.build("sm_90") == ()
    assert (low.cost.launches, low.cost.bytes, low.cost.flops) == (0, 0, 0)
    assert "0 launches" in low.explain()


def test_an_empty_batch_keeps_nothing_and_only_fills():
    low = gradc.compile(lambda x, w, v: nn.gelu(x @ w) @ v).lower(gradc.spec((0, 5)), gradc.spec((5, 4)), gradc.spec((4, 3)))
    assert low.saved == ()
    assert [kernel.phase for kernel in low.kernels] == ["backward"]
    assert all(not kernel.reads for kernel in low.kernels)


@pytest.mark.triton
def test_an_exported_module_without_kernels_runs(tmp_path):
    @gradc.compile
    def doubled(x):
        return x * 2

    doubled.lower(gradc.spec((0, 4))).export(tmp_path / "kernels.py")
    spec = importlib.util.spec_from_file_location("kernels_of_nothing", tmp_path / "kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.zeros((0, 4), requires_grad=True)
    out = module.doubled(x)
    out.sum().backward()
    assert out.shape == x.grad.shape == (0, 4)
