"""Rows of references, helpers and defaults, of the process, and of transforms."""

from __future__ import annotations

import collections
import contextvars
import decimal
import functools
import os
import sys
import types
import weakref

import numpy as np

import gradc
from outside.table import Holder, row

variable: contextvars.ContextVar[float] = contextvars.ContextVar("variable", default=2.0)


# References, functions, defaults ------------------------------------------------------------------------------------------


@row
def a_weak_reference():
    h = Holder()
    held = weakref.ref(h)
    yield lambda x: x * held().v
    h.v = 3.0


@row
def a_weak_proxy():
    h = Holder()
    held = weakref.proxy(h)
    yield lambda x: x * held.v
    h.v = 3.0


@row
def a_weak_dictionary():
    h = Holder()
    held = weakref.WeakValueDictionary(k=h)
    yield lambda x: x * held["k"].v
    h.v = 3.0


@row
def a_weak_set():
    h = Holder()
    held = weakref.WeakSet([h])
    yield lambda x: x * next(iter(held)).v
    h.v = 3.0


@row
def a_cached_helper():
    h = Holder()

    @functools.lru_cache
    def helper(n):
        return n * h.v

    yield lambda x: x * helper(1.0)
    h.v = 3.0
    helper.cache_clear()


@row
def a_helper_by_single_dispatch():
    h = Holder()

    @functools.singledispatch
    def helper(n):
        raise TypeError

    @helper.register
    def _(n: int):
        return h.v

    yield lambda x: x * helper(1)
    h.v = 3.0


@row
def a_helper_with_a_context():
    import contextlib

    h = Holder()

    @contextlib.contextmanager
    def factor():
        yield h.v

    def f(x):
        with factor() as found:
            return x * found

    yield f
    h.v = 3.0


@row
def a_mutable_default():
    def helper(x, kept=[2.0]):  # noqa: B006
        return x * kept[0]

    yield lambda x: helper(x)
    helper.__defaults__[0][0] = 3.0


@row
def a_default_by_keyword():
    def helper(x, *, kept={"k": 2.0}):  # noqa: B006
        return x * kept["k"]

    yield lambda x: helper(x)
    helper.__kwdefaults__["k"] = 3.0 if False else {"k": 3.0}
    helper.__kwdefaults__["kept"]["k"] = 3.0


@row
def other_code_of_a_function():
    def helper(x):
        return 2 * x

    def other(x):
        return 3 * x

    yield lambda x: helper(x)
    helper.__code__ = other.__code__


@row
def a_number_of_numpy():
    factor = np.float64(2.0)

    def f(x):
        return x * factor

    yield f
    factor = np.float64(3.0)


@row
def a_fresh_array_under_a_name():
    held = Holder(np.float32(2.0))
    yield lambda x: x * held.v
    held.v = np.float32(3.0)


# The process -------------------------------------------------------------------------------------------------------------


@row
def a_context_variable():
    yield lambda x: x * variable.get()
    token = variable.set(3.0)
    yield
    variable.reset(token)


@row
def a_context_variable_with_an_object():
    held: contextvars.ContextVar = contextvars.ContextVar("held")
    h = Holder()
    held.set(h)
    yield lambda x: x * held.get().v
    h.v = 3.0


def environment(name, read):
    def make():
        os.environ["OUTSIDE_K"] = "2.0"
        yield lambda x: x * float(read())
        os.environ["OUTSIDE_K"] = "3.0"
        yield
        del os.environ["OUTSIDE_K"]

    make.__name__ = name
    return row(make)


environment("the_environment", lambda: os.environ["OUTSIDE_K"])
environment("the_environment_by_get", lambda: os.environ.get("OUTSIDE_K", "2.0"))
environment("the_environment_by_getenv", lambda: os.getenv("OUTSIDE_K"))
getenv, environ, renamed = os.getenv, os.environ, os.getenv
environment("getenv_by_itself", lambda: renamed("OUTSIDE_K"))
environment("environ_by_itself", lambda: environ["OUTSIDE_K"])


@row
def arguments_of_the_process():
    kept = list(sys.argv)
    sys.argv[:] = ["program", "2.0"]
    yield lambda x: x * float(sys.argv[1])
    sys.argv[1] = "3.0"
    yield
    sys.argv[:] = kept


@row
def the_working_folder():
    here = os.getcwd()
    yield lambda x: x * (2.0 if os.getcwd() == here else 3.0)
    os.chdir("/")
    yield
    os.chdir(here)


@row
def the_precision_of_decimals():
    before = decimal.getcontext().prec
    yield lambda x: x * (2.0 if decimal.getcontext().prec == before else 3.0)
    decimal.getcontext().prec = before + 1
    yield
    decimal.getcontext().prec = before


# Transforms and compiled functions ------------------------------------------------------------------------------------------


@row
def inside_a_transform():
    held = collections.deque([2.0])
    yield lambda x: gradc.grad(lambda y: gradc.sum(y * held[0]))(x) * x
    held[0] = 3.0


@row
def inside_a_compiled_helper():
    held = types.SimpleNamespace(v=2.0)

    @gradc.compile
    def helper(x):
        return x * held.v

    yield lambda x: helper(x)
    held.v = 3.0
