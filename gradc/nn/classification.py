"""Losses of scores or probabilities against classes and distributions. Written over logits wherever that is stabler.

The score of the target class is read by comparing with the class numbers, not by a gather: it rides along with the pass
over the classes that the log-sum-exp makes, and its derivative is a comparison too.
"""

from __future__ import annotations

import math
from typing import Any

from gradc import language as g
from gradc import types
from gradc.errors import DTypeError, ShapeError
from gradc.ir import Value, apply
from gradc.language.arguments import floating, value_of
from gradc.language.calls import array_function
from gradc.language.creation import iota
from gradc.markers import Within, with_derivative_of
from gradc.nn.reduction import reduce_loss
from gradc.nn.regression import same_shape


@array_function
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """-log softmax(input)[target] over classes in dimension 1 (0 for one sample), or -Σ target log softmax(input).

    `input`: floating (C,), (N, C) or (N, C, ...). `target`: class numbers without the class dimension, or probabilities in the
    input's shape. The mean over class numbers is weighted, and counts no ignored ones. A class number out of range is a ShapeError;
    a kernel gives NaN for it, in the loss and in its derivative.
    """
    scores, target = floating(input), value_of(target)
    axis = class_axis(scores)
    peak = g.stop_gradient(g.max(scores, axis=axis, keepdims=True))
    shifted = scores - peak
    log_total = g.log(g.sum(g.exp(shifted), axis=axis))
    if target.dtype.is_floating:
        same_shape(scores, target)
        return _against_probabilities(shifted, log_total, target, weight, axis, reduction, label_smoothing)
    target = class_numbers(scores, target, axis, ignore_index)
    picked = score_of_class(scores, target, axis) - g.squeeze(peak, axis=axis)
    loss = log_total - picked
    return _against_classes(loss, shifted, log_total, target, weight, axis, ignore_index, reduction, label_smoothing)


