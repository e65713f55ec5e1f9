"""How much work something is, as a count that is the same on every machine: tests assert on this and never on seconds."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from typing import Any


def calls_of(function: Callable[[], Any]) -> int:
    """How many Python functions are called, and generators resumed, by one call of `function`, itself included."""
    profile = cProfile.Profile(builtins=False)
    profile.runcall(function)
    return sum(entry.callcount for entry in profile.getstats())
