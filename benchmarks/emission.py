"""Two programs whose way from the decorator to the emitted text is timed: a norm, and a network of twelve layers.

Imported in a fresh process by `run.emission`, with nothing heavy loaded, so that what emitting itself imports shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gradc
from benchmarks.workloads import gelu, workload

LAYERS, TOKENS, WIDTH = 12, 4096, 1024


def network(x, layers):
    for w, b in layers:
        x = gelu(x @ w + b)
    return x


def load() -> Any:
    """The compiler is imported when first asked for."""
    return gradc.compile


def rms_norm() -> str:
    return workload("rms_norm").lower().source


def mlp12() -> str:
    layer = (gradc.spec((WIDTH, WIDTH), "bfloat16"), gradc.spec((WIDTH,), "bfloat16"))
    return gradc.compile(network).lower(gradc.spec((TOKENS, WIDTH), "bfloat16"), [layer] * LAYERS).source


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of a call. The latter do not count what other processes took."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor
