"""The workloads, forward and backward through emitted kernels, against PyTorch in float64, in every float dtype.

Shapes are small and odd. Each runs as scheduled, and again with limits that force the schedules of long rows.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import kernels  # noqa: E402
from kernels import LARGE_PRODUCTS, LAYOUTS, close, force_loops, laid_out, on, tensor  # noqa: E402

import gradc  # noqa: E402
from gradc import nn  # noqa: E402

F = torch.nn.functional

pytestmark = pytest.mark.triton
check = functools.partial(kernels.check, device=LARGE_PRODUCTS)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


# What a user would write, and the same in torch --------------------------------------------------------------------------


def rms_norm(x, w):
    return x * gradc.rsqrt(gradc.mean(x * x, axis=-1, keepdims=True) + 1e-6) * w


def rms_norm_reference(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w


def layer_norm(x, w, b):
    centred = x - gradc.mean(x, axis=-1, keepdims=True)
    return centred * gradc.rsqrt(gradc.mean(centred * centred, axis=-1, keepdims=True) + 1e-5) * w + b


def softmax(x):
    e = gradc.exp(x - gradc.max(x, axis=-1, keepdims=True))
    return e / gradc.sum(e, axis=-1, keepdims=True)


def cross_entropy(x, target):
    shifted = x - gradc.max(x, axis=-1, keepdims=True)
    log_total = gradc.log(gradc.sum(gradc.exp(shifted), axis=-1))
    return gradc.mean(log_total - gradc.take_along_axis(shifted, target[:, None], axis=1)[:, 0])


def swiglu(a, b):
    return a * gradc.sigmoid(a) * b


def geglu_tanh(a, b):
    inner = math.sqrt(2 / math.pi) * (a + 0.044715 * a * a * a)
    return 0.5 * a * (1 + gradc.tanh(inner)) * b


def gelu(x):
    return 0.5 * x * (1 + gradc.erf(x / math.sqrt(2)))


def rope(q, k, cos, sin):
    half = q.shape[-1] // 2
    turned = lambda x: gradc.concat([-x[..., half:], x[..., :half]], axis=-1)
    return q * cos + turned(q) * sin, k * cos + turned(k) * sin


def rope_reference(q, k, cos, sin):
    half = q.shape[-1] // 2
    turned = lambda x: torch.cat([-x[..., half:], x[..., :half]], -1)
    return q * cos + turned(q) * sin, k * cos + turned(k) * sin


def mlp2(x, w1, b1, w2, b2):
    return gelu(x @ w1 + b1) @ w2 + b2


def kl_div(log_p, q):
    return gradc.sum(gradc.where(q > 0, q * (gradc.log(q) - log_p), 0.0)) / log_p.shape[0]


def huber(x, y):
    d = x - y
    return gradc.mean(gradc.where(gradc.abs(d) < 1, 0.5 * d * d, gradc.abs(d) - 0.5))


def logistic_regression(x, w, b, y):
    z = x @ w + b
    return gradc.mean(gradc.maximum(z, 0.0) - z * y + gradc.log1p(gradc.exp(-gradc.abs(z))))


def batch_norm(x, w, b):
    mean = gradc.mean(x, axis=(0, 2, 3), keepdims=True)
    var = gradc.mean((x - mean) ** 2, axis=(0, 2, 3), keepdims=True)
    return (x - mean) * gradc.rsqrt(var + 1e-5) * w[:, None, None] + b[:, None, None]


def attention(q, k, v):
    return softmax(q @ k.mT / math.sqrt(q.shape[-1])) @ v


def masked_attention(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    seen = gradc.arange(q.shape[-2])[:, None] >= gradc.arange(k.shape[-2])[None, :]
    return softmax(gradc.where(seen, scores, -float("inf"))) @ v


def group_norm(x, w, b):
    batch, channels, size = x.shape
    grouped = x.reshape((batch, 2, channels // 2 * size))
    centred = grouped - gradc.mean(grouped, axis=-1, keepdims=True)
    normal = centred * gradc.rsqrt(gradc.mean(centred * centred, axis=-1, keepdims=True) + 1e-5)
    return normal.reshape(x.shape) * w[:, None] + b[:, None]


def residual_mlp(x, *weights):
    for w1, w2, scale in zip(weights[::3], weights[1::3], weights[2::3], strict=True):
        x = x + gelu(rms_norm(x, scale) @ w1) @ w2
    return x


def residual_mlp_reference(x, *weights):
    for w1, w2, scale in zip(weights[::3], weights[1::3], weights[2::3], strict=True):
        x = x + F.gelu(rms_norm_reference(x, scale) @ w1) @ w2
    return x


CLASSES = tensor(9, dtype=torch.int64, high=37)
WORDS = tensor(3, 4, dtype=torch.int64, high=11)
PROBABILITIES = tensor(5, 37, seed=3).softmax(-1)
YES_OR_NO = tensor(33, dtype=torch.bool).float()
MODELS: dict[str, tuple[Any, Any, list[Any], Any]] = {
    "rms_norm": (rms_norm, rms_norm_reference, [(5, 37), (37,)], None),
    "layer_norm": (layer_norm, lambda x, w, b: F.layer_norm(x, (37,), w, b), [(5, 37), (37,), (37,)], None),
    "softmax": (softmax, lambda x: x.softmax(-1), [(5, 37)], None),
    "cross_entropy": (cross_entropy, F.cross_entropy, [(9, 37), CLASSES], None),
    "swiglu": (swiglu, lambda a, b: F.silu(a) * b, [(5, 37), (5, 37)], None),
    "geglu_tanh": (geglu_tanh, lambda a, b: F.gelu(a, approximate="tanh") * b, [(5, 37), (5, 37)], None),
    "gelu": (gelu, F.gelu, [(5, 37)], None),
    "rope": (rope, rope_reference, [(2, 3, 5, 8), (2, 3, 5, 8), (5, 8), (5, 8)], (0, 1)),
    "mlp2": (mlp2, lambda x, w1, b1, w2, b2: F.gelu(x @ w1 + b1) @ w2 + b2, [(19, 17), (17, 33), (33,), (33, 18), (18,)], None),
    "kl_div": (kl_div, lambda p, q: F.kl_div(p, q, reduction="batchmean"), [(5, 37), PROBABILITIES], (0,)),
    "huber": (huber, F.huber_loss, [(333,), (333,)], None),
    "logistic_regression": (
        logistic_regression,
        lambda x, w, b, y: F.binary_cross_entropy_with_logits(x @ w + b, y),
        [(33, 9), (9,), (), YES_OR_NO],
        (1, 2),
    ),
    "batch_norm": (batch_norm, lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(3, 5, 4, 7), (5,), (5,)], None),
    "attention": (attention, F.scaled_dot_product_attention, [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)], None),
    "masked_attention": (
        masked_attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [(2, 7, 8), (2, 7, 8), (2, 7, 8)],
        None,
    ),
    "group_norm": (group_norm, lambda x, w, b: F.group_norm(x, 2, w, b), [(3, 4, 7), (4,), (4,)], None),
    "embedding": (lambda i, w: gradc.take(w, i, axis=0), F.embedding, [WORDS, (11, 7)], None),
    "residual_mlp": (residual_mlp, residual_mlp_reference, [(6, 8), *[(8, 12), (12, 8), (8,)] * 3], None),
}
LIBRARY: dict[str, tuple[Any, Any, list[Any], Any]] = {
    "rms_norm": (
        lambda x, w: nn.rms_norm(x, (37,), w),
        lambda x, w: F.rms_norm(x, (37,), w, eps=1.1920929e-07),
        [(5, 37), (37,)],
        None,
    ),
    "layer_norm": (
        lambda x, w, b: nn.layer_norm(x, (37,), w, b),
        lambda x, w, b: F.layer_norm(x, (37,), w, b),
        [(5, 37), (37,), (37,)],
        None,
    ),
    "softmax": (nn.softmax, lambda x: x.softmax(-1), [(5, 37)], None),
    "log_softmax": (nn.log_softmax, lambda x: x.log_softmax(-1), [(5, 37)], None),
    "cross_entropy": (nn.cross_entropy, F.cross_entropy, [(9, 37), CLASSES], None),
    "smoothed cross entropy": (
        lambda x, t: nn.cross_entropy(x, t, label_smoothing=0.1, ignore_index=5),
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1, ignore_index=5),
        [(9, 37), CLASSES],
        None,
    ),
    "gelu": (nn.gelu, F.gelu, [(5, 37)], None),
    "mish": (nn.mish, F.mish, [(5, 37)], None),
    "kl_div": (
        lambda p, q: nn.kl_div(p, q, reduction="batchmean"),
        lambda p, q: F.kl_div(p, q, reduction="batchmean"),
        [(5, 37), PROBABILITIES],
        (0,),
    ),
    "huber": (nn.huber_loss, F.huber_loss, [(333,), (333,)], None),
    "smooth_l1": (nn.smooth_l1_loss, F.smooth_l1_loss, [(333,), (333,)], None),
    "bce_with_logits": (nn.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, [(33,), YES_OR_NO], (0,)),
    "batch_norm": (
        lambda x, w, b: nn.batch_norm(x, None, None, w, b, training=True),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        [(3, 5, 4, 7), (5,), (5,)],
        None,
    ),
    "group_norm": (
        lambda x, w, b: nn.group_norm(x, 2, w, b),
        lambda x, w, b: F.group_norm(x, 2, w, b),
        [(3, 4, 7), (4,), (4,)],
        None,
    ),
    "attention": (
        nn.scaled_dot_product_attention,
        F.scaled_dot_product_attention,
        [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)],
        None,
    ),
    "causal attention": (
        lambda q, k, v: nn.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [(2, 7, 8), (2, 7, 8), (2, 7, 8)],
        None,
    ),
    "embedding": (nn.embedding, F.embedding, [WORDS, (11, 7)], None),
    "normalize": (nn.normalize, F.normalize, [(5, 37)], None),
    "cosine_similarity": (nn.cosine_similarity, F.cosine_similarity, [(5, 37), (5, 37)], None),
}


def arrays_of(shapes: list[Any], dtype: Any) -> list[torch.Tensor]:
    """A tensor per shape, weights made smaller; a tensor stays as it is, but for a float's dtype."""
    given = lambda x: x.to(dtype) if x.is_floating_point() else x
    return [given(x) if isinstance(x, torch.Tensor) else given(tensor(*x, seed=i)) for i, x in enumerate(shapes)]


