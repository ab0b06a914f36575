"""The texts of a bundle for its readers: README.md and LICENSES.txt, both functions of the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optimizer.bundle.manifest import Manifest, Recommended
from optimizer.bundle.runner import runner
from optimizer.console import size
from optimizer.values import Measurement, Signature, TensorSpec

NOT_STATED = "not stated by the recipe"


def readme(manifest: Manifest) -> str:
    """README.md: what it is, how to run and check it, what it takes and gives, what was measured."""
    there, runtime = manifest.environment, manifest.runtime
    how = "typed" if manifest.pending else "running"
    model = sum(r.size for name, r in manifest.files.items() if name.startswith("model/"))
    needs = [f"{runtime.distribution}=={runtime.version}", *runner(manifest.target, runtime.options).needs]
    lines = [
        f"# {manifest.bundle}",
        "",
        f"The variant `{manifest.variant}` of `{manifest.name}` for {runtime.distribution}: {size(model)} in the "
        f"format {manifest.format}, {how} as {runtime.precision}. Built by optc {manifest.version} on "
        f"{manifest.created[:10]}.",
        "",
        *_warning(manifest),
        "## Run",
        "",
        "```sh",
        f"pip install numpy {' '.join(needs)}",
        "python run.py                  # the packed samples against their expected outputs",
        "python run.py --input x.npz --output y.npz",
        "optc verify .                  # every byte, then the samples",
        "```",
        "",
        "```python",
        "from run import load",
        "",
        "model = load()",
        f"outputs = model({{{', '.join(f'{t.name!r}: ...' for t in manifest.signature.inputs)}}})",
        "```",
        "",
        *_recommended(manifest),
        "How raw data becomes these inputs is in `preprocessing.json`.",
        "",
        "## Inputs and outputs",
        "",
        *_signature(manifest.signature),
        "",
        "A name in a shape is a free dimension. Samples must come out within "
        f"{manifest.tolerance:g} of an output's largest value.",
        "",
        "## Measured",
        "",
        *_measured(manifest),
        f"Machine: {there.cpu}, {there.architecture} ({', '.join(there.isa) or 'no known ISA extension'}), {there.os}, "
        f"Python {there.python}. On another CPU accuracy and latency may differ: measure again there.",
        "",
        "## Licenses",
        "",
        *[f"- {line}" for line in _licenses(manifest)],
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def licenses(manifest: Manifest) -> str:
    """LICENSES.txt: what the recipe says about the weights and the data, in plain words when it says nothing."""
    return "\n".join(
        [
            "Licenses of what this bundle holds or was made from, as its recipe states them.",
            "",
            *_licenses(manifest),
            "",
        ]
    )


def _licenses(manifest: Manifest) -> list[str]:
    return [
        f"weights: {manifest.weights_license or NOT_STATED}",
        *(f"data '{d.name}' ({d.role}): {d.license or NOT_STATED}" for d in manifest.provenance.data),
        "run.py: Apache-2.0",
    ]


def _warning(manifest: Manifest) -> list[str]:
    if manifest.pending:
        return [
            f"**It has not been measured yet: {manifest.pending}.** Where it runs, `optc measure` gives it its numbers "
            "and judges its gates; its samples hold the outputs of the ONNX model that it was built from.",
            "",
        ]
    if not manifest.accepted:
        return []
    gates = "; ".join(f"`{gate}`" for gate in manifest.accepted)
    return [f"**It was packed although these gates did not pass: {gates}.**", ""]


def _recommended(manifest: Manifest) -> list[str]:
    """The settings that did best in the sweep, and how to open the model with them."""
    found = manifest.runtime.recommended
    if not found:
        return []
    return ["Settings that did best on the machine below:", "", *map(_best, found), ""]


def _best(setting: Recommended) -> str:
    options = ", ".join(f"{name} {value}" for name, value in setting.options.items())
    interval = (
        f" ({_digits(setting.low)} to {_digits(setting.high)})" if setting.low is not None and setting.high else ""
    )
    return (
        f'- `load(objective="{setting.objective}")`: {options}, batch {setting.batch}: '
        f"{_digits(setting.value)} {setting.unit}{interval}" + _callers(setting)
    )


def _callers(setting: Recommended) -> str:
    streams = setting.options.get("streams", 1)
    return f"; call it from {streams} threads at once" if streams > 1 else ""


def _signature(signature: Signature) -> list[str]:
    rows = [*_rows("input", signature.inputs), *_rows("output", signature.outputs)]
    return _table(["", "name", "dtype", "shape"], rows)


def _rows(kind: str, specs: Sequence[TensorSpec]) -> list[list[str]]:
    return [[kind, t.name, t.dtype, f"[{', '.join(str(d) for d in t.shape)}]"] for t in specs]


def _measured(manifest: Manifest) -> list[str]:
    if not manifest.measurements:
        return ["Nothing was measured.", ""]
    rows = [[_metric(m), _setting(m), _number(m, m.value), _interval(m), str(m.n)] for m in manifest.measurements]
    table = _table(["metric", "at", "value", "95 % interval", "n"], rows)
    verdicts = [f"- {v.outcome}: {v.gate}: {v.reason}" for v in manifest.verdicts]
    return [*table, "", *(["Gates:", "", *verdicts, ""] if verdicts else [])]


def _metric(m: Measurement) -> str:
    return m.metric if m.relation == "absolute" else f"{m.metric} {m.relation} against {m.against}"


def _setting(m: Measurement) -> str:
    return ", ".join(f"{k} {v}" for k, v in m.at.items())


def _number(m: Measurement, value: float) -> str:
    return size(int(value)) if m.unit == "B" else f"{_digits(value)} {m.unit}".rstrip()


def _digits(value: float) -> str:
    value += 0.0  # -0.0 is 0
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _interval(m: Measurement) -> str:
    return "exact" if m.low is None or m.high is None else f"{_number(m, m.low)} to {_number(m, m.high)}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
