"""A forked child: locks that its parent's threads held are free, and its parent's workers are not its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import gradc
from gradc.runtime import module, workers

if not hasattr(os, "fork"):
    pytest.skip("this system does not fork", allow_module_level=True)

X = np.arange(6, dtype=np.float32).reshape(2, 3)
SECONDS = 60  # after which a child that waits for ever is ended


def in_a_child(work) -> int:
    """The exit status of a forked child that does some work: 0, or 1 where it raised, or that of a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads at a fork, which is the point
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Holding:
    """A thread that holds a lock until told otherwise."""

    def __init__(self, lock):
        self.lock, self.held, self.enough = lock, threading.Event(), threading.Event()

    def __enter__(self):
        def hold():
            with self.lock:
                self.held.set()
                self.enough.wait()

        self.thread = threading.Thread(target=hold)
        self.thread.start()
        self.held.wait()

    def __exit__(self, *error):
        self.enough.set()
        self.thread.join()


def check(function):
    np.testing.assert_array_equal(function(X), X * 2)


def locks():
    used = gradc.compile(lambda x: x * 2)
    check(used)
    (prepared,) = used._programs.values()
    return {
        "a compiled function": (used._lock, lambda: (check(used), used(X[:1]))),
        "a program": (prepared.executable._lock, lambda: prepared.executable.forward([X], (0,))),
        "emitted modules": (module._LOCK, lambda: module.load_module("x = 1")),
        "workers": (workers._LOCK, lambda: workers._pool().folder),
    }


@pytest.mark.parametrize("name", list(locks()))
def test_a_lock_that_a_thread_held_is_free(name):
    lock, work = locks()[name]
    with Holding(lock):
        assert in_a_child(work) == 0
    work()  # and the parent goes on


def test_a_thread_that_compiles_while_another_forks():
    begun, enough = threading.Event(), threading.Event()

    @gradc.compile
    def slow(x):
        if threading.current_thread() is thread:
            begun.set()
            enough.wait()
        return x * 2

    thread = threading.Thread(target=slow, args=(X,))
    thread.start()
    begun.wait()
    try:
        assert in_a_child(lambda: check(slow)) == 0
    finally:
        enough.set()
        thread.join()
    check(slow)


@pytest.mark.triton
def test_workers_are_the_parents_own():
    pytest.importorskip("triton")
    f = gradc.compile(backend="interpret")(lambda x: x * 2)
    check(f)
    (mine,) = workers._pool().started[-1:]

    def start_none():
        assert not workers._pool().started
        mine.process.stdin.write(b"to nobody")
        mine.process.stdin.flush()
        workers._pool().end()

    assert in_a_child(start_none) == 0
    check(f)
    assert workers._pool().started[-1] is mine


ENDING = """
import os, sys
from gradc.runtime import workers, module
worker = workers._pool()._new("build").process.pid
folders = [workers._pool().folder, str(module._temporary("0" * 8, "x = 1"))]
child = os.fork()
if child == 0:
    sys.stdin.read()          # outlives its parent, with the parent's pipes
    sys.exit()                # and runs what is to be run at exit
print(worker, *folders, flush=True)
"""


@pytest.mark.triton
def test_a_child_that_outlives_its_parent_holds_no_worker_and_removes_no_folder():
    pytest.importorskip("triton")
    program = subprocess.Popen([sys.executable, "-c", ENDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker, *folders = program.stdout.readline().split()
    assert program.wait() == 0
    for folder in folders:
        assert not os.path.exists(folder)  # its parent did
    ended = subprocess.run(["tail", f"--pid={worker}", "-f", "/dev/null"], timeout=SECONDS, check=False)
    assert ended.returncode == 0
    program.stdin.close()
