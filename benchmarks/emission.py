"""Programs whose way from the decorator to the emitted text is timed: a norm, a network of twelve layers, a block of a transformer.

Imported in a fresh process by `run.emission`, with nothing heavy loaded, so that what emitting itself imports shows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import gradc
from benchmarks.workloads import gelu, workload

LAYERS, TOKENS, FEATURES = 12, 4096, 1024
WIDTH, HIDDEN, LENGTH, HEADS = 512, 2048, 256, 8


def network(x, layers):
    for w, b in layers:
        x = gelu(x @ w + b)
    return x


def norm(x, w):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w


def attention(q, k, v):
    position = gradc.arange(q.shape[-2])
    scores = gradc.where(position[:, None] >= position, q @ k.mT / math.sqrt(q.shape[-1]), -gradc.inf)
    return gradc.softmax(scores, axis=-1) @ v


def block(x, w1, wqkv, wo, w2, wgate, wup, wdown):
    batch, length, width = x.shape
    qkv = (norm(x, w1) @ wqkv).reshape((batch, length, 3, HEADS, width // HEADS))
    q, k, v = (gradc.permute_dims(qkv[:, :, i], (0, 2, 1, 3)) for i in range(3))
    x = x + gradc.permute_dims(attention(q, k, v), (0, 2, 1, 3)).reshape(x.shape) @ wo
    h = norm(x, w2)
    gate = h @ wgate
    return x + (gate / (1 + gradc.exp(-gate)) * (h @ wup)) @ wdown


BLOCK = [
    (1, LENGTH, WIDTH), (WIDTH,), (WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH,), (WIDTH, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, WIDTH),
]  # fmt: skip


def load() -> Any:
    """The compiler is imported when first asked for."""
    return gradc.compile


def rms_norm() -> str:
    return workload("rms_norm").lower().source


def mlp12() -> str:
    layer = (gradc.spec((FEATURES, FEATURES), "bfloat16"), gradc.spec((FEATURES,), "bfloat16"))
    return gradc.compile(network).lower(gradc.spec((TOKENS, FEATURES), "bfloat16"), [layer] * LAYERS).source


def transformer_block() -> str:
    return gradc.compile(block).lower(*(gradc.spec(shape, "bfloat16") for shape in BLOCK)).source


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of a call. The latter do not count what other processes took."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor
