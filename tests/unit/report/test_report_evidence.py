"""Noise floors, distributions, slices, kernels, graphs and snippets: what is drawn and said is what the run holds."""

from __future__ import annotations

import re
from dataclasses import replace

import evidence
import pytest
import sample
import yaml

from optimizer import content, schema
from optimizer.report import diagnosis, graph, kernels, pipeline, plots, slices, timing
from optimizer.report.explained import advice, brief, explained
from optimizer.report.index import index
from optimizer.report.noise import floor
from optimizer.report.snippet import snippet
from optimizer.values import Candidate, Measurement, Profile, Run, TensorError


def candidate(run: Run, name: str) -> Candidate:
    return next(c for c in run.candidates if c.name == name)


def with_floor(run: Run, width: float) -> Run:
    """The run as older versions recorded it: no A/A twin, the width in the protocol of the median."""
    return replace(
        run,
        measurements=tuple(
            replace(m, protocol={**m.protocol, "noise_floor": width}) if m.metric == "latency.p50" else m
            for m in run.measurements
            if m.metric != "latency.aa"
        ),
    )


def test_floor_is_that_of_what_a_candidate_is_compared_with():
    found = index(evidence.everything())
    batch1 = found.settings[0]
    for name in ("int8@onnxruntime", "fp32@onnxruntime"):
        noise = floor(found, candidate(found.run, name), batch1)
        assert noise is not None and noise.baseline == "fp32@onnxruntime" and noise.twin is not None
        assert noise.high == pytest.approx(1.04) and noise.low == pytest.approx(1 / 1.04)
        assert noise.width == pytest.approx(0.04)
    assert floor(found, candidate(found.run, "fp32@pytorch"), batch1) is None


def test_older_runs_have_the_floor_of_their_restarts():
    found = index(with_floor(evidence.everything(), 0.25))
    noise = floor(found, candidate(found.run, "int8@openvino"), found.settings[0])
    assert noise is not None and noise.twin is None and noise.high == 1.25
    chart = timing.timings(found)[0].pair.right
    assert chart is not None and dict(chart.legend)["band"] == "noise: the baseline from restart to restart"
    rows = {row.variant: row for group in chart.groups if group.target == "openvino" for row in group.rows}
    assert rows["int8"].note.endswith(", noise") and not rows["small-distilled-int8"].note.endswith(", noise")
    assert rows["fp32"].value == "baseline"
    told = [n.text for n in timing.timings(found)[0].notes if n.text.startswith("Noise floor")]
    assert told == [
        "Noise floor of this session: 25 %. A speed-up whose interval reaches into it may be no difference. "
        "That holds for int8@openvino."
    ]


def test_noise_band_lies_around_one_in_every_group_that_has_it():
    chart = timing.timings(index(evidence.everything()))[0].pair.right
    assert chart is not None
    one = next(line.x for line in chart.lines if line.kind == "reference")
    bands = {group.target: group.band for group in chart.groups}
    assert bands["pytorch"] is None
    for target in ("onnxruntime", "openvino"):
        low, high = bands[target] or (0.0, 0.0)
        assert low < one < high and one - low == pytest.approx(high - one, abs=0.02)
    twin = next(g for g in chart.groups if g.target == "openvino").rows[0]
    assert twin.value == "A/A 1.00x" and [m.kind for m in twin.marks] == ["span", "ring"]


def test_no_floor_no_sentence():
    assert diagnosis.noise_line(index(sample.rich())) is None
    alone = replace(evidence.everything(), candidates=sample.rich().candidates[:2])
    assert diagnosis.noise_line(index(alone)) == "Noise floor (a baseline against itself): 4 %."
    line = diagnosis.noise_line(index(evidence.everything()))
    assert line == "Noise floor (a baseline against itself): 4 %; every speed-up is beyond it."


def test_what_is_not_notable_is_not_told():
    found = index(sample.rich())
    assert all(t.notes == () for t in timing.timings(found))
    sentences = [n.text for n in timing.timings(index(evidence.everything()))[0].notes]
    assert "fp32@onnxruntime became 8.0 % slower from the first to the last call." in sentences
    assert not any("fp32@openvino became" in s for s in sentences)
    assert sum("typical times" in s for s in sentences) == 1
    assert (
        "Neighbouring calls resemble each other: the 2,400 calls of fp32@onnxruntime tell as much as "
        "40 independent ones (autocorrelation 0.60)."
    ) in sentences
    assert "The processor was throttled while latency was measured." in sentences


