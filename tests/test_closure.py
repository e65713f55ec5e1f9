"""What a compiled function reads besides its arguments: when it changes, so does the program."""

from __future__ import annotations

import abc
import ctypes
import dataclasses
import datetime
import decimal
import fractions
import functools
import logging
import math
import operator
import pathlib
import random
import re
import sys
import threading
import types
import typing
import unittest.mock

import numpy as np
import outside
import pytest

import gradc
from gradc.runtime import closure
from gradc.runtime.closure import closed_over
from gradc.runtime.compile import Compiled

X = np.ones(3, np.float32)
settings = types.ModuleType("settings")


class Config:
    scale = 2.0


class Scaled:
    def __init__(self, scale, inner=None):
        self.scale, self.inner = scale, inner

    def __call__(self, x):
        return x * self.scale

    @property
    def doubled(self):
        return 2 * self.scale

    def method(self, x):
        return x * self.scale


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale


def multiplied(x, holder):
    return x * holder.scale


def changes(function, change, *arguments):
    """Whether a compiled function follows a change of what it gave as 2 to 3."""
    compiled = gradc.compile(function)
    np.testing.assert_array_equal(compiled(X, *arguments), 2 * X)
    change()
    np.testing.assert_array_equal(compiled(X, *arguments), 3 * X)


@pytest.mark.parametrize(
    "function",
    [
        lambda model: lambda x: x * model.scale,
        lambda model: lambda x: model(x),
        lambda model: lambda x: model.method(x),
        lambda model: lambda x: x * model.doubled / 2,
        lambda model: lambda x: multiplied(x, model),
        lambda model: lambda x: x * Scaled(1.0, model).inner.scale,
        lambda model: model.__call__,
        lambda model: functools.partial(multiplied, holder=model),
        lambda model: lambda x, hidden=model: x * hidden.scale,
        lambda model: lambda x: [model][0](x),
        lambda model: gradc.compile(model.method),
        lambda model: gradc.grad(lambda x: gradc.sum(model(x))),
    ],
    ids=[
        "attribute",
        "call",
        "method",
        "property",
        "helper",
        "inner",
        "bound",
        "partial",
        "default",
        "list",
        "compiled",
        "grad",
    ],
)
def test_a_changed_attribute_is_seen(function):
    model = Scaled(2.0)
    changes(function(model), lambda: setattr(model, "scale", 3.0))


def test_attributes_of_attributes_are_seen():
    outer, inside = Scaled(0.0, Scaled(2.0)), Scaled(0.0, {"layers": [Scaled(2.0)]})
    changes(lambda x, outer: x * outer.inner.scale, lambda: setattr(outer.inner, "scale", 3.0), outer)
    changes(lambda x: inside.inner["layers"][0](x), lambda: setattr(inside.inner["layers"][0], "scale", 3.0))


def test_slots_modules_and_classes_are_seen(monkeypatch):
    slotted = Slotted(2.0)
    changes(lambda x: x * slotted.scale, lambda: setattr(slotted, "scale", 3.0))
    settings.SCALE = 2.0
    changes(lambda x: x * settings.SCALE, lambda: setattr(settings, "SCALE", 3.0))
    changes(lambda x: x * Config.scale, lambda: monkeypatch.setattr(Config, "scale", 3.0))
    monkeypatch.undo()
    changes(lambda x: x * Config().scale, lambda: monkeypatch.setattr(Config, "scale", 3.0))


def test_functions_in_containers_are_seen():
    factor = 2.0
    functions = [lambda x: x * factor]
    table = {"f": lambda x: x * factor}
    compiled = [gradc.compile(lambda x: functions[0](x)), gradc.compile(lambda x: table["f"](x))]
    for factor in (2.0, 3.0):
        for f in compiled:
            np.testing.assert_array_equal(f(X), factor * X)


def test_helpers_of_one_text_are_told_apart():
    def times(k):
        return lambda x: x * k

    a, b = times(2.0), times(3.0)
    f = gradc.compile(lambda x: a(x) + b(x))
    np.testing.assert_array_equal(f(X), 5 * X)
    b = times(5.0)
    np.testing.assert_array_equal(f(X), 7 * X)


def test_another_function_of_the_same_name_is_seen():
    helper = gradc.exp
    f = gradc.compile(lambda x: helper(x))
    f(X)
    helper = gradc.negative
    np.testing.assert_array_equal(f(X), -X)


