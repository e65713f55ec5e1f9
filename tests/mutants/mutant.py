"""A fault to be put into the code: where, what stands there, what stands there instead, and what is to catch it."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """A single fault: in `file` the fragment `before`, which stands there once, is `after` instead.

    `tests` is what pytest is given to catch it. `equivalent` argues why no test can: the code means the same.
    """

    file: str
    before: str
    after: str
    tests: str
    equivalent: str = ""

    @property
    def name(self) -> str:
        return f"{self.file}: {self.before.strip()} → {self.after.strip()}"

    @property
    def is_stale(self) -> bool:
        """Whether the fragment is not there once: the code has changed, and the row has to."""
        path = ROOT / self.file
        return not path.is_file() or path.read_text(encoding="utf-8").count(self.before) != 1

    def key(self) -> str:
        """What the finding depends on: the row, its file and its tests."""
        files = [self.file, *(word for word in shlex.split(self.tests) if word.endswith(".py"))]
        texts = [(ROOT / file).read_bytes() for file in files if (ROOT / file).is_file()]
        return hashlib.sha256(b"\0".join([repr((self.before, self.after, self.tests)).encode(), *texts])).hexdigest()[:20]
