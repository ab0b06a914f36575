"""A bundle that was damaged, altered or made to harm is refused with the reason, and nothing of it is left."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundle_lab
import numpy as np
import pytest
from bundle_lab import packed

from optimizer import bundle, fingerprint
from optimizer.bundle import archive as archives
from optimizer.bundle import reading, samples
from optimizer.bundle.manifest import FileRecord, decode, encode, seal
from optimizer.errors import OptimizerError

ROOT = "tiny-fp32-onnxruntime"
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(autouse=True)
def _target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle_lab.use_target(monkeypatch, bundle_lab.fake_target())
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    with pytest.MonkeyPatch.context() as patch:
        bundle_lab.use_target(patch, bundle_lab.fake_target())
        return packed(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "copy"))


@pytest.fixture
def archive(made: tuple[Path, Path]) -> Path:
    return made[1]


def refused(path: Path, reason: str) -> None:
    """Both with and without running the samples; nothing is left of the attempt."""
    for run_samples in (True, False):
        with pytest.raises(OptimizerError, match=reason):
            bundle.verify(path, run_samples=run_samples)
        assert list(Path(tempfile.gettempdir()).iterdir()) == []


def sealed(tar: bytes, path: Path) -> Path:
    """An archive around these tar bytes, gzip header and seal as optc writes them: only its content can betray it."""
    engine = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = engine.compress(tar) + engine.flush() + struct.pack("<II", zlib.crc32(tar), len(tar) & 0xFFFFFFFF)
    path.write_bytes(archives.GZIP_HEADER + hashlib.sha256(body).digest() + body)
    return path


def rebuilt(archive: Path, path: Path, change: Callable[[Members], None]) -> Path:
    """The archive with its members changed, sealed again."""
    with tarfile.open(archive) as tar:
        members = [(m, (tar.extractfile(m) or io.BytesIO()).read()) for m in tar.getmembers()]
    change(members)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sealed(buffer.getvalue(), path)


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def index(members: Members, name: str) -> int:
    return [m.name for m, _ in members].index(f"{ROOT}/{name}")


def test_an_archive_rebuilt_without_change_passes(archive: Path, tmp_path: Path) -> None:
    bundle.verify(rebuilt(archive, tmp_path / "x.tar.gz", lambda members: None))


# The folder


@pytest.mark.parametrize("name", ["manifest.json", "model/model.onnx", "run.py", "README.md", "samples/0/expected.npz"])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_folder_flipped_byte(folder: Path, name: str, place: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x01
    (folder / name).write_bytes(data)
    refused(
        folder, "altered|not JSON|unknown|missing|not among" if name == "manifest.json" else f"'{name}' was altered"
    )


def test_folder_longer_file(folder: Path) -> None:
    with (folder / "run.py").open("ab") as stream:
        stream.write(b"\n")
    refused(folder, r"'run\.py' has \d+ bytes, the manifest says")


def test_folder_missing_added_and_renamed_files_are_all_named(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "extra.txt").write_text("hello")
    (folder / "run.py").rename(folder / "start.py")
    refused(folder, r"'extra\.txt' was added.*'run\.py' was renamed to 'start\.py'; 'README\.md' is missing")


def test_folder_added_folder(folder: Path) -> None:
    (folder / "__pycache__").mkdir()
    refused(folder, r"the folder '__pycache__' was added .* delete it")


def test_folder_symbolic_link_even_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    (folder / "model" / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "model" / "model.onnx").symlink_to(tmp_path / "model.onnx")
    refused(folder, r"'model/model\.onnx' is a symbolic link to")


@pytest.mark.parametrize("name", ["samples", "manifest.json"])
def test_folder_link_in_place_of_folder_or_manifest(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    refused(folder, "symbolic link|no manifest")


def test_folder_pipe_does_not_hang(folder: Path) -> None:
    (folder / "run.py").unlink()
    os.mkfifo(folder / "run.py")
    refused(folder, r"'run\.py' is no plain file")


# The archive as bytes


def test_archive_every_region_flipped(archive: Path, tmp_path: Path) -> None:
    original = archive.read_bytes()
    rng = random.Random(5)
    places = {*range(64), *range(len(original) - 16, len(original)), *rng.sample(range(len(original)), 250)}
    for place in sorted(places):
        data = bytearray(original)
        data[place] ^= 1 << rng.randrange(8)
        (tmp_path / "x.tar.gz").write_bytes(data)
        with pytest.raises(OptimizerError):
            bundle.verify(tmp_path / "x.tar.gz", run_samples=False)


def test_archive_truncated_anywhere(archive: Path, tmp_path: Path) -> None:
    original = archive.read_bytes()
    for length in [2, 20, 48, 60, *range(100, len(original), 397), len(original) - 9, len(original) - 1]:
        (tmp_path / "x.tar.gz").write_bytes(original[:length])
        with pytest.raises(OptimizerError, match=r"truncated|damaged"):
            bundle.verify(tmp_path / "x.tar.gz", run_samples=False)


@pytest.mark.parametrize("extra", [b"\0", b"hello", gzip.compress(b"more")], ids=["zero", "text", "second-archive"])
def test_archive_with_bytes_behind_it(archive: Path, tmp_path: Path, extra: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(archive.read_bytes() + extra)
    refused(tmp_path / "x.tar.gz", "bytes follow the end|damaged")


def test_archive_packed_again_by_another_tool(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(gzip.decompress(archive.read_bytes())))
    refused(tmp_path / "x.tar.gz", "packed again: its gzip header")


def test_archive_other_spelling_of_the_same_content(archive: Path, tmp_path: Path) -> None:
    body = gzip.compress(gzip.decompress(archive.read_bytes()), 9)[10:]
    (tmp_path / "x.tar.gz").write_bytes(archive.read_bytes()[: archives.SEALED] + body)
    refused(tmp_path / "x.tar.gz", "its bytes do not match its seal")


def test_archive_that_holds_no_tar(tmp_path: Path) -> None:
    refused(sealed(b"x" * 2000, tmp_path / "x.tar.gz"), "not a tar archive")
    refused(sealed(b"", tmp_path / "y.tar.gz"), "truncated")
    refused(sealed(b"\0" * 1024, tmp_path / "z.tar.gz"), "it has no manifest")


def test_archive_with_content_behind_its_end(archive: Path, tmp_path: Path) -> None:
    tar = gzip.decompress(archive.read_bytes())
    refused(sealed(tar + b"hidden", tmp_path / "x.tar.gz"), "bytes follow the end")


# The archive as members


def test_archive_altered_file(archive: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        place = index(members, "run.py")
        members[place] = (members[place][0], members[place][1].replace(b"import sys", b"import os "))

    refused(rebuilt(archive, tmp_path / "x.tar.gz", change), r"'run\.py' was altered")


def test_archive_resized_file(archive: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        place = index(members, "run.py")
        members[place] = (members[place][0], members[place][1] + b"\n")

    refused(rebuilt(archive, tmp_path / "x.tar.gz", change), r"'run\.py' has \d+ bytes, the manifest says")


@pytest.mark.parametrize("name", ["run.py", "samples/1/inputs.npz", "model/model.onnx"])
def test_archive_missing_file(archive: Path, tmp_path: Path, name: str) -> None:
    path = rebuilt(archive, tmp_path / "x.tar.gz", lambda members: members.__delitem__(index(members, name)))
    refused(path, f"'{name}' is missing")


def test_archive_without_manifest(archive: Path, tmp_path: Path) -> None:
    refused(rebuilt(archive, tmp_path / "x.tar.gz", lambda members: members.__delitem__(0)), "it has no manifest")


def test_archive_renamed_file(archive: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        members[index(members, "run.py")][0].name = f"{ROOT}/start.py"

    refused(rebuilt(archive, tmp_path / "x.tar.gz", change), r"start\.py' was added or renamed")


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (entry(f"{ROOT}/extra.txt", b"hello"), "was added or renamed"),
        (entry(f"{ROOT}/Run.py", b"hello"), "was added or renamed"),
        (entry("elsewhere/run.py", b"hello"), "was added or renamed"),
        (entry(f"{ROOT}/new", type=tarfile.DIRTYPE), "was added or renamed"),
        (entry(f"{ROOT}/run.py", b"hello"), "in the archive twice"),
        (entry(f"{ROOT}/manifest.json", b"{}"), "in the archive twice"),
        (entry("../evil.sh", b"hello"), r"'\.\./evil\.sh' would climb out"),
        (entry(f"{ROOT}/../../evil.sh", b"hello"), "would climb out"),
        (entry(f"{ROOT}/a\\..\\..\\evil.sh", b"hello"), "would climb out"),
        (entry("/etc/evil", b"hello"), "would climb out"),
        (entry(f"{ROOT}/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a symbolic link to '/etc/passwd'"),
        (entry(f"{ROOT}/run.py", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "a hard link to '/etc/passwd'"),
        (entry(f"{ROOT}/dev", type=tarfile.CHRTYPE), "is a device"),
        (entry(f"{ROOT}/dev", type=tarfile.BLKTYPE), "is a device"),
        (entry(f"{ROOT}/pipe", type=tarfile.FIFOTYPE), "is a pipe"),
        (entry(f"{ROOT}/sparse", type=tarfile.GNUTYPE_SPARSE), "is a special entry"),
        (entry(f"{ROOT}/odd", type=b"Q"), "is a special entry"),
        (entry(f"{ROOT}/{'n' * 200}", b"hello"), "was added or renamed|added|special|extended"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_archive_evil_member(
    archive: Path, tmp_path: Path, new: tuple[tarfile.TarInfo, bytes], reason: str, first: bool
) -> None:
    def change(members: Members) -> None:
        members.insert(0 if first else len(members), new)

    if first and new[0].name == f"{ROOT}/manifest.json":
        reason = "not a manifest"
    elif first and "twice" in reason:
        reason = "the manifest says"
    refused(rebuilt(archive, tmp_path / "x.tar.gz", change), reason)


def test_archive_made_by_tar_is_refused_even_when_whole(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(folder, arcname=ROOT)
    refused(tmp_path / "x.tar.gz", "altered or packed again")


def test_archive_made_by_tar_with_a_link_names_the_link(folder: Path, tmp_path: Path) -> None:
    (folder / "zz").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(folder, arcname=ROOT)
    refused(tmp_path / "x.tar.gz", "'.*/zz' is a symbolic link")


# Bombs


def _bomb(path: Path, size: int) -> Path:
    """A tar whose first member claims and holds `size` zeros, a thousand times smaller on disk."""
    info = tarfile.TarInfo(f"{ROOT}/zeros")
    info.size = size
    with gzip.open(path, "wb", 9) as stream:
        stream.write(info.tobuf())
        for _ in range(size // archives.CHUNK):
            stream.write(b"\0" * archives.CHUNK)
    return path


def test_bomb_of_zeros(tmp_path: Path) -> None:
    path = _bomb(tmp_path / "x.tar.gz", 80 << 20)
    assert path.stat().st_size < 100_000
    refused(path, "archive bomb: it unpacks to more than 100 times its size")


def test_bomb_behind_a_good_manifest_is_refused_at_its_header(archive: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        place = index(members, "model/model.onnx")
        members[place] = (members[place][0], b"\0" * (32 << 20))

    refused(rebuilt(archive, tmp_path / "x.tar.gz", change), "has 33554432 bytes, the manifest says")


def test_bomb_of_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_FILES", 20)
    block = tarfile.TarInfo(f"{ROOT}/x").tobuf()
    refused(sealed(block * 50, tmp_path / "x.tar.gz"), "archive bomb: more than 40 entries")


def test_bomb_in_an_extended_header(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 5 << 30
    refused(sealed(info.tobuf(tarfile.GNU_FORMAT), tmp_path / "x.tar.gz"), "an extended header of")


def test_bomb_manifest(tmp_path: Path) -> None:
    info = tarfile.TarInfo(f"{ROOT}/manifest.json")
    info.size = 1 << 30
    refused(sealed(info.tobuf(), tmp_path / "x.tar.gz"), r"its manifest\.json has 1073741824 bytes, the limit is")


def test_negative_size(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo(f"{ROOT}/manifest.json").tobuf())
    header[124:136] = b"\xff" * 11 + b"\xfe"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    refused(sealed(bytes(header), tmp_path / "x.tar.gz"), "negative size|not a tar")


# A manifest that asks for more than running data


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "pytorch", "format": "torch"}, "needs the code it was written in"),
        ({"target": "toaster"}, "has no runner"),
        ({"format": "torch"}, "does not open the format 'torch'"),
        ({"runtime": {"options": {"register_custom_ops": "/tmp/evil.so"}}}, "unknown key 'register_custom_ops'"),
    ],
)
def test_a_sealed_manifest_that_wants_code_to_run(folder: Path, changes: dict[str, Any], reason: str) -> None:
    manifest = decode((folder / "manifest.json").read_bytes(), "manifest.json")
    if "runtime" in changes:
        changes = {"runtime": manifest.runtime.model_copy(update=changes["runtime"])}
    (folder / "manifest.json").write_bytes(encode(seal(manifest.model_copy(update=changes))))
    bundle.verify(folder, run_samples=False)
    with pytest.raises(OptimizerError, match=reason):
        bundle.verify(folder)


def test_samples_that_are_not_the_models_inputs(folder: Path) -> None:
    place = folder / "samples/0/inputs.npz"
    samples.write(place, {"picture": np.zeros(3)})
    manifest = decode((folder / "manifest.json").read_bytes(), "manifest.json")
    record = FileRecord(size=place.stat().st_size, sha256=hashlib.sha256(place.read_bytes()).hexdigest())
    files = {**manifest.files, "samples/0/inputs.npz": record}
    (folder / "manifest.json").write_bytes(encode(seal(manifest.model_copy(update={"files": files}))))
    with pytest.raises(OptimizerError, match="holds picture, the model takes image"):
        bundle.verify(folder)


def test_what_cannot_be_read_is_no_bug(folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "run.py")

    monkeypatch.setattr(fingerprint, "of_file", unreadable)
    with pytest.raises(OptimizerError, match=r"cannot check .*: Permission denied: run\.py"):
        bundle.verify(folder)
    monkeypatch.setattr(Path, "mkdir", unreadable)
    with pytest.raises(OptimizerError, match="Permission denied"):
        bundle.verify(archive)
