"""The layer that 8 bits ruin is ranked first, and leaving it in float is what is advised."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from explain_lab import CULPRIT, fragile, lab, labelled, subject
from quant_lab import OPENVINO, artifact, lowered, outputs

from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain import Asked, explain, keep, prices, search, wrong
from optimizer.explain.clock import Clock
from optimizer.explain.proxy import decibel
from optimizer.explain.variants import Layer
from optimizer.passes import quantize_static
from optimizer.store import Store

SILENT = Console(level=0, err=io.StringIO())


def test_the_sensitive_layer_is_found_ranked_first_and_kept(tmp_path: Path, store: Store) -> None:
    bench = lab(tmp_path)
    given = subject(bench)
    found = explain(given, Asked(slow=False, samples=32, examples=100, budget=60), store, SILENT)
    assert found.keep == (CULPRIT,)
    first = found.sensitivities[0]
    assert first.layer == CULPRIT and first.op == "MatMul"
    assert first.alone is not None and first.without is not None
    assert first.alone.relation == "drop" and first.alone.n == 100
    assert first.alone.low is not None and first.alone.low > 5, "it alone costs many points"
    assert first.without.value < first.alone.value / 4, "without it hardly any are lost"
    assert [s.alone.value for s in found.sensitivities if s.alone] == sorted(
        (s.alone.value for s in found.sensitivities if s.alone), reverse=True
    )
    text = "\n".join(found.advice)
    assert f"keep: [other, {CULPRIT}]" in text and "per_channel: false" in text
    assert "on 100 other examples" in text


def test_the_advised_step_really_restores_the_metric(tmp_path: Path, store: Store) -> None:
    bench = lab(tmp_path)
    given = subject(bench)
    found = explain(given, Asked(slow=False, samples=32, examples=100, budget=60), store, SILENT)
    assert given.baseline is not None
    data = labelled(given.baseline)
    mended = bench.static(given.baseline, data=data, per_channel=False, model="cnn", keep=list(found.keep))
    before, after = (
        np.mean(outputs(a, {"x": data.x})["logits"].argmax(axis=1) == data.labels) for a in (given.artifact, mended)
    )
    assert after - before > 0.9 * (1 - before)


def test_the_error_first_jumps_where_the_layer_is(tmp_path: Path, store: Store) -> None:
    found = explain(subject(lab(tmp_path)), Asked(slow=False, samples=32, examples=50, budget=30), store, SILENT)
    by_name = {t.name: t for t in found.tensors}
    assert by_name["h1"].matched == "name" and not by_name["h1"].jump
    assert found.first_jump in ("h2", "r2")
    assert next(t.sqnr_db for t in found.tensors if t.name == found.first_jump) < 10
    assert [t.place for t in found.tensors] == sorted(t.place for t in found.tensors)
    rounded = [t for t in found.tensors if t.op == "QuantizeLinear"]
    assert rounded and all(t.saturated is not None and 0 <= t.saturated <= 1 for t in rounded)


def test_without_a_metric_layers_are_ranked_by_the_error_of_the_outputs(tmp_path: Path, store: Store) -> None:
    given = dataclasses.replace(subject(lab(tmp_path)), metrics={})
    found = explain(given, Asked(slow=False, samples=32, budget=30), store, SILENT)
    assert found.keep == (CULPRIT,)
    first = found.sensitivities[0]
    assert first.layer == CULPRIT and first.alone is not None and first.alone.metric == "output.sqnr"
    assert any("no task metric" in line for line in found.advice)


def test_the_same_in_openvino(tmp_path: Path, store: Store) -> None:
    bench = lab(tmp_path)
    base = subject(bench)
    assert base.baseline is not None
    ir = lowered(base.baseline, tmp_path / "ir")
    rounded = bench.run(quantize_static, ir, OPENVINO, labelled(base.baseline), per_channel=False)  # type: ignore[arg-type]  # a data set
    given = dataclasses.replace(
        base,
        name="int8@openvino",
        target="openvino",
        artifact=dataclasses.replace(rounded, digest="quantized"),
        baseline=ir,
        against="fp32@openvino",
    )
    found = explain(given, Asked(slow=False, samples=32, examples=100, budget=60), store, SILENT)
    assert found.sensitivities[0].layer == CULPRIT
    assert found.keep == (CULPRIT,)
    assert any(t.op == "FakeQuantize" and t.saturated is not None for t in found.tensors)
    assert any(t.matched == "name" and t.sqnr_db is not None for t in found.tensors)


def test_a_harmless_candidate_gets_no_advice_to_keep_anything(tmp_path: Path, store: Store) -> None:
    bench = lab(tmp_path)
    given = subject(bench, keep=[CULPRIT])
    found = explain(given, Asked(slow=False, samples=16, examples=20, budget=30), store, SILENT)
    assert found.keep == () or found.sensitivities[0].alone is not None
    assert CULPRIT not in [s.layer for s in found.sensitivities], "it is in float already"


def test_layers_that_only_matter_together_are_put_back_together() -> None:
    layers = [Layer(name, op, 10) for name, op in (("a", "MatMul"), ("b", "MatMul"), ("c", "Conv"), ("d", "Conv"))]

    class Pairwise:
        """The noise of a and b goes only when both are kept: a tensor between them is shared."""

        def error(self, kept: frozenset[str]) -> float:
            return (0.0 if {"a", "b"} <= kept else 1.0) + 0.01 * len({"c", "d"} - kept)

    found = search.greedy(
        layers,
        {"a": 1.0, "b": 1.0, "c": 0.01, "d": 0.01},
        Pairwise(),
        lambda kept: {"a", "b"} <= kept,
        lambda: True,  # type: ignore[arg-type]  # a stand-in
        prices.counted(layers),
    )
    assert found.restored and found.kept == {"a", "b"}
    assert keep.selectors(found.kept, layers) == ("op:MatMul",)


def test_a_cheap_choice_is_preferred_to_keeping_all() -> None:
    layers = [Layer("heavy1", "Conv", 1000, 10), Layer("heavy2", "Conv", 1000, 10), Layer("sum", "Add", 0)]

    class Noise:
        def error(self, kept: frozenset[str]) -> float:
            return 0.9 * ("sum" not in kept) + 0.05 * len({"heavy1", "heavy2"} - kept)

    found = search.greedy(
        layers,
        {"heavy1": 0.05, "heavy2": 0.05, "sum": 0.9},
        Noise(),
        lambda k: "sum" in k,
        lambda: True,
        prices.counted(layers),
    )  # type: ignore[arg-type]  # a stand-in
    assert found.kept == {"sum"}


def test_a_choice_that_a_later_one_made_idle_is_taken_back() -> None:
    layers = [Layer("a", "Conv"), Layer("b", "Add"), Layer("c", "Mul")]
    tried: list[frozenset[str]] = []

    class Noise:
        """The first step takes a, which takes away most; the judge wants b and c."""

        def error(self, kept: frozenset[str]) -> float:
            return 0.01 + 0.5 * ("a" not in kept) + 0.3 * ("b" not in kept) + 0.2 * ("c" not in kept)

    def content(kept: frozenset[str]) -> bool:
        tried.append(kept)
        return kept >= {"b", "c"}

    found = search.greedy(
        layers, {"a": 0.5, "b": 0.3, "c": 0.2}, Noise(), content, lambda: True, prices.counted(layers)
    )  # type: ignore[arg-type]  # a stand-in
    assert frozenset({"a", "b", "c"}) in tried and found.restored and found.kept == {"b", "c"}


def test_selectors_select_exactly_the_kept_layers() -> None:
    layers = [Layer("/enc/a[0]", "MatMul"), Layer("/b/", "MatMul"), Layer("c", "Add"), Layer("d", "Add")]
    from optimizer import selectors

    nodes = [selectors.Node(layer.name, (layer.op,)) for layer in layers]
    for kept in ({"/enc/a[0]"}, {"/b/"}, {"c", "d"}, {"/b/", "c"}):
        assert selectors.select(keep.selectors(kept, layers), nodes, "test") == kept
    for name, names in search.groups(layers).items():
        assert selectors.select([name], nodes, "test") == set(names)


def test_decibels_stay_within_json() -> None:
    assert decibel(0.0) == 999.0 and decibel(float("inf")) == -999.0 and decibel(0.01) == 20.0


def test_a_baseline_whose_outputs_are_nan_is_refused(tmp_path: Path) -> None:
    bench = lab(tmp_path)
    given = subject(bench)
    broken = fragile()
    weight = next(t for t in broken.graph.initializer if t.name == "fc3.weight")
    values = np.full((8, 4), np.nan, "float32")
    weight.raw_data = values.tobytes()
    source = dataclasses.replace(artifact(broken, tmp_path / "nan"), digest="nan")
    with pytest.raises(OptimizerError, match="'logits' of the baseline fp32@onnxruntime is NaN"):
        wrong.find(dataclasses.replace(given, baseline=source), 16, 20, Clock.now(20), SILENT)