def test_what_does_not_matter_makes_no_new_program():
    model = Scaled(2.0)
    model.calls = 0
    before = closed_over(lambda x: model(x))[0]
    model.calls = 1
    assert len(closed_over(lambda x: model(x))[0]) == len(before)
    f = gradc.compile(lambda x: model(x))
    f(X)
    model.calls, count = 2, len(f._programs)
    f(X)
    assert len(f._programs) == count == 1


def test_circles_end():
    ring = Scaled(2.0)
    ring.inner = ring
    circle = [ring]
    circle.append(circle)
    changes(lambda x: circle[0].inner.inner(x), lambda: setattr(ring, "scale", 3.0))


def compiled_row(make):
    """The function of a row, compiled, with the arguments it is called with, and what goes on with the row."""
    row = make()
    function = next(row)
    arguments = (X, *getattr(function, "bound", ()))
    return (function if isinstance(function, Compiled) else gradc.compile(function)), arguments, row


@pytest.mark.parametrize("make", outside.ROWS, ids=lambda make: make.__name__)
def test_a_change_of_what_a_function_reads_is_seen(make):
    compiled, arguments, row = compiled_row(make)
    try:
        np.testing.assert_array_equal(compiled(*arguments), 2 * X)
        next(row, None)
        np.testing.assert_array_equal(compiled(*arguments), 3 * X)
    finally:
        list(row)


@pytest.mark.parametrize("make", outside.ROWS, ids=lambda make: make.__name__)
def test_what_did_not_change_finds_its_program(make):
    compiled, arguments, row = compiled_row(make)
    try:
        for _ in range(3):
            compiled(*arguments)
        assert len(compiled._programs) <= 2  # a first call may import a module or fill a cache of Python's
    finally:
        list(row)


INSTALLED = """
class Config:
    def __init__(self):
        self._store, self._scale, self.state = {"k": 2.0}, 2.0, None
    @property
    def scale(self):
        return self._scale
    def get(self, name):
        return self._store[name]
class Box:
    def __init__(self):
        self.__dict__["_content"] = {"k": Config()}
    def __getattr__(self, name):
        return self._content[name]
"""


@pytest.fixture
def installed(monkeypatch):
    """A module among the installed packages."""
    module = types.ModuleType("installed_package")
    module.__file__ = "/somewhere/site-packages/installed_package/__init__.py"
    monkeypatch.setitem(sys.modules, "installed_package", module)
    exec(INSTALLED, module.__dict__)
    return module


def test_objects_of_installed_packages_are_followed(installed):
    config, box = installed.Config(), installed.Box()
    changes(lambda x: x * config.scale, lambda: setattr(config, "_scale", 3.0))
    changes(lambda x: x * config.get("k"), lambda: config._store.update(k=3.0))
    changes(lambda x: x * box.k.scale, lambda: setattr(box._content["k"], "_scale", 3.0))

    class Mine(installed.Config):
        pass

    mine = Mine()
    changes(lambda x: x * mine.scale, lambda: setattr(mine, "_scale", 3.0))
    changes(lambda x: x * mine.get("k"), lambda: mine._store.update(k=3.0))


def test_modules_of_torch_and_its_modes_are_followed():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.scale = torch.nn.Dropout(0.5), 2.0
            self.layers = torch.nn.ModuleList([torch.nn.LayerNorm(3, eps=2.0)])

    model = Model()
    changes(lambda x: x * model.scale, lambda: setattr(model, "scale", 3.0))
    changes(lambda x: x * model.drop.p * 4, lambda: setattr(model.drop, "p", 0.75))
    changes(lambda x: x * model.layers[0].eps, lambda: setattr(model.layers[0], "eps", 3.0))
    changes(lambda x: x * (2.0 if model.training else 3.0), lambda: model.eval())
    changes(lambda x: x * (2.0 if model.drop.training is False else 3.0), lambda: model.train())
    try:
        changes(lambda x: x * (2.0 if torch.is_grad_enabled() else 3.0), lambda: torch.set_grad_enabled(False))
        is_on = torch.is_grad_enabled
        changes(lambda x: x * (3.0 if is_on() else 2.0), lambda: torch.set_grad_enabled(True))
        same = lambda: torch.get_default_dtype() == torch.float32
        changes(lambda x: x * (2.0 if same() else 3.0), lambda: torch.set_default_dtype(torch.float64))
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def visits(monkeypatch):
    """How many objects the walk has visited."""
    count = [0]
    key = closure._Search.key

    def counted(self, *rest):
        count[0] += 1
        return key(self, *rest)

    monkeypatch.setattr(closure._Search, "key", counted)
    return count


