"""Sums that ride along with the reductions they depend on: results, floats at the edges, refusals, passes, text."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from kernels import LARGE_PRODUCTS, force_loops, on, tensor  # noqa: E402
from recipe_forms import FILE, attention, divergence, entropy, forms_met, masked_attention  # noqa: E402

import gradc  # noqa: E402
from gradc import types  # noqa: E402
from gradc.codegen.cascades import recipes as recipes_module  # noqa: E402
from gradc.codegen.cascades.cascade import Refusal  # noqa: E402
from gradc.codegen.cascades.recipes import KNOWN, Recipe, Recipes, derived, from_json, to_file, to_json  # noqa: E402
from gradc.codegen.lower import lower_graph  # noqa: E402
from gradc.runtime import plan as runtime_plan  # noqa: E402
from gradc.runtime.cache import DiskCache  # noqa: E402
from gradc.runtime.compile import program_of  # noqa: E402

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)
INF = float("inf")


def top(x):
    return gradc.max(x, axis=-1, keepdims=True)


def mean(x):
    return gradc.mean(x, axis=-1, keepdims=True)


def variance(x):
    return gradc.mean((x - mean(x)) ** 2, axis=-1)


def safe_sum(x):
    """Rows of -inf throughout give 0."""
    m = top(x)
    return gradc.sum(gradc.exp(x - gradc.where(gradc.isfinite(m), m, 0.0)), axis=-1)


def np_exp(x):
    return np.exp(x - x.max(-1, keepdims=True))


def np_softmax(x):
    return np_exp(x) / np_exp(x).sum(-1, keepdims=True)


def np_logsumexp(x):
    m = x.max(-1)
    return np.where(np.isfinite(m), np.log(np_exp(x).sum(-1)) + m, m)


def np_entropy(x):
    log = x - x.max(-1, keepdims=True) - np.log(np_exp(x).sum(-1, keepdims=True))
    return -(np_softmax(x) * log).sum(-1)


def np_third_moment(part, x):
    return part((x - x.mean(-1, keepdims=True)) ** 3).sum(-1)


def np_safe_sum(x):
    m = x.max(-1, keepdims=True)
    return np.exp(x - np.where(np.isfinite(m), m, 0.0)).sum(-1)


# name: (function, the same in NumPy, passes over the row)
CASES = {
    "softmax": (lambda x: gradc.softmax(x), np_softmax, 2),
    "logsumexp": (lambda x: gradc.logsumexp(x, axis=-1), np_logsumexp, 1),
    "softcap": (
        lambda x: gradc.logsumexp(5 * gradc.tanh(x / 5), axis=-1),
        lambda x: np_logsumexp(5 * np.tanh(x / 5)),
        1,
    ),
    "temperature": (
        lambda x: gradc.sum(gradc.exp((x - top(x)) / 0.7), axis=-1),
        lambda x: np.exp((x - x.max(-1, keepdims=True)) / 0.7).sum(-1),
        1,
    ),
    "powers of two": (
        lambda x: gradc.sum(2 ** (x - top(x)), axis=-1),
        lambda x: (2 ** (x - x.max(-1, keepdims=True))).sum(-1),
        1,
    ),
    "of the negative": (lambda x: gradc.logsumexp(-x, axis=-1), lambda x: np_logsumexp(-x), 1),
    "of a multiple": (lambda x: gradc.logsumexp(3 - x / 0.5, axis=-1), lambda x: np_logsumexp(3 - x / 0.5), 1),
    "minimum": (
        lambda x: gradc.sum(gradc.exp(gradc.min(x, axis=-1, keepdims=True) - x), axis=-1),
        lambda x: np.exp(x.min(-1, keepdims=True) - x).sum(-1),
        1,
    ),
    "entropy": (entropy, np_entropy, 1),
    "two sums that turn into each other": (
        lambda x: gradc.sum(gradc.exp(x - top(x)) * gradc.cos(x - top(x)), axis=-1),
        lambda x: (np_exp(x) * np.cos(x - x.max(-1, keepdims=True))).sum(-1),
        1,
    ),
    "variance": (variance, lambda x: x.var(-1), 1),
    "third moment": (
        lambda x: gradc.sum((x - mean(x)) ** 3, axis=-1),
        lambda x: np_third_moment(np.asarray, x),
        1,
    ),
    "rows without a number": (safe_sum, np_safe_sum, 1),
    "a share of the sum": (
        lambda x: gradc.sum(gradc.exp(x - top(x)) / gradc.sqrt(mean(x * x)), axis=-1),
        lambda x: (np_exp(x) / np.sqrt((x * x).mean(-1, keepdims=True))).sum(-1),
        1,
    ),
    "no cascade": (
        lambda x: gradc.sum(gradc.sigmoid(x - top(x)), axis=-1),
        lambda x: (1 / (1 + np.exp(x.max(-1, keepdims=True) - x))).sum(-1),
        2,
    ),
}


def rows(n):
    """Ordinary rows and all that may go wrong: infinities first, last and throughout, NaN, drifts, offsets, huge numbers."""
    x = (np.random.default_rng(n).standard_normal((14, n)) * 3).astype(np.float32)
    x[1] = -INF
    x[2, : n // 2 + 1] = -INF
    x[3, -1] = -INF
    x[4, n // 3] = INF
    x[5, n // 3] = np.nan
    x[6] -= 1000
    x[7] += np.linspace(-400, 400, n, dtype=np.float32)
    x[8] += np.linspace(400, -400, n, dtype=np.float32)
    x[9] = np.finfo(np.float32).min
    x[10, 0] = -INF
    x[11, 0], x[11, -1] = INF, -INF
    x[12, : n // 2] = -1e30
    x[13] = 7
    return x


def agree(got, want, plain, size=1):
    """As near to float64 as the plain formula, up to a few roundings; infinite and NaN where the plain formula is.

    `size` is the sum of the magnitudes of what was summed, where that is much more than the result.
    """
    got, plain = np.asarray(got, np.float64), np.asarray(plain, np.float64)
    assert np.array_equal(np.isnan(got), np.isnan(plain)), (got, plain)
    infinite = np.isinf(plain) | np.isinf(got)
    assert np.array_equal(got[infinite], plain[infinite]), (got, plain)
    finite = np.isfinite(got) & np.isfinite(want)
    assert finite.any()
    scale = np.maximum(np.maximum(np.abs(want), size), 1)
    error, allowed = (np.abs(a - want)[finite] / scale[finite] for a in (got, plain))
    assert (error <= 4 * allowed + 2e-6).all(), (error.max(), allowed.max())


def np_divergence(x, y):
    log_p, log_q = (a - a.max(-1, keepdims=True) - np.log(np_exp(a).sum(-1, keepdims=True)) for a in (x, y))
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def without_recipes(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "plain"))
    monkeypatch.setattr(runtime_plan, "recipes_on_disk", lambda: None)


def both_ways(function, monkeypatch, tmp_path, *arrays):
    """The results with sums riding along, and with a pass for each."""
    force_loops(monkeypatch, tmp_path)
    riding = on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(function))(*arrays)
    without_recipes(monkeypatch, tmp_path)
    return riding, on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(function))(*arrays)


@pytest.mark.parametrize("n", [17, 33, 70, 256])
@pytest.mark.parametrize("name", CASES)
def test_results(name, n, monkeypatch, tmp_path):
    function, reference, _ = CASES[name]
    x = rows(n)
    if name in ("variance", "third moment"):  # a sum that overflows may be NaN where the plain formula has inf
        x[9], x[12] = -1e4, np.maximum(x[12], -1e4)
    riding, plain = both_ways(function, monkeypatch, tmp_path, x)
    exact = x.astype(np.float64)
    agree(riding, reference(exact), plain, np_third_moment(np.abs, exact) if name == "third moment" else 1)


@pytest.mark.parametrize("n", [17, 70, 256])
def test_two_rows_in_one_pass(n, monkeypatch, tmp_path):
    """Where the second row is -inf the result is, unless the first gives it no weight: NaN, as by the plain formula."""
    x = rows(n)
    for y in (
        rows(n)[::-1],
        np.where((np.arange(14)[:, None] % 2) & (np.arange(n) % 5 == 0), -INF, x / 2).astype(np.float32),
        x + 1000,
    ):
        riding, plain = both_ways(divergence, monkeypatch, tmp_path, x, y)
        exact = x.astype(np.float64), y.astype(np.float64)
        with np.errstate(all="ignore"):
            sizes = [np.abs(a - np.maximum(a.max(-1, keepdims=True), -1e38)) for a in exact]
            size = np.nan_to_num(np_softmax(exact[0]) * (sizes[0] + sizes[1]), nan=0, posinf=0, neginf=0).sum(-1)
        agree(riding, np_divergence(*exact), plain, size)


def test_two_rows_and_their_mean_are_read_once():
    low = gradc.compile(lambda x, y: gradc.sum(divergence(x, y))).lower(*[gradc.spec((512, 60000), "bfloat16")] * 2, wrt=())
    kernel = low.kernels[0]
    assert kernel.source.count("in range(0, columns") == 1
    assert "sum rides along with max, log" in low.explain()
    assert "max_1' + log_1'" in kernel.source  # the two maxima have two names in the proof
    assert len(low.kernels) == 2


@pytest.mark.parametrize("name", ["softmax", "variance", "entropy"])
def test_float64(name, monkeypatch, tmp_path):
    function, reference, _ = CASES[name]
    force_loops(monkeypatch, tmp_path)
    x = rows(70)[[0, 3, 6, 7, 8, 13]].astype(np.float64)
    x[1, -1] = 0
    got = gradc.compile(backend="interpret")(function)(x)
    np.testing.assert_allclose(got, reference(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 16])
def test_rows_that_are_one_tile_or_less(n, monkeypatch, tmp_path):
    x = rows(40)[:, :n]
    riding, plain = both_ways(CASES["softmax"][0], monkeypatch, tmp_path, x)
    agree(riding, np_softmax(x.astype(np.float64)), plain)


def test_long_rows_of_the_ordinary_limits():
    x = rows(60001)
    for name in ("softmax", "variance", "entropy"):
        function, reference, _ = CASES[name]
        chosen = x[[0, 7, 8]]
        low = gradc.compile(function).lower(gradc.spec(chosen.shape, types.float32), wrt=())
        assert "rides along" in low.explain()
        got = gradc.compile(backend="interpret")(function)(chosen)
        want = reference(chosen.astype(np.float64))
        assert np.abs(got - want).max() <= 2e-6 * max(1, np.abs(want).max())


def test_a_small_spread_around_a_large_mean(monkeypatch, tmp_path):
    """The mean so far stands in for the mean: nothing is lost by cancellation that two passes would keep."""
    x = (1e4 + 1e-2 * np.random.default_rng(1).standard_normal((6, 2000))).astype(np.float32)
    riding, plain = both_ways(variance, monkeypatch, tmp_path, x)
    want = x.astype(np.float64).var(-1)
    np.testing.assert_allclose(riding, plain, rtol=2e-3)
    assert np.abs(riding / want - 1).max() <= 1.5 * np.abs(plain / want - 1).max()


# Programs as people write them, with their gradients -------------------------------------------------------------------


def scores_and_values(x, v):
    return gradc.softmax(x) @ v


def guarded_values(x, v):
    m = top(x)
    return gradc.exp(x - gradc.where(gradc.isfinite(m), m, 0.0)) @ v


MODELS = {
    "softmax": (lambda x: gradc.softmax(x), lambda x: x.softmax(-1), [(5, 70)]),
    "layer norm": (
        lambda x, w, b: gradc.nn.layer_norm(x, (70,), w, b),
        lambda x, w, b: torch.nn.functional.layer_norm(x, (70,), w, b),
        [(5, 70), (70,), (70,)],
    ),
    "softmax times a matrix": (scores_and_values, lambda x, v: x.softmax(-1) @ v, [(20, 70), (70, 18)]),
    "over two axes": (
        lambda x: gradc.var(x, axis=(1, 2)),
        lambda x: x.var((1, 2), correction=0),
        [(4, 7, 11)],
    ),
    "columns": (lambda x: gradc.softmax(x, axis=0), lambda x: x.softmax(0), [(70, 5)]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_models(name, dtype, monkeypatch, tmp_path):
    function, reference, shapes = MODELS[name]
    force_loops(monkeypatch, tmp_path)
    check(function, reference, *(tensor(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)), factor=32)


def test_a_product_rides_along():
    low = lowered(scores_and_values, (16384, 4096), (4096, 64), dtype=types.bfloat16)
    (kernel,) = low.kernels
    assert kernel.source.count("for ") == 1
    assert "product * tl.exp(" in kernel.source


def capped_attention(q, k, v):
    return gradc.softmax(gradc.tanh(q @ k.mT / 4) * 4) @ v


def partly_masked_attention(q, k, v):
    """Some queries see nothing until the last keys."""
    scores = q @ k.mT * 0.125
    seen = gradc.arange(80) > 70 - 90 * gradc.expand_dims(gradc.arange(80) % 3, 1)
    return gradc.softmax(gradc.where(seen, scores, -INF)) @ v


ATTENTION = {
    attention: lambda q, k, v: (q @ k.mT * 0.125).softmax(-1) @ v,
    masked_attention: lambda q, k, v: ((q @ k.mT * 0.125).masked_fill(~torch.ones(80, 80).tril().bool(), -INF)).softmax(-1) @ v,
    capped_attention: lambda q, k, v: ((q @ k.mT / 4).tanh() * 4).softmax(-1) @ v,
    partly_masked_attention: lambda q, k, v: (
        ((q @ k.mT * 0.125).masked_fill(torch.arange(80) <= 70 - 90 * (torch.arange(80) % 3)[:, None], -INF)).softmax(-1) @ v
    ),
}


@pytest.mark.parametrize("function", ATTENTION, ids=lambda f: f.__name__)
def test_products_of_products_ride_along(function):
    shapes = [(2, 80, 16)] * 3
    low = lowered(function, *shapes)
    assert len(low.kernels) == 1
    assert "contract rides along with max" in low.explain()
    check(function, ATTENTION[function], *(tensor(*shape, seed=i) for i, shape in enumerate(shapes)), factor=32)


def test_queries_that_see_nothing():
    """They give NaN, as the plain formula does, and the others nothing of it."""
    seen = torch.arange(80) > torch.where(torch.arange(80) % 7 == 5, 90, 40)[:, None]

    def masked(q, k, v, seen):
        return gradc.softmax(gradc.where(seen, q @ k.mT * 0.125, -INF)) @ v

    def reference(q, k, v, seen):
        return (q @ k.mT * 0.125).masked_fill(~seen, -INF).softmax(-1) @ v

    check(masked, reference, *(tensor(2, 80, 16, seed=i) for i in range(3)), seen, wrt=())


@pytest.mark.parametrize("function", [scores_and_values, guarded_values])
def test_a_product_of_rows_of_every_kind(function, monkeypatch, tmp_path):
    x, v = rows(70), np.random.default_rng(0).standard_normal((70, 18)).astype(np.float32)
    riding, plain = both_ways(function, monkeypatch, tmp_path, x, v)
    reference = np_softmax(x.astype(np.float64)) if function is scores_and_values else guarded_weights(x.astype(np.float64))
    agree(riding, reference @ v.astype(np.float64), plain)


def guarded_weights(x):
    m = x.max(-1, keepdims=True)
    return np.exp(x - np.where(np.isfinite(m), m, 0.0))


def over_rows_too(x, lib):
    """Sums of all of an array, whose rows have states of their own."""
    along = {"axis": -1, "keepdims": True} if lib is gradc else {"dim": -1, "keepdim": True}
    r = lib.rsqrt(lib.mean(x * x, **along) + 0.05)
    largest = lib.max(x, **along) if lib is gradc else lib.amax(x, **along)
    deviation = x - lib.mean(x, **along)
    return lib.sum(x * r * lib.sin(x)), lib.sum(lib.exp(x - largest)), lib.sum(deviation * deviation)


@pytest.mark.parametrize("shape", [(2, 18), (3, 50), (5, 200), (2, 3, 50)], ids=str)
def test_a_sum_does_not_ride_along_with_states_it_sums_over(shape, monkeypatch, tmp_path):
    """One accumulator cannot be moved by a factor for each row."""
    force_loops(monkeypatch, tmp_path)
    x = tensor(*shape)
    for place in range(3):
        check(
            lambda x: over_rows_too(x, gradc)[place],  # noqa: B023
            lambda x: over_rows_too(x, torch)[place],  # noqa: B023
            x,
            factor=64,
        )


def test_a_loop_from_the_last_tile_to_the_first(monkeypatch, tmp_path):
    """The gradient of a running sum goes backwards; a variance in the same pass counts what each tile has."""

    def both(x, y):
        _, pull = gradc.vjp(lambda z: gradc.cumsum(z, axis=-1), x)
        return pull(y)[0], gradc.var(y, axis=-1)

    x, y = (np.random.default_rng(i).standard_normal((5, 70)).astype(np.float32) for i in range(2))
    force_loops(monkeypatch, tmp_path)
    low = lowered(both, (5, 70), (5, 70))
    assert any("tl.cdiv" in kernel.source and "_by * " in kernel.source for kernel in low.kernels)
    backwards, variances = gradc.compile(backend="interpret")(both)(x, y)
    np.testing.assert_allclose(backwards, y[:, ::-1].astype(np.float64).cumsum(-1)[:, ::-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variances, y.astype(np.float64).var(-1), rtol=1e-5)


# What is decided -------------------------------------------------------------------------------------------------------


def lowered(function, *shapes, dtype=types.float32):
    return gradc.compile(function).lower(*(gradc.spec(shape, dtype) for shape in shapes), wrt=(), device=LARGE_PRODUCTS)


@pytest.mark.parametrize("name", CASES)
def test_passes(name):
    low = lowered(CASES[name][0], (1024, 65536))
    (kernel,) = low.kernels
    assert kernel.source.count("for ") == CASES[name][2]
    assert {buffer.name: buffer.bytes for buffer in kernel.reads} == {"x": CASES[name][2] * 1024 * 65536 * 4}


def test_the_proof_stands_beside_the_repair():
    source = lowered(lambda x: gradc.logsumexp(x, axis=-1), (1024, 65536)).source
    assert "# exp(x - max') = exp(max - max')·exp(x - max)   rank 1\n" in source
    assert "sum_ = sum_ * tl.exp(max_at - max_next) + tl.sum(" in source


def test_nothing_rides_where_a_row_is_resident():
    low = lowered(lambda x: gradc.softmax(x), (1024, 4096))
    assert "for " not in low.kernels[0].source
    assert "rides along" not in low.explain()


def test_what_is_told():
    assert "sum rides along with max: one pass less" in lowered(CASES["logsumexp"][0], (1024, 65536)).explain()
    assert "took another pass: the rank over 8 samples" in lowered(CASES["no cascade"][0], (1024, 65536)).explain()


def test_without_recipes_nothing_rides():
    _, graph = program_of(CASES["logsumexp"][0], (gradc.spec((1024, 65536), types.float32),), {})
    sources = [lower_graph(graph, recipes=recipes).source for recipes in (KNOWN, None)]
    assert [source.count("for column_start") for source in sources] == [1, 2]


def seen_from(x, y):
    """Exponentials of one row seen from the maximum of another: far below it nothing may be lost, far above all overflows."""
    return gradc.sum(gradc.tanh(x) * gradc.exp(y - top(x)), axis=-1)


def distances(x):
    return gradc.sum((x - top(x)) ** 2, axis=-1)


def around_the_mean(x):
    return gradc.sum(gradc.exp(x - mean(x)), axis=-1)


def rounded(x):
    m = top(x)
    return gradc.sum(gradc.astype(gradc.astype(gradc.exp(x - m), types.bfloat16), types.float32), axis=-1)


def kinked(x):
    return gradc.sum(gradc.where(x - mean(x) > 0, x, 0.0), axis=-1)


def product_of_ratios(x):
    return gradc.prod(x / top(x), axis=-1)


def weighted(x, w):
    return gradc.sum(w * (x - mean(x)) ** 2, axis=-1)


REFUSED = {
    seen_from: "does not vanish",
    distances: "does not vanish",
    around_the_mean: "the repair overflows",
    rounded: "a cast of what is still moving",
    kinked: "the condition greater",
    product_of_ratios: "the prod of what is still moving",
    weighted: "w may be infinite where the states are not",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda f: f.__name__)
def test_what_floats_forbid_is_refused(function, monkeypatch, tmp_path):
    count = function.__code__.co_argcount
    assert REFUSED[function] in lowered(function, *[(1024, 65536)] * count).explain()
    arrays = [rows(70)[i:] for i in range(count)]
    arrays = [x[: len(arrays[-1])] for x in arrays]
    riding, plain = both_ways(function, monkeypatch, tmp_path, *arrays)
    np.testing.assert_array_equal(riding, plain)


# Recipes -----------------------------------------------------------------------------------------------------------------


def test_the_shipped_recipes_are_those_that_are_derived():
    """Otherwise: python tests/recipe_forms.py, and read the difference."""
    assert FILE.read_text(encoding="utf-8") == to_file(forms_met())


def test_ordinary_programs_take_no_sympy():
    code = (
        "import sys, gradc; from gradc import types;"
        "low = gradc.compile(lambda x: gradc.softmax(x)).lower(gradc.spec((1024, 65536), types.float32));"
        "assert 'rides along' in low.explain(); print('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


NEW = json.dumps(["multiply", ["exp", ["subtract", "x0", "d0"]], ["cos", "x1"]])


def test_a_new_recipe_is_kept_on_disk(monkeypatch, tmp_path):
    store = DiskCache(tmp_path / "recipes")
    found = Recipes(store, "one compiler").of(NEW)
    assert isinstance(found, Recipe)
    asked = []
    monkeypatch.setattr(recipes_module, "derived", lambda form: asked.append(form) or Refusal("derived again"))
    assert Recipes(store, "one compiler").of(NEW) == found
    assert asked == []
    assert Recipes(store, "another").of(NEW) == Refusal("derived again")
    assert Recipes().of(NEW) == Refusal("derived again")


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"basis": 1}', '{"reason": "x", '])
def test_a_damaged_recipe_is_derived_again(text):
    assert from_json(text) is None


@pytest.mark.parametrize(
    "form", [NEW, '["sigmoid", ["subtract", "x0", "d0"]]', '["where", "x1", ["exp", ["subtract", "x0", "d0"]], 0.0]']
)
def test_recipes_survive_json(form):
    assert from_json(to_json(derived(form))) == derived(form)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["softmax", "cross entropy", "variance"])
def test_builds_without_spills(case):
    if case == "cross entropy":
        low = gradc.compile(gradc.nn.cross_entropy).lower(
            gradc.spec((8192, 262144), types.bfloat16), gradc.spec((8192,), types.int64), wrt=()
        )
        assert low.cost.bytes < 1.01 * 8192 * 262144 * 2
    else:
        low = lowered(CASES[case][0], (16384, 131072), dtype=types.bfloat16)
        assert low.cost.bytes < 1.01 * 16384 * 131072 * 2 * {"softmax": 3, "variance": 1}[case]
    assert all(binary.spills == 0 for binary in low.build("sm_90"))
