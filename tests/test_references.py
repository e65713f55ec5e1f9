"""Compiled functions, and modules that hold them, pickled, copied and saved: found again by name, programs made anew."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gradc
from gradc.runtime.compile import Compiled

torch = pytest.importorskip("torch")

X = np.arange(4, dtype=np.float32)


@gradc.compile
def scaled(x, factor=2.0):
    return x * factor


@gradc.compile(backend="numpy", static_argnames="n", deterministic=False)
def repeated(x, n):
    return sum((x for _ in range(n)), 0 * x)


def plain(x):
    return x + 1


apart = gradc.compile(backend="numpy", memory_budget=1 << 20)(plain)
twice = gradc.compile(scaled)


def noted(function):
    """Another decorator, above the compiler's."""

    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


@noted
@gradc.compile
def decorated(x):
    return x - 1


class Model:
    def __init__(self, factor=3.0):
        self.factor = factor
        self.scaled, self.apart = scaled, apart
        self.bound = gradc.compile(self.plain)

    def plain(self, x):
        return x * self.factor

    @gradc.compile
    def call(self, x):
        return x * self.factor

    @gradc.compile
    @staticmethod
    def halved(x):
        return x / 2

    @staticmethod
    @gradc.compile
    def below(x):
        return x / 4

    @classmethod
    @gradc.compile
    def made(cls, x):
        return x / 8

    class Inner:
        @gradc.compile
        def call(self, x):
            return x * 7


BY_NAME = {
    "function": (scaled, X * 2),
    "with options": (functools.partial(repeated, n=3), X * 3),
    "method": (Model().call, X * 3),
    "through the class": (functools.partial(Model.call, Model(5.0)), X * 5),
    "compiled static method": (Model.halved, X / 2),
    "static compiled method": (Model().below, X / 4),
    "class method": (Model.made, X / 8),
    "nested class": (Model.Inner().call, X * 7),
    "under a decorator": (decorated.__wrapped__, X - 1),
    "partial": (functools.partial(scaled, factor=9.0), X * 9),
}
BY_FUNCTION = {"another name": (apart, X + 1), "compiled twice": (twice, X * 2), "bound": (Model(4.0).bound, X * 4)}


def innermost(call):
    while isinstance(call, functools.partial):
        call = call.func
    return call


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", BY_NAME | BY_FUNCTION)
def test_pickle(name, protocol):
    call, want = (BY_NAME | BY_FUNCTION)[name]
    np.testing.assert_allclose(call(X), want)
    data = pickle.dumps(call, protocol)
    assert len(data) < 1000  # no program of it
    again = pickle.loads(data)
    np.testing.assert_allclose(again(X), want)
    assert (innermost(again) is innermost(call)) == (name in BY_NAME)
    assert innermost(again).options == innermost(call).options
    assert repr(innermost(again)) == repr(innermost(call))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", BY_NAME | BY_FUNCTION)
def test_copies(name, copied):
    call, want = (BY_NAME | BY_FUNCTION)[name]
    call(X)
    again = copied(call)
    np.testing.assert_allclose(again(X), want)
    assert isinstance(innermost(again), Compiled)


def test_what_holds_compiled_functions():
    model = Model()
    model.call(X)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        again.factor = 10.0
        np.testing.assert_allclose(again.call(X), X * 10)
        np.testing.assert_allclose(again.bound(X), X * 10)
        np.testing.assert_allclose(again.scaled(X), X * 2)
        assert again.scaled is scaled
    np.testing.assert_allclose(model.bound(X), X * 3)


def test_closures_are_copied_but_not_pickled():
    factor = 6.0
    inner = gradc.compile(lambda x: x * factor)
    np.testing.assert_allclose(copy.deepcopy({"f": inner})["f"](X), X * 6)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(inner)  # as of any function without a name


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.activation = scaled
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

    @gradc.compile
    def forward(self, x):
        return self.activation(x * self.weight)


def test_modules_of_torch():
    net, x = Net(), torch.ones(2)
    net(x).sum().backward()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for again in (torch.load(file, weights_only=False), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(again(x), net(x))
        again.zero_grad()
        (again(x) * 3).sum().backward()
        torch.testing.assert_close(again.weight.grad, torch.full((2,), 6.0))
        torch.testing.assert_close(net.weight.grad, torch.full((2,), 2.0))
    file = io.BytesIO()
    torch.save({"call": net.forward, "function": scaled, "state": net.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    torch.testing.assert_close(saved["call"](x), net(x))
    assert saved["function"] is scaled


OTHER_PROCESSES = """
import multiprocessing, pickle, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import gradc

@gradc.compile
def tripled(x):
    return x * 3

class Model:
    factor = 2.0
    @gradc.compile
    def call(self, x):
        return x * self.factor

if __name__ == "__main__":
    x = np.ones(2, np.float32)
    tripled(x), Model().call(x)
    for method in sys.argv[1:]:
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            for call, want in ((tripled, 3), (Model().call, 2)):
                assert list(pool.submit(call, x).result(60)) == [want, want]
        print(method)
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes(method, tmp_path):
    (tmp_path / "program.py").write_text(OTHER_PROCESSES)
    done = subprocess.run([sys.executable, str(tmp_path / "program.py"), method], capture_output=True, text=True, check=False)
    assert done.stdout == f"{method}\n", done.stderr


def test_cloudpickle_takes_what_is_in_the_main_module_by_value(tmp_path):
    """For a process whose main module is another. What stands in a module that can be imported goes by name."""
    pytest.importorskip("cloudpickle")
    writes = """
        import cloudpickle, gradc, sys
        half = 0.5
        @gradc.compile
        def halved(x):
            return x * half
        halved(gradc.asarray([1.0]))
        open(sys.argv[1], "wb").write(cloudpickle.dumps(halved))
    """
    reads = """
        import pickle, sys, gradc
        halved = pickle.load(open(sys.argv[1], "rb"))
        print(halved(gradc.asarray([4.0])))
    """
    for text in (writes, reads):
        command = [sys.executable, "-c", textwrap.dedent(text), str(tmp_path / "halved")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "[2.]\n"
