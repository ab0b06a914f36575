"""Files written whole or not at all, and full or read-only disks named as such."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from optimizer.errors import OptimizerError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
ROOM_HINT = "free some space (optc cache trim), or set OPTC_STORE to a bigger disk"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: temporary file beside it, flush, rename."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OptimizerError(f"no room on disk while writing below {root} ({error.strerror})", ROOM_HINT) from error
        if error.errno in NOT_WRITABLE:
            raise OptimizerError(
                f"cannot write below {root} ({error.strerror}: {error.filename})",
                "make it writable, or set OPTC_STORE (or --store) to a folder that is",
            ) from error
        raise


def link_or_copy(file: Path, to: Path) -> None:
    """Make `to` the same file as `file` where the file system allows, else a copy; folders are made."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, to)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, to)