def test_an_assert_under_pytest_costs_nothing(visits):
    """The global `@pytest_ar` that pytest puts beside an assert leads to its whole session."""

    def f(x):
        y = x * 2
        assert y.shape == (3,)
        return y

    assert "@pytest_ar" in f.__code__.co_names
    closed_over(f)
    assert visits[0] < 20


def test_installed_packages_are_read_by_name_alone(monkeypatch, visits):
    package = types.ModuleType("installed_package")
    package.__file__ = "/somewhere/site-packages/installed_package/__init__.py"
    package.SCALE, package.inner = 2.0, types.SimpleNamespace(scale=1.0, other=types.SimpleNamespace())
    exec("def helper(x): return x * HIDDEN", package.__dict__)
    package.HIDDEN = {i: [i] for i in range(1000)}
    monkeypatch.setitem(sys.modules, "installed_package", package)
    f = lambda x: package.helper and x * package.SCALE * package.inner.scale
    changes(f, lambda: setattr(package, "SCALE", 3.0))
    visits[0] = 0
    closed_over(f)
    assert visits[0] < 20


def test_a_walk_is_bounded(visits, monkeypatch):
    monkeypatch.setattr(closure, "WORK", 500)
    table = [[types.SimpleNamespace(scale=1.0) for _ in range(10)] for _ in range(200)]
    closed_over(lambda x: table[0][0].scale)
    assert visits[0] < 10 * closure.WORK
    diamond = ()
    for _ in range(30):
        diamond = (diamond, diamond)
    visits[0] = 0
    closed_over(lambda x: diamond)
    assert visits[0] < 200
    numbers = [float(i) for i in range(100_000)]
    visits[0] = 0
    closed_over(lambda x: numbers)
    assert visits[0] < 10


@dataclasses.dataclass(frozen=True)
class Equal:
    scale: float
    rest: tuple = ()


class Price(decimal.Decimal):
    pass


@pytest.mark.parametrize("make", [lambda: Equal(2.0, (1,)), lambda: Price("2.0"), lambda: fractions.Fraction(2), lambda: (2.0,),
                                  lambda: outside.Named()], ids=["dataclass", "subclass", "fraction", "tuple", "named"])  # fmt: skip
def test_equal_objects_share_a_program(make):
    held = make()
    f, g = gradc.compile(lambda x: x * 2 if held else x), gradc.compile(lambda x, held: x * 2 if held else x)
    for _ in range(2):
        f(X)
        g(X, make())
        held = make()
    assert len(f._programs) == len(g._programs) == 1


@pytest.mark.parametrize(
    "values", [(Equal(2.0), Equal(3.0)), (Price(2), Price(3)), (fractions.Fraction(2), fractions.Fraction(3))]
)
def test_unequal_objects_do_not(values):
    held = values[0]
    f, g = (
        gradc.compile(lambda x: x * float(getattr(held, "scale", held))),
        gradc.compile(lambda x, held: x * float(getattr(held, "scale", held))),
    )
    for held in values:
        scale = float(getattr(held, "scale", held))
        np.testing.assert_array_equal(f(X), scale * X)
        np.testing.assert_array_equal(g(X, held), scale * X)


def draws():
    return [
        np.random.randn, np.random.rand, np.random.default_rng(0).normal, math.sin, "".join, [].append, str.upper,
        np.add, np.vectorize(abs), operator.itemgetter(0), type(np.random.randn.__func__), gradc.float32, int,
        np.random.default_rng(0), zip, dict.fromkeys, object(), NotImplemented, threading.Lock(), sys.stdout,
        np.dtype("f4"), re.compile("a"), {}.keys().isdisjoint, sys.float_info, decimal.Decimal(2), fractions.Fraction(1, 2),
        datetime.date(2020, 1, 1), pathlib.Path("a"), logging.getLogger("a"), ctypes.c_int, abc.ABC, typing.Any, list[int],
        int | None, typing.TypeVar("T"), functools.total_ordering, types.CodeType, (lambda: 0).__code__, unittest.mock.MagicMock(),
        random.Random(0), random.random, iter([1]), (i for i in ()), open, property(), classmethod(len), staticmethod(len),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("thing", draws(), ids=lambda thing: type(thing).__name__)
def test_anything_can_be_seen_by_a_function(thing):
    f = gradc.compile(lambda x: x * 2 if thing is not None else x)
    for _ in range(2):
        np.testing.assert_array_equal(f(X), 2 * X)
    assert len(f._programs) == 1
    closed_over(lambda x: x, [thing])
