"""The rows that are to be timed on a GPU: functions as a user would write them, at the shapes their floors are quoted for.

A floor is the least a phase can take on an H200: its inputs and results moved once at 4.3 TB/s, or its products at 790 TFLOP/s. Nothing
is timed here; `predict.py` says what the cost model expects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradc
from benchmarks.workloads import MOONS, moons_mlp, rms_norm
from gradc import nn


@dataclass(frozen=True)
class Row:
    """`number` in the table; `arrays` are shapes with dtypes; milliseconds of the floors: forward and backward, or both in one."""

    number: int
    name: str
    function: Callable[..., Any]
    arrays: tuple[Any, ...]
    wrt: tuple[int, ...]
    forward_floor: float | None = None
    backward_floor: float | None = None
    floor_in_all: float | None = None

    def lower(self, device: str = "H200") -> gradc.Lowered:
        return gradc.compile(self.function).lower(*self.arrays, wrt=self.wrt, device=device)


def half(*shape: int) -> Any:
    return gradc.spec(shape, "bfloat16")


def single(*shape: int) -> Any:
    return gradc.spec(shape, "float32")


def classes(*shape: int) -> Any:
    return gradc.spec(shape, "int64")


# Norms and rows -----------------------------------------------------------------------------------------------------


def layer_norm(x, w, b):
    return nn.layer_norm(x, x.shape[-1:], w, b)


def softmax(x):
    return nn.softmax(x, -1)


def capped_cross_entropy(logits, target, cap=30.0, z_weight=1e-4, smoothing=0.1):
    logits = cap * gradc.tanh(logits.astype(gradc.float32) / cap)
    total = gradc.logsumexp(logits, axis=-1)
    return nn.cross_entropy(logits, target, label_smoothing=smoothing) + z_weight * gradc.mean(total * total)


def add_rms_norm(x, residual, w):
    total = x + residual
    return rms_norm(total, w), total


def dropout_add_layer_norm(x, residual, w, b, key):
    total = residual + nn.dropout(x, 0.1, key=key)
    return layer_norm(total, w, b), total


def group_norm_silu(x, w, b):
    return nn.silu(nn.group_norm(x, 32, w, b))


def column_sum(x):
    return gradc.sum(x, axis=0)


# Elementwise --------------------------------------------------------------------------------------------------------


def packed_swiglu(x):
    gate, up = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    return nn.silu(gate) * up


def packed_geglu(x):
    gate, up = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    return nn.gelu(gate, approximate="tanh") * up


def squared_relu(x):
    return nn.relu(x) ** 2


def bias_gelu(x, b):
    return nn.gelu(x + b)


def rotated(x, cos, sin):
    middle = x.shape[-1] // 2
    return x * cos + gradc.concat([-x[..., middle:], x[..., :middle]], axis=-1) * sin


def rope(q, k, cos, sin):
    return rotated(q, cos, sin), rotated(k, cos, sin)


def qk_norm_rope(q, k, wq, wk, cos, sin):
    return rotated(rms_norm(q, wq), cos, sin), rotated(rms_norm(k, wk), cos, sin)


def normal_distribution(x):
    return 0.5 * (1 + gradc.erf(x / math.sqrt(2)))


def call_price(spot, strike, time, rate, volatility):
    deviation = volatility * gradc.sqrt(time)
    first = (gradc.log(spot / strike) + (rate + 0.5 * volatility * volatility) * time) / deviation
    discounted = strike * gradc.exp(-rate * time)
    return spot * normal_distribution(first) - discounted * normal_distribution(first - deviation)


def black_scholes(*market):
    """A price, and delta, gamma, theta, rho and vega of it."""

    def total(*market):
        return gradc.sum(call_price(*market))

    delta, theta, rho, vega = gradc.grad(total, argnums=(0, 2, 3, 4))(*market)
    gamma = gradc.grad(lambda *market: gradc.sum(gradc.grad(total)(*market)))(*market)
    return call_price(*market), delta, gamma, theta, rho, vega


# Divergences --------------------------------------------------------------------------------------------------------


def kl_divergence(log_prediction, target):
    return nn.kl_div(log_prediction, target, reduction="batchmean")


def jensen_shannon(student, teacher):
    p, q = (gradc.log_softmax(x.astype(gradc.float32), axis=-1) for x in (student, teacher))
    middle = gradc.log(0.5 * (gradc.exp(p) + gradc.exp(q)))
    return 0.5 * gradc.sum(gradc.exp(p) * (p - middle) + gradc.exp(q) * (q - middle)) / student.shape[0]


def total_variation(student, teacher):
    p, q = (nn.softmax(x.astype(gradc.float32), -1) for x in (student, teacher))
    return 0.5 * gradc.sum(gradc.abs(p - q)) / student.shape[0]


# Products -----------------------------------------------------------------------------------------------------------


def matmul_bias_gelu(x, w, b):
    return nn.gelu(x @ w + b)


def swiglu_mlp(x, gate, up, down):
    return (nn.silu(x @ gate) * (x @ up)) @ down


def linear_cross_entropy(x, w, target):
    return nn.cross_entropy((x @ w.T).astype(gradc.float32), target)


def linear_jensen_shannon(x, w, teacher, teacher_w):
    return jensen_shannon(x @ w.T, teacher @ teacher_w.T)


def causal_attention(q, k, v):
    position = gradc.arange(q.shape[-2])
    scores = gradc.where(position[:, None] >= position, q @ k.mT / math.sqrt(q.shape[-1]), -gradc.inf)
    return gradc.softmax(scores, axis=-1) @ v


def windowed_attention(q, k, v, slopes, window=1024, cap=50.0):
    """ALiBi, a window of 1024 positions, scores capped softly."""
    position = gradc.arange(q.shape[-2])
    distance = position[:, None] - position
    scores = cap * gradc.tanh(q @ k.mT / math.sqrt(q.shape[-1]) / cap) - slopes[:, None, None] * distance
    seen = gradc.logical_and(distance >= 0, distance < window)
    return gradc.softmax(gradc.where(seen, scores, -gradc.inf), axis=-1) @ v


# The table ----------------------------------------------------------------------------------------------------------

VOCABULARY, MODEL, INNER, TOKENS = 128256, 4096, 14336, 8192
HEADS = half(4, 48, 8192, 128)
LONG = half(1, 32, 16384, 64)
SCORES = half(TOKENS, 32768)
TABLES = (half(16384, 256), half(16384, 256))
GATED = half(TOKENS, 2 * INNER)
MARKET = (single(1 << 26),) * 5
DIVIDED = (single(4096, 131072),) * 2

# fmt: off
ROWS = (
    Row(1, "RMSNorm", rms_norm, (half(32768, 4096), half(4096)), (0, 1), 0.125, 0.187),
    Row(2, "LayerNorm", layer_norm, (half(4096, 16384), half(16384), half(16384)), (0, 1, 2), 0.062, 0.094),
    Row(3, "softmax", softmax, (half(32768, 4096),), (0,), 0.125, 0.187),
    Row(3, "softmax, long rows", softmax, (half(16384, 131072),), (0,), 2.0, 3.0),
    Row(4, "cross-entropy", lambda x, y: nn.cross_entropy(x.astype(gradc.float32), y), (half(TOKENS, VOCABULARY), classes(TOKENS)), (0,), floor_in_all=0.98),
    Row(5, "cross-entropy, capped, z-loss, smoothed", capped_cross_entropy, (half(TOKENS, VOCABULARY), classes(TOKENS)), (0,), floor_in_all=0.98),
    Row(6, "add + RMSNorm", add_rms_norm, (half(8192, 4096), half(8192, 4096), half(4096)), (0, 1, 2), 0.062, 0.062),
    Row(7, "dropout + add + LayerNorm", dropout_add_layer_norm, (half(8192, 4096), half(8192, 4096), half(4096), half(4096), gradc.spec((2,), "uint32")), (0, 1, 2, 3), 0.062),
    Row(8, "SwiGLU, packed", packed_swiglu, (GATED,), (0,), 0.164, 0.273),
    Row(9, "GEGLU-tanh, packed", packed_geglu, (GATED,), (0,), 0.164, 0.273),
    Row(10, "ReLU²", squared_relu, (half(4096, 16384),), (0,), 0.062, 0.094),
    Row(11, "bias + GELU", bias_gelu, (half(8192, 16384), half(16384)), (0, 1), 0.125, 0.187),
    Row(12, "RoPE", rope, (half(1, 32, 16384, 256), half(1, 8, 16384, 256), *TABLES), (0, 1), 0.156, 0.156),
    Row(13, "QK-norm + RoPE", qk_norm_rope, (half(40, TOKENS, 128), half(8, TOKENS, 128), half(128), half(128), half(TOKENS, 128), half(TOKENS, 128)), (0, 1, 2, 3), 0.047, 0.070),
    Row(14, "KL divergence", kl_divergence, DIVIDED, (0,), 1.0, 1.0),
    Row(15, "JSD", jensen_shannon, (SCORES, SCORES), (0,)),
    Row(15, "TVD", total_variation, (SCORES, SCORES), (0,)),
    Row(16, "GroupNorm + SiLU", group_norm_silu, (half(8, 512, 128, 128), half(512), half(512)), (0, 1, 2), 0.062, 0.094),
    Row(17, "column sum", column_sum, (half(32768, 4096),), (), 0.062),
    Row(18, "Black–Scholes", black_scholes, MARKET, (), floor_in_all=0.69),
    Row(19, "matmul + bias + GELU", matmul_bias_gelu, (half(8192, 4096), half(4096, 16384), half(16384)), (0, 1, 2), 1.4, 2.8),
    Row(20, "SwiGLU MLP", swiglu_mlp, (half(TOKENS, MODEL), half(MODEL, INNER), half(MODEL, INNER), half(INNER, MODEL)), (0, 1, 2, 3), 3.7, 7.3),
    Row(21, "linear + cross-entropy", linear_cross_entropy, (half(TOKENS, MODEL), half(VOCABULARY, MODEL), classes(TOKENS)), (0, 1), floor_in_all=32.7),
    Row(22, "linear + JSD", linear_jensen_shannon, (half(TOKENS, MODEL), half(VOCABULARY, MODEL), half(TOKENS, MODEL), half(VOCABULARY, MODEL)), (0, 1), floor_in_all=43.6),
    Row(23, "causal attention", causal_attention, (HEADS,) * 3, (0, 1, 2), 4.2, 10.4),
    Row(24, "attention, ALiBi, window, cap", windowed_attention, (LONG, LONG, LONG, single(32)), (0, 1, 2)),
    Row(26, "two-moons step", moons_mlp, (single(100, 2), single(100), *(single(*(int(word) if word.isdigit() else 2 for word in array.shape.split())) for array in MOONS)), ()),
)
# fmt: on
