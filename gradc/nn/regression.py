"""Losses of numbers against numbers, and margins."""

from __future__ import annotations

import math
from typing import Any

from gradc import language as g
from gradc.errors import ShapeError
from gradc.ir import Value
from gradc.language.arguments import floating, value_of
from gradc.language.calls import array_function
from gradc.nn.reduction import reduce_loss


def weighted(loss: Value, weight: Any) -> Value:
    return loss if weight is None else loss * value_of(weight)


def reduce_weighted(loss: Value, weight: Any, reduction: str) -> Value:
    """The reduction of weighted losses, whose mean is divided by the sum of the weights."""
    if weight is None or reduction != "mean":
        return reduce_loss(weighted(loss, weight), reduction)
    return g.sum(weighted(loss, weight)) / g.sum(g.broadcast_to(weight, loss.shape))


@array_function
def mse_loss(input: Any, target: Any, reduction: str = "mean", weight: Any = None) -> Value:
    """(x - y)²."""
    difference = floating(input) - floating(target)
    return reduce_weighted(difference * difference, weight, reduction)


@array_function
def l1_loss(input: Any, target: Any, reduction: str = "mean", weight: Any = None) -> Value:
    """|x - y|, with slope 0 where they are equal."""
    return reduce_weighted(g.abs(floating(input) - floating(target)), weight, reduction)


@array_function
def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Value:
    """(x - y)² / (2 beta) within beta, |x - y| - beta / 2 beyond."""
    if beta == 0:
        return l1_loss(input, target, reduction)
    difference = floating(input) - floating(target)
    distance = g.abs(difference)
    return reduce_loss(g.where(distance < beta, difference * difference * (0.5 / beta), distance - 0.5 * beta), reduction)


@array_function
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Value:
    """(x - y)² / 2 within delta, delta * (|x - y| - delta / 2) beyond."""
    difference = floating(input) - floating(target)
    distance = g.abs(difference)
    loss = g.where(distance <= delta, 0.5 * difference * difference, delta * (distance - 0.5 * delta))
    return reduce_weighted(loss, weight, reduction)


@array_function
def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Value:
    """(log(var) + (x - y)² / var) / 2, with var at least eps (no derivative below), and log(2π) / 2 more when `full`."""
    x, y = floating(input), floating(target)
    var = floating(var)
    if var.ndim == x.ndim - 1 and var.shape == x.shape[:-1]:
        var = g.expand_dims(var, axis=-1)
    var = var + g.stop_gradient(g.where(var < eps, eps - var, 0.0))
    loss = 0.5 * (g.log(var) + (x - y) * (x - y) / var)
    return reduce_loss(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


@array_function
def poisson_nll_loss(
    input: Any, target: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Value:
    """exp(x) - y x for a logarithmic input, x - y log(x + eps) otherwise; `full` adds Stirling's approximation of log(y!)."""
    x, y = floating(input), floating(target)
    loss = g.exp(x) - y * x if log_input else x - y * g.log(x + eps)
    if full:
        stirling = y * g.log(y) - y + 0.5 * g.log(2 * math.pi * y)
        loss = loss + g.where(y > 1, stirling, 0.0)
    return reduce_loss(loss, reduction)


@array_function
def margin_ranking_loss(input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Value:
    """max(0, -y (x1 - x2) + margin), for y of 1 or -1."""
    loss = margin - value_of(target) * (floating(input1) - floating(input2))
    return reduce_loss(g.where(loss < 0, 0.0, loss), reduction)


@array_function
def hinge_embedding_loss(input: Any, target: Any, margin: float = 1.0, reduction: str = "mean") -> Value:
    """x where y is 1, max(0, margin - x) where y is -1; for any other y, as in PyTorch, the sum of both."""
    x, y = floating(input), value_of(target)
    gap = margin - x
    return reduce_loss(g.where(y != -1, x, 0.0) + g.where(y != 1, g.where(gap < 0, 0.0, gap), 0.0), reduction)


def same_shape(input: Value, target: Value) -> None:
    """Raises ShapeError unless the shapes are equal, as the losses of probabilities ask."""
    if input.shape != target.shape:
        raise ShapeError(f"the target's shape {target.shape} is not the input's, {input.shape}")
