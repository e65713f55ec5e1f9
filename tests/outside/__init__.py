"""A table of what a function can read besides its arguments: each row makes a function that gives 2·x, and a change that makes it 3·x.

Used by test_closure.py.
"""

from outside import classes, containers, names, objects, process
from outside.arguments import Named
from outside.table import ROWS

__all__ = ["ROWS", "Named", "classes", "containers", "names", "objects", "process"]
