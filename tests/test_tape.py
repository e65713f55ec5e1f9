"""torch's tape: what a compiled function closes over is on it like an argument; and what torch may not do with one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gradc

torch = pytest.importorskip("torch")
BACKENDS = pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])


@BACKENDS
def test_a_tensor_that_is_closed_over_gets_its_gradient(backend):
    w, x = torch.full((2,), 3.0, requires_grad=True), torch.ones(2, requires_grad=True)
    gradc.compile(backend=backend)(lambda x: x * w)(x).sum().backward()
    assert x.grad.tolist() == [3, 3]
    assert w.grad.tolist() == [1, 1]
    w.grad = None
    gradc.compile(backend=backend)(lambda: gradc.sum(w * w))().backward()
    assert w.grad.tolist() == [6, 6]
    gradc.compile(backend=backend)(lambda x: x * w)(np.full(2, 5, np.float32)).sum().backward()
    assert w.grad.tolist() == [11, 11]


def test_one_that_is_not_row_major():
    w = torch.arange(6.0).reshape(3, 2).requires_grad_()
    transposed = w.T
    gradc.compile(lambda x: gradc.exp(x) * transposed)(torch.zeros(2, 3)).sum().backward()
    assert w.grad.tolist() == torch.ones(3, 2).tolist()


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("offset", torch.ones(()))

    @gradc.compile
    def forward(self, x):
        return x * self.slope + self.offset


def test_a_module_with_a_compiled_forward_learns():
    model, x = Line(), torch.linspace(-1, 1, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(40):
        optimizer.zero_grad()
        ((model(x) - (2 * x + 1)) ** 2).mean().backward()
        optimizer.step()
    assert abs(model.slope.item() - 2) < 1e-3
    assert len(Line.forward._programs) == 1
    model.slope = torch.nn.Parameter(torch.tensor(7.0))
    torch.testing.assert_close(model(x), 7 * x + 1)
    model.offset = torch.tensor(2.0)
    torch.testing.assert_close(model(x), 7 * x + 2)


def test_torch_func_is_refused():
    x = torch.ones(3)
    f = gradc.compile(lambda x: gradc.sum(x * x))
    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(gradc.UnsupportedError, match=r"gradc\.grad"):
            transform(f)(x)


def test_tensors_without_elements_in_memory():
    for x in (torch.ones(3, device="meta"), torch.eye(3).to_sparse()):
        with pytest.raises(gradc.UnsupportedError, match="no elements in memory"):
            gradc.compile(lambda x: x * 2)(x)


# What autograd promises of any function ---------------------------------------------------------------------------------

X = torch.tensor([1.0, 2.0, 3.0])
exp, square = gradc.compile(lambda x: gradc.exp(x)), gradc.compile(lambda x: x * x)


def leaf(values=X):
    return values.clone().requires_grad_()


@pytest.mark.parametrize("closed_over", [False, True])
def test_a_numpy_array_that_is_written_to_before_the_backward(closed_over):
    """torch watches its tensors; what the backward takes of NumPy's is copied."""
    w, x = np.array([1, 2, 3], np.float32), leaf()
    out = gradc.compile(lambda x: x * w)(x) if closed_over else gradc.compile(lambda x, w: x * w)(x, w)
    w *= 10
    out.sum().backward()
    assert x.grad.tolist() == [1, 2, 3]


@pytest.mark.parametrize("make", [leaf, lambda: X.numpy().copy(), lambda: X.clone()], ids=["leaf", "numpy", "tensor"])
def test_what_is_written_to_before_a_pullback(make):
    x = make()
    _, pull = gradc.vjp(lambda x: x * x, x)
    _, push = gradc.linearize(lambda x: x * x, x)
    with torch.no_grad():
        x *= 10
    assert pull(make())[0].tolist() == [2, 8, 18]
    assert push(make()).tolist() == [2, 8, 18]


@pytest.mark.parametrize("function", [exp, square], ids=["output", "input"])
def test_what_was_saved_and_is_written_to_is_an_error(function):
    x = leaf() * 1
    out = function(x)
    (out if function is exp else x).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_what_was_not_saved_may_be_written_to():
    x = leaf()
    out = gradc.compile(lambda x: x * 3)(x)
    out.mul_(2)
    out.sum().backward()
    assert x.grad.tolist() == [6, 6, 6]


