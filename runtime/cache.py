"""The disk cache: one folder per key, readable text files inside, a manifest with a checksum for each.

An entry appears by one rename, so many processes can share the folder. What is damaged, or owned or writable by someone
else, is a miss with a warning. Nothing here runs, unpickles or imports what it reads, and nothing here raises because
the cache cannot be used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
PENDING = ".pending-"
ATTEMPTS = 4
TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


class CacheWarning(UserWarning):
    """Something about the disk cache that the user may want to know; the result is computed afresh."""


class _Damaged(Exception):
    """An entry that cannot be trusted; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as `gradc cache` lists it: size in bytes, modification time in seconds since 1970."""

    key: str
    size: int
    modified: float


def digest(*parts: str | bytes) -> str:
    """A key of 40 hexadecimal digits; the borders between the parts count."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:40]


def default_folder() -> Path:
    """`GRADC_CACHE_DIR`, or `gradc` in the user's cache folder."""
    if chosen := os.environ.get("GRADC_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "gradc"


class DiskCache:
    """A mapping from keys to sets of named texts, on disk, shared by processes."""

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self.folder = Path(folder).absolute() if folder is not None else default_folder()
        self._refused = False

    def get(self, key: str) -> dict[str, str] | None:
        """The texts of an entry by file name, or None: absent, damaged or not ours."""
        folder = self.path(key)
        if not os.path.lexists(folder) or not self._usable():
            return None
        try:
            return _read_settled(folder)
        except FileNotFoundError:
            return None
        except (_Damaged, OSError) as problem:
            _warn(f"ignoring the cache entry {folder}: {problem}")
            return None

    def put(self, key: str, files: Mapping[str, str]) -> Path | None:
        """Store an entry, replacing one that differs. Returns its folder, or None where nothing can be stored."""
        folder = self.path(key)
        for name in files:
            _check_name(name)
        if not self._usable(create=True):
            return None
        try:
            self._store(folder, files)
        except OSError as problem:
            self._refuse(f"cannot write to the cache {self.folder}: {problem}")
            return None
        return folder

    def path(self, key: str) -> Path:
        """Where the entry of a key lies, whether or not it exists."""
        return self.folder / _check_name(key)

    def clear(self) -> None:
        """Remove every entry, and nothing else that may lie in the folder."""
        if self.folder.is_dir() and self._usable():
            for item in self.folder.iterdir():
                if item.name.startswith(PENDING):
                    _remove(item)
                elif (item / MANIFEST).is_file():
                    _set_aside(item)

    def entries(self) -> tuple[Entry, ...]:
        """All entries, the oldest first."""
        if not self.folder.is_dir():
            return ()
        found = [item for item in self.folder.iterdir() if NAME.fullmatch(item.name) and (item / MANIFEST).is_file()]
        return tuple(sorted(map(_entry, found), key=lambda entry: entry.modified))

    def _store(self, folder: Path, files: Mapping[str, str]) -> None:
        pending = Path(tempfile.mkdtemp(prefix=PENDING, dir=self.folder))
        try:
            _write(pending, files)
            for _ in range(ATTEMPTS):
                if _renamed(pending, folder) or _holds(folder, files):
                    return
                _set_aside(folder)
            _renamed(pending, folder)  # whoever sets an entry aside offers one after it, so a race never ends with none
        finally:
            _remove(pending)

    def _usable(self, create: bool = False) -> bool:
        if self._refused:
            return False
        try:
            if create:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_folder(self.folder)
        except FileNotFoundError:
            return False
        except (_Damaged, OSError) as problem:
            self._refuse(f"not using the cache {self.folder}: {problem}")
            return False
        return True

    def _refuse(self, message: str) -> None:
        self._refused = True
        _warn(message)


def _user() -> int | None:
    """The number of the user this process acts for; None where the system has no such thing."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def _check_name(name: str) -> str:
    if not NAME.fullmatch(name) or name == MANIFEST:
        raise ValueError(f"{name!r} cannot name a cache entry or a file in one")
    return name


def _check_folder(folder: Path) -> None:
    """The cache's own folder: a link to it is followed only where the link is ours or root's."""
    link = os.lstat(folder)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (_user(), 0):
        raise _Damaged("it is a link made by another user")
    status = os.stat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise _Damaged("it is not a folder")
    _check_private(status)


def _check_private(status: os.stat_result) -> None:
    if _user() is None:
        return
    if status.st_uid != _user():
        raise _Damaged(f"it belongs to user {status.st_uid}")
    if status.st_mode & 0o022:
        raise _Damaged("others may write to it (chmod go-w)")


def _read_settled(folder: Path) -> dict[str, str]:
    """The texts of one version of an entry. Where that is taken away in the middle, what lies there instead is read."""
    while True:
        entry = _opened(folder)
        try:
            return _read(entry)
        except (_Damaged, OSError):
            if os.path.samestat(os.lstat(folder), os.fstat(entry)):  # nobody replaced it: it is damaged
                raise
        finally:
            os.close(entry)


def _opened(folder: Path) -> int:
    """A descriptor of an entry's folder, which stays the same folder whatever is renamed."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError as problem:
        raise _Damaged("it is not a folder") from problem


def _read(entry: int) -> dict[str, str]:
    _check_private(os.fstat(entry))
    checksums = _checksums(_read_bytes(MANIFEST, entry))
    return {name: _checked_text(name, expected, entry) for name, expected in checksums.items()}


def _checksums(manifest: bytes) -> dict[str, str]:
    try:
        content = json.loads(manifest)
        checksums = content["files"]
        valid = content["format"] == FORMAT and all(NAME.fullmatch(name) for name in checksums)
    except (ValueError, KeyError, TypeError) as problem:
        raise _Damaged("its manifest cannot be read") from problem
    if not valid:
        raise _Damaged("its manifest has another format")
    return checksums


def _checked_text(name: str, expected: str, entry: int) -> str:
    try:
        data = _read_bytes(name, entry)
    except FileNotFoundError as problem:
        raise _Damaged(f"{name} is missing") from problem
    if hashlib.sha256(data).hexdigest() != expected:
        raise _Damaged(f"{name} does not match its checksum")
    return data.decode()


def _read_bytes(name: str, entry: int) -> bytes:
    """The bytes of a regular file of ours in an entry's folder. A link is refused: it could lead to anyone's file."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=entry)
    except OSError as problem:
        if problem.errno == errno.ELOOP:
            raise _Damaged(f"{name} is a link") from problem
        raise
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Damaged(f"{name} is not a file")
        _check_private(status)
        return file.read()


def _write(folder: Path, files: Mapping[str, str]) -> None:
    checksums = {}
    for name, text in files.items():
        data = text.encode()
        checksums[name] = hashlib.sha256(data).hexdigest()
        _write_private(folder / name, data)
    manifest = {"format": FORMAT, "files": checksums}
    _write_private(folder / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")


def _write_private(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _renamed(pending: Path, folder: Path) -> bool:
    """Whether the pending entry took its place; it cannot where something lies already."""
    try:
        os.rename(pending, folder)
    except OSError as problem:
        if problem.errno not in TAKEN:
            raise
        return False
    return True


def _holds(folder: Path, files: Mapping[str, str]) -> bool:
    try:
        return _read_settled(folder) == dict(files)
    except (_Damaged, OSError):
        return False


def _set_aside(folder: Path) -> None:
    """Take an entry away by one rename, so that no reader sees half of it."""
    aside = Path(tempfile.mkdtemp(prefix=PENDING, dir=folder.parent))
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, aside / folder.name)
    _remove(aside)


def _remove(item: Path) -> None:
    if item.is_symlink() or item.is_file():
        item.unlink(missing_ok=True)
    else:
        shutil.rmtree(item, ignore_errors=True)


def _entry(folder: Path) -> Entry:
    statuses = [item.lstat() for item in folder.iterdir()]
    return Entry(folder.name, sum(status.st_size for status in statuses), folder.lstat().st_mtime)


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=4)
