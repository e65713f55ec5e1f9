"""The workloads in PyTorch, under the same names: what gradc is timed against, and in float64 what it is checked against.

Written with PyTorch's own functions where it has one. Importing this imports torch; nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
import torch.nn.functional as F

import gradc
from benchmarks import workloads
from benchmarks.workloads import Argument, Workload
from gradc.runtime import module

HALF = (torch.bfloat16, torch.float16)


def wide(x):
    """16-bit numbers as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in HALF else x


# The functions, in the order of workloads.py -------------------------------------------------------------------------


def rms_norm(x, w):
    return F.rms_norm(x, x.shape[-1:], w, 1e-6)


def layer_norm(x, w, b):
    return F.layer_norm(x, x.shape[-1:], w, b, 1e-5)


def residual_dropout_layer_norm(x, residual, w, b, key):
    """The exact one drops what gradc's key says; the others what PyTorch draws."""
    dropped = dropped_by_key(x, key, 0.1) if x.dtype == torch.float64 else F.dropout(x, 0.1)
    return layer_norm(residual + dropped, w, b)


def dropped_by_key(x, key, p):
    keep = gradc.random.bernoulli(key.cpu().numpy(), 1 - p, tuple(x.shape))
    return torch.where(torch.from_numpy(keep).to(x.device), x / (1 - p), 0)


def batch_norm(x, w, b):
    return F.batch_norm(x, None, None, w, b, training=True, eps=1e-5)


def group_norm(x, w, b):
    return F.group_norm(x, 32, w, b, 1e-5)


def softmax(x):
    return F.softmax(x, -1)


def cross_entropy(logits, target):
    return F.cross_entropy(wide(logits), target)


def linear_cross_entropy(x, w, target):
    return cross_entropy(x @ w.T, target)


def kl_div(log_prediction, target):
    return F.kl_div(log_prediction, target, reduction="batchmean")


def kl_distill(student, teacher):
    student, teacher = F.log_softmax(wide(student), -1), F.log_softmax(wide(teacher), -1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def swiglu(a, b):
    return F.silu(a) * b


def geglu_tanh(a, b):
    return F.gelu(a, approximate="tanh") * b


def gelu(x):
    return F.gelu(x)


def rope(q, cos, sin):
    first, second = q.chunk(2, -1)
    return q * cos + torch.cat([-second, first], -1) * sin


def huber(prediction, target):
    return F.huber_loss(prediction, target)


def mlp2(x, w1, b1, w2, b2):
    return F.gelu(x @ w1 + b1) @ w2 + b2


def logistic_regression(x, w, b, y):
    return F.binary_cross_entropy_with_logits(x @ w + b, y)


def attention_naive(q, k, v):
    length, width = q.shape[-2:]
    position = torch.arange(length, device=q.device)
    scores = q @ k.mT / width**0.5
    return F.softmax(torch.where(position[:, None] >= position, scores, -torch.inf), -1) @ v


def embedding_pos(token, table, position):
    return F.embedding(token, table) + position


def adamw(count, *arrays):
    count = count + 1
    params, means, squares = [], [], []
    for p, g, mean, square in zip(*(arrays[start::4] for start in range(4)), strict=True):
        means.append(0.9 * mean + 0.1 * g)
        squares.append(0.999 * square + 0.001 * g * g)
        direction = means[-1] / (1 - 0.9**count) / ((squares[-1] / (1 - 0.999**count)).sqrt() + 1e-8)
        params.append(p - 1e-3 * (direction + 0.01 * p))
    return params, count, means, squares


def moons_loss(params, x, y):
    w1, b1, w2, b2, w3, b3 = params
    hidden = F.relu(F.relu(x @ w1 + b1) @ w2 + b2)
    score = (hidden @ w3 + b3)[:, 0]
    return F.relu(1 - y * score).mean() + 1e-4 * sum((p * p).sum() for p in params)


def moons_mlp(x, y, *params):
    grads, loss = torch.func.grad_and_value(moons_loss)(params, x, y)
    return loss, [p - 0.1 * g for p, g in zip(params, grads, strict=True)]


# Those of doubtful.py that are not workloads ---------------------------------------------------------------------------


def matmul_bias_gelu(x, w, b):
    return F.gelu(x @ w + b)


def swiglu_mlp(x, gate, up, down):
    return (F.silu(x @ gate) * (x @ up)) @ down


def packed_swiglu(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def group_norm_silu(x, w, b):
    return F.silu(F.group_norm(x, 32, w, b))


def causal_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


# Contenders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """A way to run a workload. `make` compiles it anew; `forget` drops what the process keeps, so that `make` starts warm from disk."""

    name: str
    make: Callable[[Workload], Callable[..., Any]]
    forget: Callable[[], None] = lambda: None


def written_in_torch(workload: Workload) -> Callable[..., Any]:
    """The workload's function in this file."""
    return globals()[workload.name]


def by_gradc(backend: str) -> Contender:
    """gradc with a backend: "triton" on a GPU, "interpret" and "numpy" anywhere."""
    return Contender("gradc", lambda workload: gradc.compile(backend=backend)(workload.function), module._MODULES.clear)


def by_compile(name: str, **options: Any) -> Contender:
    """`torch.compile` with options."""
    torch._functorch.config.donated_buffer = False  # what the forward kept is read again by every timed backward

    def make(workload: Workload) -> Callable[..., Any]:
        return torch.compile(written_in_torch(workload), fullgraph=True, dynamic=False, **options)

    return Contender(name, make, torch._dynamo.reset)


def contenders(backend: str = "triton") -> list[Contender]:
    """gradc, then PyTorch as it is, compiled, and compiled with a search."""
    return [
        by_gradc(backend),
        Contender("eager", written_in_torch),
        by_compile("torch.compile"),
        by_compile("max-autotune", mode="max-autotune-no-cudagraphs"),
    ]


# Inputs -------------------------------------------------------------------------------------------------------------


def inputs(workload: Workload, sizes: dict[str, int], device: str, seed: int = 0) -> list[torch.Tensor]:
    """Random arguments; those the workload is differentiated with respect to require a gradient."""
    generator = torch.Generator(device).manual_seed(seed)
    tensors = [filled(argument, sizes, generator) for argument in workload.arguments]
    return [tensor.requires_grad_(number in workload.wrt) for number, tensor in enumerate(tensors)]


def filled(argument: Argument, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    """A tensor of what `argument.fill` says."""
    shape = argument.dimensions(sizes)
    if argument.fill.startswith("below "):
        return torch.randint(sizes[argument.fill.removeprefix("below ")], shape, generator=generator, device=generator.device)
    if argument.fill == "key":
        return torch.from_numpy(gradc.random.key(generator.initial_seed())).to(generator.device)
    if argument.fill == "steps":
        return torch.full(shape, 3, dtype=getattr(torch, argument.dtype), device=generator.device)
    normal = torch.randn(shape, generator=generator, device=generator.device)
    return FILLS[argument.fill](normal).to(getattr(torch, argument.dtype))


FILLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "normal": lambda x: x,
    "weight": lambda x: 0.02 * x,
    "squares": lambda x: x * x,
    "flags": lambda x: (x > 0).float(),
    "signs": torch.sign,
    "probabilities": lambda x: F.softmax(x, -1),
    "log probabilities": lambda x: F.log_softmax(x, -1),
}

assert all(callable(globals().get(row.name)) for row in workloads.WORKLOADS), "every workload has its function here"
