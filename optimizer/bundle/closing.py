"""The end of every bundle: texts, manifest, archive; looked at before it takes the place of an older one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from optimizer import fingerprint
from optimizer.bundle import archive, readme, runner
from optimizer.bundle.manifest import NAME, FileRecord, Manifest, encode, seal
from optimizer.bundle.verify import verify


@contextmanager
def begun(out: Path, name: str) -> Iterator[Path]:
    """An empty folder of this name below `out`, out of sight and on the same disk; it goes when the block ends."""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{name}-", dir=out) as temporary:
        folder = Path(temporary, name)
        folder.mkdir()
        yield folder


def deliver(folder: Path, draft: Manifest, out: Path) -> tuple[Path, Path]:
    """Finish the bundle in `folder` and move it and its archive to `out`; returns both paths."""
    manifest = _closed(folder, draft)
    packed = folder.with_name(f"{folder.name}.tar.gz")
    _fix_modes(folder)
    archive.write(folder, [NAME, *sorted(manifest.files)], packed)
    verify(packed, run_samples=False)  # looked at, not believed
    return _replace(folder, out / folder.name), _replace(packed, out / packed.name)


def _closed(folder: Path, draft: Manifest) -> Manifest:
    """Write the texts, and the manifest last, when all other files are known."""
    texts = {
        "run.py": runner.script(draft),
        "README.md": readme.readme(draft),
        "LICENSES.txt": readme.licenses(draft),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    manifest = seal(draft.model_copy(update={"files": records(folder)}))
    (folder / NAME).write_bytes(encode(manifest))
    return manifest


def records(folder: Path) -> dict[str, FileRecord]:
    """Size and digest of every file below a folder."""
    found = {p.relative_to(folder).as_posix(): p for p in fingerprint.files_below(folder)}
    return {
        name: FileRecord(size=found[name].stat().st_size, sha256=fingerprint.of_file(found[name]))
        for name in sorted(found)
    }


def _fix_modes(folder: Path) -> None:
    """The modes of the archive, whatever the umask."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.name == "run.py" else 0o644)


def _replace(new: Path, place: Path) -> Path:
    """Move `new` to `place`; what was there goes with the temporary folder that `new` lies in."""
    if place.is_dir() and not place.is_symlink():
        place.rename(new.with_name(f"old-{place.name}"))
    new.replace(place)
    return place