def pair(x):
    y = gradc.exp(x)
    return y, y, y[1:], x


def test_outputs_share_no_memory_with_each_other_or_an_input():
    x = leaf()
    first, second, part, same = gradc.compile(pair)(x)
    with torch.no_grad():
        for changed in (first, part, same):
            changed.zero_()
    torch.testing.assert_close(second, X.exp())
    torch.testing.assert_close(x.detach(), X)
    first, second, part, same = gradc.compile(pair)(x)
    (first + 2 * second + same).sum().backward()
    torch.testing.assert_close(x.grad, 3 * X.exp() + 1)


def test_outputs_that_are_whole_numbers_or_unused():
    x = leaf()
    largest, place, doubled = gradc.compile(lambda x: (gradc.max(x), gradc.argmax(x), x * 2))(x)
    assert not place.requires_grad
    largest.backward(retain_graph=True)
    assert x.grad.tolist() == [0, 0, 1]
    doubled.sum().backward()
    assert x.grad.tolist() == [2, 2, 3]


def test_a_backward_again_and_elsewhere():
    x = leaf()
    out = exp(x).sum()
    out.backward(retain_graph=True)
    thread = threading.Thread(target=out.backward)
    thread.start()
    thread.join()
    torch.testing.assert_close(x.grad, 2 * X.exp())
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_and_hooks(reentrant):
    x, seen = leaf(), []
    with (
        torch.autograd.graph.save_on_cpu(),
        torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(1) or t, lambda t: t),
    ):
        out = torch.utils.checkpoint.checkpoint(lambda x: exp(2 * x), x, use_reentrant=reentrant)
        out = exp(out - out.detach())
    out.register_hook(lambda d: 2 * d)
    out.sum().backward()
    assert seen
    torch.testing.assert_close(x.grad, 4 * torch.exp(2 * X))


def test_autocast_does_not_change_what_a_function_says():
    x = leaf(torch.ones(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        out = gradc.compile(lambda x: x @ x)(x)
        out.sum().backward()
    assert (out.dtype, x.grad.dtype) == (torch.float32, torch.float32)


def test_inference_tensors_are_read_and_not_saved():
    with torch.inference_mode():
        x = X.clone()
        assert not exp(x).requires_grad
    torch.testing.assert_close(exp(x), X.exp())
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        gradc.compile(lambda w, x: w * x)(leaf(), x)


BY_TORCH = {
    "create_graph": lambda x: torch.autograd.grad(square(x).sum() + (x**3).sum(), x, create_graph=True),
    "hessian": lambda x: torch.autograd.functional.hessian(lambda x: square(x).sum(), x),
    "jvp": lambda x: torch.autograd.functional.jvp(square, x, x),
    "gradgradcheck": lambda x: torch.autograd.gradgradcheck(square, (x.double(),)),
    "forward mode": lambda x: torch.autograd.gradcheck(square, (x.detach().double().requires_grad_(),), check_forward_ad=True),
    "batched": lambda x: torch.autograd.grad(square(x), x, torch.eye(3), is_grads_batched=True),
    "vectorized": lambda x: torch.autograd.functional.jacobian(square, x, vectorize=True),
}


@pytest.mark.parametrize("way", BY_TORCH)
def test_derivatives_of_torchs_that_are_not_there(way):
    with pytest.raises(gradc.UnsupportedError) as caught:
        BY_TORCH[way](leaf())
    assert caught.value.advice


def test_derivatives_of_torchs_that_are():
    torch.testing.assert_close(torch.autograd.functional.jacobian(exp, X), X.exp().diag())
    assert torch.autograd.gradcheck(square, (X.double().requires_grad_(),))
    x = leaf()
    with torch.autograd.detect_anomaly(check_nan=True), torch.autograd.set_multithreading_enabled(False):
        gradc.grad(lambda x: gradc.sum(x**3))(x).sum().backward()
    torch.testing.assert_close(x.grad, 6 * X)
