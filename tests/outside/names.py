"""Rows of attributes under names in strings, of globals, and of modules."""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
import types

from outside.table import TABLE, Holder, row

K = 2.0
settings = types.ModuleType("outside_settings")
sys.modules["outside_settings"] = settings
settings.K = 2.0


class C:
    v = 2.0


def from_globals(name):
    return globals()[name]


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
