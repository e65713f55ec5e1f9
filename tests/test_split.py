"""Loops that programs share out: products, cascades and products of products with few programs, and how parts are put together."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from kernels import LARGE_PRODUCTS, force_loops, force_splits, on, tensor  # noqa: E402
from test_chained import causal, plain, scores, selected, weights  # noqa: E402
from test_riding import CASES, INF, agree, np_third_moment, rows, without_recipes  # noqa: E402

import gradc  # noqa: E402
from gradc.codegen.cascades.spelled import evaluated, meaning  # noqa: E402
from gradc.ops import TABLE  # noqa: E402

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)
ONE_PASS = [name for name, (_, _, passes) in CASES.items() if passes == 1]


def split_in(low):
    """The number of parts of each kernel that has some."""
    return [kernel.schedule.split("split ")[1].split()[0] for kernel in low.kernels if "split" in kernel.schedule]


# Sums that ride along ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "parts"), [(33, 2), (70, 3), (256, 7)])
@pytest.mark.parametrize("name", ONE_PASS)
def test_parts_of_rows(name, n, parts, monkeypatch, tmp_path):
    """Whatever may stand in a row, parts that saw nothing of it included."""
    function, reference, _ = CASES[name]
    x = rows(n)
    if name in ("variance", "third moment"):  # a sum that overflows may be NaN where the plain formula has inf
        x[9], x[12] = -1e4, np.maximum(x[12], -1e4)
    force_loops(monkeypatch, tmp_path)
    with monkeypatch.context() as alone:
        without_recipes(alone, tmp_path)
        passes = gradc.compile(backend="interpret")(function)(x)
    force_splits(monkeypatch, tmp_path, parts)
    low = gradc.compile(function).lower(gradc.spec(x.shape, gradc.float32), wrt=())
    assert len(low.kernels) == 2
    assert split_in(low)[0] == str(parts)
    exact = x.astype(np.float64)
    got = gradc.compile(backend="interpret")(function)(x)
    agree(got, reference(exact), passes, np_third_moment(np.abs, exact) if name == "third moment" else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_that_are_kept_at_what_other_sums_are_so_far(dtype, monkeypatch, tmp_path):
    """A program's own sum, which it leaves too, is not what its other sums are kept at; the gradients as well."""

    def moments(x):
        total = x.sum(-1)[..., None]
        return (x * (x - total)).sum(-1), ((x - total / 100) ** 2).sum(-1)

    force_loops(monkeypatch, tmp_path)
    force_splits(monkeypatch, tmp_path, 3)
    x = tensor(2, 100, dtype=dtype)
    low = gradc.compile(moments).lower(gradc.spec(x.shape, str(dtype)[6:]), wrt=())
    assert len(low.kernels) == 2
    assert split_in(low)[0] == "3"
    check(moments, moments, x)


def finite_sum(x, mask):
    """Infinities count for the maximum, and for nothing else."""
    return gradc.sum(gradc.where(gradc.isfinite(x), gradc.exp(x - gradc.max(x, axis=-1, keepdims=True)), 0.0), axis=-1)


def masked_entropy(x, mask):
    s = gradc.where(mask, x, -gradc.inf)
    below = s - gradc.max(s, axis=-1, keepdims=True)
    return gradc.sum(gradc.where(mask, below * gradc.exp(below), 0.0), axis=-1)