def _against_classes(
    loss: Value,
    shifted: Value,
    log_total: Value,
    target: Value,
    weight: Any,
    axis: int,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> Value:
    """The loss with class weights, smoothing (Szegedy et al. 2016), and ignored and unknown classes."""
    counted = target != ignore_index
    importance = None if weight is None else weight_of_class(weight, target, counted)
    loss = loss if importance is None else loss * importance
    if smoothing:
        spread = smoothed(shifted, log_total, weight, axis)
        loss = (1 - smoothing) * loss + (smoothing / shifted.shape[axis]) * spread
    known = is_class(target, shifted.shape[axis], ignore_index)
    loss = g.where(counted, undefined_unless(known, loss), 0.0)
    if reduction != "mean":
        return reduce_loss(loss, reduction)
    count = g.astype(counted, loss.dtype) if importance is None else g.where(counted, importance, 0.0)
    return g.sum(loss) / g.sum(count)


def _against_probabilities(
    shifted: Value, log_total: Value, target: Value, weight: Any, axis: int, reduction: str, smoothing: float
) -> Value:
    classes = shifted.shape[axis]
    target = target * (1 - smoothing) + smoothing / classes if smoothing else target
    if weight is not None:
        target = target * over_classes(weight, shifted.ndim, axis)
    loss = g.sum(target * (g.expand_dims(log_total, axis=axis) - shifted), axis=axis)
    return reduce_loss(loss, reduction)


def smoothed(shifted: Value, log_total: Value, weight: Any, axis: int) -> Value:
    """-Σ_c w_c log softmax_c: the loss against every class alike."""
    if weight is None:
        return shifted.shape[axis] * log_total - g.sum(shifted, axis=axis)
    weights = over_classes(weight, shifted.ndim, axis)
    return g.sum(value_of(weight)) * log_total - g.sum(shifted * weights, axis=axis)


def class_axis(scores: Value) -> int:
    if scores.ndim == 0:
        raise ShapeError("scores have a dimension of classes, and these are 0-d")
    return 0 if scores.ndim == 1 else 1


def over_classes(weight: Any, rank: int, axis: int) -> Value:
    """Class weights (C,) in a shape that broadcasts with the scores."""
    weight = value_of(weight)
    return g.reshape(weight, tuple(weight.size if i == axis else 1 for i in range(rank)))


def is_target(target: Value, axis: int, classes: int) -> Value:
    """Whether each class is the target: the target's shape with the class dimension put in."""
    return iota(classes, axis, target.ndim + 1) == g.expand_dims(target, axis=axis)


def class_numbers(scores: Value, target: Value, axis: int, ignore_index: int) -> Value:
    """The target as class numbers, in a dtype that holds all; the reference raises where one is neither a class nor ignored."""
    if not target.dtype.is_integer:
        raise DTypeError(f"class numbers are integers and class probabilities floating-point, got {target.dtype}")
    expected = (*scores.shape[:axis], *scores.shape[axis + 1 :])
    if target.shape != expected:
        raise ShapeError(f"targets of shape {target.shape} do not fit scores of shape {scores.shape}: expected {expected}")
    target = target if target.dtype in (types.int32, types.int64) else g.astype(target, types.int64)
    return apply(Within(scores.shape[axis], "class", f"{scores.shape[axis]} classes", ignore_index), target)


def is_class(target: Value, classes: int, ignore_index: int) -> Value:
    """Whether each target is a class or ignored."""
    return ((target >= 0) & (target < classes)) | (target == ignore_index)


def undefined_unless(known: Value, loss: Value) -> Value:
    """The loss, and NaN in it and in its derivative where the class is not known."""
    return loss * g.where(known, g.ones_like(loss), math.nan)


def score_of_class(scores: Value, target: Value, axis: int) -> Value:
    """The target class's score; 0 for what is no class."""
    return g.sum(g.where(is_target(target, axis, scores.shape[axis]), scores, 0.0), axis=axis)


def weight_of_class(weight: Any, target: Value, counted: Value) -> Value:
    """The target class's weight; class 0's for ignored samples, which are left out later."""
    return g.take(weight, g.where(counted, target, 0), axis=0)


@array_function
def nll_loss(input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> Value:
    """-input[target], for log-probabilities over classes in dimension 1; arguments and means as `cross_entropy`."""
    scores, target = floating(input), value_of(target)
    axis = class_axis(scores)
    target = class_numbers(scores, target, axis, ignore_index)
    known = is_class(target, scores.shape[axis], ignore_index)
    counted = target != ignore_index
    some_class = g.where(known, target, 0)  # so that the derivative is NaN somewhere
    loss = undefined_unless(known, -score_of_class(scores, some_class, axis))
    importance = None if weight is None else weight_of_class(weight, target, counted)
    loss = g.where(counted, loss if importance is None else loss * importance, 0.0)
    if reduction != "mean":
        return reduce_loss(loss, reduction)
    count = g.astype(counted, loss.dtype) if importance is None else g.where(counted, importance, 0.0)
    return g.sum(loss) / g.sum(count)


@array_function
def kl_div(input: Any, target: Any, *, reduction: str = "mean", log_target: bool = False) -> Value:
    """target (log target - input), with `input` log-probabilities; "batchmean" divides the sum by the first dimension's size.

    A target of 0 contributes 0, whatever the input, and has no derivative. `log_target` says that the target is log-probabilities too.
    """
    x, target = floating(input), floating(target)
    if log_target:
        loss = g.exp(target) * (target - x)
    else:
        absent = target == 0
        safe = g.where(absent, 1.0, target)
        loss = g.where(absent, 0.0, target * (g.log(safe) - x))
    if reduction == "batchmean":
        return g.sum(loss) / (loss.shape[0] if loss.ndim else 1)
    return reduce_loss(loss, reduction)


# Where PyTorch cuts the logarithms of binary_cross_entropy off, and the denominator x (1 - x) of its derivative.
LOWEST_LOG, LEAST_DOUBT = -100.0, 1e-12


@array_function
def binary_cross_entropy(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean") -> Value:
    """-(y log(x) + (1 - y) log(1 - x)), for probabilities x; logarithms are at least -100, as in PyTorch.

    The derivative is (x - y) / max(x (1 - x), 1e-12), also as in PyTorch: it leads away from an x that is exactly wrong.
    """
    x, y = floating(input), floating(target)
    same_shape(x, y)
    other = 1 - x
    saturated = x * other < LEAST_DOUBT
    log_yes = cut_logarithm(g.log(x), saturated, -0.5 * other * other)
    log_no = cut_logarithm(g.log1p(-x), saturated, -0.5 * x * x)
    loss = (y - 1) * log_no - y * log_yes
    return reduce_loss(loss if weight is None else loss * value_of(weight), reduction)


def cut_logarithm(logarithm: Value, saturated: Value, numerator: Value) -> Value:
    """The logarithm, at least -100. Where saturated, its derivative is that of the numerator over 1e-12."""
    cut = g.where(logarithm < LOWEST_LOG, LOWEST_LOG, logarithm)
    return g.where(saturated, with_derivative_of(cut, numerator / LEAST_DOUBT), cut)


@array_function
def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Value:
    """binary_cross_entropy(sigmoid(x), y), without overflow; `pos_weight` weighs the positive part."""
    x, y = floating(input), floating(target)
    same_shape(x, y)
    missed = g.softplus(-x)
    if pos_weight is not None:
        missed = (1 + (value_of(pos_weight) - 1) * y) * missed
    loss = (1 - y) * x + missed
    return reduce_loss(loss if weight is None else loss * value_of(weight), reduction)


@array_function
def soft_margin_loss(input: Any, target: Any, *, reduction: str = "mean") -> Value:
    """log(1 + exp(-y x)), for y of 1 or -1."""
    return reduce_loss(g.softplus(-value_of(target) * floating(input)), reduction)
