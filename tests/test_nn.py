"""gradc.nn against torch.nn.functional in float64, values and gradients, through the NumPy interpreter."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradc
from gradc import nn
from gradc.autodiff import vjp_graph
from gradc.errors import DTypeError, ShapeError, UnsupportedError
from gradc.interpret import evaluate
from gradc.ir import Graph
from gradc.leaves import make_input
from gradc.trace import trace, tracing_scope

torch = pytest.importorskip("torch")
F = torch.nn.functional

EDGES = [0.0, -0.0, 1e-30, 0.5, -0.5, 1.0, -1.0, 2.0, 3.0, -3.0, 6.0, 19.0, 21.0, 100.0, -100.0, 700.0, -700.0]


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def classes(*shape, count=5, seed=0):
    return np.random.default_rng(seed).integers(0, count, shape)


def compare(ours, theirs, *arguments, gradient=True, rtol=1e-9, **options):
    """One call of both, and the cotangents of every floating positional array for a random cotangent of the result."""
    given = [
        torch.from_numpy(x.copy()).requires_grad_(x.dtype.kind == "f") if isinstance(x, np.ndarray) else x for x in arguments
    ]
    converted = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    want = theirs(*given, **converted)
    traced = trace(lambda *args: ours(*args, **options), arguments)
    graph = traced.graph
    graph.check()
    arrays = [x for x in arguments if isinstance(x, np.ndarray)]
    (got,) = evaluate(graph, arrays)
    close(got, want.detach().numpy())
    if not gradient:
        return
    cotangent = array(*want.shape, seed=7)
    wrt = [x for x in graph.inputs if x.dtype.is_floating]
    with tracing_scope():
        seed = make_input(want.shape, graph.outputs[0].dtype, "cotangent")
        derivatives = vjp_graph(graph.outputs, wrt, [seed])
    found = evaluate(Graph((*graph.inputs, seed), tuple(derivatives)), [*arrays, cotangent])
    leaves = [x for x in given if isinstance(x, torch.Tensor) and x.requires_grad]
    expected = torch.autograd.grad(want, leaves, torch.from_numpy(cotangent), allow_unused=True)
    for derivative, reference, leaf in zip(found, expected, leaves, strict=True):
        close(derivative, np.zeros(leaf.shape) if reference is None else reference.numpy(), rtol)


def close(got, want, rtol=1e-9):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-11)


ACTIVATIONS = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {}), ("leaky_relu", {"negative_slope": 0.3}), ("elu", {}), ("elu", {"alpha": 0.5}),
    ("celu", {"alpha": 1.5}), ("selu", {}), ("silu", {}), ("mish", {}), ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("softplus", {}),
    ("softplus", {"beta": 2.0, "threshold": 10.0}), ("softsign", {}), ("sigmoid", {}), ("logsigmoid", {}), ("hardtanh", {}),
    ("hardtanh", {"min_val": -2.0, "max_val": 0.5}), ("tanh", {}), ("tanhshrink", {}), ("softshrink", {}), ("hardshrink", {}), ("hardsigmoid", {}),
    ("hardswish", {}), ("threshold", {"threshold": 0.5, "value": 7.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activations(name, options):
    for x in (array(3, 4) * 3, array(), array(0, 2), np.array(EDGES)):
        # PyTorch's derivative of hardsigmoid has 1/6 rounded to float32.
        compare(getattr(nn, name), getattr(F, name), x, **options, rtol=1e-7 if name == "hardsigmoid" else 1e-9)
    assert np.isnan(getattr(nn, name)(np.array([np.nan]), **options)).all() or name == "threshold"


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_and_gated_units(dim):
    x = array(4, 6)
    for name in ("softmax", "log_softmax", "softmin", "glu"):
        compare(getattr(nn, name), getattr(F, name), x, dim=dim)
    compare(nn.swiglu, lambda x, dim: F.silu(x.chunk(2, dim)[0]) * x.chunk(2, dim)[1], x, dim=dim)
    compare(nn.geglu, lambda x, dim: F.gelu(x.chunk(2, dim)[0]) * x.chunk(2, dim)[1], x, dim=dim)
    compare(nn.swiglu, lambda x, gate: F.silu(gate) * x, x, array(4, 6, seed=1))
    compare(nn.prelu, F.prelu, x, array(6))
    compare(nn.prelu, F.prelu, x, array(1))


def test_normalisations():
    x, w, b = array(4, 6, 5), array(6, 5, seed=1), array(6, 5, seed=2)
    for shape, parts in (((5,), (w[0], b[0])), ((6, 5), (w, b)), ((5,), (None, None)), ((5,), (w[0], None))):
        compare(nn.layer_norm, F.layer_norm, x, shape, *parts)
        compare(nn.layer_norm, F.layer_norm, x, shape, *parts, 0.1)
        compare(nn.rms_norm, F.rms_norm, x, shape, parts[0], 1e-3)
        compare(nn.rms_norm, F.rms_norm, x, shape, parts[0])
    channels = (array(6, seed=1), array(6, seed=2))
    for groups in (1, 2, 6):
        compare(nn.group_norm, F.group_norm, x, groups, *channels)
        compare(nn.group_norm, F.group_norm, array(2, 6, 3, 2), groups)
    running = (array(6, seed=3), array(6, seed=4) ** 2)
    for parts in (channels, (None, None)):
        compare(nn.batch_norm, F.batch_norm, x, running_mean=running[0], running_var=running[1], weight=parts[0], bias=parts[1])
        compare(nn.batch_norm, F.batch_norm, x, None, None, *parts, True)
        compare(nn.batch_norm, F.batch_norm, array(5, 6), None, None, *parts, True, 0.1, 1e-2)
        compare(nn.instance_norm, F.instance_norm, x, None, None, *parts)
    mean, variance = (torch.from_numpy(part.copy()) for part in running)
    F.batch_norm(torch.from_numpy(x), mean, variance, training=True, momentum=0.3)
    for got, want in zip(nn.running_statistics(x, *running, 0.3), (mean, variance), strict=True):
        close(got, want.numpy())
    with pytest.raises(UnsupportedError, match="running_statistics"):
        nn.batch_norm(x, *running, training=True)
    with pytest.raises(ShapeError, match=r"\(4,\) is not the end"):
        nn.layer_norm(x, 4)
    with pytest.raises(ShapeError, match="4 groups"):
        nn.group_norm(x, 4)


REDUCTIONS = ("mean", "sum", "none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(reduction, smoothing):
    options = {"reduction": reduction, "label_smoothing": smoothing}
    weight = np.abs(array(5, seed=9))
    for shape, target in (
        ((6, 5), classes(6)),
        ((5,), classes()),
        ((2, 5, 3), classes(2, 3)),
        ((2, 5, 3, 2), classes(2, 3, 2)),
        ((1, 5), classes(1)),
    ):
        x = array(*shape) * 4
        for w in (None, weight):
            compare(nn.cross_entropy, F.cross_entropy, x, target, weight=w, **options)
            probabilities = np.exp(array(*shape, seed=3))
            probabilities /= probabilities.sum(0 if len(shape) == 1 else 1, keepdims=True)
            compare(nn.cross_entropy, F.cross_entropy, x, probabilities, weight=w, **options)
    target = np.array([0, 3, -100, 4, -100, 1])
    for w in (None, weight):
        compare(nn.cross_entropy, F.cross_entropy, array(6, 5), target, weight=w, **options)
        compare(nn.cross_entropy, F.cross_entropy, array(6, 5), target % 5, weight=w, ignore_index=3, **options)
    compare(nn.cross_entropy, F.cross_entropy, np.array([[1e4, -1e4, 0.0]]), np.array([1]), **options)


def test_cross_entropy_refuses():
    x = array(6, 5)
    for bad in (5, -1):
        with pytest.raises(ShapeError, match=f"class {bad} is out of bounds for 5 classes"):
            nn.cross_entropy(x, np.array([0, 1, 2, 3, 4, bad]), reduction="none")
    assert np.isnan(nn.cross_entropy(x, np.full(6, -100)))  # as in PyTorch: the mean of nothing
    with pytest.raises(ShapeError, match=r"cross_entropy.*expected \(6,\)"):
        nn.cross_entropy(x, classes(5))
    with pytest.raises(DTypeError, match="class numbers are integers"):
        nn.cross_entropy(x, np.ones(6, bool))
    with pytest.raises(UnsupportedError, match='"none", "mean" or "sum"'):
        nn.cross_entropy(x, classes(6), reduction="median")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses(reduction):
    x, y, w = array(4, 5) * 2, array(4, 5, seed=1), np.abs(array(4, 5, seed=2))
    y[0] = x[0]
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        compare(getattr(nn, name), getattr(F, name), x, y, reduction=reduction)
        compare(getattr(nn, name), getattr(F, name), array(), array(seed=1), reduction=reduction)
    compare(nn.smooth_l1_loss, F.smooth_l1_loss, x, y, reduction=reduction, beta=0.5)
    compare(nn.smooth_l1_loss, F.smooth_l1_loss, x, y, reduction=reduction, beta=0.0)
    compare(nn.huber_loss, F.huber_loss, x, y, reduction=reduction, delta=0.5)
    compare(nn.mse_loss, F.mse_loss, x, y, reduction=reduction, weight=w, gradient=True)
    sign = np.where(y > 0, 1.0, -1.0)
    compare(nn.soft_margin_loss, F.soft_margin_loss, x, target=sign, reduction=reduction)
    compare(nn.hinge_embedding_loss, F.hinge_embedding_loss, x, np.where(y > 0, 1, -1), reduction=reduction)
    compare(
        lambda *a, **k: nn.margin_ranking_loss(*a, sign, **k),
        lambda *a, **k: F.margin_ranking_loss(*a, torch.from_numpy(sign), **k),
        x,
        y,
        margin=0.2,
        reduction=reduction,
    )
    for full in (False, True):
        compare(nn.gaussian_nll_loss, F.gaussian_nll_loss, x, y, w + 0.1, full=full, reduction=reduction)
        compare(
            lambda x, **k: nn.poisson_nll_loss(x, np.round(w * 3), **k),
            lambda x, **k: F.poisson_nll_loss(x, torch.from_numpy(np.round(w * 3)), **k),
            x,
            full=full,
            reduction=reduction,
        )
    compare(nn.poisson_nll_loss, F.poisson_nll_loss, np.abs(x) + 0.1, w, log_input=False, reduction=reduction)


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
def test_losses_of_probabilities(reduction):
    logits, other = array(4, 5), array(4, 5, seed=1)
    p, q = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) for v in (logits, other))
    p[0, 0] = 0
    compare(
        lambda x, **k: nn.kl_div(x, p, **k),
        lambda x, **k: F.kl_div(x, torch.from_numpy(p), **k),
        np.log(q),
        reduction=reduction,
    )
    compare(nn.kl_div, F.kl_div, np.log(q), np.log(p + 0.1), reduction=reduction, log_target=True)
    if reduction == "batchmean":
        return
    compare(nn.binary_cross_entropy, F.binary_cross_entropy, q, p[::-1].copy(), reduction=reduction)
    compare(nn.binary_cross_entropy, F.binary_cross_entropy, q, p, weight=q, reduction=reduction)
    compare(
        nn.binary_cross_entropy,
        F.binary_cross_entropy,
        np.array([0.0, 1.0, 1.0]),
        np.array([1.0, 0.0, 1.0]),
        reduction=reduction,
        gradient=False,
    )
    wide = np.concatenate([logits * 10, [[0.0, 50.0, -50.0, 800.0, -800.0]]])
    target = np.concatenate([p, p[:1]])
    compare(nn.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, wide, target, reduction=reduction)
    compare(
        nn.binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
        wide,
        target,
        None,
        pos_weight=np.arange(5.0),
        reduction=reduction,
    )
    scores = np.log(q)
    for weight in (None, np.abs(array(5))):
        compare(nn.nll_loss, F.nll_loss, scores, np.array([0, -100, 4, 2]), weight=weight, reduction=reduction)
    compare(nn.nll_loss, F.nll_loss, array(2, 5, 3), classes(2, 3), reduction=reduction)


ATTENTIONS = [
    ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 5), None, {}),
    ((4, 8), (6, 8), (6, 8), None, {"is_causal": True}),
    ((2, 3, 6, 8), (2, 3, 4, 8), (2, 3, 4, 8), None, {"is_causal": True, "scale": 0.3}),
    ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8), "bool", {}),
    ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8), "none", {}),
    ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8), "float", {}),
    ((2, 4, 4, 8), (2, 2, 6, 8), (2, 2, 6, 8), None, {"enable_gqa": True}),
    ((2, 4, 4, 8), (2, 2, 6, 8), (2, 2, 6, 8), "bool", {"enable_gqa": True}),
    ((2, 4, 4, 8), (2, 1, 4, 8), (2, 1, 4, 8), None, {"enable_gqa": True, "is_causal": True}),
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), None, {}),
]


@pytest.mark.parametrize("case", range(len(ATTENTIONS)))
def test_attention(case):
    query, key, value, mask, options = ATTENTIONS[case]
    arrays = array(*query), array(*key, seed=1), array(*value, seed=2)
    shape = (query[-2], key[-2])
    if mask == "bool":
        options = options | {"attn_mask": array(*shape) > -0.5}
    elif mask == "none":  # a query that may attend to nothing
        options = options | {"attn_mask": np.arange(shape[0])[:, None] + np.zeros(shape) > 1}
    elif mask == "float":
        options = options | {"attn_mask": np.where(array(*shape) > -0.5, array(*shape, seed=5), -np.inf)}
    compare(nn.scaled_dot_product_attention, F.scaled_dot_product_attention, *arrays, **options)


def test_attention_refuses():
    x = array(2, 4, 8)
    with pytest.raises(ShapeError, match="scaled_dot_product_attention"):
        nn.scaled_dot_product_attention(x, array(2, 4, 7), x)
    with pytest.raises(UnsupportedError, match="random"):
        nn.scaled_dot_product_attention(x, x, x, dropout_p=0.1)


def test_layers():
    x, w, b = array(2, 3, 4), array(5, 4, seed=1), array(5, seed=2)
    compare(nn.linear, F.linear, x, w, b)
    compare(nn.linear, F.linear, x[0, 0], w)
    compare(nn.linear, F.linear, x, w[0])
    index = np.array([[0, 3], [4, 3]])
    compare(nn.embedding, F.embedding, index, w)
    compare(nn.embedding, F.embedding, index, w, 3)
    compare(nn.embedding, F.embedding, index, w, -1)
    compare(nn.one_hot, F.one_hot, index, 6, gradient=False)
    for dim in (0, 1, -1):
        compare(nn.cosine_similarity, F.cosine_similarity, x, array(2, 3, 4, seed=3), dim=dim)
        for p in (1.0, 2.0, 3.0, math.inf):
            compare(nn.normalize, F.normalize, x, p=p, dim=dim)
    compare(nn.cosine_similarity, F.cosine_similarity, x, x[:, :1])
    for mode, widths in (
        ("constant", (1, 2)),
        ("constant", (1, 0, 0, 2)),
        ("constant", (-1, 2)),
        ("reflect", (2, 1)),
        ("replicate", (2, 3)),
        ("circular", (1, 2)),
    ):
        compare(nn.pad, F.pad, x, widths, mode)
    compare(nn.pad, F.pad, x, (1, 1), "constant", 2.5)
    assert np.array_equal(nn.dropout(x, training=False), x)
    with pytest.raises(UnsupportedError, match="num_classes"):
        nn.one_hot(index)
    with pytest.raises(UnsupportedError, match="random"):
        nn.dropout(x)
    with pytest.raises(UnsupportedError, match="do not change"):
        nn.relu(x, inplace=True)


def test_sixteen_bits_are_computed_in_float32():
    x = torch.from_numpy(array(8, 64)).to(torch.bfloat16)
    got = nn.layer_norm(x, 64)
    assert got.dtype == torch.bfloat16
    want = F.layer_norm(x.float(), (64,)).to(torch.bfloat16)
    assert torch.equal(got, want) or float((got.float() - want.float()).abs().max()) < 0.02


def test_inner_names_are_those_of_mathematics():
    names = {value.name for value in trace(lambda x: gradc.nn.layer_norm(x, 5), [array(4, 5)]).graph.values}
    assert {"mean", "centred", "variance", "rstd"} <= names
