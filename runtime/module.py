"""Emitted text becomes an imported module, with a real file behind it so that tracebacks and Triton can read its lines.

The text is run as it is. This file never looks inside it and never imports Triton itself.
"""

from __future__ import annotations

import linecache
import shutil
import sys
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType

from gradc.runtime import forks
from gradc.runtime.cache import DiskCache, digest

FILE = "kernels.py"

MODULES = 1024  # loaded at a time; others are loaded again from their file

_MODULES: dict[str, ModuleType] = {}
_LOCK = forks.lock()


def load_module(source: str, cache: DiskCache | None = None) -> ModuleType:
    """The module of a text, loaded once per process as long as it is in use.

    The file lies in the disk cache, or in a private temporary folder where there is no usable cache.
    Raises what the text itself raises.
    """
    key = digest("module", source)
    with _LOCK:
        module = _MODULES.pop(key, None) or _imported(f"gradc_emitted_{key}", _file(key, source, cache or DiskCache()), source)
        _MODULES[key] = module  # the last, as the one used last
        while len(_MODULES) > MODULES:
            _forget(_MODULES.pop(next(iter(_MODULES))))
        return module


def _forget(module: ModuleType) -> None:
    sys.modules.pop(module.__name__, None)
    linecache.cache.pop(str(module.__file__), None)


def _imported(name: str, path: Path, source: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _file(key: str, source: str, cache: DiskCache) -> Path:
    folder = cache.path(key) if cache.get(key) == {FILE: source} else cache.put(key, {FILE: source})
    return (folder or _temporary(key, source)) / FILE


def _temporary(key: str, source: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"gradc-{key[:8]}-"))
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=0)  # by this process alone, not by a forked child
    (folder / FILE).write_text(source, encoding="utf-8")
    return folder
