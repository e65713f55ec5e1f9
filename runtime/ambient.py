"""What a function can read that belongs to the process or the thread: the environment, modes of PyTorch, and their like.

One row each, by the name that code uses for it. Nothing is read for a function that does not name it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable
from typing import Any

from gradc.runtime.lookups import Names


def _environment() -> Hashable:
    return tuple(os.environ.items())


def _of(module: str, function: str) -> Callable[[], Hashable]:
    """What a function of a module returns, once that module is loaded."""

    def read() -> Hashable:
        return getattr(sys.modules[module], function)() if module in sys.modules else None

    return read


def _context() -> Hashable:
    decimal = sys.modules.get("decimal")
    context = decimal.getcontext() if decimal else None
    return (context.prec, context.rounding) if context else None


def _errors() -> Hashable:
    numpy = sys.modules.get("numpy")
    return tuple(numpy.geterr().items()) if numpy else None


AMBIENT: dict[str, Callable[[], Hashable]] = {
    "environ": _environment,
    "environb": _environment,
    "getenv": _environment,
    "expandvars": _environment,
    "getcwd": os.getcwd,
    "cwd": os.getcwd,
    "argv": lambda: tuple(sys.argv),
    "getcontext": _context,
    "geterr": _errors,
    "is_grad_enabled": _of("torch", "is_grad_enabled"),
    "is_inference_mode_enabled": _of("torch", "is_inference_mode_enabled"),
    "is_autocast_enabled": _of("torch", "is_autocast_enabled"),
    "get_default_dtype": _of("torch", "get_default_dtype"),
    "get_float32_matmul_precision": _of("torch", "get_float32_matmul_precision"),
}


def ambient(names: Names) -> Hashable:
    """The present state behind those of `names` that stand for some."""
    return tuple([read() for name, read in AMBIENT.items() if name in names])


def ambient_names(function: Any) -> dict[str, None]:
    """The row for a function of a library, under whatever name it was imported."""
    return {function.__name__: None} if function.__name__ in AMBIENT else {}
