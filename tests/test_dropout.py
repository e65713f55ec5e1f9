"""nn.dropout: what it drops, that its backward drops the same to the bit, and that no mask is ever stored."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradc
from gradc import nn, random
from gradc.errors import ShapeError, UnsupportedError

torch = pytest.importorskip("torch")

KEY = random.key(2024)
BACKENDS = ["numpy", pytest.param("interpret", marks=pytest.mark.triton)]

X = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)


@pytest.mark.parametrize("shape", [(6, 16), (5, 3), (7,), ()])
def test_dropout_scales_what_it_keeps(shape):
    x = np.asarray(np.random.default_rng(0).standard_normal(shape), np.float32)
    mask = random.bernoulli(KEY, 0.75, shape)
    np.testing.assert_array_equal(nn.dropout(x, 0.25, key=KEY), np.where(mask, x * np.float32(1 / 0.75), 0))


def test_dropout_drops_a_share_and_keeps_the_mean():
    ones = np.ones((512, 512), np.float32)
    out = nn.dropout(ones, 0.1, key=KEY)
    deviation = math.sqrt(0.09 / ones.size)
    assert (out == 0).mean() == pytest.approx(0.1, abs=4 * deviation)
    assert out.mean() == pytest.approx(1, abs=4 * deviation / 0.9)
    assert (out == nn.dropout(ones, 0.1, key=KEY)).all()
    assert (out != nn.dropout(ones, 0.1, key=random.key(2025))).any()


def test_dropout_at_its_limits():
    for options in ({"training": False}, {"p": 0.0}):
        np.testing.assert_array_equal(nn.dropout(X, key=KEY, **options), X)
    assert (nn.dropout(X, 1.0, key=KEY) == 0).all()
    assert (nn.dropout(np.full_like(X, np.nan), 0.5, key=KEY) == 0).any(), "what is dropped is 0, whatever it was"
    assert (gradc.grad(lambda x: gradc.sum(nn.dropout(x, 1.0, key=KEY)))(X) == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("shape", "dtype"), [((6, 16), "float32"), ((4, 24), "bfloat16"), ((5, 3), "float32")])
def test_the_gradient_of_dropout_is_its_mask(backend, shape, dtype):
    """Drawn again in the backward, to the bit: mask / (1 - p)."""
    x = torch.ones(shape, dtype=getattr(torch, dtype), requires_grad=True)
    out = gradc.compile(backend=backend)(lambda x, key: nn.dropout(x, 0.1, key=key))(x, torch.from_numpy(KEY))
    out.sum().backward()
    mask = torch.from_numpy(random.bernoulli(KEY, 0.9, shape))
    assert mask.any()
    assert torch.equal(x.grad, torch.where(mask, torch.tensor(1 / 0.9, dtype=x.dtype), 0))
    assert torch.equal(x.grad, out.detach())


def test_a_numpy_key_beside_a_torch_tensor():
    x = torch.ones(8, requires_grad=True)
    gradc.compile(backend="numpy")(lambda x, key: nn.dropout(x, 0.5, key=key))(x, KEY).sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0 * random.bernoulli(KEY, 0.5, (8,)))


def block(x, w, key):
    first, second = random.split(key)
    hidden = nn.dropout(gradc.tanh(nn.dropout(x, 0.3, key=first) @ w), 0.2, key=second)
    return gradc.sum(hidden * hidden)


def test_derivatives_through_dropout():
    w = np.random.default_rng(1).standard_normal((4, 2))
    gradc.check_grads(lambda x, w: block(x, w, KEY), (X[:2, :4].astype(np.float64), w))


def test_no_mask_is_kept():
    low = gradc.compile(block).lower(gradc.spec((512, 1024)), gradc.spec((1024, 256)), gradc.spec((2,), "uint32"))
    kept = {saved.name: saved.shape for saved in low.saved}
    assert kept["key"] == (2,)
    assert not any(saved.dtype in ("bool", "uint32", "uint8", "int8") and math.prod(saved.shape) > 2 for saved in low.saved)
    assert not any(buffer.dtype == "bool" for kernel in low.kernels for buffer in (*kernel.reads, *kernel.writes))
    alone = gradc.compile(lambda x, key: nn.dropout(x, 0.1, key=key)).lower(gradc.spec((64, 64)), gradc.spec((2,), "uint32"))
    assert [saved.name for saved in alone.saved] == ["key"]
    assert alone.cost.launches == 2


@pytest.mark.triton
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": np.tri(8, dtype=bool)}])
def test_dropout_inside_attention(options):
    x = np.random.default_rng(2).standard_normal((1, 2, 8, 4)).astype(np.float32)
    attend = gradc.compile(backend="interpret")(
        lambda x, key: nn.scaled_dot_product_attention(x, x, x, dropout_p=0.25, dropout_key=key, **options)
    )
    scores = torch.from_numpy(x @ x.swapaxes(-1, -2) / 2).double()
    if options:
        scores = scores.masked_fill(~torch.from_numpy(np.tri(8, dtype=bool)), -torch.inf)
    weights = scores.softmax(-1).numpy() * random.bernoulli(KEY, 0.75, (1, 2, 8, 8)) / 0.75
    np.testing.assert_allclose(attend(x, KEY), weights @ x, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"p": -0.1, "key": KEY}, ShapeError, r"lies in 0\.\.1, got -0\.1"),
        ({}, UnsupportedError, "key=gradc.random.key"),
        ({"inplace": True, "key": KEY}, UnsupportedError, "do not change"),
    ],
)
def test_errors_say_what_to_do(options, error, message):
    with pytest.raises(error, match=message):
        nn.dropout(X, **options)
