"""Optimisers as pairs of functions on pytrees, in the manner of Optax: `init(params)` and `update(grads, state, params)`.

    optimiser = gradc.optim.adamw(3e-4)
    state = optimiser.init(params)
    updates, state = optimiser.update(grads, state, params)
    params = gradc.optim.apply_updates(params, updates)

`update` returns new arrays and is ordinary gradc code: compile it with the rest of a training step, or call it as it is.
Statistics of 16-bit parameters are kept in float32, in which small changes are not lost. Nothing here knows a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import optree

from gradc import language as g
from gradc.absent import missing
from gradc.ir import Value
from gradc.language.arguments import value_of
from gradc.language.calls import array_function
from gradc.language.reductions import root
from gradc.leaves import cast, constant
from gradc.types import int32

Schedule = Callable[[Any], Any]


class Optimizer(NamedTuple):
    """`init(params)` makes the state; `update(grads, state, params)` gives the updates to add, and the next state."""

    init: Callable[..., Any]
    update: Callable[..., Any]


def optimizer(init: Callable, update: Callable) -> Optimizer:
    """A pair of functions that work on Values, made to work on arrays too."""
    return Optimizer(array_function(init), array_function(update))


@array_function
def apply_updates(params: Any, updates: Any) -> Any:
    """params + updates, in the parameters' own dtypes."""
    return optree.tree_map(lambda p, u: cast(value_of(p) + u, value_of(p).dtype), params, updates)


def chain(*parts: Optimizer) -> Optimizer:
    """Each part's updates are the gradients of the next."""

    def init(params: Any) -> tuple:
        return tuple(part.init(params) for part in parts)

    def update(grads: Any, state: tuple, params: Any = None) -> tuple:
        states = []
        for part, own in zip(parts, state, strict=True):
            grads, own = part.update(grads, own, params)
            states.append(own)
        return grads, tuple(states)

    return optimizer(init, update)


