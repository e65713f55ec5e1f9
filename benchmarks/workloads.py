"""The workloads: what a user would write, at the shapes the figures are quoted for. To add one, write it and add a row.

A shape is text over the workload's sizes, so that one row gives the full shapes and the small odd ones that results are
checked at. Nothing is run or measured here. The same functions in PyTorch are `peers.py`, under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradc


@dataclass(frozen=True)
class Argument:
    """An array argument. `shape` names sizes of the workload; `fill` says what with, see `peers.inputs`."""

    name: str
    shape: str
    dtype: str
    fill: str = "normal"

    def dimensions(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(int(word) if word.isdigit() else sizes[word] for word in self.shape.split())


@dataclass(frozen=True)
class Goal:
    """At most so many launches and megabytes (10^6 bytes), forward and backward together.

    `saved_megabytes` limits what is kept for the backward beyond inputs and outputs. None is no limit.
    """

    launches: int | None
    megabytes: float | None
    saved_megabytes: float | None = None

    def reached(self, launches: int, moved: int, saved: int) -> bool:
        """Whether a program of so many launches, bytes moved and bytes saved is at or below the goal."""
        limits = ((launches, self.launches), (moved / 1e6, self.megabytes), (saved / 1e6, self.saved_megabytes))
        return all(limit is None or count <= limit for count, limit in limits)


@dataclass(frozen=True)
class Workload:
    """A function, its arguments, what it is differentiated with respect to (argument numbers), and its goal.

    `bound` is "memory" or "matrix": what limits it on a GPU. `inductor` is its name in `inductor.json` where that differs.
    `draws` says that it draws random numbers, of which PyTorch draws others.
    """

    function: Callable[..., Any]
    arguments: tuple[Argument, ...]
    wrt: tuple[int, ...]
    full: Mapping[str, int]
    small: Mapping[str, int]
    goal: Goal
    bound: str = "memory"
    inductor: str = ""
    draws: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__

    def specs(self, sizes: Mapping[str, int]) -> list[Any]:
        return [gradc.spec(argument.dimensions(sizes), argument.dtype) for argument in self.arguments]

    def lower(self, sizes: Mapping[str, int] | None = None) -> gradc.Lowered:
        """The workload lowered with its gradient for an H200, at its full sizes unless told others."""
        return gradc.compile(self.function).lower(*self.specs(sizes or self.full), wrt=self.wrt, device="H200")


# Norms --------------------------------------------------------------------------------------------------------------


def rms_norm(x, w, eps=1e-6):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + eps) * w


def layer_norm(x, w, b, eps=1e-5):
    centred = x - gradc.mean(x, axis=-1, keepdims=True)
    variance = gradc.mean(centred * centred, axis=-1, keepdims=True)
    return centred * gradc.rsqrt(variance + eps) * w + b


def residual_dropout_layer_norm(x, residual, w, b, key, p=0.1):
    return layer_norm(residual + gradc.nn.dropout(x, p, key=key), w, b)


def batch_norm(x, w, b, eps=1e-5):
    centred = x - gradc.mean(x, axis=(0, 2, 3), keepdims=True)
    variance = gradc.mean(centred * centred, axis=(0, 2, 3), keepdims=True)
    return centred * gradc.rsqrt(variance + eps) * w[:, None, None] + b[:, None, None]


def group_norm(x, w, b, groups=32, eps=1e-5):
    batch, channels, height, width = x.shape
    grouped = gradc.reshape(x, (batch, groups, channels // groups, height, width))
    centred = grouped - gradc.mean(grouped, axis=(2, 3, 4), keepdims=True)
    variance = gradc.mean(centred * centred, axis=(2, 3, 4), keepdims=True)
    normal = gradc.reshape(centred * gradc.rsqrt(variance + eps), x.shape)
    return normal * w[:, None, None] + b[:, None, None]


# Rows of scores -----------------------------------------------------------------------------------------------------


def softmax(x):
    e = gradc.exp(x - gradc.stop_gradient(gradc.max(x, axis=-1, keepdims=True)))
    return e / gradc.sum(e, axis=-1, keepdims=True)


def cross_entropy(logits, target):
    logits = logits.astype(gradc.float32)
    total = gradc.logsumexp(logits, axis=-1)
    score = gradc.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
    return gradc.mean(total - score)


def linear_cross_entropy(x, w, target):
    return cross_entropy(x @ w.T, target)


def kl_div(log_prediction, target):
    return gradc.sum(target * (gradc.log(target) - log_prediction)) / target.shape[0]


def kl_distill(student, teacher):
    student = gradc.log_softmax(student.astype(gradc.float32), axis=-1)
    teacher = gradc.log_softmax(teacher.astype(gradc.float32), axis=-1)
    return gradc.sum(gradc.exp(teacher) * (teacher - student)) / student.shape[0]


# Elementwise --------------------------------------------------------------------------------------------------------


def swiglu(a, b):
    return a / (1 + gradc.exp(-a)) * b


def geglu_tanh(a, b):
    return 0.5 * a * (1 + gradc.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) * b


def gelu(x):
    return 0.5 * x * (1 + gradc.erf(x / math.sqrt(2)))


def rope(q, cos, sin):
    half = q.shape[-1] // 2
    rotated = gradc.concat([-q[..., half:], q[..., :half]], axis=-1)
    return q * cos + rotated * sin


def huber(prediction, target):
    error = gradc.abs(prediction - target)
    return gradc.mean(gradc.where(error <= 1, 0.5 * error * error, error - 0.5))


# Products of matrices -----------------------------------------------------------------------------------------------


def mlp2(x, w1, b1, w2, b2):
    return gelu(x @ w1 + b1) @ w2 + b2


def logistic_regression(x, w, b, y):
    z = x @ w + b
    return gradc.mean(gradc.maximum(z, 0) - z * y + gradc.log1p(gradc.exp(-gradc.abs(z))))


def attention_naive(q, k, v):
    length, width = q.shape[-2:]
    position = gradc.arange(length)
    scores = q @ k.mT / math.sqrt(width)
    causal = gradc.where(position[:, None] >= position, scores, -gradc.inf)
    return softmax(causal) @ v


def embedding_pos(token, table, position):
    return gradc.take(table, token, axis=0) + position


# Training steps -----------------------------------------------------------------------------------------------------


def adamw(count, *arrays):
    params, grads, means, squares = (arrays[start::4] for start in range(4))
    optimiser = gradc.optim.adamw(1e-3, weight_decay=0.01)
    state = (gradc.optim.Moments(count, means, squares), (), ())
    updates, state = optimiser.update(grads, state, params)
    return gradc.optim.apply_updates(params, updates), state


def moons_loss(params, x, y):
    w1, b1, w2, b2, w3, b3 = params
    hidden = gradc.maximum(x @ w1 + b1, 0)
    hidden = gradc.maximum(hidden @ w2 + b2, 0)
    score = (hidden @ w3 + b3)[:, 0]
    return gradc.mean(gradc.maximum(1 - y * score, 0)) + 1e-4 * sum(gradc.sum(p * p) for p in params)


def moons_mlp(x, y, *params):
    loss, grads = gradc.value_and_grad(moons_loss)(params, x, y)
    return loss, [p - 0.1 * g for p, g in zip(params, grads, strict=True)]


# The table ----------------------------------------------------------------------------------------------------------


def bf16(**shapes: str) -> tuple[Argument, ...]:
    """bfloat16 arguments filled with normal numbers, by name: `x="rows columns"`."""
    return tuple(Argument(name, shape, "bfloat16") for name, shape in shapes.items())


def weights(**shapes: str) -> tuple[Argument, ...]:
    """bfloat16 arguments filled with the small numbers of a trained layer."""
    return tuple(Argument(name, shape, "bfloat16", "weight") for name, shape in shapes.items())


def fp32(**shapes: str) -> tuple[Argument, ...]:
    """float32 arguments filled with normal numbers."""
    return tuple(Argument(name, shape, "float32") for name, shape in shapes.items())


TARGET = Argument("target", "rows", "int64", "below columns")
FLAGS = Argument("y", "rows", "float32", "flags")
SIGNS = Argument("y", "points", "float32", "signs")
TOKENS = Argument("token", "batch length", "int64", "below words")
DISTRIBUTIONS = (
    Argument("log_prediction", "rows columns", "float32", "log probabilities"),
    Argument("target", "rows columns", "float32", "probabilities"),
)
NORMALISED = (*bf16(x="rows columns"), *weights(w="columns"))
IMAGE = fp32(x="batch channels height width", w="channels", b="channels")
HEADS = "batch heads length width"
MLP2 = (*bf16(x="tokens width"), *weights(w1="width hidden", b1="hidden", w2="hidden width", b2="width"))
MOONS = fp32(w1="features 16", b1="16", w2="16 16", b2="16", w3="16 1", b3="1")
COUNT = Argument("count", "", "int32", "steps")
KEY = Argument("key", "2", "uint32", "key")
ADAMW = tuple(
    Argument(f"{name}_{i}", "count", "float32", "squares" if name == "square" else "normal")
    for i in range(10) for name in ("param", "grad", "mean", "square")
)  # fmt: skip

ROWS, FEW_ROWS = {"rows": 8192, "columns": 4096}, {"rows": 5, "columns": 37}
SCORES = {"rows": 8192, "columns": 32000}
GATES = {"rows": 8192, "columns": 11008}
SQUARE = {"rows": 8192, "columns": 8192}
IMAGES = {"batch": 64, "channels": 256, "height": 56, "width": 56}
FEW_IMAGES = {"batch": 2, "channels": 64, "height": 3, "width": 5}

# fmt: off
WORKLOADS = (
    Workload(rms_norm, NORMALISED, (0, 1), ROWS, FEW_ROWS, Goal(3, 342)),
    Workload(layer_norm, (*NORMALISED, *weights(b="columns")), (0, 1, 2), ROWS, FEW_ROWS, Goal(3, 345)),
    Workload(
        residual_dropout_layer_norm, (*bf16(x="rows columns", residual="rows columns"), *weights(w="columns", b="columns"), KEY),
        (0, 1, 2, 3), ROWS, FEW_ROWS, Goal(3, 545, 0.1), draws=True,
    ),
    Workload(batch_norm, IMAGE, (0, 1, 2), IMAGES, FEW_IMAGES, Goal(6, 1644.3)),
    Workload(group_norm, IMAGE, (0, 1, 2), IMAGES, FEW_IMAGES, Goal(4, 1100)),
    Workload(softmax, bf16(x="rows columns"), (0,), SQUARE, FEW_ROWS, Goal(2, 671.1)),
    Workload(cross_entropy, (*bf16(logits="rows columns"), TARGET), (0,), SCORES, FEW_ROWS, Goal(3, 1573.3)),
    Workload(kl_div, DISTRIBUTIONS, (0,), SQUARE, FEW_ROWS, Goal(3, 1073.8)),
    Workload(kl_distill, bf16(student="rows columns", teacher="rows columns"), (0,), SCORES, FEW_ROWS, Goal(3, 2622)),
    Workload(huber, fp32(prediction="count", target="count"), (0,), {"count": 2**24}, {"count": 101}, Goal(3, 335.6)),
    Workload(swiglu, bf16(a="rows columns", b="rows columns"), (0, 1), GATES, FEW_ROWS, Goal(2, 1442.9)),
    Workload(geglu_tanh, bf16(a="rows columns", b="rows columns"), (0, 1), GATES, FEW_ROWS, Goal(2, 1442.9)),
    Workload(gelu, bf16(x="rows columns"), (0,), GATES, FEW_ROWS, Goal(2, 901.8)),
    Workload(
        rope, bf16(q=HEADS, cos="length width", sin="length width"), (0,),
        {"batch": 4, "heads": 32, "length": 2048, "width": 128}, {"batch": 2, "heads": 3, "length": 5, "width": 6}, Goal(2, 270.6),
    ),
    Workload(
        embedding_pos, (TOKENS, *bf16(table="words width", position="length width")), (1, 2),
        {"batch": 4, "length": 2048, "words": 32000, "width": 1024}, {"batch": 2, "length": 5, "words": 11, "width": 7}, Goal(5, 200),
    ),
    Workload(
        logistic_regression, (*fp32(x="rows columns", w="columns", b=""), FLAGS), (1, 2),
        {"rows": 65536, "columns": 1024}, FEW_ROWS, Goal(4, 538),
    ),
    Workload(
        mlp2, MLP2, (0, 1, 2, 3, 4),
        {"tokens": 4096, "width": 1024, "hidden": 4096}, {"tokens": 5, "width": 7, "hidden": 19}, Goal(8, 450), "matrix",
    ),
    Workload(
        linear_cross_entropy, (*bf16(x="rows width"), *weights(w="columns width"), TARGET), (0, 1),
        {"rows": 8192, "width": 2048, "columns": 32000}, {"rows": 5, "width": 7, "columns": 37}, Goal(None, None, 52.4), "matrix",
    ),
    Workload(
        attention_naive, bf16(q=HEADS, k=HEADS, v=HEADS), (0, 1, 2),
        {"batch": 4, "heads": 16, "length": 2048, "width": 64}, {"batch": 1, "heads": 2, "length": 19, "width": 8}, Goal(4, 290, 2.2), "matrix",
    ),
    Workload(adamw, (COUNT, *ADAMW), (), {"count": 10_000_000}, {"count": 13}, Goal(1, 2800.1), inductor="adamw_torch_foreach"),
    Workload(
        moons_mlp, (*fp32(x="points features"), SIGNS, *MOONS), (),
        {"points": 100, "features": 2}, {"points": 100, "features": 2}, Goal(4, 0.14),
    ),
)
# fmt: on


def workload(name: str) -> Workload:
    """The row of that name. Raises KeyError."""
    return {row.name: row for row in WORKLOADS}[name]
