"""Inside torch.compile a call of gradc ends a graph: right values and gradients, and none of gradc's own code is read."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

import gradc

torch = pytest.importorskip("torch")
dynamo = pytest.importorskip("torch._dynamo")

X = torch.tensor([1.0, 2.0, 3.0])


@gradc.compile
def wave(x):
    return x * x + gradc.sin(x)


def cube(x):
    return gradc.sum(x**3)


class Scale:
    factor = 2.0

    @gradc.compile
    def call(self, x):
        return x * self.factor


class Weighted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0, 3.0, 4.0]))
        self.held = gradc.compile(lambda x: x * 5)

    @gradc.compile
    def forward(self, x):
        return x * self.weight


class Around(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Weighted()

    def forward(self, x):
        return self.inner.held(self.inner(x + 1)) + 1


def repeated(x):
    for _ in range(3):
        x = wave(x)
    return x


def both_ways(x):
    out, pull = gradc.vjp(lambda x: x * x, x * 1)
    return pull(x)[0] + gradc.jvp(lambda x: x * x, (x,), (x,))[1] + out


def without_tape(x):
    with torch.no_grad():
        return wave(x) * 2


model, scale, slope = Around(), Scale(), gradc.grad(cube)
CALLS = {  # a function to compile, and how many frames of Python code Dynamo may look at
    "a compiled function": (lambda x: wave(x + 1) * 2, 2),
    "itself": (wave, 1),
    "a method": (lambda x: scale.call(x) + 1, 2),
    "a module": (model, 4),
    "a partial": (functools.partial(gradc.compile(lambda a, x: a * x), X), 2),
    "made inside": (lambda x: gradc.compile(lambda x: x * 3)(x) + 1, 4),
    "in a loop": (repeated, 3),
    "without a tape": (without_tape, 3),
    "grad made before": (lambda x: slope(x * 2) + 1, 2),
    "grad": (lambda x: gradc.grad(cube)(x * 2) + 1, 4),
    "hessian and vmap": (lambda x: gradc.hessian(cube)(x).sum() + gradc.vmap(lambda x: x * 2)(x), 6),
    "vjp and jvp": (both_ways, 9),
    "at once": (lambda x: gradc.exp(x + 1) * 2, 2),
}
TAPED = [name for name in CALLS if name not in ("without a tape", "at once", "vjp and jvp", "hessian and vmap")]


@pytest.fixture(autouse=True)
def clean():
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()


@pytest.mark.parametrize("name", CALLS)
def test_values_and_how_little_is_read(name):
    function, frames = CALLS[name]
    compiled = torch.compile(function, backend="eager")
    for x in (X, X + 1):
        torch.testing.assert_close(compiled(x), function(x))
    assert dynamo.utils.counters["frames"]["total"] <= frames


@pytest.mark.parametrize("name", TAPED)
def test_gradients(name):
    function = CALLS[name][0]
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    torch.compile(function, backend="eager")(x).sum().backward()
    function(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("a partial",)])
def test_fullgraph_says_at_once_what_is_not_there(name):
    with pytest.raises(
        dynamo.exc.Unsupported, match=r"gradc's functions run between the graphs of torch\.compile, so fullgraph=True"
    ):
        torch.compile(CALLS[name][0], backend="eager", fullgraph=True)(X)
    assert not dynamo.utils.counters["frames"]["ok"]


def test_export_is_refused():
    with pytest.raises(gradc.UnsupportedError):
        torch.export.export(Around(), (X,))
    with pytest.raises(Exception, match="gradc's functions run between"):
        torch.export.export(Around(), (X,), strict=True)
    torch.testing.assert_close(model(X), 5 * (X + 1) * model.inner.weight + 1)


def test_a_backward_that_torch_compiles():
    x = X.clone().requires_grad_()
    out = wave(x).sum()
    with dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        out.backward()
    torch.testing.assert_close(x.grad, 2 * X + torch.cos(X))


def test_the_users_line_in_code_that_torch_made():
    """What torch.compile makes of a function may not hash, as it holds dictionaries; errors show a line of it all the same."""
    broken = torch.compile(lambda x: gradc.vjp(lambda x: x @ x, torch.ones(2, 3) * x)[0], backend="eager")
    with pytest.raises(gradc.ShapeError, match=r"test_entry\.py"):
        broken(1)


LATE = """
import sys, gradc
wave = gradc.compile(lambda x: x * x + gradc.sin(x))
slope = gradc.grad(lambda x: gradc.sum(x**3))
assert "torch" not in sys.modules
import torch
x = torch.tensor([1.0, 2.0, 3.0])
first = sys.argv[1]
calls = {"wave": (wave, x * x + x.sin()), "slope": (slope, 3 * x * x), "exp": (gradc.exp, x.exp()),
         "grad": (lambda x: gradc.grad(lambda x: gradc.sum(x**3))(x), 3 * x * x)}
call, want = calls[first]
torch.testing.assert_close(torch.compile(lambda x: call(x) * 2, backend="eager")(x), want * 2)
print(torch._dynamo.utils.counters["frames"]["total"])
"""


@pytest.mark.parametrize("first", ["grad"])
def test_torch_may_be_imported_after_gradc(first):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LATE, first], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 7
