"""What PyTorch computes inside a compiled function from tensors that it closes over is computed again at every call."""

from __future__ import annotations

import pytest

import gradc
from gradc.trace import trace

torch = pytest.importorskip("torch")

X = torch.tensor([1.0, 2.0, 3.0])

DERIVED = {  # from a tensor of shape (3,)
    "function": torch.exp,
    "operator": lambda w: w * 2 + 1,
    "method": lambda w: w.exp().clamp(max=20),
    "chain": lambda w: (w.exp() / w.exp().sum()).sqrt(),
    "several": lambda w: w.split(1)[2] + torch.stack([w, w]).unbind()[0],
    "view": lambda w: w.unsqueeze(0).T[:, 0],
    "attribute": lambda w: w[None].mT[:, 0],
    "module": lambda w: torch.nn.functional.softmax(w, dim=0),
    "with a constant": lambda w: w + torch.arange(3.0).cumsum(0),
    "detached": lambda w: w.detach() * 3,
    "same again": lambda w: w.to(torch.float32).contiguous(),
    "nested": lambda w: gradc.compile(lambda: torch.exp(w) + gradc.asarray(X))(),
}


@pytest.mark.parametrize(
    ("backend", "name"), [*(("numpy", name) for name in DERIVED), pytest.param("interpret", "chain", marks=pytest.mark.triton)]
)
def test_values_and_gradients_at_every_call(backend, name):
    w = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    derived = DERIVED[name]
    f = gradc.compile(backend=backend)(lambda x: x * derived(w))
    with torch.no_grad():
        f(X)  # a first trace off the tape
    for _ in range(3):
        out, want = f(X), X * torch.as_tensor(derived(w))
        torch.testing.assert_close(out, want)
        assert out.requires_grad == want.requires_grad
        if out.requires_grad:
            got, expected = torch.autograd.grad(out.sum(), w)[0], torch.autograd.grad(want.sum(), w)[0]
            torch.testing.assert_close(got, expected)
        with torch.no_grad():
            w.mul_(-1.5)
    assert len(f._programs) == 1


class Doubled(torch.nn.Module):
    def forward(self, w):
        return w * 2


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 3))
        self.running = torch.ones(3)

    @gradc.compile
    def forward(self, x):
        return x @ self.weight.T


def test_a_module_that_was_first_evaluated_learns_after_all():
    model, x = Linear(), X[None]
    with torch.no_grad():
        model(x)
    model(x).sum().backward()
    torch.testing.assert_close(model.weight.grad, X.expand(2, 3))


def test_a_parametrization():
    model, x = Linear(), X[None]
    torch.nn.utils.parametrize.register_parametrization(model, "weight", Doubled())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        out, want = model(x), x @ (2 * model.parametrizations.weight.original).T
        torch.testing.assert_close(out, want)
        out.sum().backward()
        torch.testing.assert_close(model.parametrizations.weight.original.grad, 2 * X.expand(2, 3))
        optimizer.step()


def updated(x):
    model.running.mul_(0.9)
    return x * model.running


def assigned(x):
    model.running[0] = 5
    return x * model.running


def written(x):
    torch.exp(X, out=model.running)
    return x * model.running


model = Linear()


@pytest.mark.parametrize("function", [updated, assigned, written])
def test_a_tensor_that_is_written_to_while_tracing(function):
    with pytest.raises(gradc.UnsupportedError, match="at later calls") as caught:
        gradc.compile(function)(X)
    assert "running" in str(caught.value)


def test_constants_may_be_filled():
    @gradc.compile
    def f(x):
        mask = torch.zeros(3)
        mask[1:] = 1
        mask.add_(torch.ones(3))
        return x * mask

    for _ in range(2):
        torch.testing.assert_close(f(X), X * torch.tensor([1.0, 2.0, 2.0]))


def test_an_error_of_torchs_ends_at_the_users_line():
    with pytest.raises(TypeError, match=r"Value|traced") as caught:
        gradc.compile(lambda x: torch.exp(x))(X)
    assert caught.traceback[-1].path.name == "test_derived.py"


def test_a_program_on_disk_is_found_whatever_its_arrays_hold():
    graphs = [trace(lambda x: x * torch.exp(w), (X,)).graph for w in (X, X + 1)]  # noqa: B023
    first, second = (next(v.operation for v in graph.values if v.operation.name == "literal") for graph in graphs)
    assert repr(first) == repr(second)
