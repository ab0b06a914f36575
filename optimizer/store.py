"""Artifacts by key on disk: safe under crash, concurrency and full disks.

An entry is staged in a temporary folder, flushed, and renamed into place with its marker (`entry.json`)
already inside, so that an entry either exists whole or not at all. A reader that finds an entry damaged
gets a warning and a miss, never a broken artifact.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer import fingerprint
from optimizer.disk import ROOM_HINT, disk_errors, write_atomically
from optimizer.errors import OptimizerError

LAYOUT = 1
STALE_SECONDS = 24 * 3600.0
ABANDONED_SECONDS = 30 * 24 * 3600.0  # an interrupted training is gone on with until then
LITTLE_ROOM = 4 << 20  # bytes


@dataclass(frozen=True)
class StoredEntry:
    """One finished step on disk. `record` is what the executor wrote beside the files."""

    key: str
    path: Path  # directory of the artifact's files
    digest: str  # of all files: names, sizes, sha256
    size: int  # bytes
    created: float  # seconds since the epoch
    used: float
    record: dict[str, Any]

    @property
    def use(self) -> str:
        return str(self.record.get("use", "?"))

    @property
    def format(self) -> str:
        return str(self.record.get("format", "?"))


def default_root() -> Path:
    """$OPTC_STORE, else $XDG_CACHE_HOME/optc, else ~/.cache/optc."""
    if os.environ.get("OPTC_STORE"):
        return Path(os.environ["OPTC_STORE"]).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optc"


class Store:
    """The store at one root folder. Holds no state but the path: every process may open its own."""

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        self.root = root
        self._warn = warn

    @classmethod
    def open(cls, path: Path | None = None, warn: Callable[[str], None] = lambda text: None) -> Store:
        """The store at `path` (default `default_root()`), created when absent, stale staging swept."""
        root = (path or default_root()).expanduser().absolute()
        store = cls(root, warn)
        with disk_errors(root):
            for folder in ("objects", "staging", "locks", "slots", "work"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            if not os.access(root / "staging", os.W_OK):
                raise PermissionError(errno.EACCES, "Permission denied", str(root))
            store._sweep()
        return store

    def get(self, key: str) -> StoredEntry | None:
        """The entry of a key, or None. A damaged entry is removed with a warning."""
        folder = self._folder(key)
        if not folder.is_dir():
            return None
        try:
            entry = self._read(folder)
            fault = _missing_or_resized(entry)
        except (OSError, ValueError, KeyError, TypeError) as error:
            entry, fault = None, f"unreadable entry.json ({type(error).__name__})"
        if entry is None or fault:
            self._warn(f"store entry {key[:12]} is damaged ({fault}); it will be built again")
            self._remove(folder)
            return None
        return entry

    def touch(self, entry: StoredEntry) -> None:
        """Mark an entry as used now, so that trimming takes others first."""
        with contextlib.suppress(OSError):
            os.utime(self._folder(entry.key) / "entry.json")

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the key's lock; another process that builds the same key waits, `waiting` is told once."""
        with disk_errors(self.root), (self.root / "locks" / f"{key}.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep every entry while the block runs: trimming and clearing are refused meanwhile."""
        with disk_errors(self.root), (self.root / "in-use.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        with disk_errors(self.root), (self.root / "in-use.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OptimizerError(
                    f"cannot {what} the store {self.root}: a build is using it", "try again when the build has ended"
                ) from None
            yield

    @contextlib.contextmanager
    def stage(self, key: str) -> Iterator[Path]:
        """An empty folder to build an entry in; removed on leaving unless `commit` took it."""
        folder = self.root / "staging" / f"{key[:16]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with disk_errors(self.root):
            (folder / "files").mkdir(parents=True)
        try:
            with disk_errors(self.root):
                yield folder / "files"
        except OptimizerError as error:
            free = shutil.disk_usage(self.root).free
            if free >= LITTLE_ROOM:
                raise
            # Libraries seldom say that a disk is full; they fail in their own words.
            raise OptimizerError(
                f"no room on disk: {free // 1000} kB are left below {self.root} ({error.message})", ROOM_HINT
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def work(self, key: str) -> Path:
        """The folder of what an unfinished step keeps between two runs; whoever uses it makes it."""
        return self.root / "work" / key

    def unfinished(self) -> dict[str, int]:
        """Key -> bytes of every step that was begun and left something to go on with."""
        folders = sorted((self.root / "work").glob("*"))
        sizes = {f.name: sum(file.stat().st_size for file in fingerprint.files_below(f)) for f in folders}
        return {key: size for key, size in sizes.items() if size}

    def commit(self, staged: Path, key: str, record: Mapping[str, Any]) -> StoredEntry:
        """Make the staged files the entry of `key`. All or nothing: flush, marker, rename."""
        folder, target = staged.parent, self._folder(key)
        names = [p.relative_to(staged).as_posix() for p in fingerprint.files_below(staged)]
        files = {name: [(staged / name).stat().st_size, fingerprint.of_file(staged / name)] for name in names}
        marker = {
            "layout": LAYOUT,
            "key": key,
            "created": time.time(),
            "digest": fingerprint.of_value(files),
            "files": files,
            "record": dict(record),
        }
        with disk_errors(self.root):
            for name in names:
                _flush(staged / name)
            write_atomically(folder / "entry.json", json.dumps(marker, indent=1).encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                self._remove(target)
            folder.rename(target)
            _flush(target.parent)
        shutil.rmtree(self.work(key), ignore_errors=True)
        return self._read(target)

    def last(self, slot: str) -> dict[str, Any] | None:
        """The ingredients that were last used in a slot (a place in a recipe), or None."""
        path = self._slot(slot)
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def remember(self, slot: str, ingredients: Mapping[str, Any]) -> None:
        """Keep the ingredients of a slot, so that a later miss can say what changed."""
        data = json.dumps(dict(ingredients)).encode()
        path = self._slot(slot)
        if not path.is_file() or path.read_bytes() != data:
            with disk_errors(self.root):
                write_atomically(path, data)

    def entries(self) -> list[StoredEntry]:
        """All whole entries, most recently used first."""
        found = []
        for folder in (self.root / "objects").glob("??/*"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.append(self._read(folder))
        return sorted(found, key=lambda e: e.used, reverse=True)

    def trim(self, max_bytes: int) -> list[StoredEntry]:
        """Remove the least recently used entries until at most `max_bytes` are left; returns the removed."""
        kept, removed = 0, []
        with self._alone("trim"):
            for entry in self.entries():
                if kept + entry.size <= max_bytes:
                    kept += entry.size
                else:
                    self._remove(self._folder(entry.key))
                    removed.append(entry)
        return removed

    def verify(self) -> list[tuple[str, str]]:
        """Read every byte of every entry; remove and return the damaged ones as (key, reason)."""
        damaged = []
        for folder in (self.root / "objects").glob("??/*"):
            try:
                entry = self._read(folder)
                fault = _missing_or_resized(entry) or _altered(folder, entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                fault = f"unreadable entry.json ({type(error).__name__})"
            if fault:
                self._remove(folder)
                damaged.append((folder.name, fault))
        return damaged

    def clear(self) -> int:
        """Remove every entry, and what unfinished steps have left; returns the bytes freed."""
        with self._alone("clear"):
            freed = sum(entry.size for entry in self.entries()) + sum(self.unfinished().values())
            for name in ("objects", "slots", "work"):
                shutil.rmtree(self.root / name)
                (self.root / name).mkdir()
        return freed

    def _folder(self, key: str) -> Path:
        return self.root / "objects" / key[:2] / key

    def _slot(self, slot: str) -> Path:
        return self.root / "slots" / f"{fingerprint.of_value(slot)[:32]}.json"

    def _read(self, folder: Path) -> StoredEntry:
        path = folder / "entry.json"
        marker = json.loads(path.read_text())
        if marker["layout"] != LAYOUT or marker["key"] != folder.name:
            raise ValueError("not an entry of this layout")
        sizes = {name: int(size) for name, (size, _) in marker["files"].items()}
        return StoredEntry(
            key=folder.name,
            path=folder / "files",
            digest=str(marker["digest"]),
            size=sum(sizes.values()),
            created=float(marker["created"]),
            used=path.stat().st_mtime,
            record={**marker["record"], "files": marker["files"]},
        )

    def _remove(self, folder: Path) -> None:
        # Renamed first: a reader sees the whole entry or none.
        doomed = self.root / "staging" / f"removed-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(FileNotFoundError), disk_errors(self.root):
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _sweep(self) -> None:
        for folder in (self.root / "staging").iterdir():
            owner = folder.name.split("-")[1:2]
            dead = bool(owner) and owner[0].isdigit() and not _alive(int(owner[0]))
            with contextlib.suppress(OSError):
                if dead or time.time() - folder.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.root / "work").iterdir():
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _missing_or_resized(entry: StoredEntry) -> str | None:
    for name, (size, _) in entry.record["files"].items():
        path = entry.path / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def _altered(folder: Path, entry: StoredEntry) -> str | None:
    for name, (_, digest) in entry.record["files"].items():
        if fingerprint.of_file(folder / "files" / name) != digest:
            return f"{name} was altered"
    return None
