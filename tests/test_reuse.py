"""Arrays written over: only where each element is read for what is written there, by one program, for the last time."""

from __future__ import annotations

import functools
import math
from typing import Any

import kernels
import pytest
import torch
from kernels import LARGE_PRODUCTS, force_loops, tensor

import gradc
from gradc.codegen import products, recomputed, schedule
from gradc.codegen.device import H200
from gradc.codegen.hosting import host
from gradc.codegen.hosting.reuse import written_over
from gradc.codegen.plan import Scheduled
from gradc.codegen.prepare import prepare
from gradc.codegen.schedule import computed_operands
from gradc.codegen.stages import State
from gradc.ir import Value
from gradc.runtime.compile import program_of

ROWS, WIDTH, COLUMNS = 256, 2048, 4096
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)


def scheduled(function: Any, columns: int = COLUMNS) -> tuple[list[Scheduled], dict[Value, Value]]:
    """The kernels of a function of x, w and v with the operands of its products stored, and what of them is written over."""
    shapes = ((ROWS, WIDTH), (columns, WIDTH), (columns, WIDTH))
    _, graph = program_of(function, tuple(gradc.spec(shape, "bfloat16") for shape in shapes), {})
    graph = prepare(graph)
    state = State(graph, graph.outputs, frozenset(), {}, written=computed_operands(graph))
    kernels = schedule._scheduled(state, H200)
    return kernels, written_over(kernels, frozenset(graph.outputs))


def weights(scores):
    return gradc.exp(scores - gradc.max(scores, axis=-1, keepdims=True)).astype("bfloat16")


def test_weights_are_written_over_their_scores():
    kernels, over = scheduled(lambda x, w, v: weights(x @ w.T) @ v)
    assert len(kernels) == 3
    (scores,), (exponentials,) = kernels[0].writes, kernels[1].writes
    assert over == {exponentials: scores}


def test_not_what_is_read_later():
    """The scores are multiplied once more by the last kernel."""

    def twice(x, w, v):
        scores = x @ w.T
        return weights(scores) @ v, (weights(scores) @ v).T @ scores

    kernels, over = scheduled(twice)
    assert kernels[0].writes[0] in kernels[-1].reads
    assert over == {}


def test_not_what_is_read_at_another_place():
    def shifted(x, w, v):
        scores = x @ w.T
        return weights(scores - scores[:, 7:8]) @ v

    kernels, over = scheduled(shifted)
    assert len(kernels) >= 3
    assert over == {}


def test_in_the_last_pass_of_a_loop():
    """A row too long for registers: its maximum takes a pass, the weights are written in the next one."""
    kernels, over = scheduled(lambda x, w, v: weights(x @ w.T) @ v, columns=2**18)
    assert [kernel.plan.passes for kernel in kernels[:2]] == [1, 2]
    (scores,), (exponentials,) = kernels[0].writes, kernels[1].writes
    assert over == {exponentials: scores}


def test_not_in_a_pass_before_the_last():
    """The second sum, which waits for the first, goes through the scores once more when the weights of the first are written."""

    def thrice(x, w, v):
        scores = x @ w.T
        shifted = scores - gradc.max(scores, axis=-1, keepdims=True)
        total = gradc.sum(gradc.tanh(shifted), axis=-1, keepdims=True)
        return gradc.exp(shifted).astype("bfloat16") @ v, gradc.sum(gradc.tanh(scores * total), axis=-1)

    kernels, over = scheduled(thrice, columns=2**18)
    assert max(kernel.plan.passes for kernel in kernels) > 1
    assert over == {}


def test_not_an_array_of_another_shape_or_width():
    _, over = scheduled(lambda x, w, v: weights((x @ w.T).astype("float32")).astype("float32") @ v.astype("float32"))
    assert over == {}


def test_two_are_not_written_over_one():
    def both(x, w, v):
        scores = x @ w.T
        return weights(scores) @ v, weights(-scores) @ v

    kernels, over = scheduled(both)
    assert len(over) == len(set(over.values())) <= 1, [kernel.writes for kernel in kernels]


def divergence(x, w, y, v):
    p, q = gradc.softmax(x @ w.T, axis=-1), gradc.softmax(y @ v.T, axis=-1)
    middle = gradc.log((p + q) / 2)
    return gradc.mean(gradc.sum(p * (gradc.log(p) - middle) + q * (gradc.log(q) - middle), axis=-1)) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loops", [False, True])
def test_gradients_through_arrays_written_over(loops, dtype, monkeypatch, tmp_path):
    """The operand of dx and that of dw are stored, each over one of the two products that it is made of."""
    if loops:
        force_loops(monkeypatch, tmp_path)
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "reused"))
    monkeypatch.setattr(host, "SMALLEST", 0)
    monkeypatch.setattr(host, "SHARE", 0.5)
    monkeypatch.setattr(host, "DEARER", math.inf)
    monkeypatch.setattr(recomputed, "RESIDENT_DEPTH", 0)
    monkeypatch.setattr(products, "WHOLE_ROWS", 0)
    monkeypatch.setattr(host, "_built", lambda loops, *rest: [tuple(host._Builder(*rest, True).build(loops))])
    monkeypatch.setattr(schedule, "_seconds", lambda kernels: -len(kernels))
    arrays = [tensor(n, 3, seed=i, dtype=dtype) for i, n in enumerate((23, 31, 23, 31))]
    low = gradc.compile(divergence).lower(*arrays, device=LARGE_PRODUCTS)
    chunked = [kernel for kernel in low.kernels if kernel.phase == "backward" and "host" in kernel.schedule]
    rows = [kernel for kernel in chunked if "tl.dot" not in kernel.source]
    over = [kernel for kernel in rows if {b.name for b in kernel.reads} & {b.name for b in kernel.writes}]
    assert over, low.explain()
    assert any("loop" in kernel.schedule for kernel in over) == loops

    def reference(x, w, y, v):
        p, q = (x @ w.T).softmax(-1), (y @ v.T).softmax(-1)
        middle = ((p + q) / 2).log()
        return (p * (p.log() - middle) + q * (q.log() - middle)).sum(-1).mean() / 2

    check(divergence, reference, *arrays)
