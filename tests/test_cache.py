"""The disk cache: what goes in comes out; what is damaged, foreign or unwritable is a miss with a warning."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import warnings

import pytest

from gradc.runtime import cache as cache_module
from gradc.runtime.cache import CacheWarning, DiskCache, default_folder, digest

FILES = {"kernel.py": "x = 1\n", "note.txt": "größe ∂\r\n"}


@pytest.fixture
def cache(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


def test_round_trip(cache):
    assert cache.get("key") is None
    folder = cache.put("key", FILES)
    assert cache.get("key") == FILES
    assert folder == cache.path("key")
    assert (folder / "kernel.py").read_text() == "x = 1\n"


def test_folder_is_private(cache):
    folder = cache.put("key", FILES)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "kernel.py").stat().st_mode) == 0o600


def test_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "chosen"))
    assert default_folder() == DiskCache().folder == tmp_path / "chosen"
    monkeypatch.delenv("GRADC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "gradc"


def test_put_replaces(cache):
    cache.put("key", FILES)
    cache.put("key", {"kernel.py": "x = 2\n"})
    assert cache.get("key") == {"kernel.py": "x = 2\n"}
    assert [item.name for item in cache.folder.iterdir()] == ["key"]


def test_entries_and_clear(cache):
    cache.put("first", FILES)
    cache.put("second", FILES)
    (cache.folder / "mine.txt").write_text("not an entry")
    assert {entry.key for entry in cache.entries()} == {"first", "second"}
    assert all(entry.size > 20 and entry.modified > 0 for entry in cache.entries())
    cache.clear()
    assert cache.entries() == ()
    assert (cache.folder / "mine.txt").exists()


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "manifest.json", "a\n"])
def test_names_stay_inside(cache, name):
    with pytest.raises(ValueError, match="cannot name"):
        cache.put("key", {name: ""})
    with pytest.raises(ValueError, match="cannot name"):
        cache.get(name)


def change_a_byte(folder):
    (folder / "kernel.py").write_text("x = 3\n")


def truncate_the_manifest(folder):
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])


def lose_a_file(folder):
    (folder / "kernel.py").unlink()


def claim_another_format(folder):
    (folder / "manifest.json").write_text(json.dumps({"format": 99, "files": {}}))


def point_outside(folder):
    """A manifest that names a file elsewhere, with the right checksum."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = manifest["files"].pop("kernel.py")
    (folder.parent.parent / "secret").write_text("x = 1\n")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def link_a_file(folder):
    """The same text, but through a link."""
    other = folder.parent.parent / "other.py"
    (folder / "kernel.py").rename(other)
    (folder / "kernel.py").symlink_to(other)


def link_the_folder(folder):
    other = folder.parent.parent / "other"
    folder.rename(other)
    folder.symlink_to(other)


def let_others_write(folder):
    (folder / "kernel.py").chmod(0o622)


