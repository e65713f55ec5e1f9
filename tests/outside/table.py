"""The table of what a function can read besides its arguments, and two classes that many rows use."""

from __future__ import annotations

ROWS: list = []
TABLE = {"k": 2.0}


def row(make):
    """A generator that yields the function, changes what it reads when resumed, and ends; what follows a second yield restores."""
    ROWS.append(make)
    return make


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