def factor_of(dtype: Any) -> float:
    """How many epsilons of the largest number a result may be off: sums and products of float32, one rounding of 16 bits."""
    return {torch.float32: 64.0, torch.float64: 64.0}.get(dtype, 3.0)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_models(name, dtype):
    function, reference, shapes, wrt = MODELS[name]
    check(function, reference, *arrays_of(shapes, dtype), wrt=wrt, factor=factor_of(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LIBRARY)
def test_library(name, dtype):
    function, reference, shapes, wrt = LIBRARY[name]
    check(function, reference, *arrays_of(shapes, dtype), wrt=wrt, factor=factor_of(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("residual_mlp", "embedding")])
def test_models_with_long_rows(name, dtype, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)
    function, reference, shapes, wrt = MODELS[name]
    check(function, reference, *arrays_of(shapes, dtype), wrt=wrt, factor=2 * factor_of(dtype))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize(
    "name", ["rms_norm", "layer_norm", "softmax", "cross_entropy", "swiglu", "rope", "mlp2", "attention", "batch_norm"]
)
def test_models_of_arrays_that_lie_otherwise(name, layout):
    function, reference, shapes, wrt = MODELS[name]
    check(function, reference, *arrays_of(shapes, torch.float32), wrt=wrt, layout=layout, cotangent_layout=layout, factor=128.0)


@pytest.mark.parametrize("layout", ["strided", "expanded"])
@pytest.mark.parametrize("name", ["layer_norm", "softmax", "batch_norm"])
def test_long_rows_that_lie_otherwise(name, layout, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path)
    function, reference, shapes, wrt = MODELS[name]
    check(function, reference, *arrays_of(shapes, torch.float32), wrt=wrt, layout=layout, cotangent_layout=layout, factor=128.0)


@pytest.mark.parametrize(
    "shapes", [[(3, 70), (70,), (70,)], [(1, 37), (37,), (37,)], [(2, 3, 37), (37,), (37,)], [(70, 3), (3,), (3,)]]
)
@pytest.mark.parametrize("live", [16, 256, 4096])
def test_a_norm_at_several_limits(shapes, live, monkeypatch, tmp_path):
    force_loops(monkeypatch, tmp_path, live=live, tile=live)
    check(layer_norm, lambda x, w, b: F.layer_norm(x, w.shape, w, b), *arrays_of(shapes, torch.float32), factor=128.0)


def test_large_and_masked_scores():
    """Softmax neither overflows nor makes NaN of -inf beside numbers; the loss of an impossible class is inf."""
    x = torch.tensor([[1e4, -1e4, 0.0], [-math.inf, 0.0, 1.0], [88.0, 89.0, 90.0]])
    check(nn.softmax, lambda x: x.softmax(-1), x)
    check(nn.cross_entropy, F.cross_entropy, x[[0, 2]], torch.tensor([1, 0]))
    check(gradc.logsumexp, lambda x: x.logsumexp((0, 1)), x)


@pytest.mark.parametrize("looped", [False, True])
def test_ties_at_the_maximum_of_a_softmax(looped, monkeypatch, tmp_path):
    if looped:
        force_loops(monkeypatch, tmp_path)
    check(softmax, lambda x: x.softmax(-1), tensor(4, 40, dtype=torch.int64, high=3).float())


def test_normalised_rows_without_variance():
    x = torch.full((3, 37), 5.0)
    check(layer_norm, lambda x, w, b: F.layer_norm(x, (37,), w, b), x, tensor(37), tensor(37, seed=1), factor=64.0)


# Gradients taken inside --------------------------------------------------------------------------------------------


def loss(params, x, y):
    h = gradc.tanh(x @ params["w1"] + params["b1"])
    return gradc.mean((h @ params["w2"] - y) ** 2)


def parameters(dtype: Any = torch.float32) -> dict[str, torch.Tensor]:
    return {"w1": tensor(5, 9, dtype=dtype), "b1": tensor(9, dtype=dtype), "w2": tensor(9, 2, dtype=dtype)}


def test_value_and_grad_inside():
    x, y, params = tensor(7, 5), tensor(7, 2, seed=1), parameters()
    value, gradient = on(LARGE_PRODUCTS, gradc.compile(backend="interpret")(gradc.value_and_grad(loss)))(params, x, y)
    exact = {name: p.double().requires_grad_() for name, p in params.items()}
    want = ((torch.tanh(x.double() @ exact["w1"] + exact["b1"]) @ exact["w2"] - y.double()) ** 2).mean()
    want.backward()
    close(value, want.detach(), "the loss")
    for name, p in exact.items():
        close(gradient[name], p.grad, f"the gradient of {name}", 64.0)


def test_a_training_step_with_adamw():
    """Three steps inside compile follow torch.optim.AdamW in float64."""
    optimizer = gradc.optim.adamw(1e-2, weight_decay=0.1)

    @gradc.compile(backend="interpret")
    def step(params, state, x, y):
        value, gradient = gradc.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(gradient, state, params)
        return {name: params[name] + updates[name] for name in params}, state, value

    x, y, params = tensor(7, 5), tensor(7, 2, seed=1), parameters()
    exact = {name: p.double().requires_grad_() for name, p in params.items()}
    reference = torch.optim.AdamW(exact.values(), lr=1e-2, weight_decay=0.1)
    state = optimizer.init(params)
    for _ in range(3):
        params, state, value = step(params, state, x, y)
        reference.zero_grad()
        want = ((torch.tanh(x.double() @ exact["w1"] + exact["b1"]) @ exact["w2"] - y.double()) ** 2).mean()
        want.backward()
        reference.step()
        close(value, want.detach(), "the loss", 64.0)
    for name, p in exact.items():
        close(params[name], p.detach(), name, 64.0)


def test_second_derivatives_inside():
    x = tensor(6)
    got = gradc.compile(backend="interpret")(gradc.hessian(lambda x: gradc.sum(gradc.tanh(x) ** 2) * gradc.sum(x)))(x)
    want = torch.autograd.functional.hessian(lambda x: (torch.tanh(x) ** 2).sum() * x.sum(), x.double())
    close(got, want, "the Hessian", 64.0)


def test_a_gradient_penalty():
    """The gradient of a function of a gradient, with torch's tape outside."""

    def penalty(x, w):
        return gradc.sum(gradc.grad(lambda x: gradc.sum(gradc.tanh(x @ w)))(x) ** 2)

    def reference(x, w):
        inside = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.tanh(inside @ w).sum(), inside, create_graph=True)
        return (slope**2).sum()

    check(penalty, reference, tensor(3, 4), tensor(4, 5), factor=64.0)


def test_forward_mode_inside():
    x, v = tensor(5, 7), tensor(5, 7, seed=1)
    got = gradc.compile(backend="interpret")(lambda x, v: gradc.jvp(softmax, (x,), (v,)))(x, v)
    want = torch.func.jvp(lambda x: x.softmax(-1), (x.double(),), (v.double(),))
    for a, b in zip(got, want, strict=True):
        close(a, b, "forward mode")


def test_a_cotangent_of_every_layout():
    for layout in LAYOUTS:
        check(
            layer_norm,
            lambda x, w, b: F.layer_norm(x, (37,), w, b),
            *arrays_of([(5, 37), (37,), (37,)], torch.float32),
            cotangent_layout=layout,
            factor=64.0,
        )
    assert laid_out(tensor(3, 4), "expanded").stride() == (0, 1)
