"""Normalisations: an array centred and scaled by statistics of itself, then by a weight and a bias.

Written so that the derivative is short: with `xhat` the normalised array, every backward is rstd * (g - mean(g) - xhat * mean(g * xhat)).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes

from gradc import language as g
from gradc.errors import ShapeError, UnsupportedError
from gradc.ir import Value
from gradc.language.arguments import as_shape, floating, value_of
from gradc.language.calls import array_function


def trailing_axes(x: Value, normalized_shape: Any) -> tuple[int, ...]:
    """The last axes, whose sizes `normalized_shape` repeats."""
    shape = as_shape(normalized_shape)
    if not shape or x.shape[max(0, x.ndim - len(shape)) :] != shape:
        raise ShapeError(f"normalized_shape {shape} is not the end of the shape {x.shape}")
    return tuple(range(-len(shape), 0))


def standardised(x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) over axes."""
    mean = g.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    variance = g.mean(centred * centred, axis=axes, keepdims=True)
    rstd = g.rsqrt(variance + eps)
    return centred * rstd


def scaled(x: Value, weight: Any, bias: Any, shape: tuple[int, ...] | None = None) -> Value:
    """x * weight + bias, either of which may be None, read in a shape that broadcasts."""
    if weight is not None:
        x = x * (value_of(weight) if shape is None else g.reshape(weight, shape))
    if bias is not None:
        x = x + (value_of(bias) if shape is None else g.reshape(bias, shape))
    return x


@array_function
def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Value:
    """Normalises over the last dimensions, of shape `normalized_shape` (Ba et al. 2016, https://arxiv.org/abs/1607.06450)."""
    x = floating(input)
    xhat = standardised(x, trailing_axes(x, normalized_shape), eps)
    return scaled(xhat, weight, bias)


@array_function
def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Value:
    """x / sqrt(mean(x²) + eps) over the last dimensions; eps is by default that of the dtype computed in.

    Zhang, Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """
    x = floating(input)
    axes = trailing_axes(x, normalized_shape)
    eps = float(ml_dtypes.finfo(x.dtype.compute.numpy).eps) if eps is None else eps
    rstd = g.rsqrt(g.mean(x * x, axis=axes, keepdims=True) + eps)
    xhat = x * rstd
    return scaled(xhat, weight, None)


def channel_shape(x: Value) -> tuple[int, ...]:
    """A shape in which a vector over channels (dimension 1) broadcasts with x."""
    if x.ndim < 2:
        raise ShapeError(f"channels are dimension 1, and the shape is {x.shape}")
    return (x.shape[1], *(1 for _ in x.shape[2:]))


@array_function
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Value:
    """Normalises each of `num_groups` groups of channels (dimension 1) with all that follow (Wu, He 2018, https://arxiv.org/abs/1803.08494)."""
    x = floating(input)
    shape = channel_shape(x)
    if num_groups <= 0 or x.shape[1] % num_groups:
        raise ShapeError(f"{x.shape[1]} channels do not divide into {num_groups} groups")
    grouped = g.reshape(x, (x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:]))
    xhat = standardised(grouped, tuple(range(2, grouped.ndim)), eps)
    return scaled(g.reshape(xhat, x.shape), weight, bias, shape)


@array_function
def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Normalises each channel (dimension 1): by the batch's statistics when training, by the running ones otherwise.

    Arrays do not change here: when training, pass None for the running statistics and update them with `running_statistics`.
    Ioffe, Szegedy 2015, https://arxiv.org/abs/1502.03167.
    """
    x = floating(input)
    shape = channel_shape(x)
    if not training:
        rstd = g.rsqrt(g.reshape(running_var, shape) + eps)
        return scaled((x - g.reshape(running_mean, shape)) * rstd, weight, bias, shape)
    if running_mean is not None or running_var is not None:
        raise UnsupportedError(
            "batch_norm cannot update running statistics in place",
            advice="Pass None for both and use gradc.nn.running_statistics(x, mean, var), which returns the new ones.",
        )
    return scaled(standardised(x, (0, *range(2, x.ndim)), eps), weight, bias, shape)


@array_function
def running_statistics(input: Any, running_mean: Any, running_var: Any, momentum: float = 0.1) -> tuple[Value, Value]:
    """What torch's batch_norm makes of the running mean and (unbiased) variance after a training step on `input`."""
    x = g.stop_gradient(floating(input))
    axes = (0, *range(2, x.ndim))
    mean, variance = g.mean(x, axis=axes), g.var(x, axis=axes, correction=1)
    return (1 - momentum) * value_of(running_mean) + momentum * mean, (1 - momentum) * value_of(
        running_var
    ) + momentum * variance


@array_function
def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Normalises each channel of each sample over the dimensions after it; by running statistics if not `use_input_stats`."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None or running_var is not None:
        raise UnsupportedError("instance_norm cannot update running statistics in place", advice="Pass None for both.")
    x = floating(input)
    return scaled(standardised(x, tuple(range(2, x.ndim)), eps), weight, bias, channel_shape(x))
