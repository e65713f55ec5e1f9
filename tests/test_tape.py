"""torch's tape: what a compiled function closes over is on it like an argument; and what torch may not do with one."""

from __future__ import annotations

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
