"""`gradc cache`: what the disk cache holds, by key, with what each entry is and how old; `clear` and `path`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

from gradc.codegen.printing.explain import size
from gradc.errors import printable
from gradc.runtime.cache import DiskCache
from gradc.runtime.command.display import console_for, table

SHORT_KEY = 12
LATEST = 30
SHORT_HEADLINE = 90
UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def run(options: argparse.Namespace) -> int:
    """Lists the entries, removes them, or prints the folder."""
    held = DiskCache()
    if options.path or options.action == "path":
        print(held.folder)
        return 0
    if options.clear or options.action == "clear":
        count = len(held.entries())
        held.clear()
        left = len(held.entries())
        print(f"removed {count - left} of {count} entries from {printable(str(held.folder))}")
        return 1 if left else 0
    listing(held, options.all)
    return 0


def listing(held: DiskCache, everything: bool) -> None:
    """Prints the entries, the oldest first."""
    from rich.markup import escape

    entries = held.entries()
    latest = entries if everything else entries[-LATEST:]
    console, total = console_for(), size(sum(entry.size for entry in entries))
    console.print(
        f"{printable(str(held.folder))}: {len(entries)} entries, {total}", highlight=False, markup=False, soft_wrap=True
    )
    shown = table("", "key", "what", "size", "age", numbers=("size", "age"))
    for entry in latest:
        shown.add_row(
            entry.key[:SHORT_KEY], escape(described(held.get(entry.key))), size(entry.size), age(time.time() - entry.modified)
        )
    console.print(shown)
    if len(latest) < len(entries):
        console.print(f"the latest {len(latest)}; `gradc cache --all` lists every entry")


def described(texts: Mapping[str, str] | None) -> str:
    """What an entry is, from its files."""
    if texts is None:
        return "damaged: made again when needed"
    if "counts.json" in texts:
        return "a built kernel"
    if "recipe.json" in texts:
        return "how a sum is repaired"
    text = texts.get("module.py") or texts.get("kernels.py") or ""
    if not text.startswith('"""'):
        return ", ".join(sorted(texts))
    headline = text[3:].partition("\n")[0].removesuffix('"""')
    return headline if len(headline) <= SHORT_HEADLINE else f"{headline[: SHORT_HEADLINE - 3]}..."


def age(seconds: float) -> str:
    """A duration in its largest whole unit."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
