"""Worker processes: `build` compiles kernels in parallel, `interpret` runs a module under Triton's interpreter.

Triton decides at its first import whether it interprets or compiles, so the mode this process did not start in needs a
process of its own. Workers start when first needed, serve many requests, and end with this process. Messages are JSON
and raw bytes over pipes; the user's main module is never imported again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing.util import Finalize
from typing import Any, Literal

from gradc.errors import GradcError
from gradc.runtime import forks, wire
from gradc.runtime import interpret as interpreter
from gradc.runtime.build import Binary, BuildRequest, environment
from gradc.runtime.cache import DiskCache, digest

Mode = Literal["build", "interpret"]
BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from gradc.runtime.worker import main; main()"


class WorkerError(GradcError, RuntimeError):
    """A kernel that could not be built or run. The message ends with the worker's own traceback, not the user's line."""

    def __init__(self, message: str):
        super().__init__(message)
        self.source = None


def build(
    source: str, requests: Sequence[BuildRequest], target: str = "sm_90", *, cache: DiskCache | None = None
) -> tuple[Binary, ...]:
    """Compile kernels of a module for a GPU that need not be there, in parallel; one `Binary` per request, in order.

    Built kernels are kept in the disk cache. Raises WorkerError with the compiler's message.
    """
    cache = cache or DiskCache()
    with ThreadPoolExecutor(max(1, min(processors(), len(requests)))) as threads:
        return tuple(threads.map(lambda request: _built(source, request, target, cache), requests))


def interpret(source: str, function: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What `function(*arguments)` of a module returns, its kernels run on the CPU by Triton's interpreter.

    Arguments and results are torch CPU tensors, numbers, strings, None, and tuples of them. Strides arrive as they are.
    A worker gets copies: a tensor that the function writes to is not written here. Raises WorkerError with the traceback.
    """
    if interpreter.runs_here():
        return interpreter.run(source, function, arguments)
    blobs: wire.Blobs = []
    codes = wire.encoded(tuple(arguments), blobs)
    header = {"task": "interpret", "source": source, "function": function, "arguments": codes}
    answer, produced = _asked("interpret", header, blobs, f"interpreting {function}")
    return wire.decoded(answer["results"], produced)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _built(source: str, request: BuildRequest, target: str, cache: DiskCache) -> Binary:
    key = digest("binary", version("triton"), target, repr(request), source)
    if (stored := cache.get(key)) is not None:
        return Binary.from_texts(request.kernel, stored)
    header = {"task": "build", "source": source, "request": request.to_json(), "target": target}
    answer, _ = _asked("build", header, [], f"building {request.kernel} for {target}")
    cache.put(key, answer["binary"])
    return Binary.from_texts(request.kernel, answer["binary"])


class Worker:
    """One process and the pipes to it."""

    def __init__(self, mode: Mode):
        command = [sys.executable, "-c", BOOTSTRAP, *sys.path]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(mode),
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends its workers
        )

    def ask(self, header: dict[str, Any], blobs: wire.Blobs) -> tuple[dict[str, Any], wire.Blobs]:
        """One request and its reply. Raises EOFError or OSError where the process has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        wire.send(self.process.stdin, header, blobs)  # type: ignore[arg-type]
        return wire.receive(self.process.stdout)  # type: ignore[arg-type]

    def disown(self) -> None:
        """Let go of a process that is another's. What is still to be written goes nowhere."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (self.process.stdin, self.process.stdout):
            if not stream.closed:
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        self.process.returncode = 0  # nothing to wait for

    def end(self) -> int:
        """End the process; returns its exit status."""
        self.process.kill()
        with contextlib.suppress(OSError):
            self.process.communicate()
        return self.process.returncode


class Pool:
    """The workers of this process that wait for work, by mode, and the temporary folder they share."""

    def __init__(self) -> None:
        self.lock = forks.lock()
        self.waiting: dict[Mode, list[Worker]] = {"build": [], "interpret": []}
        self.started: list[Worker] = []
        self.room = {mode: threading.BoundedSemaphore(processors()) for mode in self.waiting}
        self.folder = tempfile.mkdtemp(prefix="gradc-build-")

    @contextlib.contextmanager
    def worker(self, mode: Mode) -> Iterator[Worker]:
        """A worker to oneself, of at most one for each processor; others wait for theirs.

        Whatever interrupts its request also ends it, since its pipes are then out of step.
        """
        with self.room[mode], self._worker(mode) as worker:
            yield worker

    @contextlib.contextmanager
    def _worker(self, mode: Mode) -> Iterator[Worker]:
        with self.lock:
            worker = self.waiting[mode].pop() if self.waiting[mode] else None
        worker = worker or self._new(mode)
        try:
            yield worker
        except BaseException:
            worker.end()
            self.started.remove(worker)
            raise
        with self.lock:
            self.waiting[mode].append(worker)

    def _new(self, mode: Mode) -> Worker:
        worker = Worker(mode)
        self.started.append(worker)
        return worker

    def end(self) -> None:
        for worker in itertools.chain(*self.waiting.values()):
            worker.end()
        shutil.rmtree(self.folder, ignore_errors=True)


_POOLS: list[Pool] = []  # this process's own, once it is needed
_LOCK = forks.lock()
_INHERITED: list[Pool] = []  # of the process this one was forked from: closing a file waits for who was writing to it


def _pool() -> Pool:
    with _LOCK:
        if not _POOLS:
            _POOLS.append(Pool())
            Finalize(None, _POOLS[0].end, exitpriority=0)  # by this process alone; multiprocessing's children run it too
        return _POOLS[0]


def _leave_to_the_parent() -> None:
    """In a forked child: its copies of the pipes are cut, so that the parent's workers end with the parent."""
    for pool in _POOLS:
        for worker in list(pool.started):
            worker.disown()
    _INHERITED.extend(_POOLS)
    _POOLS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


def _environment(mode: Mode) -> dict[str, str]:
    chosen = environment(_pool().folder)
    return chosen if mode == "build" else chosen | {"TRITON_INTERPRET": "1"}


def _asked(mode: Mode, header: dict[str, Any], blobs: wire.Blobs, purpose: str) -> tuple[dict[str, Any], wire.Blobs]:
    with _pool().worker(mode) as worker:
        try:
            answer, produced = worker.ask(header, blobs)
        except (EOFError, OSError) as problem:
            status = worker.end()
            raise WorkerError(
                f"the worker process died (exit status {status}) while {purpose}; the next call starts a new one"
            ) from problem
    if "error" in answer:
        raise WorkerError(f"{purpose} failed: {answer['error']}\n\n{answer['traceback']}")
    return answer, produced
