"""gradc.optim against torch.optim and, for schedules, against the formulas."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from gradc import optim
from gradc.interpret import evaluate
from gradc.language.calls import leaves
from gradc.trace import trace

torch = pytest.importorskip("torch")


def params():
    generator = np.random.default_rng(0)
    return {"w": generator.standard_normal((3, 4)), "layers": [{"b": generator.standard_normal(4)}]}


def gradient(p):
    """Of the sum of fourth powers."""
    return {"w": 4 * p["w"] ** 3, "layers": [{"b": 4 * p["layers"][0]["b"] ** 3}]}


PAIRS = [
    (optim.sgd(0.01), lambda p: torch.optim.SGD(p, 0.01)),
    (optim.sgd(0.01, momentum=0.9), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    (optim.sgd(0.01, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True)),
    (optim.adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    (optim.adam(0.01, 0.0, 0.99, 1e-6), lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.99), 1e-6)),
    (optim.adamw(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    (optim.rmsprop(0.01, 0.9, 0.0), lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 0.0)),
    (optim.rmsprop(0.01, 0.9, 0.0, centered=True), lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 0.0, centered=True)),
    (optim.adagrad(0.01, 0.1, 0.0), lambda p: torch.optim.Adagrad(p, 0.01, initial_accumulator_value=0.1, eps=0.0)),
]


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_like_torch(number):
    ours, theirs = PAIRS[number]
    p = params()
    tensors = [torch.from_numpy(p["w"].copy()).requires_grad_(), torch.from_numpy(p["layers"][0]["b"].copy()).requires_grad_()]
    reference, state = theirs(tensors), ours.init(p)
    for _ in range(4):
        reference.zero_grad()
        sum((x**4).sum() for x in tensors).backward()
        reference.step()
        updates, state = ours.update(gradient(p), state, p)
        p = optim.apply_updates(p, updates)
    # the bias corrections are float32
    np.testing.assert_allclose(p["w"], tensors[0].detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(p["layers"][0]["b"], tensors[1].detach().numpy(), rtol=1e-6)


def test_clipping():
    tree = params()
    norm = math.sqrt(sum((x**2).sum() for x in (tree["w"], tree["layers"][0]["b"])))
    assert math.isclose(float(optim.global_norm(tree)), norm)
    for limit in (1.0, 100.0):
        clipped, _ = optim.clip_by_global_norm(limit).update(tree, ())
        np.testing.assert_allclose(clipped["w"], tree["w"] * min(1, limit / norm))
    clipped, _ = optim.clip_by_value(0.5).update(tree, ())
    np.testing.assert_allclose(clipped["w"], np.clip(tree["w"], -0.5, 0.5))
    zero, _ = optim.clip_by_global_norm(1.0).update({"x": np.zeros(3)}, ())
    assert not zero["x"].any()
    both = optim.chain(optim.clip_by_value(0.5), optim.sgd(2.0))
    np.testing.assert_allclose(both.update(tree, both.init(tree))[0]["w"], -2 * np.clip(tree["w"], -0.5, 0.5))


def test_one_program_for_every_step():
    optimiser = optim.adam(optim.linear_schedule(1.0, 0.0, 4))
    p = params()
    state = optimiser.init(p)
    traced = trace(optimiser.update, (gradient(p), state, p))
    for step in range(5):
        arrays = leaves(gradient(p), state, p)
        updates, after = traced.results(evaluate(traced.graph, arrays))
        again, state = optimiser.update(gradient(p), state, p)
        np.testing.assert_allclose(updates["w"], again["w"])
        assert int(state[0].count) == step + 1 == int(after[0].count)
        p = optim.apply_updates(p, again)
    assert not updates["w"].any()


def test_sixteen_bit_parameters():
    p = {"w": np.ones(3, ml_dtypes.bfloat16)}
    optimiser = optim.adam(0.5)
    state = optimiser.init(p)
    assert state[0].mean["w"].dtype == np.float32
    updates, state = optimiser.update({"w": p["w"]}, state, p)
    assert state[0].square["w"].dtype == np.float32
    new = optim.apply_updates(p, updates)["w"]
    assert new.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(new.astype(np.float32), 0.5, rtol=1e-2)


def test_torch_state():
    p = {"w": torch.ones(3)}
    optimiser = optim.adam(0.5)
    state = optimiser.init(p)
    assert isinstance(state[0].count, torch.Tensor)
    assert isinstance(optimiser.update(p, state, p)[0]["w"], torch.Tensor)


SCHEDULES = [
    (optim.linear_schedule(1.0, 0.2, 10, 2), lambda t: 1 - 0.8 * min(max(t - 2, 0) / 10, 1)),
    (optim.polynomial_schedule(1.0, 0.0, 2, 10), lambda t: (1 - min(t / 10, 1)) ** 2),
    (optim.exponential_decay(2.0, 5, 0.5), lambda t: 2 * 0.5 ** (t / 5)),
    (optim.exponential_decay(2.0, 5, 0.5, staircase=True), lambda t: 2 * 0.5 ** (t // 5)),
    (optim.cosine_decay_schedule(2.0, 10, 0.1), lambda t: 2 * (0.9 * 0.5 * (1 + math.cos(math.pi * min(t / 10, 1))) + 0.1)),
    (
        optim.warmup_cosine_decay_schedule(0.0, 1.0, 4, 12, 0.1),
        lambda t: t / 4 if t < 4 else 0.9 * 0.5 * (1 + math.cos(math.pi * min((t - 4) / 8, 1))) + 0.1,
    ),
]


@pytest.mark.parametrize("number", range(len(SCHEDULES)))
def test_schedules(number):
    ours, formula = SCHEDULES[number]
    for count in (0, 1, 3, 4, 5, 11, 12, 30):
        assert math.isclose(float(ours(np.int32(count))), formula(count), rel_tol=1e-5, abs_tol=1e-6)
        assert math.isclose(float(ours(count)), formula(count), rel_tol=1e-5, abs_tol=1e-6)
    assert optim.constant_schedule(0.5)(3) == 0.5
