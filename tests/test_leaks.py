"""Traced arrays that a function leaves in an object: an error that names the object and the line, and none for what it may hold."""

from __future__ import annotations

import collections
import contextvars
import functools
import sys
import threading
import types
import weakref

import numpy as np
import pytest

import gradc
from gradc.errors import TraceError
from gradc.ir import Value
from gradc.trace import trace

X = np.ones(3, np.float32)
history: list = []
settings = types.SimpleNamespace(last=None)
last = None
module = types.ModuleType("leaks_module")
variable: contextvars.ContextVar = contextvars.ContextVar("variable", default=None)
ROWS = []


def row(make):
    """A row makes a function that leaves an array somewhere: `(function, the name of the place, the text of its line)`."""
    ROWS.append(make)
    return make


class Model:
    shared = None
    table: dict = {}  # noqa: RUF012

    def __init__(self):
        self.running, self.cache, self.inner, self.seen = 0.0, {}, None, []

    def forward(self, x):
        self.running = self.running * 0.9 + 0.1 * gradc.mean(x)
        return x * 2

    def keep(self, x):
        self.cache["k", 1] = x + 1
        return x

    def note(self, x):
        self.seen.append(x)
        return x


class Compiled:
    def __init__(self):
        self.running = 0.0

    @gradc.compile
    def forward(self, x):
        self.running = self.running * 0.9 + 0.1 * gradc.mean(x)
        return x * 2


class Slotted:
    __slots__ = ("kept",)


@row
def an_attribute_of_self():
    return Model().forward, "self.running", "self.running = self.running * 0.9"


@row
def an_attribute_in_a_decorated_method():
    return Compiled().forward, "self.running", "self.running = self.running * 0.9"


@row
def an_attribute_of_a_layer():
    outer = Model()
    outer.inner = Model()

    def f(x):
        return outer.inner.forward(x)

    return f, "outer.inner.running", "self.running = self.running * 0.9"


@row
def an_entry_of_a_dictionary():
    return Model().keep, "self.cache[('k', 1)]", 'self.cache["k", 1] = x + 1'


@row
def an_argument_appended():
    return Model().note, "self.seen[0]", None


@row
def an_array_of_a_list_of_layers():
    layers = [Model(), Model()]

    def f(x):
        x = x * len(layers)
        layers[1].running = x
        return x

    return f, "layers[1].running", "layers[1].running = x"


@row
def a_closed_over_list():
    kept = []

    def f(x):
        kept.append(x * 2)
        return x

    return f, "kept[0]", "kept.append(x * 2)"


@row
def a_pair_in_a_list():
    kept = []

    def f(x):
        kept.append({"value": (x, x * 2)})
        return x

    return f, "kept[0]['value'][0]", None


@row
def a_global_list():
    def f(x):
        history.append(x * 2)
        return x

    return f, "history[0]", "history.append(x * 2)"


@row
def an_attribute_of_a_global():
    def f(x):
        settings.last = x * 2
        return x

    return f, "settings.last", "settings.last = x * 2"


@row
def a_global():
    def f(x):
        global last
        last = x * 2
        return x

    return f, "last", "last = x * 2"


@row
def a_global_in_a_helper():
    def helper(x):
        global last
        last = x + 1
        return last

    return (lambda x: helper(x) * 2), "last", "last = x + 1"


@row
def an_attribute_of_a_module():
    def f(x):
        module.kept = x * 2
        return x

    return f, "module.kept", "module.kept = x * 2"


@row
def a_nonlocal():
    kept = None

    def f(x):
        nonlocal kept
        kept = x * 2
        return x

    return f, "kept", "kept = x * 2"


@row
def a_class_attribute():
    def f(x):
        Model.shared = x * 2
        return x

    return f, "Model.shared", "Model.shared = x * 2"


@row
def a_class_attribute_by_type():
    def forward(self, x):
        type(self).table["k"] = x * 2
        return x

    return functools.partial(forward, Model()), "Model.table['k']", 'type(self).table["k"] = x * 2'


@row
def a_cached_helper():
    @functools.cache
    def helper(x):
        return x * 2

    return (lambda x: helper(x)), "the cache of helper", None


@row
def a_cached_helper_of_limited_size():
    @functools.lru_cache(maxsize=3)
    def helper(x):
        return x * 2

    return (lambda x: helper(x)), "the cache of helper", None


@row
def a_cached_property():
    class Layer:
        def __init__(self, w):
            self.w = w

        @functools.cached_property
        def scaled(self):
            return gradc.exp(self.w)

    layer = Layer(X)
    return (lambda x: x * layer.scaled), "layer.scaled", "return gradc.exp(self.w)"


