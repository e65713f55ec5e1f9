"""Runs emitted modules by ttsem: a second executor of kernels, which shares nothing with Triton's interpreter nor with gradc's repairs of it.

ttsem (PyPI) compiles a kernel by Triton's own frontend and executes the intermediate code on the CPU, program by program. It stops at a
read or write outside an array, at two programs that touch one element of which one writes it, and at an undefined number, and it
names the kernel's line. Memory that nobody wrote is NaN.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from triton.runtime import driver

from gradc.runtime.cache import DiskCache
from gradc.runtime.module import load_module

if find_spec("ttsem") is None:
    pytest.skip("ttsem is not installed; see constraints.txt", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("ttsem executes what Triton compiles, and this process interprets", allow_module_level=True)

from ttsem import _fakedriver, sanitize
from ttsem.sanitize import KernelFault


@contextmanager
def executing() -> Iterator[sanitize.Session]:
    """While open, launches are executed by ttsem. A fault of a kernel is raised; all is checked, or it is an error."""
    before = driver._active
    try:
        with sanitize.session() as session:
            yield session
        assert session.races_unchecked == 0, "too large to be searched for races"
    finally:
        _fakedriver.unstub_torch_cuda()
        driver._active = before


def module_of(source: str, folder: Any) -> ModuleType:
    """An emitted module, perhaps edited, as a file that faults are shown in."""
    return load_module(source, DiskCache(folder))


def entry(module: ModuleType, name: str) -> Any:
    """What a user of the module calls: its function on the tape, or its forward where it has no gradient."""
    return getattr(module, name, None) or module.forward


__all__ = ["KernelFault", "entry", "executing", "module_of"]
