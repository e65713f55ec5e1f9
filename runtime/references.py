"""How a compiled function is pickled: by the name it is found under, as functions are; where it has none, as a function and options.

Programs, plans and locks are never pickled: they are made anew where they are needed.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from typing import Any

HIDING = (
    "__func__",
    "__wrapped__",
    "fget",
    "func",
)  # where static and class methods, decorators and properties keep what they wrap


def found(module: str, name: str) -> Any:
    """What is compiled behind a qualified name of a module: what stands there, or what that is wrapped around."""
    from gradc.runtime.compile import Compiled

    *owners, last = name.split(".")
    place: Any = import_module(module)
    for owner in owners:
        place = getattr(place, owner)
    seen = inspect.getattr_static(place, last)
    while not isinstance(seen, Compiled):
        seen = next(getattr(seen, name) for name in HIDING if hasattr(seen, name))
    return seen


def reference(compiled: Any) -> tuple[str, str] | None:
    """The arguments with which `found` gives this very object; None where nothing does."""
    module, name = vars(compiled).get("__module__"), vars(compiled).get("__qualname__")
    if module is None or name is None or "<locals>" in name or (module == "__main__" and _pickles_main_by_value()):
        return None
    try:
        return (module, name) if found(module, name) is compiled else None
    except (ImportError, AttributeError, StopIteration):
        return None


def _pickles_main_by_value() -> bool:
    """Whether it is cloudpickle that asks, for a process with another main module; pickle's protocol does not say who does."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "gradc.runtime.compile", "pickle"):
        frame = frame.f_back
    return frame is not None and "cloudpickle" in frame.f_globals.get("__name__", "")
