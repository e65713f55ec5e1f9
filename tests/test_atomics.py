"""Sums added up in memory where their order may be any: when that is allowed, when it is chosen, and that it is right."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import gradc  # noqa: E402
from gradc.codegen import roles, schedule  # noqa: E402
from gradc.codegen.scattered import is_scattered  # noqa: E402
from tests.kernels import check, close, force_loops, tensor  # noqa: E402

pytestmark = pytest.mark.triton

ANY_ORDER = {"deterministic": False}


def specs(*shapes, dtype="float32"):
    return [gradc.spec(shape, dtype) for shape in shapes]


def column_sums(x):
    return gradc.sum(gradc.exp(x), axis=0)


def rms_norm(x, w):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w


def rms_norm_in_torch(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w


def embedding(table, ids):
    return gradc.take(table, ids, axis=0)


def histogram(ids, x):
    return gradc.zeros((13, 3)).at[ids].add(x)


PROGRAMS = {
    "sums of columns": (column_sums, specs((65536, 1024))),
    "gradient of a weight": (rms_norm, specs((8192, 4096), (4096,))),
    "embedding": (embedding, [gradc.spec((50257, 768), "float32"), gradc.spec((8192,), "int64")]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_atomics_only_where_they_are_allowed(name):
    function, arguments = PROGRAMS[name]
    assert "atomic_add" not in gradc.compile(function).lower(*arguments).source
    low = gradc.compile(function).lower(*arguments, deterministic=False)
    assert "tl.atomic_add" in low.source
    assert "by atomics, in any order" in low.explain()
    assert "tl.atomic_add" in gradc.compile(function, **ANY_ORDER).lower(*arguments).source
    assert "atomic_add" not in gradc.compile(function, **ANY_ORDER).lower(*arguments, deterministic=True).source


@pytest.mark.parametrize("name", PROGRAMS)
def test_atomics_are_chosen_where_they_are_faster(name):
    function, arguments = PROGRAMS[name]
    in_order = gradc.compile(function).lower(*arguments)
    any_order = gradc.compile(function).lower(*arguments, deterministic=False)
    assert sum(k.seconds for k in any_order.kernels) < sum(k.seconds for k in in_order.kernels)
    assert any_order.source.count("torch.zeros(") == any_order.source.count("tl.atomic_add(")


def test_fills_count_as_launches_and_bytes():
    low = gradc.compile(column_sums).lower(*specs((65536, 1024)), wrt=(), **ANY_ORDER)
    assert low.cost.launches == 2
    assert low.cost.bytes == 4 * (65536 * 1024 + 2 * 1024)


def test_a_sum_that_is_rounded_or_used_needs_a_kernel_more_and_is_then_not_added_up():
    low = gradc.compile(lambda x: gradc.mean(x, axis=0)).lower(gradc.spec((65536, 1024), "bfloat16"), wrt=(), **ANY_ORDER)
    assert "atomic_add" not in low.source


@pytest.mark.parametrize("kind", ["max", "prod"])
def test_only_sums_are_added_up(kind):
    low = gradc.compile(lambda x: getattr(gradc, kind)(x, axis=0)).lower(*specs((65536, 1024)), wrt=(), **ANY_ORDER)
    assert "atomic_add" not in low.source


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_split_sums_are_right(dtype, monkeypatch, tmp_path):
    preferred(monkeypatch)
    force_loops(monkeypatch, tmp_path)
    check(
        lambda x: gradc.sum(gradc.exp(x), axis=0), lambda x: torch.exp(x).sum(0), tensor(70, 9, dtype=dtype), static=ANY_ORDER
    )
    check(lambda x: gradc.sum(x * x), lambda x: (x * x).sum(), tensor(41, 7, dtype=dtype), static=ANY_ORDER, factor=64.0)
    check(
        rms_norm, rms_norm_in_torch, tensor(37, 33, dtype=dtype), tensor(33, dtype=dtype, seed=1), static=ANY_ORDER, factor=64.0
    )


def test_split_sums_run_by_atomics(monkeypatch, tmp_path):
    preferred(monkeypatch)
    force_loops(monkeypatch, tmp_path)
    for function, arguments, wrt in ((column_sums, specs((70, 9)), ()), (rms_norm, specs((37, 33), (33,)), None)):
        assert "tl.atomic_add(" in gradc.compile(function).lower(*arguments, wrt=wrt, **ANY_ORDER).source


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ids", [(40,), (5, 8)])
def test_scattered_terms_are_right(dtype, ids, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path))
    preferred(monkeypatch)
    table, places = tensor(13, 5, dtype=dtype), tensor(*ids, dtype=torch.int64, low=-13, high=13)
    low = gradc.compile(embedding).lower(gradc.spec((13, 5), str(dtype)[6:]), gradc.spec(ids, "int64"), **ANY_ORDER)
    assert "tl.atomic_add(" in low.source
    check(embedding, lambda t, i: t[i], table, places, static=ANY_ORDER)


def test_a_histogram_leaves_out_what_lies_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path))
    preferred(monkeypatch)
    ids, x = tensor(200, dtype=torch.int32, low=-20, high=20), tensor(200, 3)
    got = gradc.compile(backend="interpret", **ANY_ORDER)(histogram)(ids, x)
    want = torch.zeros(13, 3, dtype=torch.float64)
    for place, row in zip(ids.tolist(), x.double(), strict=True):
        if -13 <= place < 13:
            want[place] += row
    close(got, want, "histogram")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8])
def test_the_derivative_of_scattered_additions_gathers(dtype):
    low = gradc.compile(histogram).lower(gradc.spec((100000,), str(dtype)[6:]), gradc.spec((100000, 3), "float32"))
    assert low.cost.backward.flops < 10 * 100000 * 3
    ids, x = torch.tensor([0, 5, -13, 13, 20, -14, 5], dtype=dtype), tensor(7, 3).requires_grad_()
    weights = tensor(13, 3, seed=1)
    got = torch.autograd.grad((gradc.compile(backend="interpret")(histogram)(ids, x) * weights).sum(), x)[0]
    want = torch.stack([weights[i] if -13 <= i < 13 else torch.zeros(3) for i in ids.tolist()])
    close(got, want.double(), "gradient")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_indices_of_a_dtype_shorter_than_the_axis(dtype):
    def longer(ids, x):
        return gradc.zeros((300,)).at[ids].add(x), gradc.take(gradc.zeros((300,)) + 2.0, ids)

    ids = torch.tensor([0, 5, 100], dtype=dtype)
    added, taken = gradc.compile(backend="interpret")(longer)(ids, torch.ones(3))
    assert torch.equal(added, torch.zeros(300).index_put((ids.long(),), torch.ones(3)))
    assert torch.equal(taken, torch.full((3,), 2.0))


def test_what_adds_in_any_order_builds():
    arguments = [gradc.spec((50257, 768), "bfloat16"), gradc.spec((8192,), "int64")]
    low = gradc.compile(embedding).lower(*arguments, **ANY_ORDER)
    assert any("red.global" in binary.ptx or "atom.global" in binary.ptx for binary in low.build("sm_90"))
    assert all(binary.spills == 0 for binary in low.build("sm_90"))


def preferred(monkeypatch):
    """Atomics wherever there is a plan with them, whatever they cost; terms that say whose they are are scattered."""
    plans = roles.plans

    def with_atomics(stages, setting):
        found = list(plans(stages, setting))
        adding = [plan for plan in found if plan.atomic]
        return [plan for plan in adding if any(is_scattered(stage, plan.axes) for stage in stages)] or adding or found

    monkeypatch.setattr(roles, "plans", with_atomics)
    monkeypatch.setattr(schedule, "_time", lambda device, kernels: -sum(len(kernel.zeroed) for kernel in kernels))
