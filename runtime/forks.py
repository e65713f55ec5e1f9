"""Locks that are free in a forked child, though a thread of its parent held them at that moment.

Only the thread that forks lives on in the child, so nobody there would ever release such a lock. What gradc's locks guard is filled
in one step each (an entry of a dictionary), so it is whole whenever the fork comes.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

_LOCKS: WeakSet[Any] = WeakSet()


def lock() -> Any:
    """A lock for a `with`; the thread that holds it may take it again."""
    made = threading.RLock()
    _LOCKS.add(made)
    return made


def _free() -> None:
    for held in list(_LOCKS):
        if not held._is_owned():  # by the thread that forked, which goes on and gives it back itself
            held._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
