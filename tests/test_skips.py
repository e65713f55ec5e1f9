"""Loops that leave out tiles a mask empties: which tiles are read, and that results are those of the plain formula.

Which tiles a program reads is seen from outside: a term is the mask, as a number, times `x`, so a NaN in `x` reaches the
result wherever its tile is read, even where the mask is 0.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from kernels import LARGE_PRODUCTS, force_loops, on, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc import types  # noqa: E402
from gradc.codegen.index import Index  # noqa: E402
from gradc.codegen.masks.skips import Known, numbers  # noqa: E402
from gradc.codegen.nodes import Node  # noqa: E402
from gradc.ops import TABLE  # noqa: E402

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)

INFINITY = float("inf")
BLOCK = 32  # of the loops that `force_loops` leaves


def masked_sum(condition):
    def total(x):
        i, j = gradc.arange(x.shape[0])[:, None], gradc.arange(x.shape[1])[None, :]
        return gradc.sum(gradc.astype(condition(i, j), "float32") * x, axis=1)

    return total


def truth(condition, rows, columns):
    i, j = np.arange(rows)[:, None], np.arange(columns)[None, :]
    return np.broadcast_to(condition(i, j), (rows, columns))


def tiles_read(compiled, rows, columns):
    """Per row and tile of columns, whether the row's program read it."""
    read = []
    for start in range(0, columns, BLOCK):
        x = torch.ones(rows, columns)
        x[:, start] = torch.nan
        read.append(compiled(x).isnan().numpy())
    return np.stack(read, axis=1)


