"""A table of what a function can read besides its arguments: each row makes a function that gives 2·x, and a change that makes it 3·x.

Rows are generators: they yield the function, change what it reads when resumed, and end. Used by test_closure.py.
"""

from __future__ import annotations

import argparse
import array
import collections
import configparser
import contextvars
import ctypes
import dataclasses
import decimal
import enum
import functools
import multiprocessing
import operator
import os
import queue
import sys
import threading
import types
import typing
import weakref

import numpy as np

import gradc

T = typing.TypeVar("T")
K = 2.0
TABLE = {"k": 2.0}
settings = types.ModuleType("outside_settings")
sys.modules["outside_settings"] = settings
settings.K = 2.0
variable: contextvars.ContextVar[float] = contextvars.ContextVar("variable", default=2.0)


class C:
    v = 2.0


class Holder:
    def __init__(self, v=2.0):
        self.v = v


class Item:
    def __init__(self, **values):
        self.__dict__["_values"] = values

    def __getattr__(self, name):
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None


def from_globals(name):
    return globals()[name]


ROWS = []


def row(make):
    ROWS.append(make)
    return make


def set_global(name, value):
    globals()[name] = value


# Attributes under names in strings -------------------------------------------------------------------------------------


@row
def getattr_of_a_constant():
    yield lambda x: x * getattr(C, "v")  # noqa: B009
    C.v = 3.0
    yield
    C.v = 2.0


@row
def getattr_with_a_default():
    h = Holder()
    yield lambda x: x * getattr(h, "v", 2.0)
    h.v = 3.0


@row
def getattr_that_finds_nothing_at_first():
    h = types.SimpleNamespace()
    yield lambda x: x * getattr(h, "late", 2.0)
    h.late = 3.0


@row
def hasattr_decides():
    h = Holder()
    yield lambda x: x * (3.0 if hasattr(h, "flag") else 2.0)
    h.flag = True


@row
def getattr_of_a_closed_over_name():
    h, name = Holder(), "v"
    yield lambda x: x * getattr(h, name)
    h.v = 3.0


@row
def getattr_of_a_formatted_name():
    h = types.SimpleNamespace(scale_0=1.0, scale_1=2.0)
    yield lambda x: x * functools.reduce(operator.mul, [getattr(h, f"scale_{i}") for i in range(2)])
    h.scale_1 = 3.0


@row
def a_method_under_a_formatted_name():
    class Model:
        inner = 2.0

        def step_a(self, x):
            return x * self.inner

        def run(self, x, kind):
            return getattr(self, "step_" + kind)(x)

    model = Model()
    yield lambda x: model.run(x, "a")
    Model.inner = 3.0


@row
def attrgetter_inside():
    h = Holder(Holder())
    yield lambda x: x * operator.attrgetter("v.v")(h)
    h.v.v = 3.0


@row
def attrgetter_outside():
    h, get = Holder(Holder()), operator.attrgetter("v.v")
    yield lambda x: x * get(h)
    h.v.v = 3.0


@row
def methodcaller_outside():
    class Model:
        def scaled(self, x):
            return x * self.factor

    model, call = Model(), operator.methodcaller("scaled", 1.0)
    model.factor = 2.0
    yield lambda x: x * call(model)
    model.factor = 3.0


@row
def attributes_by_vars():
    h = Holder()
    yield lambda x: x * vars(h)["v"]
    h.v = 3.0


@row
def attributes_by_dict():
    h = Holder()
    yield lambda x: x * sum(h.__dict__.values())
    h.v = 3.0


@row
def the_attribute_getter_of_object():
    h = Holder()
    yield lambda x: x * object.__getattribute__(h, "v")
    h.v = 3.0


@row
def fields_of_a_dataclass():
    @dataclasses.dataclass
    class Config:
        depth: int = 1
        scale: float = 2.0

    config = Config()
    yield lambda x: x * dataclasses.asdict(config)["scale"]
    config.scale = 3.0


