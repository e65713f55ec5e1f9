"""A lock that a forked process finds free, as the thread that held it was not forked with it.

What it protects has to be whole at every moment: entries are made first, and put into their dictionary by one assignment.
"""

from __future__ import annotations

import os
import threading
from typing import Any


class ForkLock:
    """A re-entrant lock of the threads of one process."""

    def __init__(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid() and not self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock, self._process = threading.RLock(), os.getpid()
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()
