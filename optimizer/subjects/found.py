"""What lies behind a reference: a model that needs building, an artifact, a bundle, or candidates of a run.

Nothing is written beside the user's files: what has to be copied or unpacked goes into a temporary folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer import bundle, fingerprint, formats, registry, shorthand
from optimizer.bundle import replay, runner, samples
from optimizer.console import Console
from optimizer.errors import OptimizerError, unknown
from optimizer.formats.tensorrt import facts
from optimizer.inspection import ARCHIVES, KEY, read_run
from optimizer.protocols import Feeds
from optimizer.recipe import ModelSpec
from optimizer.store import Store, StoredEntry
from optimizer.subjects.reference import Reference
from optimizer.subjects.signatures import named
from optimizer.values import Artifact, Candidate, Signature

MODEL_FILES = {"model.onnx": "onnx", "model.xml": "openvino", "module.json": "torch"}


@dataclass(frozen=True)
class Found:
    """A model as it was found, before any target was chosen for it."""

    name: str  # what it is called unless somebody says otherwise
    fuller: str  # the same with its folder, for two of one name
    candidate: str  # the name under which a run or bundle knows it; else its own
    target: str  # the runtime that opens it as it is
    artifact: Artifact | None = None
    spec: ModelSpec | None = None  # of a PyTorch model, which a build has to turn into an artifact
    options: Mapping[str, Any] | None = None  # of the target, as recorded
    feeds: tuple[Feeds, ...] = ()  # samples that came with it
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where to look and where to unpack."""

    folder: Path  # temporary
    store: Store
    console: Console
    inputs: Mapping[str, str]  # of a model that does not say them: name -> dtype[dims]
    weights: Path | None = None
    task: str | None = None

    def fresh(self) -> Path:
        """A new empty folder."""
        path = self.folder / str(len(list(self.folder.iterdir())))
        path.mkdir()
        return path


def find(reference: Reference, place: Place) -> list[Found]:
    """All that a reference names: one model, or every candidate of a run.

    What it is is decided by its spelling, and for a folder by the files in it. Raises OptimizerError when there is no
    such thing, and when it is damaged.
    """
    text = reference.place
    path = Path(text).expanduser()
    if reference.pick and not (text.endswith(".json") or (path / "run.json").is_file()):
        raise OptimizerError(f"'{reference.text}': only a run has candidates to pick from", "leave the # out")
    if text.endswith(ARCHIVES):
        found = [_bundle(path, place)]
    elif text.endswith(".json"):
        found = _candidates(path, reference.pick, place)
    elif text.endswith(".onnx"):
        found = [_onnx(path, place)]
    elif text.endswith(".xml"):
        found = [_ir(path, place)]
    elif ":" in text or text.endswith(shorthand.MODEL_SUFFIXES):
        found = [_torch(text, place)]
    elif path.is_dir():
        found = _folder(path, reference.pick, place)
    elif KEY.fullmatch(text):
        found = [_stored(text, place)]
    else:
        raise OptimizerError(
            f"'{text}' is no file, folder or stored key",
            "give x.onnx, x.xml, x.pt2, x.pt, file.py:Net, an artifact folder or key, a bundle, or run.json",
        )
    return found


def _folder(path: Path, pick: str | None, place: Place) -> list[Found]:
    if (path / "manifest.json").is_file():
        return [_bundle(path, place)]
    if (path / "run.json").is_file():
        return _candidates(path, pick, place)
    if (path / "config.json").is_file():
        return [_torch(str(path.absolute()), place)]
    inner = path / "files" if (path / "entry.json").is_file() else path
    kind = next((kind for name, kind in MODEL_FILES.items() if (inner / name).is_file()), None)
    if (inner / "model.plan").is_file():
        kind = facts.load(inner).flavour
    if kind is None:
        names = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise OptimizerError(
            f"{path} holds no model; found: {names}",
            f"a folder has {', '.join(MODEL_FILES)}, model.plan, manifest.json (bundle), run.json or config.json",
        )
    return [_artifact(path, read(kind, inner))]


def read(kind: str, folder: Path) -> Artifact:
    """The artifact in a folder, its signature taken from its files."""
    files = {p.relative_to(folder).as_posix(): p for p in fingerprint.files_below(folder)}
    digest = fingerprint.of_value({n: [p.stat().st_size, fingerprint.of_file(p)] for n, p in files.items()})
    return Artifact(kind, folder, digest, digest, named(formats.read(kind, folder)), formats.size(kind, folder))


def _artifact(path: Path, artifact: Artifact, **more: Any) -> Found:
    """An artifact, named after the file or folder that it was given as."""
    name, parent = path.absolute().name, path.absolute().parent.name
    stem = plain(re.sub(r"\.(onnx|xml)$", "", name))
    return Found(stem, plain(f"{parent}-{stem}"), stem, opener(artifact.format), artifact, **more)


