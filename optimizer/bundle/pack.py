"""Packs one measured candidate into a folder and an archive that can be shipped, checked and run without optc."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimizer import fingerprint, machine, registry, schema
from optimizer.bundle import closing, outputs, provenance, runner, samples
from optimizer.bundle.manifest import Manifest, Provenance, Runtime, Sample, environment
from optimizer.bundle.outputs import Told
from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds
from optimizer.values import Artifact, Candidate, Run


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
    with closing.begun(out, name) as folder:
        draft = _fill(folder, run, chosen, artifact, feeds, preprocessing, files)
        return closing.deliver(folder, draft, out)


def _fill(
    folder: Path,
    run: Run,
    chosen: Candidate,
    artifact: Artifact,
    feeds: Sequence[Feeds],
    preprocessing: dict[str, Any],
    files: Mapping[str, Path],
) -> Manifest:
    """Write what the bundle is about; returns what the manifest will say of it."""
    models = _copy_model(artifact, folder / "model")
    _write_preprocessing(preprocessing, files, folder)
    told = _told(artifact, chosen, feeds, folder)
    packed = _write_samples(feeds, told, folder)
    return _describe(folder, run, chosen, artifact, models, packed, told)


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


def _told(artifact: Artifact, chosen: Candidate, feeds: Sequence[Feeds], folder: Path) -> Told:
    """The outputs that the copied model gives for the samples, or its oracle where it cannot run here."""
    plugin = registry.load("targets", chosen.target)
    copied = Artifact(**{**vars(artifact), "path": folder / "model"})
    options = schema.parse(plugin.Options, chosen.options, f"{chosen.name}: target options")
    if chosen.pending is not None:
        return outputs.of_oracle(plugin, options, copied, feeds)
    return outputs.of_model(plugin, options, copied, feeds, chosen.name)


def _write_samples(feeds: Sequence[Feeds], told: Told, folder: Path) -> list[Sample]:
    """The sample inputs with the outputs that they should give."""
    written = []
    for number, (inputs, expected) in enumerate(zip(feeds, told.outputs, strict=True)):
        place = f"samples/{number}"
        (folder / place).mkdir(parents=True)
        samples.write(folder / place / "inputs.npz", inputs)
        samples.write(folder / place / "expected.npz", expected)
        written.append(Sample(inputs=f"{place}/inputs.npz", expected=f"{place}/expected.npz"))
    return written


def _describe(
    folder: Path,
    run: Run,
    chosen: Candidate,
    artifact: Artifact,
    models: list[str],
    packed: list[Sample],
    told: Told,
) -> Manifest:
    verdicts, accepted = provenance.verdicts(run, chosen.name, allow_failed=True)
    distribution = runner.runner(chosen.target, chosen.options).distribution
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
            precision=told.precision,
            recommended=provenance.recommended(run, chosen.name),
        ),
        environment=environment(run.machine),
        samples=tuple(packed),
        tolerance=told.tolerance,
        measurements=provenance.measurements(run, chosen.name),
        verdicts=verdicts,
        accepted=accepted,
        pending=chosen.pending,
        weights_license=(run.recipe.get("model") or {}).get("license"),
        provenance=Provenance(
            recipe=provenance.portable(run.recipe),
            steps=provenance.steps(run, chosen),
            tools=run.tools,
            data=run.data,
        ),
        files=closing.records(folder),
    )
