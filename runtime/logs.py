"""GRADC_LOGS: what gradc tells about its work, by topic, on standard error. Nothing is printed unless it was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache

TOPICS = ("ir", "fusion", "kernel", "cache", "recompile", "tune")


def wants(topic: str) -> bool:
    """Whether `GRADC_LOGS` names a topic (or "all")."""
    wanted = os.environ.get("GRADC_LOGS", "")
    return bool(wanted) and not {topic, "all"}.isdisjoint(_named(wanted))


@cache
def _named(wanted: str) -> frozenset[str]:
    """The topics in the text of `GRADC_LOGS`; says once which there are if some are not."""
    named = frozenset(topic.strip() for topic in wanted.split(",") if topic.strip())
    unknown = sorted(named - {*TOPICS, "all"})
    if unknown:
        print(f"gradc: GRADC_LOGS has {', '.join(unknown)}; the topics are {', '.join(TOPICS)} and all", file=sys.stderr)
    return named


def log(topic: str, text: str | Callable[[], str]) -> None:
    """Writes `text`, or what it returns, under its topic where it was asked for."""
    if wants(topic):
        said = text if isinstance(text, str) else text()
        print("\n".join(f"gradc {topic}: {line}" for line in said.splitlines()), file=sys.stderr)