CONDITIONS = {
    "below the diagonal": lambda i, j: i >= j,
    "above the diagonal": lambda i, j: j > i,
    "offset": lambda i, j: i + 70 >= j,
    "offset the other way": lambda i, j: i - 40 > j,
    "window": lambda i, j: (i >= j) & (i - j < 50),
    "band": lambda i, j: abs(i - j) <= 20,
    "band of squares": lambda i, j: (i - j) * (i - j) < 900,
    "diagonal": lambda i, j: i == j,
    "not where": lambda i, j: ~(i < j),
    "only columns": lambda i, j: (j >= 40) & (j < 90),
    "columns scaled": lambda i, j: 2 * j <= i + 60,
    "columns scaled from below": lambda i, j: 3 * j >= i + 100,
    "reversed": lambda i, j: 129 - j <= i,
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_only_the_tiles_that_a_mask_leaves_are_read(name, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)
    rows, columns = 70, 130
    condition = CONDITIONS[name]
    compiled = gradc.compile(backend="interpret")(masked_sum(condition))
    mask = truth(condition, rows, columns)
    held = np.stack([mask[:, at : at + BLOCK].any(axis=1) for at in range(0, columns, BLOCK)], axis=1)
    read = tiles_read(compiled, rows, columns)
    assert not (held & ~read).any(), "a tile with terms was left out"
    assert read.any(axis=1).all(), "a row read nothing at all"
    spare = read & ~held
    assert (spare.sum(axis=1) <= np.where(held.any(axis=1), 0, 1)).all(), f"tiles without terms were read\n{spare}"
    assert read.mean() < 0.9

    numbers = tensor(rows, columns)
    want = (torch.from_numpy(mask.copy()).double() * numbers.double()).sum(1)
    torch.testing.assert_close(compiled(numbers).double(), want, rtol=1e-5, atol=1e-5)


UNBOUNDED = {
    "either side": lambda i, j: (i >= j) | (j > 100),
    "a remainder": lambda i, j: (i + j) % 7 != 1,
    "a product": lambda i, j: i * j < 100,
    "everywhere": lambda i, j: i + j >= 0,
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_is_no_line_is_gone_over_whole(name, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)
    compiled = gradc.compile(backend="interpret")(masked_sum(UNBOUNDED[name]))
    assert tiles_read(compiled, 40, 100).all()
    numbers = tensor(40, 100)
    want = (torch.from_numpy(truth(UNBOUNDED[name], 40, 100).copy()).double() * numbers.double()).sum(1)
    torch.testing.assert_close(compiled(numbers).double(), want, rtol=1e-5, atol=1e-5)


LONG = {
    "as far as a limit": (lambda i, j: gradc.minimum(j, 1100) <= 40 * i, lambda i, j: j.clamp(max=1100) <= 40 * i),
    "again and again": (lambda i, j: gradc.fmod(j, 1100) <= 10 * i, lambda i, j: j.fmod(1100) <= 10 * i),
}


@pytest.mark.parametrize("name", LONG)
def test_a_line_is_one_over_its_whole_length(name, monkeypatch, tmp_path):
    """What is the position itself for the first thousand is not taken for it where the axis goes on."""
    force_loops(monkeypatch, tmp_path, live=128, tile=128)
    ours, theirs = LONG[name]

    def total(x):
        i, j = gradc.arange(x.shape[0])[:, None], gradc.arange(x.shape[1])
        return gradc.sum(gradc.where(ours(i, j), x, 0), axis=1)

    i, j = torch.arange(64)[:, None], torch.arange(1500)
    check(total, lambda x: torch.where(theirs(i, j), x, 0).sum(1), tensor(64, 1500), wrt=())


def test_positions_are_rounded_as_the_kernel_rounds_them(monkeypatch, tmp_path):
    """bfloat16 has 1052 to 1055 as 1056, which is where a tile begins."""
    force_loops(monkeypatch, tmp_path)
    x = tensor(64, 1100)
    check(
        lambda x: gradc.sum(gradc.where(gradc.arange(1100).astype("bfloat16") >= 1056, x, 0), axis=1),
        lambda x: torch.where(torch.arange(1100).to(torch.bfloat16) >= 1056, x, 0).sum(1),
        x,
        wrt=(),
    )


EXTREME = {
    "equal": lambda x: abs(x) == INFINITY,
    "at least": lambda x: x >= INFINITY,
    "at most": lambda x: x <= -INFINITY,
    "not below": lambda x: ~(x < INFINITY),
}


@pytest.mark.parametrize("name", EXTREME)
def test_infinities_are_counted_beyond_a_mask(name, monkeypatch, tmp_path):
    """A comparison with infinity fails for every finite number, and yet says nothing of tiles without looking at them."""
    force_loops(monkeypatch, tmp_path)
    found = EXTREME[name]
    x = tensor(64, 100)
    x[3, 70], x[4, 80], x[5, 90], x[6, 2] = INFINITY, -INFINITY, torch.nan, INFINITY

    def ours(x):
        i, j = gradc.arange(64)[:, None], gradc.arange(100)
        return gradc.sum(gradc.where(found(x), gradc.where(i >= j, 1.0, 2.0), 0.0), axis=1)

    def theirs(x):
        i, j = torch.arange(64)[:, None], torch.arange(100)
        return torch.where(found(x), torch.where(i >= j, 1.0, 2.0), 0.0).sum(1)

    check(ours, theirs, x, wrt=())


def test_a_number_that_is_none_is_not_left_out(monkeypatch, tmp_path):
    """A term that is chosen to be NaN is no 0 / 0."""
    force_loops(monkeypatch, tmp_path)

    def ours(x):
        i, j = gradc.arange(64)[:, None], gradc.arange(100)
        return gradc.sum(gradc.where(i >= j, x, gradc.where(x > 2.5, torch.nan, 0.0)), axis=1)

    def theirs(x):
        i, j = torch.arange(64)[:, None], torch.arange(100)
        return torch.where(i >= j, x, torch.where(x > 2.5, torch.nan, 0.0)).sum(1)

    check(ours, theirs, tensor(64, 100), wrt=())


# Results ------------------------------------------------------------------------------------------------------------


def causal(x, offset=0, window=None, where=gradc.where, arange=gradc.arange):
    i, j = arange(x.shape[-2])[:, None], arange(x.shape[-1])[None, :]
    inside = i + offset >= j
    if window is not None:
        inside = inside & (i + offset - j < window)
    return where(inside, x, -INFINITY)


def torch_causal(x, offset=0, window=None):
    return causal(x, offset, window, torch.where, torch.arange)


SCORES = {
    "normalised": (
        lambda x, **kw: gradc.softmax(causal(x, **kw), axis=-1),
        lambda x, **kw: torch.softmax(torch_causal(x, **kw), dim=-1),
    ),
    "log-sum-exp": (
        lambda x, **kw: gradc.logsumexp(causal(x, **kw), axis=-1),
        lambda x, **kw: torch.logsumexp(torch_causal(x, **kw), dim=-1),
    ),
    "largest": (
        lambda x, **kw: gradc.max(causal(x, **kw), axis=-1),
        lambda x, **kw: torch.amax(torch_causal(x, **kw), dim=-1),
    ),
}


@pytest.mark.parametrize("window", [None, 5, 40])
@pytest.mark.parametrize("name", SCORES)
def test_rows_in_passes(name, window, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)
    ours, theirs = SCORES[name]
    check(lambda x: ours(x, window=window), lambda x: theirs(x, window=window), tensor(2, 7, 130), wrt=(0,))
    check(lambda x: ours(x, offset=90, window=window), lambda x: theirs(x, offset=90, window=window), tensor(40, 130))


def test_a_row_masked_throughout_is_what_the_formula_gives(monkeypatch, tmp_path):
    """-inf minus -inf: not a number, though no tile of the row holds a term."""
    force_loops(monkeypatch, tmp_path)
    x = tensor(50, 130)
    result = gradc.compile(backend="interpret")(lambda x: gradc.softmax(causal(x, offset=-40), axis=-1))(x)
    want = torch.softmax(torch_causal(x.double(), offset=-40), dim=-1)
    assert want.isnan().all(1).sum() == 40
    torch.testing.assert_close(result.double(), want, equal_nan=True, rtol=1e-5, atol=1e-6)


PRODUCTS = {
    "lower": (lambda a, b: gradc.tril(a) @ b, lambda a, b: a.tril() @ b),
    "strictly upper": (lambda a, b: gradc.triu(a, k=1) @ b, lambda a, b: a.triu(1) @ b),
    "on the right": (lambda a, b: a @ gradc.triu(b), lambda a, b: a @ b.triu()),
    "both": (lambda a, b: gradc.tril(a) @ gradc.tril(b), lambda a, b: a.tril() @ b.tril()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_triangular_products(name, dtype):
    ours, theirs = PRODUCTS[name]
    check(ours, theirs, tensor(100, 100, dtype=dtype), tensor(100, 100, dtype=dtype, seed=1))


def test_batches_of_triangular_products():
    ours, theirs = PRODUCTS["lower"]
    check(ours, theirs, tensor(2, 70, 90), tensor(2, 90, 33, seed=1))


def test_a_triangular_product_reads_half():
    """A NaN in the last row of `b` reaches the rows of the last tile alone."""
    a, b = tensor(128, 128), tensor(128, 128, seed=1)
    b[-1] = torch.nan
    out = on(LARGE_PRODUCTS, gradc.compile(PRODUCTS["lower"][0], backend="interpret"))(a, b)
    spoilt = out.isnan().any(1)
    assert spoilt[-1]
    assert not spoilt[:64].any()
    torch.testing.assert_close(out[:64], a.tril()[:64, :64] @ b[:64], rtol=1e-4, atol=1e-4)


def weighted(q, k, v, window, where, arange, softmax):
    s = q @ k.swapaxes(-1, -2) * 0.25
    i, j = arange(q.shape[-2])[:, None] + (k.shape[-2] - q.shape[-2]), arange(k.shape[-2])[None, :]
    return softmax(where((i >= j) & (i - j < window), s, -INFINITY)) @ v


def ours_weighted(q, k, v, window):
    return weighted(q, k, v, window, gradc.where, gradc.arange, lambda s: gradc.softmax(s, axis=-1))


def theirs_weighted(q, k, v, window):
    return weighted(q, k, v, window, torch.where, torch.arange, lambda s: torch.softmax(s, dim=-1))


@pytest.mark.parametrize(("rows", "window"), [(100, 1000), (100, 20), (40, 50)])
def test_products_of_masked_products(rows, window):
    arrays = [tensor(2, n, 16, dtype=torch.bfloat16, seed=n) for n in (rows, 100, 101)]
    arrays[2] = arrays[2][:, :100]
    check(lambda *x: ours_weighted(*x, window), lambda *x: theirs_weighted(*x, window), *arrays)


def test_products_of_masked_products_read_what_the_mask_leaves():
    """Forward and backward: NaN in the last tile of the keys and of the queries' cotangents is not seen from elsewhere."""
    q, k, v = (tensor(8, 192, 64, dtype=torch.bfloat16, seed=seed).requires_grad_() for seed in range(3))
    with torch.no_grad():
        k[:, -1], v[:, -1] = torch.nan, torch.nan
    out = on(LARGE_PRODUCTS, gradc.compile(ours_weighted, backend="interpret", static_argnames=("window",)))(q, k, v, 1000)
    assert not out[:, :128].isnan().any()
    cotangent = torch.zeros_like(out)
    cotangent[:, :128] = tensor(8, 128, 64, dtype=torch.bfloat16, seed=5)
    (dq,) = torch.autograd.grad(out, q, cotangent)
    assert not dq[:, :128].isnan().any()
    assert dq[:, -1].isnan().all()


def test_a_loop_over_two_axes_at_once_is_gone_over_whole(monkeypatch, tmp_path):
    """Of a run of axes, only a position along all of it bounds the loop."""
    force_loops(monkeypatch, tmp_path)

    def ours(x):
        i, k = gradc.arange(x.shape[0])[:, None, None], gradc.arange(x.shape[2])
        return gradc.sum(gradc.where(i >= k, x, 0), axis=(1, 2))

    def theirs(x):
        i, k = torch.arange(x.shape[0])[:, None, None], torch.arange(x.shape[2])
        return torch.where(i >= k, x, 0).sum((1, 2))

    check(ours, theirs, tensor(9, 5, 70))
    check(lambda x: gradc.sum(gradc.tril(x)), lambda x: x.tril().sum(), tensor(37, 70))


# What is constant ---------------------------------------------------------------------------------------------------

GIVEN = (0.0, 1.0, -1.0, 5.5, INFINITY, -INFINITY, 1e-9)


def finite(count, rng):
    """Finite float32 numbers of every size."""
    return (rng.choice([-1, 1], count) * 2.0 ** rng.uniform(-120, 127, count)).astype(np.float32)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.takes in ("floating-point", "numeric", "any")])
def test_what_is_called_constant_is_constant(name):
    """Each row with some operands given and the others any number: never called constant where a random number says otherwise."""
    row, rng = TABLE[name], np.random.default_rng(0)
    for place in range(row.arity):
        for given in GIVEN:
            operands = [unknown(row, at) for at in range(row.arity)]
            dtype = operands[place].dtype
            operands[place] = Node("constant", (), dtype, None, given if dtype.is_floating else bool(given))
            node = Node("apply", tuple(operands), operands[-1].dtype, None, row)
            known = Known(frozenset(), Index()).constant(node)
            if known is None:
                continue
            columns = [
                np.full(2000, x.detail, x.dtype.numpy) if x.kind == "constant" else sample(x.dtype, 2000, rng) for x in operands
            ]
            with np.errstate(all="ignore"):
                results = row.numpy(*columns)
            assert np.isin(results[results == results], [known]).all(), (name, place, given, known)


def unknown(row, place):
    dtype = types.bool_ if row.is_selection and place == 0 else types.float32
    return Node("load", (), dtype, None, Data())


class Data:
    guards = ()


def sample(dtype, count, rng):
    return finite(count, rng) if dtype.is_floating else rng.random(count) < 0.5


def test_numbers_stand_for_all_beside_a_constant():
    """A threshold or an equality with a constant is seen to go either way."""
    for constant in map(np.float32, (5.3, 1e35, -1e-35)):
        near = numbers(types.float32, [constant])
        assert (near < constant).any()
        assert (near == constant).any()
        assert (near > constant).any()


def test_a_mask_with_large_negative_numbers_skips_nothing(monkeypatch, tmp_path):
    """-1e9 is a number like others: a row of nothing else is not empty."""
    force_loops(monkeypatch, tmp_path)

    def ours(x):
        i, j = gradc.arange(x.shape[0])[:, None], gradc.arange(x.shape[1])[None, :]
        return gradc.logsumexp(gradc.where(i - 20 >= j, x, -1e9), axis=1)

    def theirs(x):
        i, j = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])[None, :]
        return torch.logsumexp(torch.where(i - 20 >= j, x, -1e9), dim=1)

    check(ours, theirs, tensor(40, 100))


# What it costs ------------------------------------------------------------------------------------------------------


def product_flops(function):
    low = gradc.compile(function).lower(gradc.spec((1024, 1024), "float32"), gradc.spec((1024, 1024), "float32"), wrt=())
    return low.cost.forward.flops / (2 * 1024**3)


def test_work_is_counted_where_the_mask_leaves_some():
    def band(a, b):
        i = gradc.arange(1024)
        return gradc.where(abs(i[:, None] - i[None, :]) < 103, a, 0) @ b

    assert product_flops(lambda a, b: a @ b) == 1
    assert product_flops(PRODUCTS["lower"][0]) == pytest.approx(1 / 2, abs=0.01)
    assert product_flops(band) == pytest.approx(0.19, abs=0.01)
    assert product_flops(lambda a, b: gradc.where((a > 0) & (b > 0), a, 0) @ b) == pytest.approx(1, abs=0.01)
