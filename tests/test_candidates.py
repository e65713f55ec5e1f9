"""The plans worth timing for a kernel: few, different, interchangeable, likely ones, the chosen one first; they compute the same."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import gradc  # noqa: E402
from gradc.codegen import schedule  # noqa: E402
from gradc.codegen.candidates import HOPELESS, MOST, candidates  # noqa: E402
from gradc.codegen.device import H200  # noqa: E402
from tests.kernels import LARGE_PRODUCTS, check, tensor  # noqa: E402


def rms_norm(x, w):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w


def normalised(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w


PROGRAMS = {
    "rows": (rms_norm, [(8192, 4096), (4096,)]),
    "long rows": (lambda x: gradc.softmax(x, axis=-1), [(512, 200_000)]),
    "elementwise": (lambda x, y: gradc.exp(x) * y, [(8192, 4096)] * 2),
    "sum over rows": (lambda x: gradc.sum(x, axis=0), [(65536, 1024)]),
    "rows shared out": (lambda x: gradc.logsumexp(x, axis=-1), [(4, 1_000_000)]),
    "product shared out": (lambda x, w: x @ w, [(64, 65536), (65536, 64)]),
    "product": (lambda x, w: gradc.tanh(x @ w), [(4096, 1024), (1024, 4096)]),
}


def kernels_of(function, shapes, dtype="bfloat16"):
    low = gradc.compile(function).lower(*(gradc.spec(shape, dtype) for shape in shapes))
    return [(sequence, kernel) for sequence in low.program.sequences for kernel in sequence.scheduled]


def shape_of(plan):
    return tuple((axis.name, axis.role, axis.block, axis.programs) for axis in plan.axes), plan.warps, plan.pipeline


@pytest.mark.parametrize("name", PROGRAMS)
def test_few_different_plans_the_chosen_one_first(name):
    for sequence, kernel in kernels_of(*PROGRAMS[name]):
        found = candidates(kernel.plan, frozenset(sequence.graph.outputs), H200)
        assert found[0] is kernel.plan
        assert (1 if kernel.parts else 2) <= len(found) <= MOST, "kernels launched together are as they are"
        assert len({shape_of(plan) for plan in found}) == len(found)
        seconds = [plan.seconds for plan in found[1:]]
        assert seconds == sorted(seconds)
        assert max(seconds, default=0) <= HOPELESS * kernel.plan.seconds


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_plan_leaves_the_same_arrays(name):
    for sequence, kernel in kernels_of(*PROGRAMS[name]):
        for plan in candidates(kernel.plan, frozenset(sequence.graph.outputs), H200):
            assert set(plan.stored) == set(kernel.plan.stored)
            assert [axis.programs for axis in plan.axes if axis.role == "split"] == [
                axis.programs for axis in kernel.plan.axes if axis.role == "split"
            ]


def test_the_tiles_and_warps_of_a_product_are_varied():
    ((sequence, kernel), *_) = kernels_of(*PROGRAMS["product"])
    found = candidates(kernel.plan, frozenset(sequence.graph.outputs), H200)
    tiles = {tuple(axis.block for axis in plan.axes) for plan in found}
    assert len(tiles) >= 4
    assert len({plan.warps for plan in found}) >= 2
    assert len({plan.pipeline for plan in found}) >= 3


@pytest.mark.triton
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_other_plans_compute_the_same(rank, monkeypatch, tmp_path):
    """Every kernel by its candidate of that rank, run by Triton's interpreter against PyTorch in float64."""
    merged, used = schedule.merged_plans, set()

    def another(stages, state, done, device):
        for plan, apart in merged(stages, state, done, device):
            found = candidates(plan, frozenset(state.graph.outputs), device)
            other = found[min(rank, len(found) - 1)]
            used.add(shape_of(other) != shape_of(plan))
            yield other, apart

    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(schedule, "merged_plans", another)
    check(rms_norm, normalised, tensor(37, 41), tensor(41, seed=1))
    check(
        lambda x, w: gradc.tanh(x @ w),
        lambda x, w: torch.tanh(x @ w),
        tensor(37, 35),
        tensor(35, 33, seed=1),
        factor=64.0,
        device=LARGE_PRODUCTS,
    )
    assert used == {True} or used == {True, False}