DAMAGES = [
    change_a_byte,
    truncate_the_manifest,
    lose_a_file,
    claim_another_format,
    point_outside,
    link_a_file,
    link_the_folder,
    let_others_write,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_a_miss_and_can_be_repaired(cache, damage):
    damage(cache.put("key", FILES))
    with pytest.warns(CacheWarning, match="ignoring the cache entry"):
        assert cache.get("key") is None
    cache.put("key", FILES)
    assert cache.get("key") == FILES


def test_foreign_entry_is_a_miss(cache, monkeypatch):
    cache.put("key", FILES)
    foreign = os.geteuid() + 1
    monkeypatch.setattr(cache_module, "_user", lambda: foreign)
    with pytest.warns(CacheWarning, match="belongs to user"):
        assert cache.get("key") is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_that_others_can_write_to_is_not_used(cache, mode):
    cache.put("key", FILES)
    cache.folder.chmod(mode)
    again = DiskCache(cache.folder)
    with pytest.warns(CacheWarning, match="others may write"):
        assert again.get("key") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.put("key", FILES) is None, "it warned once already"


def test_unwritable_folder_means_no_cache(tmp_path):
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file" / "cache")
    with pytest.warns(CacheWarning, match="not using the cache"):
        assert cache.put("key", FILES) is None
    assert cache.get("key") is None


def test_write_that_fails_means_no_cache(cache, monkeypatch):
    def refuse(*_arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache_module, "_write_private", refuse)
    with pytest.warns(CacheWarning, match="Read-only file system"):
        assert cache.put("key", FILES) is None
    assert list(cache.folder.iterdir()) == []


def test_a_race_lost_every_time_leaves_the_winner(cache, monkeypatch):
    rename, rivals = cache_module._renamed, []

    def beaten(pending, folder):
        if not folder.exists():
            rivals.append(str(len(rivals)))
            folder.mkdir(mode=0o700)
            cache_module._write(folder, {"who.txt": rivals[-1]})
        return rename(pending, folder)

    monkeypatch.setattr(cache_module, "_renamed", beaten)
    cache.put("key", FILES)
    assert len(rivals) > 1
    assert cache.get("key") == {"who.txt": rivals[-1]}


RACER = """
import sys, warnings
from gradc.runtime.cache import DiskCache
warnings.simplefilter("error")
cache, mine = DiskCache(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
for turn in range(40):
    key = f"key{turn}"
    if cache.get(key) is None:
        cache.put(key, {"a.txt": key * 500, "b.txt": key})
    assert cache.get(key) == {"a.txt": key * 500, "b.txt": key}
    cache.put("contended", {"who.txt": mine * 1000})
    found = cache.get("contended")
    assert found is None or found["who.txt"] in {str(n) * 1000 for n in range(8)}
"""


def test_eight_processes_race(tmp_path):
    command = [sys.executable, "-c", RACER, str(tmp_path / "cache")]
    racers = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for n in range(8)]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    errors = [racer.communicate()[1] for racer in racers]
    assert all(racer.returncode == 0 for racer in racers), "\n".join(errors)
    names = {item.name for item in (tmp_path / "cache").iterdir()}
    assert names == {"contended", *(f"key{turn}" for turn in range(40))}


@pytest.mark.parametrize("before", ["read", "checked"])
def test_an_entry_replaced_at_every_moment_of_a_read_is_read(before, tmp_path, monkeypatch):
    """As on a busy machine, where a reader waits between two files while others write: nothing was damaged."""
    cache = DiskCache(tmp_path / "cache")
    cache.put("key", {"a.txt": "0", "b.txt": "0"})
    name = {"read": "_read_bytes", "checked": "_checked_text"}[before]
    whole, versions = getattr(cache_module, name), iter(range(1, 8))

    def interrupted(*arguments):
        monkeypatch.setattr(cache_module, name, whole)
        if (version := next(versions, None)) is not None:
            cache.put("key", {"a.txt": str(version), "b.txt": str(version)})
            monkeypatch.setattr(cache_module, name, interrupted)
        return whole(*arguments)

    monkeypatch.setattr(cache_module, name, interrupted)
    assert cache.get("key") == {"a.txt": "7", "b.txt": "7"}


def test_an_entry_read_while_the_cache_is_cleared_is_absent(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache")
    cache.put("key", {"a.txt": "0", "b.txt": "0"})
    found, rmtree = [], cache_module.shutil.rmtree

    def halfway(folder, **options):
        next(folder.rglob("a.txt")).unlink()
        with warnings.catch_warnings(action="error"):
            found.append(cache.get("key"))
        rmtree(folder, **options)

    monkeypatch.setattr(cache_module.shutil, "rmtree", halfway)
    cache.clear()
    assert found == [None]
    assert list(cache.folder.iterdir()) == []


def test_digest_keeps_the_borders():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("ab", b"c") == digest(b"ab", "c")
    assert len(digest()) == 40
