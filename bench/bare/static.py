"""One static quantization of a float ONNX model in this process, by optc's pass or by ONNX Runtime's own function.

    python bench/bare/static.py {optc,library} {resnet20,resnet56,minilm} FLOAT.onnx SAMPLES [--stream]

Prints the seconds that the call itself took: samples are decoded and libraries imported before. With --stream the
samples are read while it runs, as `optc build` does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import minilm
import numpy as np
import resnet20

from optimizer.formats import onnx as onnx_format
from optimizer.passes import quantize_static
from optimizer.protocols import Batch, Context
from optimizer.targets import onnxruntime as target
from optimizer.values import Artifact

Feeds = dict[str, np.ndarray]


@dataclass
class Samples:
    """The calibration samples as a data set: one at a time, or stacked where all have one shape."""

    model: str
    count: int
    kept: list[Feeds] | None = None
    name: str = "bench"
    digest: str = "0"

    def __len__(self) -> int:
        return self.count

    @property
    def views(self) -> int:
        return 2 if self.model == "minilm" else 1

    def one_by_one(self) -> Iterator[Feeds]:
        if self.kept is not None:
            yield from self.kept
        elif self.model == "minilm":
            yield from minilm.tokens(self.count)
        else:
            yield from ({"image": image} for image in resnet20.images(self.count))

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        held: list[Feeds] = []
        left = self.count if limit is None else min(limit, self.count)
        for sample in self.one_by_one():
            held.append(sample)
            left -= 1
            if len(held) == size or left == 0:
                feeds = {name: np.concatenate([one[name] for one in held]) for name in held[0]}
                yield Batch(feeds, None, np.arange(len(held)), self.views)
                held = []
            if left == 0:
                return


def by_optc(model: Path, samples: Samples, folder: Path) -> None:
    """The pass of `optc build` for ONNX Runtime."""
    source = Artifact("onnx", model.parent, "key", "digest", onnx_format.read(model.parent), model.stat().st_size)
    options = quantize_static.Options(samples=len(samples))
    quantize_static.run(source, options, Context(data={"calibrate": samples}, scheme=target.SCHEME), folder)


def by_library(model: Path, samples: Samples, folder: Path) -> None:
    """onnxruntime.quantization.quantize_static."""
    if samples.model == "minilm":
        minilm.quantize_static_onnx(model, folder / "model.onnx", samples.one_by_one())
    else:
        resnet20.quantize_onnx(model, folder / "model.onnx", (found["image"] for found in samples.one_by_one()))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("side", choices=["optc", "library"])
    parser.add_argument("model", choices=["resnet20", "resnet56", "minilm"])
    parser.add_argument("source", type=Path)
    parser.add_argument("samples", type=int)
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()
    import onnxruntime.quantization  # noqa: F401  # loaded before the clock starts

    from optimizer.passes.quantize_static import onnx, openvino  # noqa: F401

    samples = Samples(given.model, given.samples)
    if not given.stream:
        samples.kept = list(samples.one_by_one())
    quantize = by_optc if given.side == "optc" else by_library
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        start = time.perf_counter()
        quantize(given.source, samples, Path(folder))
        print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
