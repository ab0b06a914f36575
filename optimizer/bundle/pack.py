"""Packs one measured candidate into a folder and an archive that can be shipped, checked and run without optc."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimizer import fingerprint, machine, registry, schema
from optimizer.bundle import archive, provenance, readme, runner, samples
from optimizer.bundle.manifest import NAME, Environment, FileRecord, Manifest, Provenance, Runtime, Sample, encode, seal
from optimizer.bundle.verify import verify
from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds
from optimizer.values import Artifact, Candidate, Run

# How far samples may lie from the packed outputs on another CPU or runtime version. Full precision differs by the
# order of its sums; 8- and 16-bit kernels differ by rounding and, on CPUs without VNNI, by saturation.
FULL, REDUCED = 1e-3, 5e-2


def pack(
    run: Run,
    candidate: str,
    artifact: Artifact,
    feeds: Sequence[Feeds],
    preprocessing: dict[str, Any],
    files: Mapping[str, Path],
    out: Path,
    *,
    allow_failed: bool = False,
) -> tuple[Path, Path]:
    """Write `<name>-<variant>-<target>` and the same as .tar.gz below `out`; returns both paths.

    `artifact` is the very one that was measured, `feeds` are sample inputs (its outputs for them are made here),
    `files` are files or folders that the preprocessing needs, by name. What was there under these names is replaced
    once the new bundle is whole. The same run gives the same bytes. Raises OptimizerError when a gate did not pass
    (unless `allow_failed`, which the manifest then says), or when the artifact is not the one of the run.
    """
    chosen = provenance.candidate(run, candidate, artifact)
    runner.runner(chosen.target)
    provenance.verdicts(run, candidate, allow_failed)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{run.name}-{chosen.variant}-{chosen.target}").lstrip("._-")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as temporary:
        folder, packed = Path(temporary, name), Path(temporary, f"{name}.tar.gz")
        folder.mkdir()
        manifest = _fill(folder, run, chosen, artifact, feeds, preprocessing, files)
        _fix_modes(folder)
        archive.write(folder, [NAME, *sorted(manifest.files)], packed)
        verify(packed, run_samples=False)  # looked at, not believed
        return _replace(folder, out / name), _replace(packed, out / packed.name)


def _fill(
    folder: Path,
    run: Run,
    chosen: Candidate,
    artifact: Artifact,
    feeds: Sequence[Feeds],
    preprocessing: dict[str, Any],
    files: Mapping[str, Path],
) -> Manifest:
    """Write every file of the bundle; the manifest last, when all others are known."""
    models = _copy_model(artifact, folder / "model")
    _write_preprocessing(preprocessing, files, folder)
    packed, precision = _write_samples(artifact, chosen, feeds, folder)
    draft = _describe(folder, run, chosen, artifact, models, packed, precision)
    texts = {
        "run.py": runner.script(draft),
        "README.md": readme.readme(draft),
        "LICENSES.txt": readme.licenses(draft),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    manifest = seal(draft.model_copy(update={"files": _records(folder)}))
    (folder / NAME).write_bytes(encode(manifest))
    return manifest


def _copy_model(artifact: Artifact, into: Path) -> list[str]:
    """Copy the artifact's files, the digest known before and after; returns their names."""
    names = [p.relative_to(artifact.path).as_posix() for p in fingerprint.files_below(artifact.path)]
    _require_digest(artifact, artifact.path, names)
    for name in names:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, into / name)
    _require_digest(artifact, into, names)
    return names


def _require_digest(artifact: Artifact, folder: Path, names: list[str]) -> None:
    found = fingerprint.of_value({n: [(folder / n).stat().st_size, fingerprint.of_file(folder / n)] for n in names})
    if found != artifact.digest:
        raise OptimizerError(
            f"the files in {folder} are not those that were measured (digest {found[:12]} instead of "
            f"{artifact.digest[:12]})",
            "run optc cache verify, then build again",
        )


def _write_preprocessing(preprocessing: dict[str, Any], files: Mapping[str, Path], folder: Path) -> None:
    for name, path in sorted(files.items()):
        place = folder / "preprocessing" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(path, place)
    document = {**provenance.portable(preprocessing), "files": [f"preprocessing/{name}" for name in sorted(files)]}
    (folder / "preprocessing.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _write_samples(
    artifact: Artifact, chosen: Candidate, feeds: Sequence[Feeds], folder: Path
) -> tuple[list[Sample], str]:
    """The sample inputs with the outputs that the copied model gives for them, and the precision that ran."""
    plugin = registry.load("targets", chosen.target)
    options = schema.parse(plugin.Options, chosen.options, f"{chosen.name}: target options")
    copied = Artifact(**{**vars(artifact), "path": folder / "model"})
    written = []
    with plugin.open(copied, options) as session:
        for number, inputs in enumerate(feeds):
            outputs = session(inputs)
            _require_finite(chosen, outputs)
            place = f"samples/{number}"
            (folder / place).mkdir(parents=True)
            samples.write(folder / place / "inputs.npz", inputs)
            samples.write(folder / place / "expected.npz", outputs)
            written.append(Sample(inputs=f"{place}/inputs.npz", expected=f"{place}/expected.npz"))
        return written, session.precision


def _require_finite(chosen: Candidate, outputs: Mapping[str, np.ndarray]) -> None:
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise OptimizerError(
                f"{chosen.name}: the output '{name}' holds NaN or infinity for a sample",
                "look at the step that made it",
            )


def _describe(
    folder: Path,
    run: Run,
    chosen: Candidate,
    artifact: Artifact,
    models: list[str],
    packed: list[Sample],
    precision: str,
) -> Manifest:
    verdicts, accepted = provenance.verdicts(run, chosen.name, allow_failed=True)
    distribution = runner.runner(chosen.target).distribution
    there = run.machine
    return Manifest(
        version=run.version,
        bundle=folder.name,
        name=run.name,
        variant=chosen.variant,
        target=chosen.target,
        created=run.created,
        format=artifact.format,
        model=f"model/{runner.model_file(models, chosen.target)}",
        signature=artifact.signature,
        preprocessing=json.loads((folder / "preprocessing.json").read_bytes()),
        runtime=Runtime(
            distribution=distribution,
            version=run.tools.get(distribution) or machine.version_of(distribution) or "unknown",
            options=provenance.portable(chosen.options),
            precision=precision,
            recommended=provenance.recommended(run, chosen.name),
        ),
        environment=Environment(
            architecture=there.architecture,
            isa=there.isa,
            cpu=there.cpu,
            os=there.os,
            python=there.python,
            digest=there.digest,
        ),
        samples=tuple(packed),
        tolerance=REDUCED if re.search(r"int[48]|[iu]8\b|b?f16|fp16|float16", precision.lower()) else FULL,
        measurements=provenance.measurements(run, chosen.name),
        verdicts=verdicts,
        accepted=accepted,
        weights_license=(run.recipe.get("model") or {}).get("license"),
        provenance=Provenance(
            recipe=provenance.portable(run.recipe),
            steps=provenance.steps(run, chosen),
            tools=run.tools,
            data=run.data,
        ),
        files=_records(folder),
    )


def _records(folder: Path) -> dict[str, FileRecord]:
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