@row
def an_attribute_of_the_function():
    def f(x):
        f.last = x * 2
        return x

    return f, "f.last", "f.last = x * 2"


@row
def a_mutable_default():
    def f(x, kept=[]):  # noqa: B006
        kept.append(x * 2)
        return x

    return f, "kept[0]", "kept.append(x * 2)"


@row
def a_slot():
    held = Slotted()

    def f(x):
        held.kept = x * 2
        return x

    return f, "held.kept", "held.kept = x * 2"


@row
def a_namespace_by_setattr():
    held = types.SimpleNamespace()

    def f(x):
        setattr(held, "kept", x * 2)  # noqa: B010
        return x

    return f, "held.kept", None


@row
def a_deque():
    held = collections.deque(maxlen=2)

    def f(x):
        held.append(x * 2)
        return x

    return f, "held[0]", "held.append(x * 2)"


@row
def a_set():
    held = set()

    def f(x):
        held.add(x * 2)
        return x

    return f, "held", "held.add(x * 2)"


@row
def a_userdict():
    held = collections.UserDict()

    def f(x):
        held["k"] = x * 2
        return x

    return f, "held.data['k']", 'held["k"] = x * 2'


@row
def a_thread_local():
    held = threading.local()

    def f(x):
        held.kept = x * 2
        return x

    return f, "held.kept", "held.kept = x * 2"


@row
def a_context_variable():
    def f(x):
        variable.set(x * 2)
        return x

    return f, "variable.get()", "variable.set(x * 2)"


@row
def a_function_that_closes_over_it():
    kept = []

    def f(x):
        y = x * 2
        kept.append(lambda: y)
        return x

    return f, "y", "y = x * 2"


@row
def a_pullback():
    held = types.SimpleNamespace()

    def f(x):
        y, held.pull = gradc.vjp(gradc.exp, x)
        return y

    return f, "", None


@row
def an_argument_of_a_partial():
    kept = []

    def f(x):
        kept.append(functools.partial(gradc.add, x * 2))
        return x

    return f, "an argument of a partial", "kept.append(functools.partial(gradc.add, x * 2))"


@row
def under_grad():
    held = types.SimpleNamespace()

    def loss(x):
        held.activations = gradc.tanh(x)
        return gradc.sum(held.activations)

    return gradc.grad(loss), "held.activations", "held.activations = gradc.tanh(x)"


@row
def under_vmap():
    kept = []

    def each(x):
        kept.append(x * 2)
        return x

    return (lambda x: gradc.vmap(each)(x)), "kept[0]", None


@row
def a_gradient():
    held = types.SimpleNamespace()

    def f(x):
        held.gradient = gradc.grad(lambda y: gradc.sum(y * y))(x)
        return x

    return f, "held.gradient", None


@row
def in_a_compiled_helper():
    held = types.SimpleNamespace()

    @gradc.compile
    def helper(x):
        held.kept = x * 2
        return x

    return (lambda x: helper(x)), "held.kept", "held.kept = x * 2"


@row
def a_place_that_no_name_of_the_function_leads_to():
    sys.modules["leaks_module"] = module
    hide = vars(sys)["modules"]

    def f(x):
        vars(hide["leaks_" + "module"])["hidden"] = x * 2
        return x

    return f, "", "= x * 2"


@row
def a_name_of_the_attribute_that_is_an_argument():
    def f(x, model):
        model.running = x * 2
        return x

    held = Model()
    compiled = gradc.compile(f)
    return functools.wraps(f)(lambda x: compiled(x, held)), "model.running", "model.running = x * 2"


def forget():
    global last
    last, settings.last, Model.shared = None, None, None
    history.clear()
    Model.table.clear()
    vars(module).pop("kept", None)
    vars(module).pop("hidden", None)
    variable.set(None)


@pytest.fixture(autouse=True)
def forgotten():
    yield
    forget()


@pytest.mark.parametrize("make", ROWS, ids=lambda make: make.__name__)
def test_an_array_left_in_an_object_is_an_error(make):
    function, where, line = make()
    with pytest.raises(TraceError) as caught:
        (function if "ompiled" in make.__name__ or "argument" == make.__name__[-8:] else gradc.compile(function))(X)
    said = str(caught.value)
    assert f"was left in {where}" in said
    assert line is None or line in said
    assert "Return it" in said


