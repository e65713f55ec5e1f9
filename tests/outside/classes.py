"""Rows of classes: descriptors, inheritance, and what they keep for their objects."""

from __future__ import annotations

import collections
import collections.abc
import configparser
import ctypes
import enum
import functools
import multiprocessing
import queue
import threading
import types
import typing
import weakref

from outside.table import TABLE, Holder, row

T = typing.TypeVar("T")


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