def opener(kind: str) -> str:
    """The name of the target that opens a format."""
    plugin = registry.opener(kind)
    return next(n for n in registry.names("targets") if registry.load("targets", n) is plugin)


def plain(text: str) -> str:
    """Text as the name of a variant."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-") or "model"


def _onnx(path: Path, place: Place) -> Found:
    from optimizer.formats import onnx_source

    _require(path)
    out = place.fresh()
    onnx_source.copy(path, Signature((), ()), out)
    return _artifact(path, read("onnx", out))


def _ir(path: Path, place: Place) -> Found:
    from optimizer.formats import openvino

    _require(path)
    out = place.fresh()
    openvino.copy(path, out)
    try:
        return _artifact(path, read("openvino", out))
    except OptimizerError as error:
        raise OptimizerError(error.message.replace(str(out / openvino.FILE), str(path)), error.hint) from None


def _require(path: Path) -> None:
    if not path.is_file():
        raise OptimizerError(f"no such model file: {path}", "check the path")


def _torch(text: str, place: Place) -> Found:
    reason = registry.load("targets", "pytorch").probe()
    if reason:
        raise OptimizerError(f"'{text}' is a PyTorch model: {reason}", "or give an .onnx file, an IR or a bundle")
    from optimizer import sketch

    entry = text.rpartition(":")[2] if ":" in text else None
    if entry is None:
        _require(Path(text)) if not Path(text).is_dir() else None
    spec, guessed = sketch.specification(text, place.inputs, place.weights, place.task)
    notes = (f"inputs guessed: {', '.join(f'{k} {v}' for k, v in spec.inputs.items())}",) if guessed else ()
    name = plain(entry or Path(text).stem)
    return Found(name, plain(f"{Path(text.partition(':')[0]).stem}-{name}"), name, "pytorch", spec=spec, notes=notes)


def _bundle(path: Path, place: Place) -> Found:
    with place.console.task(f"verify {path}") as advance:
        checked, folder = bundle.unpack(path, place.fresh(), advance)
    manifest = checked.manifest
    runner.runner(manifest.target)  # only runtimes that run data: never a format that would run the bundle's code
    if manifest.format != registry.load("targets", manifest.target).PRODUCES:
        raise OptimizerError(
            f"{path}: the target '{manifest.target}' does not open the format '{manifest.format}'",
            "do not use the bundle; get it again from where it was built",
        )
    return Found(
        plain(manifest.bundle),
        plain(f"{path.absolute().parent.name}-{manifest.bundle}"),
        manifest.candidate,
        manifest.target,
        replay.artifact(manifest, folder),
        options=manifest.runtime.options,
        feeds=tuple(samples.read(folder / s.inputs) for s in manifest.samples),
        notes=checked.findings,
    )


def _candidates(path: Path, pick: str | None, place: Place) -> list[Found]:
    run, _ = read_run(path)
    kept = [c for c in run.candidates if pick in (None, c.variant, c.name)]
    if not kept:
        raise unknown("candidate", str(pick), [c.name for c in run.candidates], f"the run '{run.name}'")
    if pick and all(c.skipped for c in kept):
        raise OptimizerError(f"{kept[0].name} was not built: {kept[0].skipped}", "pick another candidate")
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    return [_candidate(c, folder.name, place) for c in kept if not c.skipped]


def _candidate(candidate: Candidate, folder: str, place: Place) -> Found:
    entry = place.store.get(str(candidate.artifact))
    if entry is None:
        raise OptimizerError(
            f"the artifact of {candidate.name} ({str(candidate.artifact)[:12]}) is not in the store {place.store.root}",
            "it was trimmed, or made with another store: build it again, name its bundle, or give --store",
        )
    name, fuller = plain(candidate.variant), plain(f"{folder}-{candidate.variant}")
    artifact, options = of_entry(entry), candidate.options
    return Found(name, fuller, candidate.name, candidate.target, artifact, options=options)


def of_entry(entry: StoredEntry) -> Artifact:
    """A stored artifact; its signature keeps the names that the build gave to free dimensions."""
    from optimizer import schema

    signature = schema.decode(Signature, entry.record["signature"])
    return Artifact(entry.format, entry.path, entry.key, entry.digest, named(signature), entry.record["bytes"])


def _stored(key: str, place: Place) -> Found:
    entries = [e for e in place.store.entries() if e.key.startswith(key)]
    told = (
        f"{len(entries)} stored artifacts have keys that begin"
        if entries
        else "no stored artifact has a key that begins"
    )
    if len(entries) != 1:
        raise OptimizerError(f"{told} with '{key}'", "optc cache list shows all keys")
    entry = entries[0]
    if entry.format not in formats.FORMATS:
        raise OptimizerError(f"{key} is no model: it was made by {entry.use}", "optc cache list shows all keys")
    name = entry.key[:12]
    return Found(name, name, name, opener(entry.format), of_entry(entry))
