"""An exported module beside PyTorch: autograd's tape, what torch may not do with it, and the device its kernels run on."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace

import pytest

import gradc
from gradc.codegen.device import H200
from gradc.runtime import execute
from gradc.runtime.module import load_module
from gradc.runtime.plan import Plan
from gradc.trace import trace

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


def wave(x, w):
    return gradc.exp(x) * w, gradc.argmax(x, axis=-1)


ALONE = """
import sys, torch, kernels
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

x = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
w = torch.tensor([2.0, -1.0], requires_grad=True)
want = x.detach().exp() * w.detach()


def refused(call, *words):
    try:
        call()
    except Exception as error:
        assert any(word in str(error) for word in words), (type(error), str(error))
    else:
        raise AssertionError(words)


out, place = kernels.wave(x, w)
assert torch.allclose(out, want) and place.tolist() == [1, 0] and not place.requires_grad
out.sum().backward(retain_graph=True)
out.sum().backward()
assert torch.allclose(x.grad, 2 * want) and torch.allclose(w.grad, 2 * x.detach().exp().sum(0))

# a penalty on the gradient beside a loss that has one: without a refusal its part would be lost
loss = kernels.wave(x, w)[0].sum() + (x * x).sum()
refused(lambda: torch.autograd.grad(loss, x, create_graph=True), "differentiated twice")
refused(lambda: torch.autograd.functional.hessian(lambda x: kernels.wave(x, w)[0].sum(), x), "differentiated twice")

with forward_ad.dual_level():
    refused(lambda: kernels.wave(forward_ad.make_dual(x.detach(), x.detach()), w)[0], "jvp")
refused(lambda: torch.func.grad(lambda x: kernels.wave(x, w)[0].sum())(x.detach()), "setup_context")
refused(lambda: torch.func.vmap(lambda w: kernels.wave(x, w)[0])(w.detach().expand(3, 2).contiguous()), "setup_context", "vmap")
refused(lambda: torch.func.jvp(lambda x: kernels.wave(x, w)[0], (x.detach(),), (x.detach(),)), "setup_context", "jvp")

y = x * 1
out = kernels.wave(y, w)[0]
y.mul_(2)
refused(lambda: out.sum().backward(), "inplace")
a = x.detach().clone().requires_grad_()
checkpoint(lambda a: kernels.wave(a, w)[0], a, use_reentrant=False).sum().backward()
assert torch.allclose(a.grad, want)

negative = torch._neg_view(x.detach())
assert negative.is_neg()
refused(lambda: kernels.forward(negative, w), "resolve_neg")
g, = torch.autograd.grad(kernels.wave(x, w)[0], x, negative)
assert torch.allclose(g, -x.detach() * want)
assert not [name for name in sys.modules if name.startswith("gradc")]
print("all of it")
"""


@pytest.mark.triton
def test_on_torchs_tape(tmp_path):
    gradc.compile(wave).lower(gradc.spec((2, 2)), gradc.spec((2,))).export(str(tmp_path / "kernels.py"))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "all of it\n", done.stderr


# The device that kernels run on: a fake one, so that this needs none -----------------------------------------------------


class Elsewhere:
    """Stands for a tensor on the second GPU."""

    is_cuda, device = True, torch.device("cuda", 1)

    def __init__(self, like):
        self.like = like
        self.shape, self.dtype = like.shape, like.dtype

    def get_device(self):
        return self.device.index

    def __getattr__(self, name):
        found = getattr(self.like, name)
        return lambda *args: Elsewhere(result) if isinstance(result := found(*args), torch.Tensor) else result

    def __getitem__(self, place):
        return Elsewhere(self.like[place])


class Kernel:
    """Notes the device that is current when it is launched."""

    def __init__(self, launches, current):
        self.launches, self.current = launches, current

    def __getitem__(self, grid):
        return lambda *arrays, **numbers: self.launches.append(
            (self.current[0], [a.get_device() for a in arrays if hasattr(a, "like")])
        )


@pytest.fixture
def two_gpus(monkeypatch):
    """Of which the first is current: [0]. Arrays are made on the second."""
    current = [0]

    def exchange(number):
        before, current[0] = current[0], number if number >= 0 else current[0]
        return before

    made = {name: getattr(torch, name) for name in ("empty", "zeros")}
    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)
    for name, make in made.items():
        monkeypatch.setattr(torch, name, lambda *shape, device, make=make, **options: Elsewhere(make(*shape, **options)))
    return current


def softmax_of_products(x, w):
    return gradc.softmax(x @ w, axis=-1) @ w


PROGRAMS = {
    "rows": (lambda x, w: gradc.softmax(x * w), {}),
    "several kernels": (softmax_of_products, {}),
    "an argument returned": (lambda x, w: (x, gradc.sum(x * w)), {}),
    "added up by atomics": (lambda x, w: gradc.take(x, gradc.astype(w[0], "int32"), axis=0), {"deterministic": False}),
    "in chunks": (
        lambda x, w: gradc.sum(gradc.softmax(x[:, None, :] * w[None, :, :], axis=-1) ** 2),
        {"memory_budget": 70_000},
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_are_launched_where_the_arrays_are(name, two_gpus, monkeypatch):
    function, options = PROGRAMS[name]
    low = gradc.compile(function).lower(gradc.spec((64, 64)), gradc.spec((64, 64)), **options)
    module, launches = load_module(low.source), []
    monkeypatch.setattr(module, "expect", lambda *arguments: None)
    for kernel in low.kernels:
        monkeypatch.setattr(module, kernel.name, Kernel(launches, two_gpus))
    for phase in (module.forward, module.backward):
        launches.clear()
        results = phase(*(Elsewhere(torch.ones(64, 64)) for _ in inspect.signature(phase).parameters))
        assert two_gpus == [0]
        assert launches
        assert all(device == 1 and set(arrays) == {1} for device, arrays in launches)
        assert all(isinstance(array, Elsewhere) for array in results)


def test_without_arguments_they_are_launched_where_the_result_is(two_gpus, monkeypatch):
    low = gradc.compile(lambda: gradc.exp(gradc.arange(5.0))).lower()
    module, launches = load_module(low.source), []
    monkeypatch.setattr(module, low.kernels[0].name, Kernel(launches, two_gpus))
    module.forward(device="cuda:1")
    assert launches == [(1, [1])]
    assert two_gpus == [0]


def test_two_kinds_of_gpu_have_two_plans(monkeypatch):
    made = []
    monkeypatch.setattr(execute, "present_device", lambda number: [H200, replace(H200, name="smaller")][number])
    monkeypatch.setattr(
        execute, "make_plan", lambda graph, wrt, cache, device, budget: (made.append(device.name), (Plan("", 1), False))[1]
    )
    program = execute.Executable(trace(lambda x: x * 2, (gradc.spec((2,)),)).graph, "triton")
    for number in (0, 1, 1, 0):
        program._plan((), torch.device("cuda", number))
    assert made == ["H200", "smaller"]
