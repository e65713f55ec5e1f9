"""What a program keeps as it was when it was made: a warning that names the line, once, and none for what it follows or never reads."""

from __future__ import annotations

import datetime
import functools
import itertools
import logging
import os
import pathlib
import random
import secrets
import sys
import threading
import time
import types
import uuid
import warnings
from time import perf_counter as tick

import numpy as np
import pytest
from numpy.random import randn as noise

import gradc
from gradc.errors import FrozenWarning

X = np.ones(3, np.float32)
rng = np.random.default_rng(0)
dice = random.Random(0)
ROWS = []


def row(name, function, said="later calls see the same"):
    ROWS.append(pytest.param(function, said, id=name))


class Model:
    def __init__(self, **values):
        vars(self).update(values)

    def noisy(self, x):
        return x + self.rng.normal()


def reading(x):
    with open(__file__) as file:
        return x * len(file.read())


def helper():
    return random.uniform(0, 1)


row("random", lambda x: x * random.random(), "gradc.random")
row("uniform", lambda x: x * random.uniform(1, 2), "gradc.random")
row("gauss", lambda x: x * random.gauss(0, 1), "gradc.random")
row("choice", lambda x: x * random.choice([1.0, 2.0]), "Python's random module")
row("randint", lambda x: x * random.randint(1, 3))
row("shuffle", lambda x: x * random.sample([1.0, 2.0], 1)[0])
row("in a helper", lambda x: x * helper())
row("a generator of Python", lambda x: x * dice.random(), "a random.Random")
row("an entropy source", lambda x: x * random.SystemRandom().random(), "os.urandom")
row("np.random.rand", lambda x: x * np.random.rand(3).astype("f4"), "numpy.random")
row("np.random.normal", lambda x: x * float(np.random.normal()))
row("np.random.randn by itself", lambda x: x * noise(), "numpy.random")
row("np.random.permutation", lambda x: x * float(np.random.permutation(3)[0]))
row("a generator of NumPy", lambda x: x * rng.standard_normal(3).astype("f4"), "a numpy.random.Generator")
row("a bound method of a generator", (lambda draw: lambda x: x * draw())(np.random.default_rng(1).uniform), "Generator")
row("a RandomState", (lambda state: lambda x: x * state.rand())(np.random.RandomState(0)), "a numpy.random.RandomState")
row("a generator in an object", Model(rng=np.random.default_rng(2)).noisy, "a numpy.random.Generator")
row("a generator made inside", lambda x: x * np.random.default_rng().normal(), "os.urandom")
row("time.time", lambda x: x * time.time(), "time.time() is called")
row("time_ns", lambda x: x * (time.time_ns() % 7), "time.time_ns()")
row("perf_counter by another name", lambda x: x * tick(), "time.perf_counter()")
row("monotonic", lambda x: x * time.monotonic(), "Pass the time")
row("datetime.now", lambda x: x * datetime.datetime.now().microsecond, "datetime.now()")
row("date.today", lambda x: x * datetime.date.today().day, "date.today()")
row("localtime", lambda x: x * time.localtime().tm_sec, "time.localtime()")
row("uuid4", lambda x: x * (uuid.uuid4().int % 7), "os.urandom()")
row("secrets", lambda x: x * secrets.randbelow(7), "os.urandom()")
row("token_bytes", lambda x: x * secrets.token_bytes(1)[0], "os.urandom()")
row("urandom", lambda x: x * os.urandom(1)[0], "os.urandom()")
row("a file", reading, "open()")
row("a path", lambda x: x * len(pathlib.Path(__file__).read_text()), "open()")
row("a generator", (lambda pieces: lambda x: x * next(pieces))(i for i in (2.0, 3.0)), "an iterator")
row("an iterator", (lambda pieces: lambda x: x * next(pieces))(iter([2.0, 3.0])), "'pieces' leads to an iterator")
row("a counter", (lambda numbers: lambda x: x * next(numbers))(itertools.count()), "an iterator")
row("a cycle", (lambda numbers: lambda x: x * next(numbers))(itertools.cycle([1, 2])), "an iterator")
row(
    "a map",
    (lambda m: lambda x: x * next(m.pieces))(Model(pieces=map(float, [1, 2]))),
    "'m' leads to an iterator",
)