def sgd(learning_rate: float | Schedule, momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    """Steps of -learning_rate * g, or with momentum of -learning_rate * m, where m = g + momentum * m."""
    step = scale_by_learning_rate(learning_rate)
    return chain(trace(momentum, nesterov), step) if momentum else step


def adagrad(learning_rate: float | Schedule, initial_accumulator_value: float = 0.1, eps: float = 1e-7) -> Optimizer:
    """Steps of -learning_rate * g / √(Σ g² + eps) (Duchi, Hazan, Singer 2011, https://jmlr.org/papers/v12/duchi11a.html)."""

    def init(params: Any) -> Any:
        return optree.tree_map(lambda p: zeros(p) + initial_accumulator_value, params)

    def update(grads: Any, total: Any, params: Any = None) -> tuple:
        total = optree.tree_map(lambda s, x: s + square(x), total, grads)
        return optree.tree_map(lambda x, s: g.where(s > 0, x * g.rsqrt(s + eps), 0.0), grads, total), total

    return chain(optimizer(init, update), scale_by_learning_rate(learning_rate))


def rmsprop(
    learning_rate: float | Schedule,
    decay: float = 0.9,
    eps: float = 1e-8,
    centered: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """Steps of -learning_rate * g / √(s + eps), with s the running mean of g² (of its variance if `centered`).

    Tieleman, Hinton 2012, Coursera lecture 6.5; centred: Graves 2013, https://arxiv.org/abs/1308.0850.
    """

    def init(params: Any) -> tuple:
        return optree.tree_map(zeros, params), optree.tree_map(zeros, params) if centered else ()

    def update(grads: Any, state: tuple, params: Any = None) -> tuple:
        squares = optree.tree_map(lambda s, x: decay * s + (1 - decay) * square(x), state[0], grads)
        if not centered:
            return optree.tree_map(lambda x, s: x * g.rsqrt(s + eps), grads, squares), (squares, ())
        means = optree.tree_map(lambda m, x: decay * m + (1 - decay) * x, state[1], grads)
        return optree.tree_map(lambda x, s, m: x * g.rsqrt(s - m * m + eps), grads, squares, means), (squares, means)

    parts = [optimizer(init, update), scale_by_learning_rate(learning_rate)]
    return chain(*parts, trace(momentum, nesterov)) if momentum else chain(*parts)


def adam(learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Steps of -learning_rate * m / (√v + eps), m and v the bias-corrected running means of g and g².

    Kingma, Ba 2015, https://arxiv.org/abs/1412.6980.
    """
    return chain(scale_by_adam(b1, b2, eps), scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-4
) -> Optimizer:
    """adam with -learning_rate * weight_decay * p added to the step (Loshchilov, Hutter 2019, https://arxiv.org/abs/1711.05101)."""
    return chain(scale_by_adam(b1, b2, eps), add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate))


class Moments(NamedTuple):
    """The state of adam: how many steps were taken (int32), and the running means of g and g²."""

    count: Any
    mean: Any
    square: Any


def scale_by_adam(b1: float, b2: float, eps: float) -> Optimizer:
    """g becomes m / (√v + eps)."""

    def init(params: Any) -> Moments:
        return Moments(first_step(params), optree.tree_map(zeros, params), optree.tree_map(zeros, params))

    def update(grads: Any, state: Moments, params: Any = None) -> tuple:
        count = value_of(state.count) + 1
        mean = optree.tree_map(lambda m, x: b1 * m + (1 - b1) * x, state.mean, grads)
        squares = optree.tree_map(lambda v, x: b2 * v + (1 - b2) * square(x), state.square, grads)
        seen1, seen2 = seen_weight(b1, count), seen_weight(b2, count)
        steps = optree.tree_map(lambda m, v: (m / seen1) / (g.sqrt(v / seen2) + eps), mean, squares)
        return steps, Moments(count, mean, squares)

    return optimizer(init, update)


def seen_weight(decay: float, count: Any) -> Any:
    """1 - decay^count, the weight that a running mean started at 0 has given to what it saw; exact for small counts too."""
    return -g.expm1(cast_to_float(count) * math.log(decay)) if decay else 1.0


def add_decayed_weights(weight_decay: float) -> Optimizer:
    """g becomes g + weight_decay * p."""
    return stateless(lambda grads, params: optree.tree_map(lambda x, p: x + weight_decay * value_of(p), grads, params))


def trace(decay: float, nesterov: bool = False) -> Optimizer:
    """g becomes m = g + decay * m, or g + decay * m with Nesterov's look ahead."""

    def update(grads: Any, state: Any, params: Any = None) -> tuple:
        state = optree.tree_map(lambda m, x: x + decay * m, state, grads)
        return optree.tree_map(lambda m, x: x + decay * m, state, grads) if nesterov else state, state

    return optimizer(lambda params: optree.tree_map(zeros, params), update)


def scale_by_learning_rate(learning_rate: float | Schedule) -> Optimizer:
    """g becomes -learning_rate * g; a schedule is asked with the number of steps taken before."""
    if not callable(learning_rate):
        return stateless(lambda grads, params: optree.tree_map(lambda x: -learning_rate * value_of(x), grads))

    def update(grads: Any, count: Any, params: Any = None) -> tuple:
        rate = learning_rate(value_of(count))
        return optree.tree_map(lambda x: -rate * value_of(x), grads), value_of(count) + 1

    return optimizer(first_step, update)


def clip_by_global_norm(max_norm: float) -> Optimizer:
    """All gradients scaled alike, so that their norm together is at most max_norm."""

    def clip(grads: Any, params: Any) -> Any:
        norm = global_norm(grads)
        factor = g.where(norm > max_norm, max_norm / norm, 1.0)
        return optree.tree_map(lambda x: value_of(x) * g.astype(factor, value_of(x).dtype.compute), grads)

    return stateless(clip)


def clip_by_value(max_value: float) -> Optimizer:
    """Each element limited to -max_value..max_value."""
    return stateless(lambda grads, params: optree.tree_map(lambda x: g.clip(x, -max_value, max_value), grads))


@array_function
def global_norm(tree: Any) -> Value:
    """The square root of the sum of all squares in a pytree; squares of 16-bit floats are summed in float32."""
    total: Any = 0.0
    for leaf in optree.tree_leaves(tree):
        total = total + g.sum(square(leaf))
    return root(value_of(total))


def stateless(change: Callable[[Any, Any], Any]) -> Optimizer:
    """An Optimizer without state, from a function of the gradients and the parameters."""
    return optimizer(lambda params: (), lambda grads, state, params=None: (change(grads, params), state))


def zeros(p: Any) -> Value:
    """Zeros like a parameter, in the dtype its arithmetic runs in."""
    value = value_of(p)
    return constant(0, value.dtype.compute, value.shape)


def square(x: Any) -> Value:
    """x² in the dtype that arithmetic on x runs in."""
    value = value_of(x)
    wide = cast(value, value.dtype.compute)
    return wide * wide


@array_function
def first_step(params: Any) -> Value:
    """The number of steps taken at the start: 0, an array of the parameters' kind."""
    return constant(0, int32)


def cast_to_float(count: Any) -> Value:
    return g.astype(count, "float32")


def constant_schedule(value: float) -> Schedule:
    """The same value at every step."""
    return lambda count: value


def linear_schedule(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> Schedule:
    """From init_value to end_value in a straight line over transition_steps."""
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def polynomial_schedule(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """end_value + (init_value - end_value) * (1 - t)^power, with t from 0 to 1 over transition_steps."""

    @array_function
    def schedule(count: Any) -> Value:
        left = 1 - g.clip((cast_to_float(count) - transition_begin) / transition_steps, 0, 1)
        return (init_value - end_value) * left**power + end_value

    return schedule


def exponential_decay(init_value: float, transition_steps: int, decay_rate: float, staircase: bool = False) -> Schedule:
    """init_value * decay_rate^(count / transition_steps), in whole steps if `staircase`."""

    @array_function
    def schedule(count: Any) -> Value:
        steps = cast_to_float(count) / transition_steps
        return init_value * g.pow(decay_rate, g.floor(steps) if staircase else steps)

    return schedule


def cosine_decay_schedule(init_value: float, decay_steps: int, alpha: float = 0.0) -> Schedule:
    """From init_value to alpha * init_value along half a cosine (Loshchilov, Hutter 2017, https://arxiv.org/abs/1608.03983)."""

    @array_function
    def schedule(count: Any) -> Value:
        way = g.clip(cast_to_float(count) / decay_steps, 0, 1)
        return init_value * ((1 - alpha) * 0.5 * (1 + g.cos(math.pi * way)) + alpha)

    return schedule


def warmup_cosine_decay_schedule(
    init_value: float, peak_value: float, warmup_steps: int, decay_steps: int, end_value: float = 0.0
) -> Schedule:
    """A straight line up to peak_value at warmup_steps, then a cosine down to end_value at decay_steps (counted from 0)."""
    rise = linear_schedule(init_value, peak_value, warmup_steps)
    fall = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, end_value / peak_value)

    @array_function
    def schedule(count: Any) -> Value:
        count = value_of(count)
        return g.where(count < warmup_steps, rise(count), fall(count - warmup_steps))

    return schedule


def __getattr__(name: str) -> NoReturn:
    raise missing("gradc.optim", name, [other for other, x in globals().items() if getattr(x, "__module__", "") == __name__])
