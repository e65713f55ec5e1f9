"""Functions nobody wrote a kernel for, as their users would write them: plain mathematics of arrays, nothing of `gradc.nn`.

A row of the table at the end says at which shapes a function is shown and tried, and in how many kernels, forward and
backward, a good engineer would write it by hand. `python -m examples.document` writes a page about each to docs/gallery.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradc
from benchmarks.workloads import Argument, bf16, weights


@dataclass(frozen=True)
class Piece:
    """A function, its arguments, what it is differentiated with respect to (argument numbers), and what is expected of it.

    `forward` and `backward` are the kernels a good engineer would write, for the reason `why`. `square` names the sizes of a
    table that no kernel may write and no forward keep; without it there is no such table. `budget` is the memory in bytes that it may
    take beside arguments and results, where its user would say so.
    """

    function: Callable[..., Any]
    arguments: tuple[Argument, ...]
    wrt: tuple[int, ...]
    full: Mapping[str, int]
    small: Mapping[str, int]
    forward: int
    backward: int
    why: str
    square: tuple[str, ...] = ()
    budget: int | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    def lower(self, sizes: Mapping[str, int] | None = None) -> gradc.Lowered:
        """The function lowered with its gradient for an H200, at its full sizes unless told others."""
        specs = [gradc.spec(argument.dimensions(sizes or self.full), argument.dtype) for argument in self.arguments]
        return gradc.compile(self.function).lower(*specs, wrt=self.wrt, device="H200", memory_budget=self.budget)


# What several of them are made of -----------------------------------------------------------------------------------


def scores(q, k):
    return q @ k.mT / math.sqrt(q.shape[-1])


def softmax(x):
    e = gradc.exp(x - gradc.max(x, axis=-1, keepdims=True))
    return e / gradc.sum(e, axis=-1, keepdims=True)


def positions(q, k):
    return gradc.arange(q.shape[-2])[:, None], gradc.arange(k.shape[-2])


def rms(x, eps=1e-6):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + eps)


def rotated(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + gradc.concat([-x[..., half:], x[..., :half]], axis=-1) * sin


def sigmoid(x):
    return 1 / (1 + gradc.exp(-x))


# Attention ----------------------------------------------------------------------------------------------------------


def causal(q, k, v):
    i, j = positions(q, k)
    return softmax(gradc.where(j <= i, scores(q, k), -gradc.inf)) @ v


def alibi(q, k, v):
    i, j = positions(q, k)
    heads = q.shape[1]
    slope = 2.0 ** (-8 * (gradc.arange(heads) + 1) / heads)
    biased = scores(q, k) + slope[:, None, None] * (j - i)
    return softmax(gradc.where(j <= i, biased, -gradc.inf)).astype(v.dtype) @ v


def sliding_window(q, k, v, window=1024):
    i, j = positions(q, k)
    return softmax(gradc.where((j <= i) & (i - j < window), scores(q, k), -gradc.inf)) @ v


def softcap(q, k, v, cap=50.0):
    i, j = positions(q, k)
    capped = cap * gradc.tanh(scores(q, k) / cap)
    return softmax(gradc.where(j <= i, capped, -gradc.inf)) @ v


def sink(q, k, v, sinks):
    """A learned score per head that takes its share of the weight and gives nothing for it (gpt-oss)."""
    i, j = positions(q, k)
    s = gradc.where(j <= i, scores(q, k), -gradc.inf)
    aside = sinks[:, None, None]
    m = gradc.maximum(gradc.max(s, axis=-1, keepdims=True), aside)
    e = gradc.exp(s - m)
    return e.astype(v.dtype) @ v / (gradc.sum(e, axis=-1, keepdims=True) + gradc.exp(aside - m))


def document_mask(q, k, v, document):
    i, j = positions(q, k)
    same = document[:, None, :, None] == document[:, None, None, :]
    return softmax(gradc.where(same & (j <= i), scores(q, k), -gradc.inf)) @ v


def prefix_lm(q, k, v, prefix):
    i, j = positions(q, k)
    seen = (j <= i) | (j < prefix[:, None, None, None])
    return softmax(gradc.where(seen, scores(q, k), -gradc.inf)) @ v


def grouped_queries(q, k, v):
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    q = gradc.reshape(q, (batch, groups, heads // groups, length, width))
    out = causal(q, k[:, :, None], v[:, :, None])
    return gradc.reshape(out, (batch, heads, length, width))


def flash_decoding(q, k, v, newest):
    """One new query a head, against a cache that holds keys up to the newest one's position."""
    batch, heads, _, width = q.shape
    groups, length = k.shape[1:3]
    q = gradc.reshape(q, (batch, groups, heads // groups, width))
    seen = gradc.arange(length) <= newest[:, None, None, None]
    out = softmax(gradc.where(seen, scores(q, k), -gradc.inf)) @ v
    return gradc.reshape(out, (batch, heads, 1, width))


def sigmoid_attention(q, k, v):
    return sigmoid(scores(q, k) - math.log(k.shape[-2])) @ v


def learned_bias(q, k, v, bias):
    return softmax(scores(q, k) + bias) @ v


def entropy_regularised(q, k, v, strength=0.1):
    s = scores(q, k)
    p = softmax(s)
    entropy = gradc.logsumexp(s, axis=-1, keepdims=True) - gradc.sum(p * s, axis=-1, keepdims=True)
    return p @ v + strength * entropy


def qk_norm_rope(q, k, v, wq, wk, cos, sin):
    return causal(rotated(rms(q) * wq, cos, sin), rotated(rms(k) * wk, cos, sin), v)


# Losses over a vocabulary -------------------------------------------------------------------------------------------


def linear_cross_entropy(x, w, target, cap=30.0, smoothing=0.1, z=1e-4):
    logits = cap * gradc.tanh((x @ w.T).astype(gradc.float32) / cap)
    total = gradc.logsumexp(logits, axis=-1)
    score = gradc.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
    mean = gradc.mean(logits, axis=-1)
    return gradc.mean(total - (1 - smoothing) * score - smoothing * mean + z * total * total)


def linear_jsd(x, w, y, u):
    p, q = softmax((x @ w.T).astype(gradc.float32)), softmax((y @ u.T).astype(gradc.float32))
    middle = gradc.log((p + q) / 2)
    return gradc.mean(gradc.sum(p * (gradc.log(p) - middle) + q * (gradc.log(q) - middle), axis=-1)) / 2


# Norms and gates ----------------------------------------------------------------------------------------------------


def rms_norm(x, w):
    return rms(x) * w


def layer_norm(x, w, b, eps=1e-5):
    centred = x - gradc.mean(x, axis=-1, keepdims=True)
    return centred * gradc.rsqrt(gradc.mean(centred * centred, axis=-1, keepdims=True) + eps) * w + b


def group_norm_silu(x, w, b, groups=32, eps=1e-5):
    batch, channels, height, width = x.shape
    grouped = gradc.reshape(x, (batch, groups, channels // groups, height, width))
    centred = grouped - gradc.mean(grouped, axis=(2, 3, 4), keepdims=True)
    variance = gradc.mean(centred * centred, axis=(2, 3, 4), keepdims=True)
    y = gradc.reshape(centred * gradc.rsqrt(variance + eps), x.shape) * w[:, None, None] + b[:, None, None]
    return y * sigmoid(y)


def swiglu(gate, up):
    return gate * sigmoid(gate) * up


def swiglu_packed(x):
    half = x.shape[-1] // 2
    return swiglu(x[..., :half], x[..., half:])


# Distances, kernels, transport --------------------------------------------------------------------------------------


def squared_distances(x, y):
    return gradc.sum(x * x, axis=-1)[:, None] + gradc.sum(y * y, axis=-1) - 2 * (x @ y.mT)


def contrastive(x, y, temperature=0.07):
    similarity = x @ y.mT / temperature
    return gradc.mean(gradc.logsumexp(similarity, axis=-1) - gradc.sum(x * y, axis=-1) / temperature)


def pairwise_logsumexp(x, y):
    return gradc.logsumexp(-squared_distances(x, y), axis=-1)


def kernel_density(x, y, bandwidth=4.0):
    return gradc.mean(gradc.exp(-squared_distances(x, y) / (2 * bandwidth**2)), axis=-1)


def sinkhorn_step(cost, f, g, eps=0.1):
    f = -eps * gradc.logsumexp((g - cost) / eps, axis=-1)
    g = -eps * gradc.logsumexp((f[:, None] - cost) / eps, axis=-2)
    return f, g


def soft_dtw_step(cost, before, last, gamma=1.0):
    """One antidiagonal of every alignment's table from the two before it."""
    choices = gradc.stack([last[:, :-1], last[:, 1:], before[:, 1:-1]])
    return cost - gamma * gradc.logsumexp(-choices / gamma, axis=0)


# The table ----------------------------------------------------------------------------------------------------------

HEADS = "batch heads length width"
QKV = bf16(q=HEADS, k=HEADS, v=HEADS)
SHARED = "batch groups length width"
DOCUMENT = Argument("document", "batch length", "int32", "below documents")
PREFIX = Argument("prefix", "batch", "int32", "below length")
NEWEST = Argument("newest", "batch", "int32", "below length")
TARGET = Argument("target", "rows", "int64", "below words")
ROWS = bf16(x="rows columns")

LONG = {"batch": 4, "heads": 16, "length": 2048, "width": 64}
SHORT = {"batch": 2, "heads": 2, "length": 37, "width": 8}
TOKENS, FEW_TOKENS = {"rows": 8192, "columns": 4096}, {"rows": 5, "columns": 37}
VOCABULARY, FEW_WORDS = {"rows": 8192, "width": 2048, "words": 32000}, {"rows": 19, "width": 8, "words": 37}
POINTS, FEW_POINTS = {"rows": 8192, "others": 8192, "width": 64}, {"rows": 21, "others": 37, "width": 8}

QUADRATIC = ("length", "length")
LOGITS = ("rows", "words")
PAIRS = ("rows", "others")

FLASH = "as flash attention: a pass over the keys; an owner of dq, and one of dk and dv"

# fmt: off
GALLERY = (
    Piece(causal, QKV, (0, 1, 2), LONG, SHORT, 1, 2, FLASH, QUADRATIC),
    Piece(alibi, QKV, (0, 1, 2), LONG, SHORT, 1, 2, FLASH, QUADRATIC),
    Piece(sliding_window, QKV, (0, 1, 2), LONG | {"length": 8192, "batch": 1}, SHORT, 1, 2, FLASH, QUADRATIC),
    Piece(softcap, QKV, (0, 1, 2), LONG, SHORT, 1, 2, FLASH, QUADRATIC),
    Piece(
        sink, (*QKV, *weights(sinks="heads")), (0, 1, 2, 3), LONG, SHORT,
        1, 3, "as flash attention, and the sum of the sinks' gradient over the queries", QUADRATIC,
    ),
    Piece(document_mask, (*QKV, DOCUMENT), (0, 1, 2), LONG | {"documents": 8}, SHORT | {"documents": 3}, 1, 2, FLASH, QUADRATIC),
    Piece(prefix_lm, (*QKV, PREFIX), (0, 1, 2), LONG, SHORT, 1, 2, FLASH, QUADRATIC),
    Piece(
        grouped_queries, bf16(q=HEADS, k=SHARED, v=SHARED), (0, 1, 2), LONG | {"groups": 4}, SHORT | {"heads": 4, "groups": 2},
        1, 2, FLASH, QUADRATIC,
    ),
    Piece(
        flash_decoding, (*bf16(q="batch heads 1 width", k=SHARED, v=SHARED), NEWEST), (),
        {"batch": 4, "heads": 32, "groups": 8, "length": 32768, "width": 128},
        {"batch": 2, "heads": 4, "groups": 2, "length": 37, "width": 8},
        2, 0, "as flash decoding: programs share out the keys, and a second kernel puts their parts together",
    ),
    Piece(sigmoid_attention, QKV, (0, 1, 2), LONG, SHORT, 1, 2, FLASH, QUADRATIC),
    Piece(
        learned_bias, (*QKV, *bf16(bias="heads length length")), (0, 1, 2, 3), LONG, SHORT,
        1, 3, "as flash attention, and an owner of the bias's gradient that goes over the batch",
    ),
    Piece(entropy_regularised, QKV, (0, 1, 2), LONG, SHORT, 1, 2, FLASH, QUADRATIC),
    Piece(
        qk_norm_rope, (*QKV, *bf16(wq="width", wk="width", cos="length width", sin="length width")), (0, 1, 2, 3, 4), LONG, SHORT,
        2, 4, "queries and keys are normed and rotated once, before attention; their gradients after it, with a merge for dwq and dwk",
        QUADRATIC,
    ),
    Piece(
        linear_cross_entropy, (*bf16(x="rows width", w="words width"), TARGET), (0, 1), VOCABULARY, FEW_WORDS,
        3, 3, "in chunks of rows: a product and its statistics, then the mean; a product again, dw, and what is added to dx", LOGITS,
        budget=300_000_000,
    ),
    Piece(
        linear_jsd, bf16(x="rows width", w="words width", y="rows width", u="words width"), (0, 1), VOCABULARY, FEW_WORDS,
        4, 5, "in chunks of rows: two products and the statistics of both, then the mean; both again, a sum a row, dx, and what is added to dw",
        LOGITS, budget=300_000_000,
    ),
    Piece(rms_norm, (*ROWS, *weights(w="columns")), (0, 1), TOKENS, FEW_TOKENS, 1, 2, "a row pass each way, and a merge for dw"),
    Piece(
        layer_norm, (*ROWS, *weights(w="columns", b="columns")), (0, 1, 2), TOKENS, FEW_TOKENS,
        1, 2, "a row pass each way, and a merge for dw and db",
    ),
    Piece(
        group_norm_silu, (*bf16(x="batch channels height wide"), *weights(w="channels", b="channels")), (0, 1, 2),
        {"batch": 32, "channels": 256, "height": 32, "wide": 32}, {"batch": 2, "channels": 64, "height": 3, "wide": 5},
        1, 2, "a pass over groups each way, and a merge for dw and db",
    ),
    Piece(swiglu, bf16(gate="rows columns", up="rows columns"), (0, 1), TOKENS | {"columns": 11008}, FEW_TOKENS, 1, 1, "elementwise"),
    Piece(
        swiglu_packed, ROWS, (0,), TOKENS | {"columns": 22016}, FEW_TOKENS | {"columns": 38},
        1, 1, "elementwise: the two halves of the gradient are stored where they belong",
    ),
    Piece(
        contrastive, bf16(x="rows width", y="rows width"), (0, 1), POINTS, FEW_POINTS,
        2, 2, "a pass over the other side and the mean; an owner of dx and one of dy", ("rows", "rows"),
    ),
    Piece(
        pairwise_logsumexp, bf16(x="rows width", y="others width"), (0, 1), POINTS, FEW_POINTS,
        2, 2, "the squares of y, then a pass over y for every x; an owner of dx and one of dy", PAIRS,
    ),
    Piece(
        kernel_density, bf16(x="rows width", y="others width"), (0, 1), POINTS, FEW_POINTS,
        2, 2, "the squares of y, then a pass over y for every x; an owner of dx and one of dy", PAIRS,
    ),
    Piece(
        sinkhorn_step, bf16(cost="rows columns", f="rows", g="columns"), (0, 2), TOKENS, FEW_TOKENS,
        2, 2, "a pass over rows, then one over columns; the same back",
    ),
    Piece(
        soft_dtw_step, bf16(cost="rows columns", before="rows wide", last="rows above"), (0, 1, 2),
        TOKENS | {"above": 4097, "wide": 4098}, FEW_TOKENS | {"above": 38, "wide": 39},
        1, 2, "elementwise; the gradients of the two antidiagonals differ in length, and that of the cost is the cotangent itself",
    ),
)
# fmt: on


def piece(name: str) -> Piece:
    """The row of that name. Raises KeyError."""
    return {row.name: row for row in GALLERY}[name]