@pytest.mark.parametrize("function", [finite_sum, masked_entropy], ids=lambda f: f.__name__)
def test_parts_whose_own_extremum_is_out_of_reach(function, monkeypatch, tmp_path):
    """An infinite maximum after finite ones, and parts masked throughout beside huge numbers, make nothing NaN that is not."""
    force_loops(monkeypatch, tmp_path)
    force_splits(monkeypatch, tmp_path, 2)
    x = np.random.default_rng(0).standard_normal((3, 120)).astype(np.float32)
    mask = np.ones((3, 120), bool)
    x[0, 110] = INF if function is finite_sum else 1
    x[1] *= 1e33
    mask[1, :40] = mask[1, 60:100] = mask[2, 10:] = False
    low = gradc.compile(function).lower(gradc.spec(x.shape), gradc.spec(x.shape, "bool"), wrt=())
    assert (len(low.kernels), split_in(low)[:1]) == (2, ["2"])
    got = gradc.compile(backend="interpret")(function)(x, mask)
    s = x.astype(np.float64)
    if function is finite_sum:
        want = np.where(np.isfinite(s), np.exp(s - s.max(-1, keepdims=True)), 0).sum(-1)
    else:
        below = s - np.where(mask, s, -INF).max(-1, keepdims=True)
        want = np.where(mask, below * np.exp(np.where(mask, below, 0)), 0).sum(-1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_norm_of_few_very_long_rows(monkeypatch, tmp_path):
    """The statistics in one pass that programs share out; what needs them is another kernel."""
    force_loops(monkeypatch, tmp_path)
    force_splits(monkeypatch, tmp_path, 4)

    def norm(x, w):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * gradc.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * w

    arrays = (tensor(3, 150), tensor(150, seed=1))
    check(norm, lambda x, w: torch.nn.functional.layer_norm(x, (150,), w, eps=1e-5), *arrays)
    low = gradc.compile(norm).lower(*(gradc.spec(x.shape) for x in arrays), wrt=())
    assert len(low.kernels) <= 3
    assert split_in(low) == ["4"]


def test_a_running_sum_is_not_shared_out(monkeypatch, tmp_path):
    """It goes from tile to tile in their order."""
    force_loops(monkeypatch, tmp_path)
    force_splits(monkeypatch, tmp_path, 3)
    check(lambda x: gradc.tanh(gradc.cumulative_sum(x, axis=-1)).sum(-1), lambda x: x.cumsum(-1).tanh().sum(-1), tensor(3, 150))


# Products ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("inner", "parts"), [(70, 2), (300, 3), (300, 64)])
def test_products_whose_summed_axis_is_shared_out(inner, parts, dtype, monkeypatch, tmp_path):
    """With expressions around them; parts may be more than there are tiles, and the last tile overhangs."""
    force_splits(monkeypatch, tmp_path, parts)

    def model(x, w, b):
        lib = torch if isinstance(x, torch.Tensor) else gradc
        return lib.tanh((x * x) @ w / 30 + b)

    arrays = (tensor(20, inner, dtype=dtype), tensor(inner, 40, dtype=dtype, seed=1), tensor(40, dtype=dtype, seed=2))
    low = gradc.compile(model).lower(*(gradc.spec(x.shape, str(x.dtype)[6:]) for x in arrays), wrt=(), device=LARGE_PRODUCTS)
    assert len(low.kernels) == 2
    assert len(split_in(low)) == 1
    assert int(split_in(low)[0]) <= parts
    check(model, model, *arrays)


def test_every_run_adds_parts_in_the_same_order(monkeypatch, tmp_path):
    force_splits(monkeypatch, tmp_path, 5)
    a, b = tensor(20, 600), tensor(600, 40, seed=1)
    compiled = on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(lambda a, b: a @ b))
    assert torch.equal(compiled(a, b), compiled(a, b))


# Few queries ------------------------------------------------------------------------------------------------------------

KEYS = 90


def decoding(queries, heads=2, width=16, dtype=torch.float32):
    shapes = ((1, heads, queries, width), (1, heads, KEYS, width), (1, heads, KEYS, width))
    return tuple(tensor(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes))


def after_the_cache(q, k, v):
    """The queries stand behind all keys but the last ones."""
    lib = torch if isinstance(q, torch.Tensor) else gradc
    position = lib.arange(q.shape[-2])[:, None] + (k.shape[-2] - q.shape[-2])
    return weights(lib.where(position >= lib.arange(k.shape[-2]), scores(q, k), -math.inf)) @ v


def in_a_window(q, k, v):
    """The same, of the 20 newest keys."""
    lib = torch if isinstance(q, torch.Tensor) else gradc
    distance = lib.arange(q.shape[-2])[:, None] + (k.shape[-2] - q.shape[-2]) - lib.arange(k.shape[-2])
    return weights(lib.where((distance >= 0) & (distance < 20), scores(q, k), -math.inf)) @ v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("parts", [2, 7, 40])
@pytest.mark.parametrize("function", [plain, causal, after_the_cache, in_a_window], ids=lambda f: f.__name__)
def test_keys_shared_out(function, parts, queries, dtype, monkeypatch, tmp_path):
    """Results and gradients; some parts hold no key that counts, and there may be more parts than tiles."""
    if queries == 1:
        force_loops(monkeypatch, tmp_path, live=256, tile=64)
    force_splits(monkeypatch, tmp_path, parts)
    arrays = decoding(queries, dtype=dtype)
    low = gradc.compile(function).lower(*(gradc.spec(x.shape, str(x.dtype)[6:]) for x in arrays), wrt=(), device=LARGE_PRODUCTS)
    assert split_in(low)
    check(function, function, *arrays)


