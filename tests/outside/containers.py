"""Rows of containers."""

from __future__ import annotations

import array
import collections
import types

from outside.table import row

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
