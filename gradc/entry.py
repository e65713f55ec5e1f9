"""What torch.compile is told of the functions that users call. Nothing of gradc is imported here, and torch only looked for.

Dynamo reads Python code to make a graph of it. gradc's own is none to read: a call of it ends one graph and the next begins after it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import TypeVar

F = TypeVar("F", bound=Callable)

REASON = "gradc's functions run between the graphs of torch.compile, so fullgraph=True and torch.export are not there yet"
UNTOLD: list[CodeType] = []  # code that torch.compile has not been told of
_CODES: set[CodeType] = set()


def entry(function: F) -> F:
    """Marks a function that users call: torch.compile ends a graph there, and neither reads gradc's code nor what that calls."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    function._torchdynamo_disable_msg = REASON  # type: ignore[attr-defined]
    code = function.__code__
    if code not in _CODES:
        _CODES.add(code)
        UNTOLD.append(code)
        if "torch" in sys.modules:
            tell_torch()
    return function


def tell_torch() -> None:
    """Keeps torch.compile's frame evaluation out of the entries, which a mark on the function alone does not.

    To be called by every entry while code is UNTOLD and torch is loaded; torch may be imported long after gradc.
    """
    try:
        frames = sys.modules["torch"]._C._dynamo.eval_frame
        alone = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for code in UNTOLD:
            frames.set_code_exec_strategy(code, alone)
    except AttributeError:  # a torch that is half imported, or says this otherwise
        return
    UNTOLD.clear()


entry(tell_torch)
