"""Rows of static arguments: each gives a compiled function with `bound`, the arguments after the array."""

from __future__ import annotations

import dataclasses

import gradc
from outside.table import Holder, Item, row

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
