"""Chart geometry: marks lie where the numbers say."""

from __future__ import annotations

import dataclasses

import pytest
import sample
from hypothesis import given
from hypothesis import strategies as st

from optimizer.report import axes, charts, figures, timing
from optimizer.report.axes import Scale
from optimizer.report.charts import Datum, Limit
from optimizer.report.index import index
from optimizer.report.limits import limits

finite = st.floats(-1e6, 1e6, allow_nan=False)


def datum(value: float | None, low: float | None = None, high: float | None = None, **more) -> Datum:
    return Datum("v", "t", 0, value, low, high, "text", **more)


@given(st.lists(finite, min_size=1, max_size=8), finite)
def test_interval_charts_stay_inside_and_keep_order(values, limit):
    chart = charts.intervals("t", "c", "pp", [datum(v, v - 1, v + 2) for v in values],
                             reference=(0.0, "none"), limits=[Limit(limit, True, "g")])  # fmt: skip
    assert chart is not None
    places = []
    for row in chart.groups[0].rows:
        for mark in row.marks:
            assert 0 <= mark.x <= 100 and 0 <= mark.to <= 100
        places.append(row.marks[-1].x)
    ranked = [p for _, p in sorted(zip(values, places, strict=True))]
    assert ranked == sorted(ranked)
    assert 2 <= len(chart.ticks) <= 9


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6))
def test_log_axes_have_ticks_and_keep_the_ends(low, factor):
    scale = Scale(low, low * factor, log=True)
    assert scale.at(low) == axes.PAD and scale.at(low * factor) == 100 - axes.PAD
    assert scale.at(low / 10) == axes.PAD
    assert len(axes.ticks(scale)) <= 13


def test_interval_positions():
    scale = Scale(0.0, 10.0)
    assert scale.at(5.0) == 50.0
    assert Scale(1.0, 100.0, log=True).at(10.0) == 50.0


def test_a_ruined_candidate_does_not_flatten_the_others():
    data = [datum(0.1, -0.1, 0.3), datum(0.2, 0.0, 0.4), datum(70.0, 69.0, 71.0)]
    chart = charts.intervals("t", "c", "pp", data, reference=(0.0, "none"), limits=[Limit(0.5, True, "g")])
    assert chart is not None
    rows = chart.groups[0].rows
    assert [m.kind for m in rows[2].marks] == ["over"]
    assert rows[1].marks[-1].x - rows[0].marks[-1].x > 5


def test_limit_forbids_the_far_side():
    data = [datum(1.0, 0.9, 1.1)]
    above = charts.intervals("t", "c", "pp", data, limits=[Limit(2.0, True, "g")])
    below = charts.intervals("t", "c", "x", data, limits=[Limit(2.0, False, "g")])
    assert above is not None and below is not None
    assert above.lines[0].forbidden == (above.lines[0].x, 100.0)
    assert below.lines[0].forbidden == (0.0, below.lines[0].x)


def test_timings_go_logarithmic_only_when_crowded():
    near = charts.timings("t", "c", [datum(1.0), datum(4.0)])
    far = charts.timings("t", "c", [datum(1.0), datum(400.0)])
    assert near is not None and far is not None
    assert near.ticks[0].label == "0" and "Logarithmic" not in near.caption
    assert "Logarithmic" in far.caption


@pytest.mark.parametrize("draw", [charts.timings, lambda t, c, d: charts.bars(t, c, "B", d)])
def test_nothing_to_draw_is_no_chart(draw):
    assert draw("t", "c", []) is None
    assert draw("t", "c", [datum(None)]) is None


def test_two_charts_of_a_pair_have_the_same_rows():
    found = index(sample.rich())
    pairs = [*figures.accuracy(found), *(t.pair for t in timing.timings(found))]
    assert [p.title for p in pairs] == ["top1", "agreement", "Batch 1", "Batch 16"]
    for pair in pairs:
        if pair.right:
            names = [[(r.target, r.variant) for g in c.groups for r in g.rows] for c in (pair.left, pair.right)]
            assert names[0] == names[1]


def test_quartiles_come_from_the_protocol():
    found = index(sample.rich())
    marks = timing.timings(found)[0].pair.left.groups[0].rows[0].marks
    assert [m.kind for m in marks] == ["range", "box", "tick", "span", "dot"]
    assert marks[0].x < marks[1].x < marks[4].x < marks[1].to < marks[0].to


def test_limits_of_gates():
    run = sample.rich()
    assert limits(run, "top1", "drop") == [Limit(0.5, True, "top1 drop <= 0.5pp")]
    assert limits(run, "latency.p50", "speedup") == [Limit(1.5, False, "latency.p50 speedup >= 1.5x")]
    assert limits(run, "top1", "absolute") == []
    strange = dataclasses.replace(run, verdicts=(dataclasses.replace(run.verdicts[0], gate="as good as it gets"),))
    assert limits(strange, "top1", "drop") == []
