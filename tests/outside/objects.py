"""Rows of objects: what operators and statements read of them, and what Python itself provides."""

from __future__ import annotations

import argparse
import types

from outside.table import TABLE, Item, row

# Objects -----------------------------------------------------------------------------------------------------------------


@row
def a_simple_namespace():
    held = types.SimpleNamespace(v=2.0)
    yield lambda x: x * held.v
    held.v = 3.0


@row
def an_argparse_namespace():
    held = argparse.Namespace(v=2.0)
    yield lambda x: x * held.v
    held.v = 3.0


@row
def a_config_with_a_getter():
    held = Item(scale=2.0)
    yield lambda x: x * held.scale
    held._values["scale"] = 3.0


@row
def nested_configs_with_getters():
    held = Item(model=Item(scale=2.0))
    yield lambda x: x * held.model.scale
    held.model._values["scale"] = 3.0


@row
def a_config_with_a_getter_from_a_global():
    class Config:
        def __getattr__(self, name):
            return TABLE[name]

    held = Config()
    yield lambda x: x * held.k
    TABLE["k"] = 3.0
    yield
    TABLE["k"] = 2.0


@row
def a_getter_by_object():
    class Config:
        def __init__(self):
            self._hidden = {"scale": 2.0}

        def __getattribute__(self, name):
            return object.__getattribute__(self, "_hidden")[name]

    held = Config()
    yield lambda x: x * held.scale
    object.__getattribute__(held, "_hidden")["scale"] = 3.0


@row
def a_subscripted_object():
    class Config:
        def __init__(self):
            self.store = {"scale": 2.0}

        def __getitem__(self, name):
            return self.store[name]

    held = Config()
    yield lambda x: x * held["scale"]
    held.store["scale"] = 3.0


@row
def an_operator_of_a_class():
    class Scale:
        def __init__(self):
            self.hidden = 2.0

        def __rmatmul__(self, x):
            return x * self.hidden

        def __bool__(self):
            return self.hidden < 3

    scale = Scale()
    yield lambda x: x * (2.0 if scale else 3.0)
    scale.hidden = 3.0


@row
def iteration_and_length_of_an_object():
    class Layers:
        def __init__(self):
            self.kept = [2.0]

        def __iter__(self):
            return iter(self.kept)

        def __len__(self):
            return len(self.kept)

    layers = Layers()
    yield lambda x: x * sum(layers) * len(layers)
    layers.kept = [1.5, 0.0]


@row
def a_context_manager():
    class Mode:
        def __init__(self):
            self.kept = 2.0

        def __enter__(self):
            return self.kept

        def __exit__(self, *rest):
            pass

    mode = Mode()

    def f(x):
        with mode as factor:
            return x * factor

    yield f
    mode.kept = 3.0