def test_clocks_that_differ_between_two_sides_or_restarts_are_told():
    run = evidence.everything()
    apart = {"clock": "CUDA events", "boundary": "the engine alone", "baseline_timed": "by the host's clock"}
    hot = {**evidence.CONDITIONS, "gpu_mhz": [1700, 1980]}

    def changed(m: Measurement) -> Measurement:
        if m.metric != "latency.p50" or m.subject != evidence.SUBJECT:
            return m
        return replace(m, protocol=m.protocol | (apart if m.relation == "speedup" else {"conditions": hot}))

    altered = replace(run, measurements=tuple(changed(m) for m in run.measurements))
    sentences = [n.text for n in timing.timings(index(altered))[0].notes if n.grave]
    assert (
        f"The speed-up of {evidence.SUBJECT} does not compare like with like: it is timed by CUDA events (the engine "
        "alone), its baseline by the host's clock."
    ) in sentences
    assert "The GPU's clock was between 1,700 and 1,980 MHz from restart to restart." in sentences
    before = [n.text for n in timing.timings(index(run))[0].notes]
    assert not any("like with like" in s or "GPU" in s for s in before)


def test_quantiles_of_any_number_of_steps():
    assert [plots.quantile([0.0, 1.0, 2.0, 3.0, 4.0], share) for share in (0, 0.125, 0.5, 1)] == [0, 0.5, 2, 4]


def test_a_distribution_reads_its_quantiles_out():
    c = Candidate("int8", "onnxruntime", (), {})
    drawn = plots.distribution("t", [(c, 0, 0, [1.0 + i / 100 for i in range(101)])])
    assert drawn is not None and not drawn.scale.log
    assert drawn.curves[0].values[0] == "1.00"
    assert drawn.curves[0].values[50] == drawn.curves[0].middle == "1.50"
    assert drawn.curves[0].path.startswith("M") and drawn.curves[0].path.count("L") == 100
    wide = plots.distribution("t", [(c, 0, 0, [1.0, 2.0, 5.0, 20.0, 90.0])])
    assert wide is not None and wide.scale.log and "Logarithmic" in wide.caption
    assert plots.distribution("t", [(c, 0, 0, [1.0, float("nan"), 2.0, 3.0, 4.0])]) is None


def tensor(place: int, sqnr: float | None, jump: bool = False) -> TensorError:
    return TensorError(f"t{place}", "Conv", "b", "name", place, sqnr, 1.0, None, -1.0, 1.0, jump)


def test_depth_marks_the_first_jump_and_keeps_every_jump():
    drawn = plots.depth([tensor(i, 60.0 - i / 20, i in (501, 733)) for i in range(1000)], most=100)
    assert drawn is not None and drawn.first is not None and drawn.first.name == "t501"
    assert len(drawn.points) <= 102 and [p.name for p in drawn.points if p.jump] == ["t501", "t733"]
    assert "lowest 10.0 dB at t999" in drawn.described
    odd = plots.depth([tensor(0, None), tensor(1, -12.0), tensor(2, float("nan")), tensor(3, 300.0)])
    assert odd is not None and len(odd.points) == 3
    assert odd.points[0].y == odd.points[2].y < odd.points[1].y < 100
    assert plots.depth([]) is None


def test_slices_are_ordered_by_what_is_certain():
    at = {"column": "c", "value": "small"}
    wide = Measurement("int8@openvino", "top1", "drop", 9.0, -2.0, 20.0, 12, "pp", "lower", "b", at)
    run = evidence.everything()
    found = slices.sliced(index(replace(run, slices=(*run.slices, wide))))
    assert [(s.metric, s.candidate.name) for s in found] == [("top1", "int8@onnxruntime"), ("top1", "int8@openvino")]
    names = [row.value for row in found[1].rows]
    assert names[0] == "truck" and names.index("small") > 3
    assert "class = truck" in found[1].sentence and "all 20 drops" in found[1].sentence
    assert slices.sliced(index(sample.rich())) == []


def test_slices_of_a_thousand_classes_are_cut_and_counted():
    run = evidence.everything()
    m = run.slices[1]
    many = tuple(replace(m, at={"column": "class", "value": str(i)}) for i in range(4000))
    found = slices.sliced(index(replace(run, slices=many)))
    assert len(found[0].rows) == slices.ROWS and found[0].left_out == 4000 - slices.ROWS


@pytest.mark.parametrize(
    ("at", "place"),
    [
        ({"column": "label", "value": "cat"}, ("label", "cat")),
        ({"source": "phone", "threads": 1}, ("source", "phone")),
        ({}, ("", "all")),
    ],
)
def test_slices_are_named_by_column_and_value(at, place):
    assert slices.place(Measurement("s", "m", "drop", 1.0, None, None, 1, "pp", "lower", at=at)) == place


def test_kinds_fill_the_bar_and_kernels_left_out_are_counted():
    profile = evidence.everything(ops=300).explanations[0].profile
    assert profile is not None
    view = kernels.kernels(profile, of=40)
    assert len(view.rows) == 50 and view.left_out.startswith("250 kernels with ")
    assert [s.kind for s in view.segments] == ["quantized", "float", "convert", "layout", "other"]
    last = view.segments[-1]
    assert last.x + last.width == pytest.approx(100, abs=0.01)
    empty = kernels.kernels(Profile(1.0, (), {}, {}))
    assert empty.segments == empty.rows == () and empty.left_out == empty.peaks == ""


