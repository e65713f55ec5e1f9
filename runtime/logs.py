"""GRADC_LOGS: what gradc tells about its work, by topic, on standard error. Nothing is printed unless it was asked for."""

from __future__ import annotations

import os
import sys

TOPICS = ("ir", "fusion", "kernel", "cache", "recompile", "tune")


def wants(topic: str) -> bool:
    """Whether `GRADC_LOGS` names a topic (or "all")."""
    wanted = os.environ.get("GRADC_LOGS", "")
    return bool(wanted) and (topic in wanted.split(",") or wanted == "all")


def log(topic: str, text: str) -> None:
    """Writes `text` under its topic where it was asked for."""
    if wants(topic):
        print("\n".join(f"gradc {topic}: {line}" for line in text.splitlines()), file=sys.stderr)
