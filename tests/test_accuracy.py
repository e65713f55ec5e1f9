"""In bfloat16: no less accurate than the formula of a hand-written kernel in the same precision, both against float64.

A hand-written kernel reads bfloat16, computes in float32, feeds its matrix units bfloat16 and writes bfloat16. The formulas here are
those of the usual kernels (flash attention, fused norms and losses), forward and backward, in PyTorch's float32.
"""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import LARGE_PRODUCTS, on, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc import nn  # noqa: E402

pytestmark = pytest.mark.triton
ROUNDING = 1.02  # both round what they write; which numbers that hits is chance


def short(x):
    return x.bfloat16().float()


def flash(q, k, v, do):
    """Dao et al. 2022, algorithms 1 and 4, without the tiles: weights and their cotangents are rounded for the matrix units."""
    s = q @ k.mT / math.sqrt(q.shape[-1])
    s = s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(1), -math.inf)
    e = torch.exp(s - s.amax(-1, keepdim=True))
    l = e.sum(-1, keepdim=True)
    o = short(short(e) @ v / l)
    p = e / l
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True))
    scale = 1 / math.sqrt(q.shape[-1])
    return o, short(ds) @ k * scale, short(ds).mT @ q * scale, short(p).mT @ do


def causal(q, k, v):
    i = gradc.arange(q.shape[-2])
    s = gradc.where(i[:, None] >= i[None, :], q @ k.mT / math.sqrt(q.shape[-1]), -math.inf)
    return nn.softmax(s, dim=-1) @ v


def fused_rms_norm(x, w, dy):
    r = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    wdy = w * dy
    dx = r * (wdy - x * r * r * (wdy * x).mean(-1, keepdim=True))
    return x * r * w, dx, (dy * x * r).sum(0)


def rms_norm(x, w):
    return nn.rms_norm(x, x.shape[-1:], w, 1e-6)


def fused_layer_norm(x, w, b, dy):
    centred = x - x.mean(-1, keepdim=True)
    r = torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    h = centred * r
    wdy = w * dy
    dx = r * (wdy - wdy.mean(-1, keepdim=True) - h * (wdy * h).mean(-1, keepdim=True))
    return h * w + b, dx, (dy * h).sum(0), dy.sum(0)


def layer_norm(x, w, b):
    return nn.layer_norm(x, x.shape[-1:], w, b, 1e-5)


def fused_softmax(x, dy):
    """The backward reads what the forward wrote, as every kernel does that keeps nothing else."""
    e = torch.exp(x - x.amax(-1, keepdim=True))
    y = short(e / e.sum(-1, keepdim=True))
    return y, y * (dy - (dy * y).sum(-1, keepdim=True))


def softmax(x):
    return nn.softmax(x, dim=-1)


def fused_entropy(x, dy):
    d = x - x.amax(-1, keepdim=True)
    l = torch.exp(d).sum(-1, keepdim=True)
    p, log_p = torch.exp(d) / l, d - torch.log(l)
    h = -(p * log_p).sum(-1, keepdim=True)
    return h[:, 0], -dy[:, None] * p * (log_p + h)


def entropy(x):
    log_p = nn.log_softmax(x, dim=-1)
    return -gradc.sum(gradc.exp(log_p) * log_p, axis=-1)


def two_pass_variance(x, dy):
    centred = x - x.mean(-1, keepdim=True)
    return centred.square().mean(-1), 2 / x.shape[-1] * dy[:, None] * centred


def variance(x):
    return gradc.var(x, axis=-1)


def fused_swiglu(a, b, dy):
    s = torch.sigmoid(a)
    return a * s * b, dy * b * (s + a * s * (1 - s)), dy * a * s


def swiglu(a, b):
    return nn.silu(a) * b


def rows(*shapes, shift=0.0, scale=1.0):
    return lambda: [tensor(*shape, seed=seed).mul(scale).add(shift) for seed, shape in enumerate(shapes)]


HEADS = (1, 2, 96, 64)
CASES = {
    "causal attention": (causal, flash, rows(HEADS, HEADS, HEADS)),
    "rms_norm": (rms_norm, fused_rms_norm, rows((33, 512), (512,))),
    "layer_norm": (layer_norm, fused_layer_norm, rows((33, 512), (512,), (512,))),
    "layer_norm far from zero": (layer_norm, fused_layer_norm, rows((33, 512), (512,), (512,), shift=8.0)),
    "softmax": (softmax, fused_softmax, rows((33, 700), scale=4.0)),
    "entropy": (entropy, fused_entropy, rows((33, 700), scale=3.0)),
    "variance far from zero": (variance, two_pass_variance, rows((17, 900), shift=100.0)),
    "swiglu": (swiglu, fused_swiglu, rows((33, 200), (33, 200))),
}


@pytest.mark.parametrize("name", CASES)
def test_no_less_accurate_than_a_hand_written_kernel(name):
    function, by_hand, make = CASES[name]
    arrays = [x.bfloat16().requires_grad_() for x in make()]
    out = on(LARGE_PRODUCTS, gradc.compile(function, backend="interpret"))(*arrays)
    cotangent = tensor(*out.shape, seed=9).bfloat16()
    ours = [out.detach(), *torch.autograd.grad(out, arrays, cotangent)]
    theirs = [x.bfloat16() for x in by_hand(*(x.detach().float() for x in arrays), cotangent.float())]
    exact = by_hand_in_float64(name, [x.detach().double() for x in arrays], cotangent.double())
    for i, (a, b, true) in enumerate(zip(ours, theirs, exact, strict=True)):
        errors = [((x.double() - true).norm() / true.norm()).item() for x in (a, b)]
        assert errors[0] <= ROUNDING * errors[1], f"result or gradient {i}: {errors[0]:.3e} against {errors[1]:.3e}"


def by_hand_in_float64(name, arrays, cotangent):
    """What the function means, by PyTorch's own functions and autograd in float64."""
    meaning = {
        "causal attention": lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        "rms_norm": lambda x, w: torch.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-6),
        "layer_norm": lambda x, w, b: torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, 1e-5),
        "softmax": lambda x: torch.softmax(x, -1),
        "entropy": lambda x: torch.distributions.Categorical(logits=x, validate_args=False).entropy(),
        "variance": lambda x: x.var(-1, correction=0),
        "swiglu": lambda a, b: torch.nn.functional.silu(a) * b,
    }[name.replace(" far from zero", "")]
    leaves = [x.requires_grad_() for x in arrays]
    out = meaning(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent)]