def test_graph_has_shared_steps_once_and_no_boxes_on_each_other():
    run = sample.rich()
    views = pipeline.steps(run)
    drawn = graph.graph(run, views)
    assert drawn is not None
    steps = [n for n in drawn.nodes if n.anchor]
    assert len(steps) == len({n.anchor for n in steps}) == len(views)
    assert len([n for n in drawn.nodes if not n.anchor]) == 7
    for a in drawn.nodes:
        assert 0 <= a.x and a.x + a.width <= drawn.width and 20 <= a.y <= drawn.height - 20
        for b in drawn.nodes:
            apart = a is b or abs(a.y - b.y) >= 40 or a.x + a.width <= b.x or b.x + b.width <= a.x
            assert apart, (a, b)
    assert graph.graph(sample.bare(), []) is None


def published(name: str) -> Run:
    path = content.root("reports") / "published" / f"{name}.json"
    return schema.load_run(path.read_bytes(), path.name)


@pytest.mark.parametrize("make", [sample.rich, lambda: published("minilm-int8"), lambda: published("digits-int8")])
def test_no_line_of_the_graph_runs_behind_a_box(make):
    run = make()
    drawn = graph.graph(run, pipeline.steps(run))
    assert drawn is not None
    ways = [re.findall(r"[MHC]|[\d.]+", path) for path in drawn.edges]
    for way in ways:
        x = y = 0.0
        for place, word in enumerate(way):
            if word == "M":
                x, y = float(way[place + 1]), float(way[place + 2])
            elif word == "C":
                x, y = float(way[place + 5]), float(way[place + 6])
            elif word == "H":
                to = float(way[place + 1])
                behind = [n for n in drawn.nodes if abs(n.y - y) < 20 and x < n.x + n.width - 1 and to > n.x + 1]
                assert not behind, (way, behind)
                x = to


def test_graph_draws_a_second_source_and_survives_a_circle():
    run = sample.all_pass()
    first, *_, last = run.candidates[1].steps
    records = tuple(replace(s, sources=(*s.sources, first)) if s.key == last else s for s in run.steps)
    plain, joined = (graph.graph(r, pipeline.steps(r)) for r in (run, replace(run, steps=records)))
    assert plain is not None and joined is not None and len(joined.edges) == len(plain.edges) + 1
    circle = tuple(replace(s, sources=(last,)) if s.key == first else s for s in run.steps)
    assert graph.graph(replace(run, steps=circle), pipeline.steps(run)) is not None


@pytest.mark.parametrize(
    "step",
    [
        "quantize.static",
        {"quantize.static": {"keep": ["stem"]}},
        {"name": "quantize.static", "options": {"keep": ["stem"], "samples": 64}},
    ],
)
def test_snippet_adds_to_the_steps_as_they_are_spelt(step):
    run = replace(sample.all_pass(), recipe={"variants": {"int8": ["simplify", step]}})
    made = yaml.safe_load(snippet(run, run.candidates[1], ("op:Gemm", "a: b #c")))["variants"]["int8"]
    options = made[1]["quantize.static"]
    assert made[0] == "simplify"
    assert options["keep"] == [*(["stem"] if isinstance(step, dict) else []), "op:Gemm", "a: b #c"]
    assert options.get("samples") == (64 if isinstance(step, dict) and "name" in step else None)


def test_snippet_without_a_recipe_is_the_option_alone():
    run = replace(sample.all_pass(), recipe={})
    assert yaml.safe_load(snippet(run, run.candidates[1], ("fc",))) == {"keep": ["fc"]}
    assert snippet(run, run.candidates[1], ()) == ""


@pytest.mark.parametrize(
    ("selector", "label"),
    [
        ("op:Add", "op:Add"),
        ("/^(node_add|node_add_1|node_add_2)$/", "node_add and 2 more"),
        ("/conv[0-9]/", "/conv[0-9]/"),
        ("/encoder/" + "layer.0/" * 9 + "MatMul", "/encoder/layer.0/layer.0/layer….0/layer.0/MatMul"),
    ],
)
def test_rows_of_layers_have_labels_that_fit(selector, label):
    assert brief(selector) == label and len(label) <= 48


def test_the_recipe_step_stands_once():
    run = evidence.everything()
    view = explained(index(run))[0]
    assert view.advice == ("Keeping op:Add in float gives back 92 % of the drop.",)
    assert "op:Add" in view.snippet
    assert advice(run) == {
        "int8@onnxruntime": "Keeping op:Add in float gives back 92 % of the drop. Next: keep op:Add, node_3 in float."
    }
