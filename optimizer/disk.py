"""Files written whole or not at all, and full or read-only disks named as such."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from optimizer import fingerprint
from optimizer.errors import OptimizerError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
ROOM_HINT = "free some space (optc cache trim), or set OPTC_STORE to a bigger disk"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: temporary file beside it, flush, rename."""
    with stream_atomically(path) as stream:
        stream.write(data)


@contextlib.contextmanager
def stream_atomically(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content replaces `path` when the block ends without an error.

    Raises PermissionError also where the file system has another word for a folder that takes no files (/proc, /sys).
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with _opened(temporary, path) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _opened(temporary: Path, path: Path) -> BinaryIO:
    try:
        return temporary.open("wb")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        raise PermissionError(errno.EACCES, "its folder takes no files", str(path)) from None


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn a full or read-only disk, and a place where no folder can be, into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OptimizerError(f"no room on disk while writing below {root} ({error.strerror})", ROOM_HINT) from error
        if error.errno in NOT_WRITABLE:
            raise OptimizerError(
                f"cannot write below {root} ({error.strerror}: {error.filename})",
                "make it writable, or name a folder that is (--out, --store, OPTC_STORE)",
            ) from error
        if isinstance(error, (FileExistsError, NotADirectoryError, FileNotFoundError)) and not root.is_dir():
            raise OptimizerError(f"there can be no folder {root} ({error.strerror})", "name another one") from error
        raise


def require_folder(path: Path) -> Path:
    """The path as it is; raises OptimizerError where it can be no folder, or none that takes a file. Makes nothing."""
    with disk_errors(path):
        place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        if not place.is_dir():
            raise FileExistsError(errno.EEXIST, f"{place} is a file")
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
    return path


def state(folder: Path) -> object:
    """Something that changes whenever a file below `folder` does, told without reading any."""
    stats = [(path.relative_to(folder), path.stat()) for path in fingerprint.files_below(folder)]
    return tuple((name.as_posix(), s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats)


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files: names and bytes. Links and sizes settle most without reading."""
    names = [path.relative_to(one) for path in fingerprint.files_below(one)]
    if names != [path.relative_to(other) for path in fingerprint.files_below(other)]:
        return False
    pairs = [(one / name, other / name) for name in names]
    return all(a.samefile(b) or filecmp.cmp(a, b, shallow=False) for a, b in pairs)


def link_or_copy(file: Path, to: Path) -> None:
    """Make `to` the same file as `file` where the file system allows, else a copy; folders are made."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, to)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, to)