@row
def a_dataclass_by_equality():
    @dataclasses.dataclass
    class Config:
        scale: float = 2.0

    config, other = Config(), Config(3.0)
    yield lambda x: x * (3.0 if config == other else 2.0)
    config.scale = 3.0


@row
def a_class_pattern():
    h = Holder()

    def f(x):
        match h:
            case Holder(v=found):
                return x * found

    yield f
    h.v = 3.0


@row
def a_pattern_by_position():
    class Point:
        __match_args__ = ("a",)

        def __init__(self):
            self.a = 2.0

    point = Point()

    def f(x):
        match point:
            case Point(found):
                return x * found

    yield f
    point.a = 3.0


# Globals and modules -----------------------------------------------------------------------------------------------------


@row
def globals_subscripted():
    yield lambda x: x * globals()["K"]
    set_global("K", 3.0)
    yield
    set_global("K", 2.0)


@row
def globals_by_get():
    yield lambda x: x * globals().get("K")
    set_global("K", 3.0)
    yield
    set_global("K", 2.0)


@row
def globals_under_a_computed_name():
    yield lambda x: x * from_globals("".join(["K"]))
    set_global("K", 3.0)
    yield
    set_global("K", 2.0)


@row
def eval_of_text():
    text = "C.v * 1.0"
    yield lambda x: x * eval(text)
    C.v = 3.0
    yield
    C.v = 2.0


@row
def an_import_inside():
    def f(x):
        from outside_settings import K as factor

        return x * factor

    yield f
    settings.K = 3.0
    yield
    settings.K = 2.0


@row
def a_module_imported_inside():
    def f(x):
        import outside_settings

        return x * outside_settings.K

    yield f
    settings.K = 3.0
    yield
    settings.K = 2.0


@row
def a_module_by_its_name():
    yield lambda x: x * sys.modules["outside_settings"].K
    settings.K = 3.0
    yield
    settings.K = 2.0


@row
def a_module_with_a_getter():
    module = types.ModuleType("lazy")
    values = {"K": 2.0}
    module.__getattr__ = lambda name: values[name]
    yield lambda x: x * module.K
    values["K"] = 3.0


@row
def a_module_that_is_an_object():
    class Lazy(types.ModuleType):
        factor = 2.0

        @property
        def K(self):
            return self.factor

    module = Lazy("lazy")
    yield lambda x: x * module.K
    Lazy.factor = 3.0


@row
def a_replaced_function_of_a_module():
    module = types.ModuleType("patched")
    module.factor = lambda: 2.0
    yield lambda x: x * module.factor()
    module.factor = lambda: 3.0


@row
def a_global_dictionary():
    yield lambda x: x * TABLE["k"]
    TABLE["k"] = 3.0
    yield
    TABLE["k"] = 2.0


# Containers --------------------------------------------------------------------------------------------------------------


def container(name, made, change):
    def make():
        held = made()
        yield lambda x: x * read(held)
        change(held)

    def read(held):
        return next(iter(held.values())) if hasattr(held, "values") else next(iter(held))

    make.__name__ = name
    return row(make)


def set_first(held):
    held[0] = 3.0


def set_key(held):
    held["k"] = 3.0


container("a_deque", lambda: collections.deque([2.0]), set_first)
container("a_list", lambda: [2.0], set_first)
container("a_long_list", lambda: [2.0] * 100, set_first)
container("a_userlist", lambda: collections.UserList([2.0]), set_first)
container("an_array", lambda: array.array("d", [2.0]), set_first)
container("a_bytearray", lambda: bytearray([2]), lambda held: held.__setitem__(0, 3))
container("a_memoryview", lambda: memoryview(bytearray([2])), lambda held: held.__setitem__(0, 3))
container("a_userdict", lambda: collections.UserDict(k=2.0), set_key)
container("a_defaultdict", lambda: collections.defaultdict(float, k=2.0), set_key)
container("an_ordereddict", lambda: collections.OrderedDict(k=2.0), set_key)
container("a_chainmap", lambda: collections.ChainMap({}, {"k": 2.0}), set_key)
container("a_counter", lambda: collections.Counter(k=2), lambda held: held.update(k=1))
container("a_set", lambda: {2.0}, lambda held: (held.clear(), held.add(3.0)))
container(
    "an_ordereddict_in_another_order",
    lambda: collections.OrderedDict(a=2.0, b=3.0),
    lambda held: held.move_to_end("a"),
)