def line_of(function):
    code = getattr(function, "__func__", function).__code__
    return code.co_filename, code.co_firstlineno


@pytest.mark.parametrize(("function", "said"), ROWS)
def test_what_is_frozen_is_said(function, said):
    with pytest.warns(FrozenWarning) as caught:
        gradc.compile(function)(X)
    assert len(caught) == 1
    assert said in str(caught[0].message)
    assert caught[0].filename == __file__
    first = line_of(function)[1]
    places = {first, first + 1, line_of(helper)[1] + 1}
    assert caught[0].lineno in places


def test_it_is_said_once():
    f = gradc.compile(lambda x: x * time.time())
    with pytest.warns(FrozenWarning):
        f(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f(X)
        f(X + 1)
    g = gradc.compile(lambda x: x * time.time())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for n in (1, 2, 3):
            g(np.ones(n))
    assert len(caught) == 1


def test_tensors_drawn_inside():
    torch = pytest.importorskip("torch")
    generator = torch.Generator()
    functions = [
        lambda x: x * torch.rand(3),
        lambda x: x * torch.randn(3).numpy(),
        lambda x: x * torch.nn.functional.dropout(torch.ones(3)),
        lambda x: x * torch.empty(3).normal_(),
        lambda x: x * torch.nn.init.uniform_(torch.empty(3)),
        lambda x: x * torch.rand(3, generator=generator),
    ]
    for f in functions:
        with pytest.warns(FrozenWarning, match=r"torch.* drawn while tracing") as caught:
            gradc.compile(f)(X)
        assert [(each.filename, each.lineno) for each in caught] == [line_of(f)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradc.compile(lambda x: x * torch.nn.functional.dropout(torch.ones(3), training=False))(X)


def test_a_trace_under_a_tracer_of_torch_is_not_in_the_way():
    torch = pytest.importorskip("torch")
    f = gradc.compile(lambda x: x * 2)
    with torch._subclasses.fake_tensor.FakeTensorMode():
        np.testing.assert_array_equal(f(X), 2 * X)
    torch.func.vmap(lambda t: f(np.ones(4)) is not None and t)(torch.ones(3))


def test_frames_and_series():
    pandas = types.ModuleType("pandas")
    pandas.__file__ = "/somewhere/site-packages/pandas/__init__.py"
    exec("class Series:\n    def __array__(self): return 2.0", pandas.__dict__)
    sys.modules.setdefault("pandas", pandas)
    try:
        series = sys.modules["pandas"].Series()
        with pytest.warns(FrozenWarning, match="'series' leads to a pandas.Series, whose elements are read once"):
            gradc.compile(lambda x: x * len([series]))(X)
    finally:
        if sys.modules["pandas"] is pandas:
            del sys.modules["pandas"]


def test_what_is_too_large_or_too_deep_is_said(monkeypatch):
    from gradc.runtime import closure

    monkeypatch.setattr(closure, "WORK", 50)
    table = [[i] for i in range(100)]
    with pytest.warns(FrozenWarning, match="'table' leads to more than 50 objects"):
        gradc.compile(lambda x: x * table[0][0])(X)
    monkeypatch.undo()
    nested = 2.0
    for _ in range(closure.DEPTH + 2):
        nested = [nested]
    with pytest.warns(FrozenWarning, match=f"'nested' leads to objects nested more than {closure.DEPTH} deep"):
        gradc.compile(lambda x: x * len(nested))(X)


# What a function changes itself ------------------------------------------------------------------------------------------


def a_counter_in_a_closure():
    count = 0

    def f(x):
        nonlocal count
        count += 1
        return x * count

    return f, "count"


def a_counter_in_an_object():
    model = Model(calls=0)

    def f(x):
        model.calls += 1
        return x

    return f, "calls"


def a_switch():
    model = Model(flag=False)

    def f(x):
        model.flag = not model.flag
        return x if model.flag else -x

    return f, "flag"


def a_list_that_grows():
    log = []

    def f(x):
        log.append("called")
        return x

    return f, "log"


@pytest.mark.parametrize("make", [a_counter_in_a_closure, a_counter_in_an_object, a_switch, a_list_that_grows])
def test_a_function_that_changes_what_it_reads_is_told(make):
    f, name = make()
    compiled = gradc.compile(f)
    compiled(X)
    with pytest.warns(FrozenWarning, match="is changed by the function itself") as caught:
        compiled(X)
    assert f"'{name}'" in str(caught[0].message)
    first = line_of(f)[1]
    assert first <= caught[0].lineno <= first + 3


def test_a_cache_that_is_filled_once_is_no_change():
    class Layer:
        @functools.cached_property
        def scale(self):
            return 2.0

    layer, table = Layer(), {}

    def f(x):
        return x * table.setdefault("k", layer.scale)

    compiled = gradc.compile(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            compiled(X)
    assert len(compiled._programs) == 2


# What is not frozen -------------------------------------------------------------------------------------------------------


def logged(x):
    logging.getLogger("gradc.test").warning("tracing")
    return x


def imported(x):
    import this_day_module

    return x * this_day_module.K


def written(x):
    print("tracing", file=sys.stderr)
    return x


def waited(x):
    threading.Event().wait(0)
    return x


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * (time.time() if x.shape == (4,) else 1.0),
        lambda x: x * (rng.normal() if x.ndim == 2 else 1.0),
        lambda x: x * np.random.default_rng(0).normal(),
        lambda x: x * random.Random(0).random(),
        lambda x: x + gradc.random.normal(gradc.random.key(0), (3,)),
        lambda x: gradc.nn.dropout(x, 0.5, key=gradc.random.key(1)),
        lambda x: x * datetime.date(2020, 1, 1).day,
        lambda x: x * len(list(iter([1, 2]))),
        lambda x: x * sum(i for i in range(3)),
        lambda x: gradc.grad(lambda y: gradc.sum(y * y))(x),
        logged, written, waited,
    ],
)  # fmt: skip
def test_what_is_not_frozen_is_not_said(function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradc.compile(function)(X)


def test_an_import_inside_reads_no_clock(tmp_path, monkeypatch):
    (tmp_path / "this_day_module.py").write_text("import time\nK = 2.0\nstarted = time.time()\nopen(__file__).close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradc.compile(imported)(X)


def test_numbers_drawn_by_another_thread_are_not_the_functions():
    inside, done = threading.Event(), threading.Event()

    def draw():
        inside.wait()
        random.random()
        np.random.rand()
        done.set()

    def f(x):
        inside.set()
        done.wait()
        return x * 2

    thread = threading.Thread(target=draw)
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradc.compile(f)(X)
    thread.join()


def test_nothing_is_watched_at_a_call_that_finds_its_program(monkeypatch):
    f = gradc.compile(lambda x: x * 2)
    f(X)
    for name in ("setprofile", "getprofile"):
        monkeypatch.setattr(sys, name, lambda *_: pytest.fail("watched"))
    monkeypatch.setattr(random, "getstate", lambda: pytest.fail("watched"))
    f(X)


def test_a_profile_of_the_users_stays():
    seen = []
    sys.setprofile(lambda *event: seen.append(event[1]))
    try:
        mine = sys.getprofile()
        gradc.compile(lambda x: x * 2)(X)
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
    assert seen


def test_an_error_in_a_trace_ends_the_watch():
    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError):
        gradc.compile(f)(X)
    assert sys.getprofile() is None
