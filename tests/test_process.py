"""Programs in a process that does more than one thing: threads that call at once, forks while others compile, thousands of shapes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradc
from gradc.errors import RecompileWarning
from gradc.runtime import compile as compile_module
from gradc.runtime import forks, workers
from gradc.runtime import module as module_module
from gradc.runtime.compile import Compiled, Options
from gradc.runtime.module import load_module

BACKENDS = ["numpy", pytest.param("interpret", marks=pytest.mark.triton)]
X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def traces(monkeypatch):
    """The shapes traced so far."""
    seen: list = []
    trace = compile_module.trace

    def counted(function, args, *rest):
        seen.append(args[0].shape)
        return trace(function, args, *rest)

    monkeypatch.setattr(compile_module, "trace", counted)
    return seen


def at_once(count, work):
    """What `work(i)` gives in each of `count` threads that begin together."""
    barrier = threading.Barrier(count)

    def begun(i):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begun, range(count)))


# Threads -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_call_from_sixteen_threads(backend, traces):
    scale = 2.0

    def helper(x):
        return gradc.softmax(x * scale)

    f = gradc.compile(backend=backend)(lambda x: gradc.sum(helper(x) * x, axis=1))
    want = compile_module.run_once(lambda x: gradc.sum(helper(x) * x, axis=1), (X,), {})
    traces.clear()
    for result in at_once(16, lambda i: f(X)):
        np.testing.assert_allclose(result, want, rtol=1e-6)
    assert len(traces) == 1
    assert len(f._programs) == 1
    assert len(workers._pool().waiting["interpret"]) <= workers.processors()


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_calls_of_sixteen_shapes_at_once(backend, traces):
    f = gradc.compile(backend=backend)(lambda x: x * 2 + gradc.sum(x))
    shapes = [(1 + i % 4,) for i in range(16)]
    for i, result in enumerate(at_once(16, lambda i: f(np.ones(shapes[i], np.float32)))):
        np.testing.assert_array_equal(result, np.full(shapes[i], 2 + shapes[i][0]))
    assert len(traces) == len(f._programs) == 4


def test_first_calls_that_find_more_names_at_once(traces):
    """Each thread's walk meets names that the others' have not; the program is the same."""
    layers = [type(f"Layer{i}", (), {"scale": 1.0, "__call__": lambda self, x: x * self.scale})() for i in range(4)]
    f = gradc.compile(lambda x: layers[3](layers[2](layers[1](layers[0](x)))))
    at_once(16, lambda i: f(X))
    assert len(f._programs) == 1
    layers[2].scale = 3.0
    for result in at_once(16, lambda i: f(X)):
        np.testing.assert_array_equal(result, 3 * X)
    assert len(f._programs) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_backwards_from_sixteen_threads(backend):
    torch = pytest.importorskip("torch")
    f = gradc.compile(backend=backend)(lambda x: gradc.sum(x * x * x))

    def work(i):
        x = torch.full((3,), float(i), requires_grad=True)
        f(x).backward()
        return x.grad

    for i, gradient in enumerate(at_once(16, work)):
        torch.testing.assert_close(gradient, torch.full((3,), 3.0 * i * i))
    assert len(f._programs) == 1


def test_threads_lower_different_functions_at_once():
    functions = [
        lambda x: gradc.softmax(x),
        lambda x: gradc.logsumexp(x, axis=1),
        lambda x: x @ x.T,
        lambda x: gradc.cumsum(x, axis=1),
    ]
    alone = [gradc.compile(f).lower(gradc.spec((8, 16))).source for f in functions]
    made = at_once(16, lambda i: gradc.compile(functions[i % 4]).lower(gradc.spec((8, 16))).source)
    assert made == [alone[i % 4] for i in range(16)]


def test_modules_are_loaded_once_by_sixteen_threads(tmp_path):
    source = "import itertools\ncount = itertools.count()\ndef forward():\n    return next(count)\n# of sixteen threads\n"
    assert sorted(at_once(16, lambda i: load_module(source).forward())) == list(range(16))


# Forks -------------------------------------------------------------------------------------------------------------------


def in_a_fork(work):
    """The exit status of a forked process that runs `work`; it is ended after a while, with status -9."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    timer = threading.Timer(60, os.kill, (child, signal.SIGKILL))
    timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    return os.waitstatus_to_exitcode(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_while_another_thread_compiles():
    inside, done = threading.Event(), threading.Event()
    parent = threading.get_ident()

    def slow(x):
        if threading.get_ident() != parent:
            inside.set()
            done.wait()
        return gradc.sum(x * 2)

    f = gradc.compile(slow)
    thread = threading.Thread(target=f, args=(X,))
    thread.start()
    inside.wait()

    def work():
        assert float(f(X)) == 2 * X.sum()
        assert float(gradc.compile(lambda x: gradc.sum(x))(X)) == X.sum()
        assert float(gradc.grad(lambda x: gradc.sum(x * x))(X).sum()) == 2 * X.sum()

    status = in_a_fork(work)
    done.set()
    thread.join()
    assert status == 0
    assert float(f(X)) == 2 * X.sum()


@pytest.mark.triton
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_while_another_thread_holds_every_lock():
    f = gradc.compile(backend="interpret")(lambda x: x * 2)
    f(X)
    executable = next(iter(f._programs.values())).executable
    locks = [f._lock, executable._lock, module_module._LOCK, workers._LOCK]
    inside, done = threading.Event(), threading.Event()

    def hold():
        with locks[0], locks[1], locks[2], locks[3]:
            inside.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()

    def work():
        np.testing.assert_array_equal(f(X), 2 * X)
        np.testing.assert_array_equal(f(X[:2]), 2 * X[:2])
        load_module("# in a fork\n")
        workers._pool().end()

    status = in_a_fork(work)
    done.set()
    thread.join()
    assert status == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_lock_that_the_forking_thread_holds_stays_its_own():
    lock = forks.lock()

    def work():
        with lock:
            pass

    with lock:
        assert in_a_fork(work) == 0
    with lock, lock:
        pass


# Thousands of shapes -------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_programs_are_dropped(traces):
    f = Compiled(lambda x: x * 2, Options(), programs=16)
    kept = np.ones(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for size in range(1, 200):
            np.testing.assert_array_equal(f(np.ones(size)), np.full(size, 2.0))
            f(kept)
            assert len(f._programs) <= 16
    assert traces.count((1,)) == 1  # it was in use
    assert len(traces) == 199
    (warning,) = caught  # once for a function
    assert issubclass(warning.category, RecompileWarning)
    assert "16 programs" in str(warning.message)
    assert "argument leaf 0" in str(warning.message)
    assert warning.filename == __file__
    f(np.ones(2))
    assert len(traces) == 200  # it was dropped, and made again


def test_a_dropped_program_lets_go_of_what_it_held():
    import gc
    import weakref

    class Weights:
        def __init__(self):
            self.scale = 2.0

    held = Weights()
    f = Compiled(lambda x: x * held.scale, Options(), programs=4)
    first = weakref.ref(held)
    f(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(8):
            held = Weights()
            f(X)
    gc.collect()
    assert first() is None


@pytest.mark.triton
def test_what_was_emitted_for_dropped_programs_goes_too(monkeypatch):
    before = len(module_module._MODULES)
    monkeypatch.setattr(module_module, "MODULES", before + 8)
    for i in range(40):
        assert load_module(f"K = {i}\ndef forward():\n    return K\n# of many\n").forward() == i
        assert len(module_module._MODULES) <= before + 8
    assert sum(name.startswith("gradc_emitted_") for name in sys.modules) <= before + 8
    first = load_module("K = 0\ndef forward():\n    return K\n# of many\n")
    assert first.forward() == 0


def test_the_bounds_are_those_that_are_written_down():
    assert str(compile_module.PROGRAMS) in compile_module.compile.__doc__