@row
def a_view_of_keys():
    table = {2.0: None}
    keys = table.keys()
    yield lambda x: x * next(iter(keys))
    table.clear()
    table[3.0] = None


@row
def a_view_of_values():
    table = {"k": 2.0}
    values = table.values()
    yield lambda x: x * sum(values)
    table["k"] = 3.0


@row
def a_read_only_view():
    table = {"k": 2.0}
    view = types.MappingProxyType(table)
    yield lambda x: x * view["k"]
    table["k"] = 3.0


@row
def the_getter_of_a_dictionary():
    table = {"k": 2.0}
    get = table.get
    yield lambda x: x * get("k")
    table["k"] = 3.0


@row
def the_item_getter_of_a_list():
    values = [2.0]
    get = values.__getitem__
    yield lambda x: x * get(0)
    values[0] = 3.0


@row
def a_dictionary_with_attributes():
    class Settings(dict):
        scale = 2.0

    held = Settings()
    yield lambda x: x * held.scale
    held.scale = 3.0


@row
def a_list_with_a_method():
    class Layers(list):
        factor = 2.0

        def apply(self, x):
            return x * self.factor

    layers = Layers()
    yield lambda x: layers.apply(x)
    Layers.factor = 3.0


@row
def a_named_tuple_with_a_method():
    factor = [2.0]

    class Pair(collections.namedtuple("Pair", "a b")):
        def total(self):
            return self.a * self.b * factor[0]

    pair = Pair(1.0, 1.0)
    yield lambda x: x * pair.total()
    factor[0] = 3.0


@row
def a_number_with_attributes():
    class Scale(float):
        extra = 1.0

    scale = Scale(2.0)
    yield lambda x: x * float(scale) * scale.extra
    scale.extra = 1.5


@row
def a_number_type_as_key():
    table = {0: 2.0, 1: 3.0}
    place = {0: None}
    yield lambda x: x * table[next(iter(place))]
    place.clear()
    place[1] = None


@row
def deeply_nested():
    held = inner = [2.0]
    for _ in range(12):
        held = {"inner": [held]}

    def read(x):
        found = held
        for _ in range(12):
            found = found["inner"][0]
        return x * found[0]

    yield read
    inner[0] = 3.0


@row
def a_linked_list():
    head = last = types.SimpleNamespace(next=None, scale=2.0)
    for _ in range(12):
        head = types.SimpleNamespace(next=head, scale=1.0)

    def f(x):
        node = head
        while node is not None:
            x, node = x * node.scale, node.next
        return x

    yield f
    last.scale = 3.0


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


@row
def a_descriptor():
    class Field:
        def __init__(self):
            self.hidden = 2.0

        def __get__(self, instance, owner):
            return self.hidden

    field = Field()

    class Model:
        scale = field

    model = Model()
    yield lambda x: x * model.scale
    field.hidden = 3.0


@row
def a_property():
    class Model:
        hidden = 2.0

        @property
        def scale(self):
            return self.hidden

    model = Model()
    yield lambda x: x * model.scale
    model.hidden = 3.0


@row
def a_class_attribute_by_type():
    class Model:
        scale = 2.0

        def __call__(self, x):
            return x * type(self).scale

    model = Model()
    yield lambda x: model(x)
    Model.scale = 3.0


