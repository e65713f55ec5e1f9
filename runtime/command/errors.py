"""The error of a command line that cannot be carried out, and how any error is told at a terminal: in words, not tracebacks.

GRADC_DEBUG shows the traceback all the same. Nothing here decides what is wrong.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

from gradc.errors import GradcError, Source, is_internal, printable


class CommandError(GradcError, RuntimeError):
    """Something on the command line, or not installed, that stops a command; no line of a program is to blame."""

    def __init__(self, message: str, advice: str = ""):
        super().__init__(message, advice=advice)
        self.source = None


def debugging() -> bool:
    """Whether the user wants tracebacks."""
    return os.environ.get("GRADC_DEBUG", "0") not in ("", "0")


def told(error: BaseException) -> str:
    """An error as a person reads it: gradc's own speak for themselves, any other gets its kind and the user's line."""
    if isinstance(error, GradcError):
        return str(error)
    source = Source(error.filename or "", error.lineno or 0) if isinstance(error, SyntaxError) else blamed(error.__traceback__)
    if isinstance(error, OSError) and error.strerror and source is None:
        return f"{printable(str(error.filename))}: {error.strerror}"
    message = "\n".join(map(printable, f"{type(error).__name__}: {error}".split("\n")))
    if source is None:
        return f"{message}\n  This is a bug of gradc. GRADC_DEBUG=1 shows the traceback."
    return f"{message}\n{source.pointed()}"


def blamed(trace: TracebackType | None) -> Source | None:
    """The innermost line that is not gradc's own nor an installed library's; None where there is none."""
    found = None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (is_internal(file) or file.startswith(("<", sys.prefix, sys.base_prefix))):
            found = Source(file, trace.tb_lineno)
        trace = trace.tb_next
    return found
