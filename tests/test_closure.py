"""What a compiled function reads besides its arguments: when it changes, so does the program."""

from __future__ import annotations

import functools
import types

import numpy as np
import pytest

import gradc
from gradc.runtime.closure import closed_over

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