@row
def an_attribute_of_a_metaclass():
    class Meta(type):
        @property
        def scale(cls):
            return cls.hidden

        hidden = 2.0

    class Model(metaclass=Meta):
        pass

    yield lambda x: x * Model.scale
    Meta.hidden = 3.0


@row
def an_override_in_a_subclass():
    class Base:
        def factor(self):
            return 2.0

        def __call__(self, x):
            return x * self.factor()

    class Model(Base):
        pass

    model = Model()
    yield lambda x: model(x)
    Model.factor = lambda self: 3.0


@row
def another_class_of_an_object():
    class Two:
        def __call__(self, x):
            return 2 * x

    class Three:
        def __call__(self, x):
            return 3 * x

    model = Two()
    yield lambda x: model(x)
    model.__class__ = Three


@row
def a_partial_method():
    class Model:
        kept = 2.0

        def scaled(self, by, x):
            return x * by * self.kept

        once = functools.partialmethod(scaled, 1.0)

    model = Model()
    yield lambda x: model.once(x)
    model.kept = 3.0


@row
def a_name_with_two_underscores():
    class Model:
        def __init__(self):
            self.__hidden = 2.0

        def __call__(self, x):
            return x * self.__hidden

        def change(self):
            self.__hidden = 3.0

    model = Model()
    yield lambda x: model(x)
    model.change()


@row
def the_value_of_an_enumeration():
    class Mode(enum.Enum):
        A = [2.0]  # noqa: RUF012

    yield lambda x: x * Mode.A.value[0]
    Mode.A.value[0] = 3.0


@row
def an_attribute_of_a_function():
    def f(x):
        return x * f.scale

    f.scale = 2.0
    yield f
    f.scale = 3.0


@row
def a_thread_local():
    held = threading.local()
    held.v = 2.0
    yield lambda x: x * held.v
    held.v = 3.0


@row
def an_event():
    event = threading.Event()
    yield lambda x: x * (3.0 if event.is_set() else 2.0)
    event.set()


@row
def a_queue():
    held: queue.Queue = queue.Queue()
    held.put(2.0)
    yield lambda x: x * held.queue[0]
    held.queue[0] = 3.0


@row
def a_ctypes_number():
    held = ctypes.c_double(2.0)
    yield lambda x: x * held.value
    held.value = 3.0


@row
def a_config_parser():
    held = configparser.ConfigParser()
    held.read_string("[model]\nscale = 2.0")
    yield lambda x: x * held.getfloat("model", "scale")
    held["model"]["scale"] = "3.0"


@row
def shared_memory():
    held = multiprocessing.Value("d", 2.0)
    yield lambda x: x * held.value
    held.value = 3.0


@row
def a_descriptor_that_keeps_by_instance():
    class Field:
        def __init__(self):
            self.values = weakref.WeakKeyDictionary()

        def __get__(self, instance, owner):
            return self.values[instance]

    field = Field()

    class Model:
        scale = field

    model = Model()
    field.values[model] = 2.0
    yield lambda x: x * model.scale
    field.values[model] = 3.0


@row
def a_class_method():
    class Model:
        scale = 2.0

        @classmethod
        def apply(cls, x):
            return x * cls.scale

    yield lambda x: Model.apply(x)
    Model.scale = 3.0


@row
def a_static_method():
    class Model:
        @staticmethod
        def factor():
            return TABLE["k"]

    model = Model()
    yield lambda x: x * model.factor()
    TABLE["k"] = 3.0
    yield
    TABLE["k"] = 2.0


@row
def a_method_of_the_base_class():
    class Base:
        scale = 2.0

        def __call__(self, x):
            return x * Base.scale

    class Model(Base):
        def __call__(self, x):
            return super().__call__(x)

    model = Model()
    yield lambda x: model(x)
    Base.scale = 3.0


@row
def a_class_kept_by_an_object():
    class Layer:
        scale = 2.0

    h = Holder(Layer)
    yield lambda x: x * h.v.scale
    Layer.scale = 3.0


