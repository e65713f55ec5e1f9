"""`python -m tests.mutants`: puts one fault after the other into a copy of the code, and says which of them no test catches.

The faults are the rows of `table.py`. Each is put into a copy of the files in a temporary folder, so the checkout is never
changed, and only the tests that the row names are run, until one fails. What was found is kept in build/mutants.json: a
row is tried again when it, its file or its tests have changed. Options: words that files or fragments contain, to try only those
rows; `--again`; `--workers N`. The exit status is 1 where a row is stale, a fault survives that is not argued away, or a test fails
without any fault.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.table import MUTANTS

FOUND = ROOT / "build" / "mutants.json"
PASSED, FAILED = 0, 1  # pytest's exit statuses; anything else says that the tests did not run
WITHOUT: dict[str, int] = {}  # the status of tests without any fault
ENOUGH = 900  # seconds after which a fault counts as caught: with it, a test does not end


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only rows whose file or fragments contain one of these")
    parser.add_argument("--again", action="store_true", help="also try what is known")
    parser.add_argument("--workers", type=int, default=2, help="how many faults are tried at once")
    options = parser.parse_args(arguments)
    chosen = [row for row in MUTANTS if not options.words or any(word in row.name for word in options.words)]
    known = {} if options.again or not FOUND.is_file() else json.loads(FOUND.read_text())
    findings = dict(tried(chosen, known, options.workers))
    return told([(row, findings[row]) for row in chosen])


def tried(rows: Sequence[Mutant], known: dict[str, str], workers: int) -> Iterator[tuple[Mutant, str]]:
    """Each row with what was found of it; what is not known is found out, and kept."""
    copies: SimpleQueue[Path] = SimpleQueue()
    keeping = threading.Lock()

    def one(row: Mutant) -> tuple[Mutant, str]:
        if row.is_stale:
            return row, "stale"
        key = row.key()
        if key not in known:
            folder = copies.get()
            finding = found(row, folder)
            copies.put(folder)
            print(f"{finding:9} {row.name}".replace("\n", " "), flush=True)
            with keeping:
                known[key] = finding
                FOUND.parent.mkdir(exist_ok=True)
                FOUND.write_text(json.dumps(known, indent=1))
        return row, known[key]

    with tempfile.TemporaryDirectory(prefix="gradc-mutants-") as temporary, ThreadPoolExecutor(workers) as threads:
        if any(not row.is_stale and row.key() not in known for row in rows):
            for number in range(workers):
                copies.put(copied(Path(temporary) / str(number)))
        yield from threads.map(one, rows)


def copied(folder: Path) -> Path:
    """A copy of every file that git knows or would; the three folders of the package lie in it as they are installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for part in ("codegen", "runtime"):  # or they would be found where gradc is installed
        (folder / "gradc" / part).symlink_to(folder / part)
    where = "import gradc.codegen.lower as a, gradc.runtime.compile as b; print(a.__file__, b.__file__)"
    seen = subprocess.run([sys.executable, "-c", where], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert seen.count(str(folder)) == 2, f"the copy in {folder} is not what is imported: {seen}"
    return folder


def found(row: Mutant, folder: Path) -> str:
    """caught, survived; or `broken` where the tests that the row names do not pass, or are none, without the fault."""
    if row.tests not in WITHOUT:
        WITHOUT[row.tests] = status(row.tests, folder)
    if WITHOUT[row.tests] != PASSED:
        return "broken"
    with fault(row, folder):
        with_fault = status(row.tests, folder)
    return {PASSED: "survived", FAILED: "caught"}.get(with_fault, "broken")


@contextmanager
def fault(row: Mutant, folder: Path) -> Iterator[None]:
    path = folder / row.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(row.before, row.after), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def status(tests: str, folder: Path) -> int:
    """What pytest makes of the tests, run until one fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *shlex.split(tests)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=ENOUGH).returncode
    except subprocess.TimeoutExpired:
        return FAILED


def told(findings: Sequence[tuple[Mutant, str]]) -> int:
    """Prints what was not caught, and the counts."""
    for row, finding in findings:
        if finding != "caught":
            why = f"\n  equivalent: {row.equivalent}" if row.equivalent else ""
            print(f"{finding}: {row.name}\n  by {row.tests}{why}")
    counts = Counter(finding for _, finding in findings)
    print(f"{len(findings)} faults: {', '.join(f'{count} {finding}' for finding, count in counts.items())}")
    return int(any(finding != "caught" and not (finding == "survived" and row.equivalent) for row, finding in findings))


if __name__ == "__main__":
    sys.exit(main())