def test_programs_share_out_the_tiles_that_hold_a_key(monkeypatch, tmp_path):
    force_splits(monkeypatch, tmp_path, 4)
    low = gradc.compile(in_a_window).lower(*(gradc.spec(x.shape) for x in decoding(5)), wrt=(), device=LARGE_PRODUCTS)
    assert "range(64 + inner_tile * INNER_BLOCK" in low.kernels[0].source


def test_queries_without_a_key(monkeypatch, tmp_path):
    """Rows masked throughout are NaN as the plain formula has it, others do not mind parts without a key."""
    force_splits(monkeypatch, tmp_path, 5)
    allowed = torch.zeros(5, KEYS, dtype=torch.bool)
    allowed[0, 3], allowed[1, 89], allowed[2, 40:60], allowed[4] = True, True, True, True
    q, k, v = decoding(5)
    check(selected, selected, q, k, v, allowed, wrt=())
    assert on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(selected))(q, k, v, allowed)[..., 3, :].isnan().all()


# What the cost model chooses ---------------------------------------------------------------------------------------------


def lowered(function, *shapes, dtype="bfloat16", wrt=()):
    return gradc.compile(function).lower(*(gradc.spec(shape, dtype) for shape in shapes), wrt=wrt, device="H200")


def times(a, b):
    return a @ b


def logsumexp(x):
    return gradc.logsumexp(x, axis=-1)


def variance(x):
    return gradc.var(x, axis=-1)


def cached(queries, length, batch=2, heads=8, width=128):
    return (batch, heads, queries, width), (batch, heads, length, width), (batch, heads, length, width)


FEW_PROGRAMS = {
    "a long summed axis": (times, ((64, 65536), (65536, 64)), "bfloat16"),
    "a weight's gradient": (lambda x, dy: x.mT @ dy, ((65536, 128), (65536, 16)), "bfloat16"),
    "a few queries": (plain, cached(4, 32768), "bfloat16"),
    "one query": (plain, cached(1, 32768), "bfloat16"),
    "one query of a long cache": (plain, cached(1, 131072, batch=1), "bfloat16"),
    "long rows": (logsumexp, ((4, 1_000_000),), "float32"),
    "variances of long rows": (variance, ((8, 2_000_000),), "float32"),
}


@pytest.mark.parametrize("name", FEW_PROGRAMS)
def test_few_programs_share_out_their_loop(name):
    """Two launches; at least as many programs as processors, and next to nothing moved but the arguments, once."""
    function, shapes, dtype = FEW_PROGRAMS[name]
    low = lowered(function, *shapes, dtype=dtype)
    assert low.cost.forward.launches == 2
    parts = split_in(low)[0]
    assert int(re.search(rf"{low.kernels[0].name}\[\((\d+),\)\]", low.source)[1]) >= 132
    given = sum(math.prod(shape) for shape in shapes) * (2 if dtype == "bfloat16" else 4)
    assert low.cost.bytes < 1.3 * given
    assert f"split {parts}" in low.explain()
    assert "programs would be at work on 132 processors" in low.explain()


def test_large_products_are_not_shared_out():
    assert split_in(lowered(times, (4096, 4096), (4096, 4096))) == []
    assert split_in(lowered(plain, *((4, 16, 2048, 64),) * 3)) == []
    assert split_in(lowered(logsumexp, (8192, 65536), dtype="float32")) == []


def test_every_spelling_of_a_row_is_read_back():
    """What a recipe says in Triton text means the same over whole arrays."""
    at = {name: np.linspace(0.5, 0.9, 5) + i / 7 for i, name in enumerate(("a0", "d0", "c0"))}
    for row in TABLE.values():
        if row.takes in ("integer", "integer or bool", "bool") or "{dtype}" in row.triton or row.is_selection:
            continue
        text = row.triton.replace("{x}", "({a0})").replace("{y}", "({d0})").replace("{z}", "({c0})")
        want = row.numpy(*list(at.values())[: row.arity])
        np.testing.assert_allclose(evaluated(meaning(text), at), want, rtol=1e-12, err_msg=row.name)
    with pytest.raises(ValueError, match="no row"):
        meaning("__import__({a0})")


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW_PROGRAMS)
def test_they_build_without_spills(name):
    function, shapes, dtype = FEW_PROGRAMS[name]
    binaries = lowered(function, *shapes, dtype=dtype).build("sm_90")
    assert all(binary.spills == 0 for binary in binaries)
    if name in ("a long summed axis", "a weight's gradient"):
        assert "HGMMA" in binaries[0].sass
