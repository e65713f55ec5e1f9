"""Workloads whose predicted times are most in doubt, the most doubtful first, at the shapes of `gpu_table.py` where they fit beside float64.

What is computed inside an operand of a product, and reductions by few programs, are where the cost model was seen to err.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import gpu_table
from benchmarks.workloads import (
    DISTRIBUTIONS,
    HEADS,
    NORMALISED,
    TARGET,
    Goal,
    Workload,
    bf16,
    cross_entropy,
    kl_div,
    rms_norm,
    weights,
)

NO_GOAL = Goal(None, None)
GATES = {"rows": 8192, "columns": 2 * 14336}


def row(
    function: Callable[..., Any],
    arguments: tuple,
    wrt: tuple[int, ...],
    full: Mapping[str, int],
    small: Mapping[str, int],
    bound: str = "memory",
) -> Workload:
    return Workload(function, arguments, wrt, full, small, NO_GOAL, bound)


FEW = {"rows": 5, "columns": 38}
DOUBTFUL = (
    row(
        gpu_table.matmul_bias_gelu, (*bf16(x="tokens width"), *weights(w="width hidden", b="hidden")), (0, 1, 2),
        {"tokens": 8192, "width": 4096, "hidden": 16384}, {"tokens": 19, "width": 7, "hidden": 11}, "matrix",
    ),
    row(gpu_table.layer_norm, (*NORMALISED, *weights(b="columns")), (0, 1, 2), {"rows": 4096, "columns": 16384}, FEW),
    row(rms_norm, NORMALISED, (0, 1), {"rows": 32768, "columns": 4096}, FEW),
    row(cross_entropy, (*bf16(logits="rows columns"), TARGET), (0,), {"rows": 8192, "columns": 128256}, FEW),
    row(
        gpu_table.causal_attention, bf16(q=HEADS, k=HEADS, v=HEADS), (0, 1, 2),
        {"batch": 4, "heads": 16, "length": 4096, "width": 128}, {"batch": 1, "heads": 2, "length": 19, "width": 8}, "matrix",
    ),
    row(kl_div, DISTRIBUTIONS, (0,), {"rows": 4096, "columns": 32768}, FEW),
    row(
        gpu_table.swiglu_mlp, (*bf16(x="tokens width"), *weights(gate="width hidden", up="width hidden", down="hidden width")), (0, 1, 2, 3),
        {"tokens": 8192, "width": 4096, "hidden": 14336}, {"tokens": 19, "width": 7, "hidden": 11}, "matrix",
    ),
    row(gpu_table.packed_swiglu, bf16(x="rows columns"), (0,), GATES, FEW),
    row(
        gpu_table.group_norm_silu, (*bf16(x="batch channels height wide"), *weights(w="channels", b="channels")), (0, 1, 2),
        {"batch": 8, "channels": 512, "height": 128, "wide": 128}, {"batch": 2, "channels": 64, "height": 3, "wide": 5},
    ),
)  # fmt: skip
