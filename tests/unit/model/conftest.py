"""A small stand-in for the executor: load, export and simplify with a real comparison, one call each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exporter
import models
import pytest
import torch

from optimizer import equivalence, formats, samples, schema
from optimizer.formats import onnx as onnx_format
from optimizer.formats.torch import open_model
from optimizer.passes import export, load
from optimizer.protocols import Context, Feeds
from optimizer.recipe import ModelSpec
from optimizer.values import Artifact, Check

MODELS = Path(models.__file__)


@dataclass
class Bench:
    """Runs passes in folders of their own and keeps what they noted and warned of."""

    root: Path
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def folder(self) -> Path:
        path = self.root / f"step{len(list(self.root.glob('step*')))}"
        path.mkdir()
        return path

    def context(self, feeds: Sequence[Feeds] = (), check: Callable[[Path], Check] | None = None) -> Context:
        return Context(samples=feeds, note=self.notes.__setitem__, warn=self.warnings.append, check=check)

    def load(self, feeds: Sequence[Feeds] = (), **spec: Any) -> Artifact:
        options = schema.parse(ModelSpec, spec, "model", self.root)
        out = self.folder()
        load.run(None, options, self.context(feeds), out)
        return artifact(load.produces(options), out)

    def model(self, name: str, **spec: Any) -> Artifact:
        """A model of tests/models.py."""
        return self.load(entry=f"{MODELS}:{name}", **spec)

    def export(self, source: Artifact, feeds: Sequence[Feeds] | None = None, **options: Any) -> Artifact:
        feeds = samples.made(source.signature, 0).feeds if feeds is None else feeds
        reference = open_model(source.path)
        parsed = export.Options(**options)

        def check(path: Path) -> Check:
            return compare(reference, path, feeds, parsed.tolerance)

        out = self.folder()
        export.run(source, parsed, self.context(feeds, check), out)
        assert check(out).outcome == "pass"
        return artifact("onnx", out)


def artifact(name: str, path: Path) -> Artifact:
    return Artifact(name, path, path.name, "", formats.read(name, path), formats.size(name, path))


def run_onnx(path: Path, feeds: Feeds) -> dict[str, Any]:
    session = onnx_format.inference_session(path, 1)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def compare(reference: Callable[[Feeds], Any], path: Path, feeds: Sequence[Feeds], limit: float) -> Check:
    formats.read("onnx", path)
    expected = [reference(sample) for sample in feeds]
    return equivalence.compare(expected, [run_onnx(path, sample) for sample in feeds], feeds, limit, True)


@pytest.fixture(autouse=True, scope="package")
def _exporter() -> Iterator[None]:
    yield from exporter.read_once()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    root = tmp_path / "bench"
    root.mkdir()
    return Bench(root)
