"""Reads an archive that may be hostile: in one pass, in bounded memory, refusing at the first bad header."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from optimizer.bundle.archive import BLOCK, CHUNK, GZIP_HEADER, SEALED
from optimizer.bundle.manifest import MAX_FILES, path_fault
from optimizer.errors import OptimizerError

ALLOWANCE = 64 << 20  # bytes that any archive may unpack to
MAX_RATIO = 100  # beyond the allowance: unpacked bytes per archive byte
MAX_EXTENSION = 1 << 20  # bytes of an extended header

LINKS = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link"}
DEVICES = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe"}
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def refusal(path: Path, reason: str) -> OptimizerError:
    """The error for a bundle that must not be used."""
    return OptimizerError(f"{path}: refused: {reason}", "do not use it; get it again from where it was built")


@dataclass(frozen=True)
class Member:
    """A file or folder in an archive, its name already known to stay inside."""

    name: str
    size: int
    folder: bool


class Archive:
    """The members of an archive in order. After the last one `finish` says whether the archive is as packed."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._bytes = _Inflater(path, stream)
        self._foreign: str | None = None

    def members(self) -> Iterator[Member]:
        """Each member; its content must be taken with `content` (or is skipped) before the next."""
        for _ in range(2 * MAX_FILES):
            header = self._bytes.read(BLOCK)
            if header.count(0) == BLOCK:
                self._end()
                return
            info = self._parse(header)
            if info.type in EXTENSIONS:
                self._foreign = "it holds extended headers, which another tool wrote"
                if info.size > MAX_EXTENSION:
                    raise refusal(self._path, f"an extended header of {info.size} bytes")
                self._left = info.size
            else:
                member = self._screen(info)
                self._left = member.size
                yield member
            for _ in self.content():
                pass
            self._bytes.read(-info.size % BLOCK)
        raise refusal(self._path, f"archive bomb: more than {2 * MAX_FILES} entries")

    def content(self) -> Iterator[memoryview]:
        """The bytes of the current member that were not taken yet, in chunks."""
        while self._left:
            chunk = self._bytes.some(self._left)
            self._left -= len(chunk)
            yield chunk

    def finish(self) -> None:
        """Refuse an archive whose content may be right but whose bytes are not the ones that were packed."""
        fault = self._bytes.seal_fault() or self._foreign
        if fault:
            raise refusal(self._path, f"altered or packed again: {fault}")

    def _parse(self, header: bytes) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise refusal(self._path, f"not a tar archive, or damaged ({error})") from None
        if info.size < 0:
            raise refusal(self._path, f"'{info.name}' has a negative size")
        return info

    def _screen(self, info: tarfile.TarInfo) -> Member:
        """The member behind a header; refuses all that is not a plain file or folder inside the bundle."""
        kind = LINKS.get(info.type) or DEVICES.get(info.type)
        if kind:
            goal = f" to '{info.linkname}'" if info.linkname else ""
            raise refusal(self._path, f"'{info.name}' is {kind}{goal}; a bundle holds only plain files")
        folder = info.type == tarfile.DIRTYPE
        plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if not plain and not (folder and info.size == 0):
            raise refusal(self._path, f"'{info.name}' is a special entry (tar type {info.type!r}, {info.size} bytes)")
        fault = path_fault(info.name)
        if fault:
            raise refusal(self._path, f"'{info.name}' {fault}")
        return Member(info.name, info.size, folder)

    def _end(self) -> None:
        rest = self._bytes.read(BLOCK)
        while rest:
            if rest.count(0) != len(rest):
                raise refusal(self._path, "bytes follow the end of the archive")
            rest = self._bytes.read(CHUNK, whole=False)


class _Inflater:
    """The content of a gzip file, never more at once than a chunk, never more in total than the limit."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        self._limit = ALLOWANCE + MAX_RATIO * path.stat().st_size
        self._engine = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._head = stream.read(SEALED)
        self._seal = hashlib.sha256()
        self._pending, self._buffer = self._head, memoryview(b"")
        self._total = 0

    def some(self, most: int) -> memoryview:
        """Between 1 and `most` bytes; refuses a truncated archive."""
        if not self._buffer and not self._fill():
            raise refusal(self._path, "truncated: it ends in the middle")
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        return taken

    def read(self, count: int, whole: bool = True) -> bytes:
        """`count` bytes, or with `whole` unset what is left of them."""
        parts = []
        while count and (whole or self._buffer or self._fill()):
            parts.append(self.some(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def seal_fault(self) -> str | None:
        """Why these are not the bytes that were packed, or None. Ask after the last byte."""
        if self._head[: len(GZIP_HEADER)] != GZIP_HEADER:
            return "its gzip header is not the one that optc writes"
        if self._head[len(GZIP_HEADER) :] != self._seal.digest():
            return "its bytes do not match its seal"
        return None

    def _fill(self) -> bool:
        while not self._engine.eof:
            if not self._pending:
                self._pending = self._stream.read(CHUNK)
                self._seal.update(self._pending)
                if not self._pending:
                    raise refusal(self._path, "truncated: it ends in the middle")
            data = self._inflate()
            if data:
                self._buffer = memoryview(data)
                return True
        if self._engine.unused_data or self._stream.read(1):
            raise refusal(self._path, "bytes follow the end of the archive")
        return False

    def _inflate(self) -> bytes:
        try:
            data = self._engine.decompress(self._pending, CHUNK)
        except zlib.error as error:
            raise refusal(self._path, f"damaged: its compressed bytes cannot be read ({error})") from None
        self._pending = self._engine.unconsumed_tail
        self._total += len(data)
        if self._total > self._limit:
            raise refusal(self._path, f"archive bomb: it unpacks to more than {MAX_RATIO} times its size")
        return data


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive at `path`, open for one pass."""
    with path.open("rb") as stream:
        yield Archive(path, stream)
