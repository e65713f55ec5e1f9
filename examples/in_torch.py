"""The gallery in PyTorch, under the same names, with PyTorch's own functions where it has one. Run in float64 it is the reference."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from examples import gallery


def attend(q, k, v, bias=None, mask=None):
    return F.scaled_dot_product_attention(q, k, v, combined(q, bias, mask))


def combined(q, bias, mask):
    if mask is None:
        return bias
    return torch.zeros((), dtype=q.dtype).masked_fill(~mask, -math.inf) + (0 if bias is None else bias)


def distance(q, k):
    return torch.arange(q.shape[-2])[:, None] - torch.arange(k.shape[-2])


def rms(x):
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def alibi(q, k, v):
    slope = torch.tensor([2 ** (-8 * (head + 1) / q.shape[1]) for head in range(q.shape[1])], dtype=q.dtype)
    return attend(q, k, v, -slope[:, None, None] * distance(q, k), distance(q, k) >= 0)


def sliding_window(q, k, v, window=1024):
    return attend(q, k, v, mask=(distance(q, k) >= 0) & (distance(q, k) < window))


def softcap(q, k, v):
    capped = 50 * torch.tanh(torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5 / 50)
    return torch.softmax(capped.masked_fill(distance(q, k) < 0, -math.inf), -1) @ v


def sink(q, k, v, sinks):
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    aside = sinks[:, None, None].expand(*scores.shape[:-1], 1)
    weights = torch.softmax(torch.cat([scores.masked_fill(distance(q, k) < 0, -math.inf), aside], -1), -1)
    return weights[..., :-1] @ v


def document_mask(q, k, v, document):
    same = document.unsqueeze(1).unsqueeze(3) == document.unsqueeze(1).unsqueeze(2)
    return attend(q, k, v, mask=same & (distance(q, k) >= 0))


def prefix_lm(q, k, v, prefix):
    return attend(q, k, v, mask=(distance(q, k) >= 0) | (torch.arange(k.shape[-2]) < prefix.reshape(-1, 1, 1, 1)))


def grouped_queries(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def flash_decoding(q, k, v, newest):
    seen = torch.arange(k.shape[-2]) <= newest.reshape(-1, 1, 1, 1)
    mask = torch.zeros((), dtype=q.dtype).masked_fill(~seen, -math.inf)
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


def sigmoid_attention(q, k, v):
    return torch.sigmoid(torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5 - math.log(k.shape[-2])) @ v


def learned_bias(q, k, v, bias):
    return attend(q, k, v, bias[None])


def entropy_regularised(q, k, v):
    chosen = torch.distributions.Categorical(logits=torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5)
    return chosen.probs @ v + 0.1 * chosen.entropy()[..., None]


def qk_norm_rope(q, k, v, wq, wk, cos, sin):
    return causal(rotated(rms(q) * wq, cos, sin), rotated(rms(k) * wk, cos, sin), v)


def linear_cross_entropy(x, w, target):
    logits = 30 * torch.tanh(F.linear(x, w) / 30)
    return F.cross_entropy(logits, target, label_smoothing=0.1) + 1e-4 * torch.logsumexp(logits, -1).square().mean()


def linear_jsd(x, w, y, u):
    p, q = torch.softmax(F.linear(x, w), -1), torch.softmax(F.linear(y, u), -1)
    middle = torch.log((p + q) / 2)
    return (F.kl_div(middle, p, reduction="batchmean") + F.kl_div(middle, q, reduction="batchmean")) / 2


def rms_norm(x, w):
    return F.rms_norm(x, x.shape[-1:], w, 1e-6)


def layer_norm(x, w, b):
    return F.layer_norm(x, x.shape[-1:], w, b, 1e-5)


def group_norm_silu(x, w, b):
    return F.silu(F.group_norm(x, 32, w, b, 1e-5))


def swiglu(gate, up):
    return F.silu(gate) * up


def swiglu_packed(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def contrastive(x, y):
    return F.cross_entropy(x @ y.T / 0.07, torch.arange(len(x)))


def pairwise_logsumexp(x, y):
    return torch.logsumexp(-(x[:, None] - y[None]).square().sum(-1), -1)


def kernel_density(x, y):
    return torch.exp(-(x[:, None] - y[None]).square().sum(-1) / 32).mean(-1)


def sinkhorn_step(cost, f, g):
    f = -0.1 * torch.logsumexp((g - cost) / 0.1, 1)
    return f, -0.1 * torch.logsumexp((f[:, None] - cost) / 0.1, 0)


def soft_dtw_step(cost, before, last):
    weights = torch.exp(-last[:, :-1]) + torch.exp(-last[:, 1:]) + torch.exp(-before[:, 1:-1])
    return cost - torch.log(weights)


assert all(callable(globals().get(row.name)) for row in gallery.GALLERY), "every function of the gallery is here"
