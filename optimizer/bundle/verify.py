"""Is this bundle whole and unaltered, and does it run here as it did where it was measured?"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from optimizer import fingerprint, machine
from optimizer.bundle import replay
from optimizer.bundle.manifest import MAX_BYTES, NAME, Manifest, decode, folders
from optimizer.bundle.reading import Archive, Member, opened, refusal
from optimizer.errors import OptimizerError

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class VerifyResult:
    """A bundle that passed: every byte is as packed, and the samples came out within the tolerance."""

    manifest: Manifest
    seconds: float  # checking the bytes
    replayed: replay.Replayed | None  # None when the samples were not run
    findings: tuple[str, ...]  # what differs here from where it was measured


def verify(path: Path, *, run_samples: bool = True, progress: Advance = lambda done, total: None) -> VerifyResult:
    """Check every byte of a bundle (folder or .tar.gz), then run its samples in the target's own runtime.

    `progress` is called with bytes done and in total. Raises OptimizerError with the reason when anything is
    missing, added, renamed, altered, unsafe or different, or when the runtime is not installed.
    """
    if not path.exists():
        raise OptimizerError(f"no such bundle: {path}", "give a bundle's folder or its .tar.gz")
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            folder = path
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="optc-verify-")))
        manifest = _check(path, folder if run_samples else None, progress)
        seconds = time.perf_counter() - start
        replayed = replay.replay(manifest, folder) if run_samples else None
    findings = [*_findings(manifest), *(replayed.findings if replayed else ())]
    return VerifyResult(manifest, seconds, replayed, tuple(findings))


def unpack(path: Path, into: Path, progress: Advance = lambda done, total: None) -> tuple[VerifyResult, Path]:
    """Check every byte of a bundle and make its files readable; returns the folder in which they lie.

    A folder stays where it is, an archive is unpacked into the empty folder `into`. Raises OptimizerError as `verify`.
    """
    if not path.exists():
        raise OptimizerError(f"no such bundle: {path}", "give a bundle's folder or its .tar.gz")
    start = time.perf_counter()
    manifest = _check(path, into, progress)
    found = VerifyResult(manifest, time.perf_counter() - start, None, tuple(_findings(manifest)))
    return found, path if path.is_dir() else into


def _check(path: Path, into: Path | None, progress: Advance) -> Manifest:
    """The manifest of a bundle whose every byte is as packed; an archive is unpacked into `into`, if given."""
    try:
        return _folder(path, progress) if path.is_dir() else _archive(path, into, progress)
    except OSError as error:
        raise OptimizerError(
            f"cannot check {path}: {error.strerror}: {error.filename}",
            "check its permissions, and the free space in the folder for temporary files (TMPDIR)",
        ) from error


def _folder(root: Path, progress: Advance) -> Manifest:
    """The manifest of a bundle folder whose every file is as it says. Names all faults, not just the first."""
    place = root / NAME
    if place.is_symlink() or not place.is_file():
        raise refusal(root, f"it has no {NAME}")
    if place.stat().st_size > MAX_BYTES:
        raise refusal(root, f"its {NAME} has {place.stat().st_size} bytes, the limit is {MAX_BYTES}")
    manifest = decode(place.read_bytes(), str(place))
    sizes = _walk(root, manifest)
    faults, done = [], 0
    for name, record in manifest.files.items():
        if name in sizes:
            progress(done, manifest.size)
            altered = sizes[name] == record.size and fingerprint.of_file(root / name) != record.sha256
            faults += [_resized(name, sizes[name], record.size)] if sizes[name] != record.size else []
            faults += [_altered(name)] if altered else []
            done += record.size
    faults = _strays(root, manifest, sizes) + faults
    if faults:
        raise refusal(root, "; ".join(faults))
    return manifest


def _walk(root: Path, manifest: Manifest) -> dict[str, int]:
    """Size of each file below `root` but the manifest; refuses links, special files and stray folders."""
    known, sizes = folders(manifest.files), {}
    for current, subfolders, names in os.walk(root, onerror=_raise):
        for entry in (Path(current, n) for n in sorted(subfolders + names)):
            name = entry.relative_to(root).as_posix()
            if entry.is_symlink():
                raise refusal(root, f"'{name}' is a symbolic link to '{entry.readlink()}'; a bundle holds only files")
            if entry.is_dir():
                if name not in known:
                    raise refusal(
                        root, f"the folder '{name}' was added (it is not in the manifest)" + _cache_hint(name)
                    )
            elif not entry.is_file():
                raise refusal(root, f"'{name}' is no plain file")
            elif name != NAME:
                sizes[name] = entry.stat().st_size
    return sizes


def _cache_hint(name: str) -> str:
    return "; Python wrote it when run.py was imported: delete it" if name.endswith("__pycache__") else ""


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave out what it cannot read


def _strays(root: Path, manifest: Manifest, sizes: Mapping[str, int]) -> list[str]:
    """Sentences about files that are missing, added or renamed."""
    missing = {n: r for n, r in manifest.files.items() if n not in sizes}
    faults = []
    for name in (n for n in sizes if n not in manifest.files):
        twins = [
            n for n, r in missing.items() if r.size == sizes[name] and r.sha256 == fingerprint.of_file(root / name)
        ]
        if twins:
            faults.append(f"'{twins[0]}' was renamed to '{name}'")
            del missing[twins[0]]
        else:
            faults.append(f"'{name}' was added (it is not in the manifest)")
    return [*faults, *(f"'{name}' is missing" for name in missing)]


def _resized(name: str, found: int, stated: int) -> str:
    return f"'{name}' has {found} bytes, the manifest says {stated}"


def _altered(name: str) -> str:
    return f"'{name}' was altered (its sha256 is not the manifest's)"


def _archive(path: Path, into: Path | None, progress: Advance) -> Manifest:
    """The manifest of an archive whose every byte is as packed; its files are written below `into`, if given."""
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            raise OptimizerError(
                f"{path} is neither a bundle folder nor a .tar.gz", "give what optc build wrote below bundles/"
            )
    data = _find_manifest(path)
    manifest = decode(data, f"{path}: {NAME}")
    if into and shutil.disk_usage(into).free < manifest.size:
        raise OptimizerError(
            f"no room to unpack {path}: {manifest.size} bytes needed below {into.parent}",
            "free some space, or set TMPDIR to a bigger disk",
        )
    with opened(path) as archive:
        _Receiver(path, manifest, data, into, progress).receive(archive)
        archive.finish()
    return manifest


def _find_manifest(path: Path) -> bytes:
    """The bytes of manifest.json, the first member of every archive that optc packed."""
    with opened(path) as archive:
        for member in archive.members():
            if member.name.count("/") == 1 and member.name.endswith(f"/{NAME}") and not member.folder:
                if member.size > MAX_BYTES:
                    raise refusal(path, f"its {NAME} has {member.size} bytes, the limit is {MAX_BYTES}")
                return b"".join(archive.content())
    raise refusal(path, f"it has no {NAME}")


class _Receiver:
    """Takes the members of an archive that its manifest names, each once and with the stated content."""

    def __init__(self, path: Path, manifest: Manifest, data: bytes, into: Path | None, progress: Advance) -> None:
        self._path, self._manifest, self._into, self._progress = path, manifest, into, progress
        self._wanted = {name: (r.size, r.sha256) for name, r in manifest.files.items()}
        self._wanted[NAME] = len(data), hashlib.sha256(data).hexdigest()
        self._folders = {"", *folders(manifest.files)}
        self._seen: set[str] = set()
        self._done = 0

    def receive(self, archive: Archive) -> None:
        """Take all members; refuses what is added, doubled, resized, altered or missing."""
        for member in archive.members():
            name = self._inside(member)
            if not member.folder:
                self._take(name, member.size, archive.content())
        missing = [name for name in self._wanted if name not in self._seen]
        if missing:
            raise refusal(self._path, "; ".join(f"'{name}' is missing" for name in missing))

    def _inside(self, member: Member) -> str:
        """The member's name below the bundle's own folder."""
        root, _, name = member.name.partition("/")
        known = name in self._folders if member.folder else name in self._wanted
        if root != self._manifest.bundle or not known:
            raise refusal(self._path, f"'{member.name}' was added or renamed (it is not in the manifest)")
        return name

    def _take(self, name: str, size: int, content: Iterator[memoryview]) -> None:
        stated, sha256 = self._wanted[name]
        if name in self._seen:
            raise refusal(self._path, f"'{name}' is in the archive twice")
        if size != stated:
            raise refusal(self._path, _resized(name, size, stated))
        self._seen.add(name)
        if self._digest(name, content) != sha256:
            raise refusal(self._path, _altered(name))

    def _digest(self, name: str, content: Iterator[memoryview]) -> str:
        found = hashlib.sha256()
        with self._file(name) as write:
            for chunk in content:
                found.update(chunk)
                write(chunk)
                self._done += len(chunk)
                self._progress(self._done, self._manifest.size)
        return found.hexdigest()

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[Callable[[memoryview], object]]:
        if self._into is None:
            yield lambda chunk: None
            return
        place = self._into / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as stream:
            yield stream.write


def _findings(manifest: Manifest) -> Iterator[str]:
    """What differs on this machine from the machine of the measurements."""
    there, here = manifest.environment, machine.here()
    runtime, installed = manifest.runtime, machine.version_of(manifest.runtime.distribution)
    if there.architecture != here.architecture:
        yield f"measured on {there.architecture}, this machine is {here.architecture}: no number carries over"
    else:
        lacking = [flag for flag in there.isa if flag not in here.isa]
        if lacking:
            yield f"this CPU lacks {', '.join(lacking)}, which the measured one had: accuracy and latency may differ"
    if installed is None:
        yield f"{runtime.distribution} is not installed here; measured with {runtime.version}"
    elif installed != runtime.version:
        yield f"{runtime.distribution} {installed} is installed here; measured with {runtime.version}"
    if manifest.pending:
        yield f"not measured yet ({manifest.pending}): optc measure completes it where it runs"
    if manifest.accepted:
        yield f"packed although these gates did not pass: {'; '.join(manifest.accepted)}"