@row
def a_decorator_that_is_a_class():
    class Scaled:
        def __init__(self, function):
            self.function, self.factor = function, 2.0

        def __call__(self, x):
            return self.function(x) * self.factor

    @Scaled
    def helper(x):
        return x

    yield lambda x: helper(x)
    helper.factor = 3.0


@row
def an_attribute_of_a_helper():
    def helper(x):
        return x * helper.scale

    helper.scale = 2.0
    yield lambda x: helper(x)
    helper.scale = 3.0


@row
def arguments_of_a_partial():
    kept = [2.0]
    helper = functools.partial(lambda kept, x: x * kept[0], kept)
    yield lambda x: helper(x)
    kept[0] = 3.0


@row
def an_ordinary_nesting_of_all():
    inner = types.SimpleNamespace(v=2.0)
    held = collections.deque([{"k": (Holder(inner), [])}])
    yield lambda x: x * held[0]["k"][0].v.v
    inner.v = 3.0


@row
def a_generic_class():
    class Box(typing.Generic[T]):
        def __init__(self, content):
            self.content = content

    box = Box[float](2.0)
    yield lambda x: x * box.content
    box.content = 3.0


@row
def a_user_mapping():
    class Registry(collections.abc.Mapping):
        def __init__(self):
            self.kept = {"k": 2.0}

        def __getitem__(self, name):
            return self.kept[name]

        def __iter__(self):
            return iter(self.kept)

        def __len__(self):
            return len(self.kept)

    registry = Registry()
    yield lambda x: x * registry.get("k")
    registry.kept["k"] = 3.0


@row
def the_length_of_a_container():
    held = collections.deque([0, 0])
    yield lambda x: x * len(held)
    held.append(0)


@row
def a_key_of_a_set():
    held = {"a"}
    yield lambda x: x * (3.0 if "b" in held else 2.0)
    held.add("b")


@row
def a_slot_that_is_filled_later():
    class Slotted:
        __slots__ = ("scale",)

    held = Slotted()
    yield lambda x: x * getattr(held, "scale", 2.0)
    held.scale = 3.0


@row
def the_identity_of_an_object():
    a, b = Holder(), Holder()
    held = [a]
    yield lambda x: x * (2.0 if held[0] is a else 3.0)
    held[0] = b


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


# Arguments: rows that give the function with its static arguments bound ------------------------------------------------------


def argument(name, made, read, change):
    def make():
        held = made()
        compiled = gradc.compile(lambda x, held: x * read(held))
        compiled.bound = (held,)
        yield compiled
        change(held)

    make.__name__ = name
    return row(make)


def unwrapped(h):
    while not hasattr(h, "v"):
        h = next(iter(h.values())) if isinstance(h, dict) else h[0]
    return h


def set_v(held):
    unwrapped(held).v = 3.0


@dataclasses.dataclass(frozen=True)
class Frozen:
    inner: Holder


class Named:
    """Compared and hashed by its name make."""

    name = "named"

    def __init__(self):
        self.v = 2.0

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return self.name == other.name


def set_inner(held):
    held.inner.v = 3.0


argument("an_argument", Holder, lambda held: held.v, set_v)
argument("an_argument_in_a_tuple", lambda: (Holder(), 1), lambda held: held[0].v, set_v)
argument("an_argument_in_a_list", lambda: [Holder()], lambda held: held[0].v, set_v)
argument("an_argument_in_a_dictionary", lambda: {"k": Holder()}, lambda held: held["k"].v, set_v)
argument("an_argument_in_a_frozen_dataclass", lambda: Frozen(Holder()), lambda held: held.inner.v, set_inner)
argument("an_argument_with_a_hash_of_its_own", Named, lambda held: held.v, set_v)
argument(
    "a_bound_method_as_argument",
    lambda: Item(h=Holder()).__getattr__,
    lambda held: held("h").v,
    lambda held: set_v([held("h")]),
)