def test_the_error_comes_without_compile_too():
    kept = []

    def loss(x):
        kept.append(x * 2)
        return gradc.sum(x)

    with pytest.raises(TraceError, match=r"left in kept\[0\]"):
        gradc.grad(loss)(X)


# What a function may hold ------------------------------------------------------------------------------------------------


def scratch_in_an_object():
    held = types.SimpleNamespace(kept=None)

    def f(x):
        held.kept = x * 2
        y = held.kept + 1
        held.kept = None
        return y

    return f


def results_in_containers():
    return lambda x: {"a": [x, (x * 2, x)], "b": x}


def a_local_function_that_calls_itself():
    def f(x):
        def power(n):
            return x if n == 0 else power(n - 1) * x

        return power(3)

    return f


def a_circle_of_local_objects():
    def f(x):
        node = types.SimpleNamespace(value=x * 2)
        node.itself = node
        return node.value

    return f


def an_error_that_is_caught():
    def f(x):
        try:
            y = x * 2
            raise ValueError("no")
        except ValueError:
            return y

    return f


def a_kept_error():
    kept = []

    def f(x):
        try:
            return x.missing
        except AttributeError as error:
            kept.append(error)
            return x * 2

    return f


def a_generator_that_is_left():
    kept = []

    def pieces(x):
        yield x * 2
        yield x * 3

    def f(x):
        kept.append(pieces(x))
        return next(kept[-1])

    return f


def a_weak_reference():
    kept = []

    def f(x):
        y = x * 2
        kept.append(weakref.ref(y))
        return y

    return f


def shapes_and_dtypes():
    held = types.SimpleNamespace()

    def f(x):
        held.shape, held.dtype, held.name = x.shape, x.dtype, type(x)
        return x

    return f


def transforms_in_transforms():
    return lambda x: gradc.grad(lambda y: gradc.sum(gradc.grad(lambda z: gradc.sum(z * z * y))(y)))(x)


def a_pullback_that_is_used():
    def f(x):
        y, pull = gradc.vjp(gradc.exp, x)
        return pull(y)[0]

    return f


def a_program_lowered_inside():
    kept = []

    def f(x):
        kept.append(gradc.compile(lambda y: y * 2).lower(gradc.spec((3,))))
        return x

    return f


def a_trace_inside():
    kept = []

    def f(x):
        kept.append(trace(lambda y: y * 2, (gradc.spec((3,)),)))
        return x

    return f


def a_compiled_function_inside():
    inner = gradc.compile(lambda x: x * 2)
    return lambda x: inner(inner(x))


def a_class_made_inside():
    def f(x):
        class Layer:
            weight = x * 2

        return Layer.weight

    return f


def an_array_of_an_outer_function():
    def f(x):
        scale = x * 2

        def inner(y):
            return y * scale

        return gradc.vmap(inner)(x[:, None])

    return f


@pytest.mark.parametrize(
    "make",
    [
        scratch_in_an_object, results_in_containers, a_local_function_that_calls_itself, a_circle_of_local_objects,
        an_error_that_is_caught, a_kept_error, a_generator_that_is_left, a_weak_reference, shapes_and_dtypes,
        transforms_in_transforms, a_pullback_that_is_used, a_program_lowered_inside, a_trace_inside,
        a_compiled_function_inside, a_class_made_inside, an_array_of_an_outer_function,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_what_a_function_may_hold_is_none(make):
    gradc.compile(make())(X)


def test_a_program_without_leaks_looks_at_nothing_else(monkeypatch):
    """Counting references is enough where nothing is left; the objects of the process are not walked."""
    from gradc import leaks

    def forbidden(*_):
        raise AssertionError("looked for what is not there")

    monkeypatch.setattr(leaks.gc, "collect", forbidden)
    monkeypatch.setattr(leaks.gc, "get_referrers", forbidden)

    def step(w, x):
        return gradc.value_and_grad(lambda w: gradc.sum(gradc.softmax(x @ w) ** 2))(w)

    gradc.compile(step)(np.ones((3, 3), np.float32), np.ones((3, 3), np.float32))


def test_another_thread_may_trace_meanwhile():
    inside, done = threading.Event(), threading.Event()

    def slow(x):
        y = x * 2
        inside.set()
        done.wait()
        return y

    results = []
    thread = threading.Thread(target=lambda: results.append(gradc.compile(slow)(X)))
    thread.start()
    inside.wait()
    gradc.compile(lambda x: x + 1)(X)
    done.set()
    thread.join()
    np.testing.assert_array_equal(results[0], 2 * X)
    assert not any(isinstance(x, Value) for x in results)
